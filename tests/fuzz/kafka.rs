//! The Kafka guard and codec, both directions: nothing that a peer sends may panic or make memory grow past what the frame and
//! the budget of elements allow. The input's first bytes choose the API, the version and the direction.

use bytes::Bytes;
use headwater::kafka_wire::messages::*;
use headwater::kafka_wire::{Api, decode_header, decode_request, decode_response, encode_request, encode_response};

/// Frames without their length prefix: a byte for the direction in front.
fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    macro_rules! seed {
        ($($api:ident: $request:ty),*) => {$(
            let (min, max) = Api::$api.versions();
            for version in [min, max] {
                let request = encode_request(version, 1, "kcat", &<$request>::default()).expect("a default request");
                seeds.push([&[0], &request[4..]].concat());
                let answer = encode_response::<$request>(version, 1, &Default::default()).expect("a default answer");
                seeds.push([&[1, Api::$api.key() as u8, version as u8], &answer[4..]].concat());
            }
        )*};
    }
    seed!(
        Produce: ProduceRequest, Fetch: FetchRequest, ListOffsets: ListOffsetsRequest, Metadata: MetadataRequest,
        FindCoordinator: FindCoordinatorRequest, ApiVersions: ApiVersionsRequest, CreateTopics: CreateTopicsRequest,
        DeleteTopics: DeleteTopicsRequest, InitProducerId: InitProducerIdRequest,
        OffsetForLeaderEpoch: OffsetForLeaderEpochRequest, DescribeConfigs: DescribeConfigsRequest,
        DescribeCluster: DescribeClusterRequest, DeleteRecords: DeleteRecordsRequest,
        CreatePartitions: CreatePartitionsRequest,
        AlterConfigs: AlterConfigsRequest, IncrementalAlterConfigs: IncrementalAlterConfigsRequest
    );
    seeds
}

fn one(input: &[u8]) {
    let Some((direction, rest)) = input.split_first() else {
        return;
    };
    if direction % 2 == 0 {
        let mut frame = Bytes::copy_from_slice(rest);
        let Ok(header) = decode_header(&mut frame) else {
            return;
        };
        if let Some(api) = Api::from_key(header.key) {
            let _ = decode_request(api, header.version, frame);
        }
        return;
    }
    let Some(([key, version], rest)) = rest.split_first_chunk::<2>() else {
        return;
    };
    let version = i16::from(*version);
    let frame = Bytes::copy_from_slice(rest);
    match Api::from_key(i16::from(*key)) {
        Some(Api::Produce) => drop(decode_response::<ProduceRequest>(version, frame)),
        Some(Api::Fetch) => drop(decode_response::<FetchRequest>(version, frame)),
        Some(Api::ListOffsets) => drop(decode_response::<ListOffsetsRequest>(version, frame)),
        Some(Api::Metadata) => drop(decode_response::<MetadataRequest>(version, frame)),
        Some(Api::FindCoordinator) => drop(decode_response::<FindCoordinatorRequest>(version, frame)),
        Some(Api::ApiVersions) => drop(decode_response::<ApiVersionsRequest>(version, frame)),
        Some(Api::CreateTopics) => drop(decode_response::<CreateTopicsRequest>(version, frame)),
        Some(Api::DeleteTopics) => drop(decode_response::<DeleteTopicsRequest>(version, frame)),
        Some(Api::InitProducerId) => drop(decode_response::<InitProducerIdRequest>(version, frame)),
        Some(Api::OffsetForLeaderEpoch) => drop(decode_response::<OffsetForLeaderEpochRequest>(version, frame)),
        Some(Api::DescribeConfigs) => drop(decode_response::<DescribeConfigsRequest>(version, frame)),
        Some(Api::CreatePartitions) => drop(decode_response::<CreatePartitionsRequest>(version, frame)),
        Some(Api::DeleteRecords) => drop(decode_response::<DeleteRecordsRequest>(version, frame)),
        Some(Api::AlterConfigs) => drop(decode_response::<AlterConfigsRequest>(version, frame)),
        Some(Api::IncrementalAlterConfigs) => drop(decode_response::<IncrementalAlterConfigsRequest>(version, frame)),
        Some(Api::DescribeCluster) => drop(decode_response::<DescribeClusterRequest>(version, frame)),
        None => {}
    }
}

#[test]
fn kafka() {
    super::engine::run("kafka", &seeds(), one);
    // Inputs have 64 KiB at most; a single trusted length would ask for gigabytes.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    if let Some(kilobytes) = peak.and_then(|p| p.split_whitespace().next()?.parse::<u64>().ok()) {
        assert!(kilobytes < 512 * 1024, "{kilobytes} kB were resident at the peak");
    }
}
