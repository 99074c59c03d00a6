//! The broker's direction: requests in, answers out.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{
    AlterConfigsRequest, ApiVersionsRequest, CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest,
    DeleteTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest, FetchRequest, FindCoordinatorRequest,
    IncrementalAlterConfigsRequest, InitProducerIdRequest, ListOffsetsRequest, MetadataRequest,
    OffsetForLeaderEpochRequest, ProduceRequest,
};
use kafka_protocol::protocol::{Decodable, Encodable, Request as RequestType};

use super::schema::{skip_tags, walk};
use super::{Api, LENGTH_BYTES, WireError};

/// What stands before a request's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// The API's number, known here or not.
    pub key: i16,
    /// Its version, spoken here or not.
    pub version: i16,
    /// Comes back in the answer.
    pub correlation: i32,
    /// What the client calls itself.
    pub client_id: Option<String>,
}

/// A request that was decoded.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Request {
    ApiVersions(ApiVersionsRequest),
    Metadata(MetadataRequest),
    Produce(ProduceRequest),
    Fetch(FetchRequest),
    ListOffsets(ListOffsetsRequest),
    InitProducerId(InitProducerIdRequest),
    FindCoordinator(FindCoordinatorRequest),
    CreateTopics(CreateTopicsRequest),
    CreatePartitions(CreatePartitionsRequest),
    DeleteTopics(DeleteTopicsRequest),
    DeleteRecords(DeleteRecordsRequest),
    DescribeConfigs(DescribeConfigsRequest),
    AlterConfigs(AlterConfigsRequest),
    IncrementalAlterConfigs(IncrementalAlterConfigsRequest),
    DescribeCluster(DescribeClusterRequest),
    OffsetForLeaderEpoch(OffsetForLeaderEpochRequest),
}

/// Reads the header off the front of a request's frame (without its length prefix); what is left in `frame` is the body. The
/// header's own tagged fields are skipped if key and version are known to have them; of an unknown one only the rest is read,
/// which is enough to answer or to say who asked for what.
pub fn decode_header(frame: &mut Bytes) -> Result<RequestHeader, WireError> {
    const FIXED: usize = 8;
    let short = WireError::Truncated {
        at: 0,
        need: FIXED,
        have: frame.len(),
    };
    let Some(([k0, k1, v0, v1, c0, c1, c2, c3], rest)) = frame.split_first_chunk::<FIXED>() else {
        return Err(short);
    };
    let (key, version) = (i16::from_be_bytes([*k0, *k1]), i16::from_be_bytes([*v0, *v1]));
    let correlation = i32::from_be_bytes([*c0, *c1, *c2, *c3]);
    let (client_id, client_id_bytes) = decode_client_id(rest)?;
    let mut used = FIXED.saturating_add(client_id_bytes);
    let spoken = |api: &Api| (api.versions().0..=api.versions().1).contains(&version);
    if Api::from_key(key)
        .filter(spoken)
        .is_some_and(|api| api.flexible(version))
    {
        used = used.saturating_add(skip_tags(frame.get(used..).unwrap_or_default())?);
    }
    let _ = frame.split_to(used.min(frame.len()));
    Ok(RequestHeader {
        key,
        version,
        correlation,
        client_id,
    })
}

/// A nullable string that is never compact, and the bytes that it takes.
fn decode_client_id(rest: &[u8]) -> Result<(Option<String>, usize), WireError> {
    let at = 8;
    let truncated = |need| WireError::Truncated {
        at,
        need,
        have: rest.len(),
    };
    let (length, rest) = rest.split_first_chunk::<2>().ok_or_else(|| truncated(2))?;
    let length = i16::from_be_bytes(*length);
    if length == -1 {
        return Ok((None, 2));
    }
    let bytes = usize::try_from(length).map_err(|_| WireError::Negative {
        at,
        length: i64::from(length),
    })?;
    let text = rest.get(..bytes).ok_or_else(|| truncated(bytes.saturating_add(2)))?;
    let text = std::str::from_utf8(text).map_err(|e| WireError::Codec(format!("client id: {e}")))?;
    Ok((Some(text.to_owned()), bytes.saturating_add(2)))
}

/// Decodes the body that `decode_header` left. Bytes behind the message are passed over, as Apache Kafka does it: librdkafka
/// leaves three of them when it asks for the metadata of all topics in a flexible version.
pub fn decode_request(api: Api, version: i16, mut body: Bytes) -> Result<Request, WireError> {
    let used = walk(&body, api.request_shape(version)?)?;
    body.truncate(used);
    match api {
        Api::ApiVersions => body_of(body, version).map(Request::ApiVersions),
        Api::Metadata => body_of(body, version).map(Request::Metadata),
        Api::Produce => body_of(body, version).map(Request::Produce),
        Api::Fetch => body_of(body, version).map(Request::Fetch),
        Api::ListOffsets => body_of(body, version).map(Request::ListOffsets),
        Api::InitProducerId => body_of(body, version).map(Request::InitProducerId),
        Api::FindCoordinator => body_of(body, version).map(Request::FindCoordinator),
        Api::CreateTopics => body_of(body, version).map(Request::CreateTopics),
        Api::DeleteTopics => body_of(body, version).map(Request::DeleteTopics),
        Api::CreatePartitions => body_of(body, version).map(Request::CreatePartitions),
        Api::DeleteRecords => body_of(body, version).map(Request::DeleteRecords),
        Api::AlterConfigs => body_of(body, version).map(Request::AlterConfigs),
        Api::IncrementalAlterConfigs => body_of(body, version).map(Request::IncrementalAlterConfigs),
        Api::DescribeConfigs => body_of(body, version).map(Request::DescribeConfigs),
        Api::DescribeCluster => body_of(body, version).map(Request::DescribeCluster),
        Api::OffsetForLeaderEpoch => body_of(body, version).map(Request::OffsetForLeaderEpoch),
    }
}

fn body_of<T: Decodable>(mut body: Bytes, version: i16) -> Result<T, WireError> {
    T::decode(&mut body, version).map_err(|e| WireError::Codec(e.to_string()))
}

/// Appends a whole frame with the answer to a request `R` of `version` to `out`. On an error `out` is as it was.
pub fn put_response<R: RequestType>(
    out: &mut BytesMut,
    version: i16,
    correlation: i32,
    body: &R::Response,
) -> Result<(), WireError> {
    let api = Api::from_key(R::KEY).ok_or(WireError::UnknownApi(R::KEY))?;
    let before = out.len();
    out.put_i32(0);
    out.put_i32(correlation);
    if api.response_header_flexible(version) {
        out.put_u8(0);
    }
    let done = body
        .encode(out, version)
        .map_err(|e| WireError::Codec(e.to_string()))
        .and_then(|()| set_length(out, before));
    if done.is_err() {
        out.truncate(before);
    }
    done
}

/// The answer as a frame of its own.
pub fn encode_response<R: RequestType>(version: i16, correlation: i32, body: &R::Response) -> Result<Bytes, WireError> {
    let mut out = BytesMut::new();
    put_response::<R>(&mut out, version, correlation, body)?;
    Ok(out.freeze())
}

/// Writes the length of the frame that begins at `from` and goes to the end.
pub(super) fn set_length(frame: &mut BytesMut, from: usize) -> Result<(), WireError> {
    let bytes = frame.len().saturating_sub(from).saturating_sub(LENGTH_BYTES);
    let length = i32::try_from(bytes).map_err(|_| WireError::TooLong {
        bytes,
        bytes_max: i32::MAX as usize,
    })?;
    let end = from.saturating_add(LENGTH_BYTES);
    if let Some(prefix) = frame.get_mut(from..end) {
        prefix.copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}
