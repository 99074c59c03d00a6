//! Golden rows of the store: what `tests/golden/store.txt` says is written byte for byte, and read back as what it says.

use std::collections::HashMap;
use std::fmt::Debug;
use std::str::FromStr;

use super::super::bodies::Extent;
use super::super::boots::{Boot, BootState, ClockMark};
use super::super::layout::{BatchEntry, Directory, Mark, PartitionKey, decode_segment, encode_segment, journal_key};
use super::super::producers::{Producer, Sequenced};
use super::super::store::{Change, Op, StoreError};

const STORE: &str = include_str!("../../../tests/golden/store.txt");

/// One line: its name, its bytes, and what they say. A field that comes several times keeps its order.
struct Vector {
    name: &'static str,
    bytes: Vec<Vec<u8>>,
    fields: HashMap<&'static str, Vec<&'static str>>,
}

impl Vector {
    fn number<T: FromStr<Err: Debug>>(&self, name: &str) -> T {
        self.fields[name][0].parse().unwrap()
    }

    /// Every `name=a,b,c` of the line.
    fn rows<const N: usize>(&self, name: &str) -> Vec<[i128; N]> {
        let row = |text: &&str| {
            let numbers: Vec<i128> = text.split(',').map(|n| n.parse().unwrap()).collect();
            numbers.try_into().unwrap()
        };
        self.fields.get(name).into_iter().flatten().map(row).collect()
    }

    fn partition(&self) -> PartitionKey {
        let [topic, partition] = self.rows("partition")[0];
        partition_key(topic, partition)
    }

    fn entries(&self) -> Vec<BatchEntry> {
        let append_ms = self.number("append_ms");
        let entry = |[
            topic,
            partition,
            base_offset,
            records,
            bytes,
            max_timestamp,
            leader_epoch,
        ]: [i128; 7]| BatchEntry {
            partition: partition_key(topic, partition),
            base_offset: base_offset.try_into().unwrap(),
            records: records.try_into().unwrap(),
            bytes: bytes.try_into().unwrap(),
            packed: false,
            max_timestamp: max_timestamp.try_into().unwrap(),
            append_ms,
            leader_epoch: leader_epoch.try_into().unwrap(),
        };
        let mut entries: Vec<BatchEntry> = self.rows("entry").into_iter().map(entry).collect();
        let packed = self
            .fields
            .get("packed")
            .into_iter()
            .flatten()
            .flat_map(|text| text.split(','));
        for (entry, packed) in entries.iter_mut().zip(packed) {
            entry.packed = packed == "1";
        }
        entries
    }
}

fn partition_key(topic: i128, partition: i128) -> PartitionKey {
    PartitionKey {
        topic: topic.try_into().unwrap(),
        partition: partition.try_into().unwrap(),
    }
}

fn vectors(kind: &str) -> Vec<Vector> {
    let lines = STORE.lines().filter(|line| line.split(' ').next() == Some(kind));
    let found: Vec<_> = lines.map(vector).collect();
    assert!(!found.is_empty(), "no vector of kind {kind}");
    found
}

fn vector(line: &'static str) -> Vector {
    let mut words = line.split(' ').skip(1);
    let name = words.next().unwrap();
    let (mut bytes, mut fields) = (Vec::new(), HashMap::<_, Vec<_>>::new());
    for word in words {
        match word.split_once('=') {
            Some((field, value)) => fields.entry(field).or_default().push(value),
            None => bytes.push(hex(word)),
        }
    }
    Vector { name, bytes, fields }
}

fn hex(text: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// Every changed bit of a row with a checksum is damage.
fn every_bit_counts<T: Debug>(name: &str, bytes: &[u8], decode: impl Fn(&[u8]) -> Result<T, StoreError>) {
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bad = bytes.to_vec();
            bad[at] ^= 1 << bit;
            let result = decode(&bad);
            assert!(
                matches!(result, Err(StoreError::Damaged(_))),
                "{name}: byte {at}, bit {bit}: {result:?}"
            );
        }
    }
}

#[test]
fn directories_of_journal_rows_are_as_they_were() {
    for vector in vectors("directory") {
        let (bytes, entries) = (&vector.bytes[0], vector.entries());
        assert_eq!(
            Directory::encode(&entries, vector.number("append_ms")),
            bytes,
            "{}",
            vector.name
        );
        assert_eq!(Directory::decode(bytes), Ok(Directory { entries }), "{}", vector.name);
        every_bit_counts(vector.name, bytes, Directory::decode);
    }
}

#[test]
fn segment_rows_are_as_they_were() {
    for kind in ["segment-2", "segment"] {
        for vector in vectors(kind) {
            let [key, value] = &vector.bytes[..] else {
                panic!("{}", vector.name)
            };
            let entries = vector.entries();
            assert_eq!(
                entries[0].partition.segment(entries[0].base_offset),
                *key,
                "{}",
                vector.name
            );
            if kind == "segment" {
                assert_eq!(encode_segment(&entries), *value, "{}", vector.name);
            }
            assert_eq!(decode_segment(key, value), Ok(entries), "{}", vector.name);
            every_bit_counts(vector.name, value, |value| decode_segment(key, value));
        }
    }
}

#[test]
fn rows_of_partitions_are_as_they_were() {
    for vector in vectors("mark") {
        let [key, value] = &vector.bytes[..] else {
            panic!("{}", vector.name)
        };
        type Made = fn(PartitionKey, u64) -> Mark;
        let marks: [(&str, Made); 3] = [
            ("log_start", Mark::LogStart),
            ("clean_until", Mark::CleanUntil),
            ("compacted_until", Mark::CompactedUntil),
        ];
        let field = marks.iter().find(|(field, _)| vector.fields.contains_key(field));
        let (field, mark) = field.unwrap_or_else(|| panic!("{}", vector.name));
        let mark = mark(vector.partition(), vector.number(field));
        assert_eq!(Mark::decode(key, value), Ok(mark), "{}", vector.name);
        let told = [key.clone(), value.clone()];
        assert_eq!(put(mark.op()), told, "{}", vector.name);
    }
}

#[test]
fn producers_are_as_they_were() {
    for vector in vectors("producer") {
        let [key, value] = &vector.bytes[..] else {
            panic!("{}", vector.name)
        };
        let batch = |[first, last, base_offset]: [i128; 3]| Sequenced {
            first: first.try_into().unwrap(),
            last: last.try_into().unwrap(),
            base_offset: base_offset.try_into().unwrap(),
        };
        let producer = Producer {
            epoch: vector.number("epoch"),
            last_ms: vector.number("last_ms"),
            batches: vector.rows("batch").into_iter().map(batch).collect(),
        };
        assert_eq!(
            vector.partition().producer(vector.number("id")),
            *key,
            "{}",
            vector.name
        );
        assert_eq!(producer.encode(), *value, "{}", vector.name);
        assert_eq!(Producer::decode(value), Ok(producer), "{}", vector.name);
    }
}

/// Key and value that an operation puts.
fn put(op: Op) -> [Vec<u8>; 2] {
    match op.change {
        Change::Put(pieces) => [op.key, pieces.concat()],
        other => panic!("{other:?}"),
    }
}

#[test]
fn boots_and_marks_are_as_they_were() {
    for vector in vectors("boot") {
        let (until_ms, by_ms) = (vector.number("until_ms"), vector.number("by_ms"));
        let boot = Boot {
            number: vector.number("number"),
            id: [vector.number("id"); 16],
            offset_ms: vector.number("offset_ms"),
            begun_ms: vector.number("begun_ms"),
            seen_ms: vector.number("seen_ms"),
            state: match vector.number("state") {
                0 => BootState::Untrusted,
                1 => BootState::Trusted,
                _ => BootState::Corrected { until_ms, by_ms },
            },
        };
        let [key, value] = put(boot.op());
        assert_eq!([&key, &value], [&vector.bytes[0], &vector.bytes[1]], "{}", vector.name);
        assert_eq!(Boot::decode(&key, &value), Ok(boot), "{}", vector.name);
        every_bit_counts(vector.name, &value, |value| Boot::decode(&key, value));
    }
    for vector in vectors("clock-mark") {
        let mark = ClockMark {
            first: vector.number("first"),
            next: vector.number("next"),
            boot: vector.number("boot"),
            own: vector.number::<u8>("own") == 1,
            by_ms: 0,
            until_ms: 0,
        };
        let partition = vector.partition();
        let [key, value] = put(mark.op(partition));
        assert_eq!([&key, &value], [&vector.bytes[0], &vector.bytes[1]], "{}", vector.name);
        assert_eq!(
            ClockMark::decode(&key, &value),
            Ok((partition, mark)),
            "{}",
            vector.name
        );
        every_bit_counts(vector.name, &value, |value| ClockMark::decode(&key, value));
    }
}

#[test]
fn keys_and_places_of_bodies_are_as_they_were() {
    for vector in vectors("journal") {
        assert_eq!(
            journal_key(vector.number("row"))[..],
            vector.bytes[0],
            "{}",
            vector.name
        );
    }
    for vector in vectors("extent") {
        let bytes = &vector.bytes[0];
        let (extent, rest) = Extent::decode(bytes).unwrap();
        let told: [u64; 4] = ["file", "offset", "bytes", "alone"].map(|field| vector.number(field));
        let extent = extent.expect("its checksum is right");
        assert_eq!(extent.parts(), told, "{}", vector.name);
        assert_eq!((&extent.encode()[..], rest), (&bytes[..], &b""[..]), "{}", vector.name);
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Extent::decode(&bad).unwrap().0, None, "{}: bit {bit}", vector.name);
        }
    }
}
