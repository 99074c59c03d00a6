//! Batches: what parses, what is refused, what packing gives.

#![allow(clippy::arithmetic_side_effects, clippy::panic)]

use super::*;
use crate::model::Code;

const MIB: usize = 1 << 20;
const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

/// Two records, written out by hand from the specification: key "k", value "v1", header ("h", "x") at 1000 ms, and null key,
/// null value at 1003 ms. The CRC is that of Python's crc32c over the bytes from the attributes on.
#[rustfmt::skip]
const GOLDEN: [u8; 82] = [
    0, 0, 0, 0, 0, 0, 0, 0,          // base offset
    0, 0, 0, 70,                     // length
    0xff, 0xff, 0xff, 0xff,          // leader epoch
    2,                               // magic
    0x26, 0xc3, 0x4e, 0xc5,          // CRC
    0, 0,                            // attributes
    0, 0, 0, 1,                      // last offset delta
    0, 0, 0, 0, 0, 0, 0x03, 0xe8,    // base timestamp
    0, 0, 0, 0, 0, 0, 0x03, 0xeb,    // max timestamp
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, // producer id and epoch
    0xff, 0xff, 0xff, 0xff,          // base sequence
    0, 0, 0, 2,                      // records
    26, 0, 0, 0, 2, b'k', 4, b'v', b'1', 2, 2, b'h', 2, b'x',
    12, 0, 6, 2, 1, 1, 0,
];

fn golden_records() -> Vec<Record> {
    let header = RecordHeader {
        name: "h".into(),
        value: Some(Bytes::from_static(b"x")),
    };
    vec![
        Record {
            key: Some(Bytes::from_static(b"k")),
            value: Some(Bytes::from_static(b"v1")),
            headers: vec![header],
            timestamp_ms: 1000,
        },
        Record {
            timestamp_ms: 1003,
            ..Record::default()
        },
    ]
}

fn parse(bytes: &[u8]) -> Result<Batch, BatchError> {
    Batch::parse(Bytes::copy_from_slice(bytes))
}

/// As a hostile producer would: whatever the change, the CRC is right.
fn with_crc(mut bytes: Vec<u8>) -> Bytes {
    stamp::renew_crc(&mut bytes);
    Bytes::from(bytes)
}

fn random_records(rng: &mut fastrand::Rng) -> Vec<Record> {
    let bytes = |rng: &mut fastrand::Rng, max: usize| {
        (rng.u8(..4) > 0).then(|| (0..rng.usize(..max)).map(|_| rng.u8(..4)).collect::<Bytes>())
    };
    (0..rng.usize(1..200))
        .map(|_| Record {
            key: bytes(rng, 20),
            value: bytes(rng, 1024),
            headers: (0..rng.usize(..4))
                .map(|_| RecordHeader {
                    name: ["a", "a", "ö", ""][rng.usize(..4)].into(),
                    value: bytes(rng, 70),
                })
                .collect(),
            timestamp_ms: if rng.u8(..20) == 0 {
                rng.i64(..)
            } else {
                1_700_000_000_000 + rng.i64(..1000)
            },
        })
        .collect()
}

#[test]
fn the_golden_batch_is_what_pack_writes() {
    assert_eq!(pack(&golden_records()), GOLDEN);
    assert_eq!(packed_bytes(&golden_records()), GOLDEN.len());
}

#[test]
fn the_golden_batch_reads_as_its_records() {
    let batch = parse(&GOLDEN).expect("golden");
    batch.verify_records(MIB).expect("golden");
    let records: Vec<_> = batch.records(MIB).expect("golden").into_iter().collect();
    let expected: Vec<_> = (0..).map(Offset).zip(golden_records()).collect();
    assert_eq!(records, expected);
}

#[test]
fn what_is_packed_reads_back_whatever_the_codec() {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut inflater = Inflater::default();
    for _ in 0..60 {
        let records = random_records(&mut rng);
        let plain = pack(&records);
        assert_eq!(plain.len(), plain.capacity(), "one allocation of the exact size");
        for codec in CODECS {
            let batch = Batch::parse(Bytes::from(pack_compressed(&records, codec))).expect("ours");
            assert_eq!(batch.header().codec(), Ok(codec));
            batch.verify_records_with(&mut inflater, MIB, false).expect("ours");
            let read: Vec<_> = batch.records(MIB).expect("ours").into_iter().map(|(_, r)| r).collect();
            assert_eq!(read, records);
            let again = recompress(&batch, Codec::None, MIB).expect("ours");
            assert_eq!(again, plain, "{codec} and back");
        }
    }
}

#[test]
fn views_show_the_same_as_records() {
    let records = random_records(&mut fastrand::Rng::with_seed(9));
    let mut bytes = pack_compressed(&records, Codec::Zstd);
    stamp(&mut bytes, Offset(5_000_000_000), 3);
    let batch = Batch::parse(Bytes::from(bytes)).expect("stamping leaves the CRC right");
    assert_eq!(batch.header().partition_leader_epoch, 3);
    let mut inflater = Inflater::default();
    let mut seen = 0;
    for (view, (offset, record)) in batch
        .views(&mut inflater, MIB)
        .expect("ours")
        .zip(batch.records(MIB).expect("ours"))
    {
        let view = view.expect("ours");
        assert_eq!((view.offset, view.timestamp_ms), (offset, record.timestamp_ms));
        assert_eq!((view.key, view.value), (record.key.as_deref(), record.value.as_deref()));
        let headers: Vec<_> = view
            .headers
            .map(|h| (h.name.to_owned(), h.value.map(<[u8]>::to_vec)))
            .collect();
        let expected: Vec<_> = record
            .headers
            .iter()
            .map(|h| (h.name.clone(), h.value.as_deref().map(<[u8]>::to_vec)))
            .collect();
        assert_eq!(headers, expected);
        seen += 1;
    }
    assert_eq!(seen, records.len());
    assert_eq!(batch.offset_next(), Offset(5_000_000_000 + records.len() as u64));
}

#[test]
fn append_time_is_every_records_timestamp() {
    let mut bytes = GOLDEN.to_vec();
    stamp_append_time(&mut bytes, 77);
    let batch = parse(&bytes).expect("the CRC is renewed");
    assert!(batch.header().is_append_time());
    assert!(
        batch
            .records(MIB)
            .expect("golden")
            .iter()
            .all(|(_, r)| r.timestamp_ms == 77)
    );
}

#[test]
fn a_producer_stamped_batch_differs_only_in_its_producer() {
    let mut bytes = GOLDEN.to_vec();
    stamp_producer(&mut bytes, 9, 1, 40, true);
    let batch = parse(&bytes).expect("the CRC is renewed");
    let header = batch.header();
    assert_eq!(
        (header.producer_id, header.producer_epoch, header.base_sequence),
        (9, 1, 40)
    );
    assert!(header.is_transactional());
    stamp_producer(&mut bytes, -1, -1, -1, false);
    assert_eq!(bytes, GOLDEN);
}

#[test]
fn every_damaged_byte_is_noticed() {
    for at in 0..GOLDEN.len() {
        let mut bytes = GOLDEN;
        bytes[at] ^= 0x41;
        // Base offset and leader epoch are not covered by the CRC: brokers change them.
        let open = at < 8 || (12..16).contains(&at);
        assert_eq!(parse(&bytes).is_ok(), open, "byte {at}");
    }
}

#[test]
fn a_cut_or_lengthened_batch_is_refused() {
    for have in 0..GOLDEN.len() {
        assert!(parse(&GOLDEN[..have]).is_err());
    }
    let longer = [&GOLDEN[..], &[0]].concat();
    assert_eq!(parse(&longer), Err(BatchError::Length { says: 82, have: 83 }));
}

#[test]
fn a_count_that_lies_is_refused() {
    for (count, last_delta) in [(1i32, 0i32), (3, 2), (2, 5), (i32::MAX, i32::MAX - 1), (0, 0)] {
        let mut bytes = GOLDEN.to_vec();
        bytes[57..61].copy_from_slice(&count.to_be_bytes());
        bytes[23..27].copy_from_slice(&last_delta.to_be_bytes());
        let batch = Batch::parse(with_crc(bytes)).expect("the header is sane");
        assert!(batch.verify_records(MIB).is_err(), "{count} {last_delta}");
    }
}

#[test]
fn a_compacted_batch_with_a_gap_is_stored_but_not_taken_from_a_producer() {
    let mut bytes = GOLDEN.to_vec();
    bytes[23..27].copy_from_slice(&9i32.to_be_bytes());
    bytes[78] = 8;
    let batch = Batch::parse(with_crc(bytes)).expect("the header is sane");
    batch
        .verify_stored(&mut Inflater::default(), MIB)
        .expect("offsets rise");
    let refused = batch.verify_records(MIB).expect_err("a gap");
    assert_eq!(refused.code(), Code::InvalidRecord);
    let offsets: Vec<_> = batch
        .records(MIB)
        .expect("fine")
        .into_iter()
        .map(|(o, _)| o.0)
        .collect();
    assert_eq!(offsets, [0, 4]);
}

#[test]
fn offsets_that_repeat_are_refused() {
    let mut bytes = GOLDEN.to_vec();
    bytes[78] = 0;
    let batch = Batch::parse(with_crc(bytes)).expect("the header is sane");
    let error = BatchError::Record {
        index: 1,
        at: 14,
        fault: RecordFault::OffsetDelta,
    };
    assert_eq!(batch.verify_stored(&mut Inflater::default(), MIB), Err(error));
}

#[test]
fn control_batches_and_half_set_producers_are_not_taken_from_producers() {
    let mut control = GOLDEN.to_vec();
    control[22] = 0x20;
    assert!(
        Batch::parse(with_crc(control))
            .expect("sane")
            .verify_records(MIB)
            .is_err()
    );
    let mut half = GOLDEN.to_vec();
    half[43..51].copy_from_slice(&7i64.to_be_bytes());
    assert!(Batch::parse(with_crc(half)).expect("sane").verify_records(MIB).is_err());
}

#[test]
fn an_unknown_codec_is_named() {
    let mut bytes = GOLDEN.to_vec();
    bytes[22] = 5;
    let error = Batch::parse(with_crc(bytes))
        .expect("sane")
        .verify_records(MIB)
        .expect_err("codec 5");
    assert_eq!(
        (error.code(), error),
        (Code::UnsupportedCompression, BatchError::UnknownCodec(5))
    );
}

#[test]
fn batches_in_one_piece_are_split() {
    let both = [&GOLDEN[..], &pack(&golden_records()[..1])].concat();
    let split: Result<Vec<_>, _> = Batch::split(Bytes::from(both.clone())).collect();
    assert_eq!(
        split
            .expect("two batches")
            .iter()
            .map(|b| b.header().records_count)
            .collect::<Vec<_>>(),
        [2, 1]
    );
    let cut: Vec<_> = Batch::split(Bytes::copy_from_slice(&both[..100])).collect();
    assert_eq!(cut.len(), 2);
    assert!(cut[0].is_ok() && cut[1].is_err());
}

#[test]
fn a_bomb_ends_at_the_bound() {
    let record = Record {
        value: Some(Bytes::from(vec![0; 4 * MIB])),
        ..Record::default()
    };
    for codec in &CODECS[1..] {
        let bytes = pack_compressed(std::slice::from_ref(&record), *codec);
        assert!(bytes.len() < MIB / 2);
        let batch = Batch::parse(Bytes::from(bytes)).expect("ours");
        let mut inflater = Inflater::default();
        let refused = batch
            .verify_records_with(&mut inflater, MIB, false)
            .expect_err("a bomb");
        assert_eq!(refused.code(), Code::TooLarge, "{codec}");
        assert!(inflater.into_buffer().capacity() <= 2 * MIB, "{codec}");
        batch.verify_records(5 * MIB).expect("within the bound");
    }
}
