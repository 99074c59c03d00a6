//! The client's direction: requests out, answers in.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::{Decodable, Request};

use super::schema::{skip_tags, walk};
use super::{Api, LENGTH_BYTES, WireError};

/// A whole frame, length prefix included, with the request `body` in `version`.
pub fn encode_request<R: Request>(
    version: i16,
    correlation: i32,
    client_id: &str,
    body: &R,
) -> Result<Bytes, WireError> {
    let api = Api::from_key(R::KEY).ok_or(WireError::UnknownApi(R::KEY))?;
    api.request_shape(version)?;
    let codec = |e: &dyn std::fmt::Display| WireError::Codec(e.to_string());
    let size = body.compute_size(version).map_err(|e| codec(&e))?;
    let client_id_bytes =
        i16::try_from(client_id.len()).map_err(|_| WireError::Codec("the client id is too long".into()))?;
    let mut frame = BytesMut::with_capacity(size.saturating_add(client_id.len()).saturating_add(24));
    frame.put_i32(0);
    frame.put_i16(api.key());
    frame.put_i16(version);
    frame.put_i32(correlation);
    frame.put_i16(client_id_bytes);
    frame.put_slice(client_id.as_bytes());
    if api.flexible(version) {
        frame.put_u8(0);
    }
    body.encode(&mut frame, version).map_err(|e| codec(&e))?;
    super::server::set_length(&mut frame, 0)?;
    Ok(frame.freeze())
}

/// The correlation id of an answer's frame (without its length prefix), to find which request it answers.
pub fn response_correlation(frame: &[u8]) -> Result<i32, WireError> {
    let (id, _) = frame.split_first_chunk::<4>().ok_or(WireError::Truncated {
        at: 0,
        need: LENGTH_BYTES,
        have: frame.len(),
    })?;
    Ok(i32::from_be_bytes(*id))
}

/// The answer to a request `R` sent in `version`, from its frame without the length prefix: the correlation id and the body.
/// An ApiVersions answer with error 35 comes in version 0 whatever was asked: decode it so when version 3 or later fails.
pub fn decode_response<R: Request>(version: i16, mut frame: Bytes) -> Result<(i32, R::Response), WireError> {
    let api = Api::from_key(R::KEY).ok_or(WireError::UnknownApi(R::KEY))?;
    let shape = api.response_shape(version)?;
    let correlation = response_correlation(&frame)?;
    let _ = frame.split_to(4);
    if api.response_header_flexible(version) {
        let used = skip_tags(&frame)?;
        let _ = frame.split_to(used);
    }
    let left = frame.len().saturating_sub(walk(&frame, shape)?);
    if left > 0 {
        return Err(WireError::Leftover(left));
    }
    let body = R::Response::decode(&mut frame, version).map_err(|e| WireError::Codec(e.to_string()))?;
    Ok((correlation, body))
}
