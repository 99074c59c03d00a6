//! The descriptors against the codec: bytes are made from a descriptor, the codec must read them to the end and write the same
//! bytes again, in every version; and no length in them can be trusted afterwards.
#![allow(clippy::arithmetic_side_effects, clippy::panic)]

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request as RequestType};

use super::schema::{Kind, Shape, Struct, walk};
use super::*;

/// Writes a well-formed, populated body along a descriptor and remembers where its lengths are.
struct Maker {
    shape: Shape,
    bytes: BytesMut,
    lengths: Vec<usize>,
    seed: u64,
}

impl Maker {
    fn make(shape: Shape) -> (Bytes, Vec<usize>) {
        let mut maker = Self {
            shape,
            bytes: BytesMut::new(),
            lengths: Vec::new(),
            seed: 7,
        };
        maker.fields(shape.body);
        (maker.bytes.freeze(), maker.lengths)
    }

    fn next(&mut self) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(11);
        (self.seed >> 33) | 1
    }

    fn varint(&mut self, mut n: u32) {
        while n >= 0x80 {
            self.bytes.put_u8(n as u8 | 0x80);
            n >>= 7;
        }
        self.bytes.put_u8(n as u8);
    }

    fn length(&mut self, n: usize, wide: usize) {
        self.lengths.push(self.bytes.len());
        match (self.shape.flexible, wide) {
            (true, _) => self.varint(n as u32 + 1),
            (false, 2) => self.bytes.put_i16(n as i16),
            (false, _) => self.bytes.put_i32(n as i32),
        }
    }

    fn fields(&mut self, of: &'static Struct) {
        let version = self.shape.version;
        for field in of.fields.iter().filter(|f| (f.from..=f.to).contains(&version)) {
            self.kind(field.kind);
        }
        if !self.shape.flexible {
            return;
        }
        let tags: Vec<_> = of.tags.iter().filter(|t| t.from <= version).collect();
        self.varint(tags.len() as u32);
        for tag in tags {
            let whole = std::mem::take(&mut self.bytes);
            let known = self.lengths.len();
            self.kind(tag.kind);
            let content = std::mem::replace(&mut self.bytes, whole);
            self.varint(tag.tag);
            self.varint(content.len() as u32);
            let moved = self.bytes.len();
            self.lengths[known..].iter_mut().for_each(|at| *at += moved);
            self.bytes.put_slice(&content);
        }
    }

    fn kind(&mut self, kind: Kind) {
        let n = self.next();
        match kind {
            Kind::Bool => self.bytes.put_u8(1),
            Kind::Int8 => self.bytes.put_i8((n & 0x7f) as i8),
            Kind::Int16 => self.bytes.put_i16((n & 0x7fff) as i16),
            Kind::Int32 => self.bytes.put_i32((n & 0x7fff_ffff) as i32),
            Kind::Int64 => self.bytes.put_i64(n as i64),
            Kind::Uuid => self.bytes.put_u128(u128::from(n) << 64 | 5),
            Kind::Str | Kind::Bytes => {
                let text = format!("text-{n}");
                self.length(text.len(), if matches!(kind, Kind::Str) { 2 } else { 4 });
                self.bytes.put_slice(text.as_bytes());
            }
            Kind::Many(of) => {
                self.length(2, 4);
                (0..2).for_each(|_| self.fields(of));
            }
            Kind::List(of) => {
                self.length(3, 4);
                (0..3).for_each(|_| self.kind(*of));
            }
            Kind::One(of) => self.fields(of),
        }
    }
}

/// One direction of one API in one version.
fn agrees<T: Decodable + Encodable + Default + std::fmt::Debug>(what: &str, shape: Shape) {
    let version = shape.version;
    let what = format!("{what} v{version}");
    let (body, lengths) = Maker::make(shape);
    assert_eq!(
        walk(&body, shape),
        Ok(body.len()),
        "{what}: a made body walks to its end"
    );
    let mut rest = body.clone();
    let message = T::decode(&mut rest, version).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(
        rest.is_empty(),
        "{what}: the codec leaves {} bytes: {message:?}",
        rest.len()
    );
    let mut again = BytesMut::new();
    message
        .encode(&mut again, version)
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(
        body,
        again.freeze(),
        "{what}: the codec writes what the descriptor says"
    );

    let mut default = BytesMut::new();
    T::default()
        .encode(&mut default, version)
        .unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(
        walk(&default, shape),
        Ok(default.len()),
        "{what}: the default walks to its end"
    );

    for cut in 0..body.len() {
        assert!(walk(&body[..cut], shape).is_err(), "{what}: cut at {cut}");
    }
    let wide: &[u8] = if shape.flexible {
        &[0xff, 0xff, 0xff, 0xff, 0x0f]
    } else {
        &[0x7f, 0xff, 0xff, 0xff]
    };
    for at in lengths {
        let mut hostile = body.to_vec();
        for (i, byte) in wide.iter().enumerate() {
            match hostile.get_mut(at + i) {
                Some(place) => *place = *byte,
                None => hostile.push(*byte),
            }
        }
        assert!(
            walk(&hostile, shape).is_err(),
            "{what}: a huge length at {at} is refused"
        );
    }
}

fn agrees_both<R>(api: Api)
where
    R: RequestType + Default + std::fmt::Debug,
    R::Response: Default + std::fmt::Debug,
{
    assert_eq!(api.key(), R::KEY);
    let (min, max) = api.versions();
    for version in min..=max {
        assert_eq!(
            api.flexible(version),
            R::header_version(version) == 2,
            "{} v{version}",
            api.name()
        );
        assert_eq!(
            api.response_header_flexible(version),
            R::Response::header_version(version) == 1,
            "{} v{version}",
            api.name()
        );
        agrees::<R>(api.name(), api.request_shape(version).unwrap());
        agrees::<R::Response>(api.name(), api.response_shape(version).unwrap());
        round_trip::<R>(api, version);
    }
    assert!(api.request_shape(max + 1).is_err());
    assert!(api.response_shape(min - 1).is_err());
}

/// What one side writes, the other reads.
fn round_trip<R>(api: Api, version: i16)
where
    R: RequestType + Default + std::fmt::Debug,
    R::Response: Default,
{
    let frame = encode_request(version, 42, "cli", &R::default()).unwrap();
    assert_eq!(frame_bytes(&frame, 1 << 20), Ok(Some(frame.len())));
    let mut rest = frame.slice(LENGTH_BYTES..);
    let header = decode_header(&mut rest).unwrap();
    assert_eq!(
        (
            header.key,
            header.version,
            header.correlation,
            header.client_id.as_deref()
        ),
        (api.key(), version, 42, Some("cli"))
    );
    decode_request(api, version, rest).unwrap();
    let frame = encode_response::<R>(version, 42, &R::Response::default()).unwrap();
    assert_eq!(frame_bytes(&frame, 1 << 20), Ok(Some(frame.len())));
    let (correlation, _) = decode_response::<R>(version, frame.slice(LENGTH_BYTES..)).unwrap();
    assert_eq!(correlation, 42);
}

#[test]
fn every_descriptor_agrees_with_the_codec_in_every_version() {
    agrees_both::<ProduceRequest>(Api::Produce);
    agrees_both::<FetchRequest>(Api::Fetch);
    agrees_both::<ListOffsetsRequest>(Api::ListOffsets);
    agrees_both::<MetadataRequest>(Api::Metadata);
    agrees_both::<FindCoordinatorRequest>(Api::FindCoordinator);
    agrees_both::<ApiVersionsRequest>(Api::ApiVersions);
    agrees_both::<CreateTopicsRequest>(Api::CreateTopics);
    agrees_both::<DeleteTopicsRequest>(Api::DeleteTopics);
    agrees_both::<InitProducerIdRequest>(Api::InitProducerId);
    agrees_both::<OffsetForLeaderEpochRequest>(Api::OffsetForLeaderEpoch);
    agrees_both::<DescribeConfigsRequest>(Api::DescribeConfigs);
    agrees_both::<DescribeClusterRequest>(Api::DescribeCluster);
    agrees_both::<CreatePartitionsRequest>(Api::CreatePartitions);
    agrees_both::<DeleteRecordsRequest>(Api::DeleteRecords);
    agrees_both::<AlterConfigsRequest>(Api::AlterConfigs);
    agrees_both::<IncrementalAlterConfigsRequest>(Api::IncrementalAlterConfigs);
    assert_eq!(Api::all().count(), 16);
}

#[test]
fn an_array_of_two_billion_is_refused_before_the_codec_sees_it() {
    // A Metadata v0 request: key 3, version 0, correlation 1, no client id, then 2^31-1 topics.
    let mut frame = Bytes::from_static(&[0, 3, 0, 0, 0, 0, 0, 1, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    let header = decode_header(&mut frame).unwrap();
    assert_eq!((header.key, header.version, header.client_id), (3, 0, None));
    let refused = decode_request(Api::Metadata, 0, frame).unwrap_err();
    assert!(
        matches!(refused, WireError::Count { count: 0x7fff_ffff, .. }),
        "{refused}"
    );
}

#[test]
fn more_elements_than_any_client_asks_for_are_refused_although_they_fit() {
    // FindCoordinator v4: every key takes one byte on the wire and 32 in memory.
    let mut body = vec![0u8];
    body.extend([0xc1, 0x84, 0x3d]);
    body.extend(vec![1u8; 1_000_000]);
    body.push(0);
    let refused = decode_request(Api::FindCoordinator, 4, body.into()).unwrap_err();
    assert!(matches!(refused, WireError::TooMany { .. }), "{refused}");
}

#[test]
fn a_tagged_field_that_lies_about_its_size_is_refused() {
    let shape = Api::Fetch.request_shape(12).unwrap();
    let (body, _) = Maker::make(shape);
    // The last field is the tagged cluster id: count 1, tag 0, size, string.
    let text = body.len() - body.iter().rev().position(|b| *b == 0).unwrap();
    let mut lying = body.to_vec();
    lying[text] += 1;
    lying.push(0);
    assert_eq!(walk(&lying, shape), Err(WireError::Tag(0)));
}

#[test]
fn unknown_tagged_fields_are_skipped() {
    let mut body = BytesMut::new();
    MetadataRequest::default().encode(&mut body, 12).unwrap();
    body.truncate(body.len() - 1);
    body.put_slice(&[1, 9, 2, 0xaa, 0xbb]);
    assert!(decode_request(Api::Metadata, 12, body.freeze()).is_ok());
}

#[test]
fn bytes_behind_a_request_are_passed_over_and_never_decoded() {
    // Metadata version 12 as librdkafka 2.16 asks for all topics: null in the four bytes that an array's count may take, then
    // the two flags and the tagged fields. By the protocol the message is over after four bytes.
    let body = Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0]);
    let decoded = decode_request(Api::Metadata, 12, body).unwrap();
    let Request::Metadata(asked) = decoded else {
        panic!("{decoded:?}")
    };
    assert_eq!((asked.topics, asked.allow_auto_topic_creation), (None, false));
    // What is behind is not looked at, be it an array of 2^31 elements.
    let behind = Bytes::from_static(&[0, 1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]);
    assert!(decode_request(Api::Metadata, 12, behind).is_ok());
}

#[test]
fn bytes_behind_an_answer_are_refused() {
    let frame = encode_response::<InitProducerIdRequest>(0, 1, &InitProducerIdResponse::default()).unwrap();
    let mut longer = frame.slice(LENGTH_BYTES..).to_vec();
    longer.push(0);
    let refused = decode_response::<InitProducerIdRequest>(0, longer.into()).unwrap_err();
    assert_eq!(refused, WireError::Leftover(1));
}

#[test]
fn a_fetch_answer_reads_as_the_codec_reads_it_and_shares_the_batches() {
    let batch = Bytes::from(vec![7u8; 1000]);
    let partition = |index, batches: Vec<Bytes>| FetchedPartition {
        index,
        error_code: 0,
        high_watermark: 12,
        log_start: 3,
        batches,
    };
    let answer = FetchAnswer {
        error_code: 0,
        topics: vec![FetchedTopic {
            name: StrBytes::from_static_str("t"),
            partitions: vec![
                partition(0, vec![]),
                partition(1, vec![batch.clone(), batch.clone()]),
                partition(2, vec![batch.clone()]),
            ],
        }],
    };
    for version in 4..=12 {
        let mut out = crate::model::Output::default();
        answer.put(&mut out, version, 77).unwrap();
        assert!(
            out.segments().iter().any(|s| s.as_ptr() == batch.as_ptr()),
            "the batch itself is a segment"
        );
        let frame = Bytes::from(out.take());
        assert_eq!(frame_bytes(&frame, 1 << 20), Ok(Some(frame.len())));
        let (correlation, body) = decode_response::<FetchRequest>(version, frame.slice(LENGTH_BYTES..)).unwrap();
        assert_eq!(correlation, 77);
        let read = &body.responses[0];
        assert_eq!(read.topic.0.as_str(), "t");
        let bytes: Vec<_> = read
            .partitions
            .iter()
            .map(|p| p.records.clone().unwrap().len())
            .collect();
        assert_eq!(bytes, [0, 2000, 1000]);
        assert!(
            read.partitions
                .iter()
                .all(|p| p.high_watermark == 12 && p.last_stable_offset == 12)
        );
    }
}
