//! What stays is compared with a model that knows every record: for each key the last one, tombstones until their horizon.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::*;
use crate::model::batch::{Packer, pack_compressed, stamp, stamp_append_time, stamp_producer};
use crate::model::compression::Codec;
use crate::model::{Offset, Record, RecordHeader};

const MOMENT: Moment = Moment {
    now_ms: 10_000,
    delete_retention_ms: 500,
};

/// `k=v`, `k=` for a tombstone, `=v` without a key. The timestamp is the place in the list.
fn batch(base_offset: u64, records: &[&str]) -> Batch {
    let part = |text: &str| (!text.is_empty()).then(|| Bytes::copy_from_slice(text.as_bytes()));
    let record = |(time, text): (i64, &&str)| {
        let (key, value) = text.split_once('=').unwrap();
        Record {
            key: part(key),
            value: part(value),
            headers: Vec::new(),
            timestamp_ms: time,
        }
    };
    let mut packer = Packer::behind(Vec::new());
    (0..).zip(records).map(record).for_each(|record| packer.push(&record));
    let mut bytes = packer.finish();
    stamp(&mut bytes, Offset(base_offset), 0);
    Batch::parse(bytes.into()).unwrap()
}

/// A pass over everything, with a map that begins at an offset.
fn pass(log: &[Batch], from: u64, keys_max: usize, moment: Moment) -> (Vec<Batch>, u64) {
    let mut inflater = Inflater::default();
    let mut keys = KeyMap::new(from, keys_max);
    for batch in log.iter().filter(|batch| batch.offset_next().0 > from) {
        if !keys.add(batch, &mut inflater).unwrap() {
            break;
        }
    }
    let mut cleaned = Vec::new();
    for batch in log {
        match clean(batch, &keys, moment, &mut inflater).unwrap() {
            Retained::Whole => cleaned.push(batch.clone()),
            Retained::Nothing => {}
            Retained::Part(bytes, _) => cleaned.push(Batch::parse(bytes.into()).unwrap()),
        }
    }
    (cleaned, keys.until())
}

fn shown(log: &[Batch]) -> Vec<String> {
    let text = |part: Option<Bytes>| part.map_or(String::new(), |part| String::from_utf8(part.to_vec()).unwrap());
    let records = log.iter().flat_map(|batch| batch.records(1 << 20).unwrap());
    records
        .map(|(offset, record)| format!("{offset}:{}={}", text(record.key), text(record.value)))
        .collect()
}

#[test]
fn the_last_record_of_each_key_stays_at_its_offset_and_a_batch_without_records_goes() {
    let log = [
        batch(0, &["a=1", "b=1"]),
        batch(2, &["a=2"]),
        batch(3, &["a=3", "c=1", "b=2"]),
    ];
    let (cleaned, until) = pass(&log, 0, 100, MOMENT);
    assert_eq!(shown(&cleaned), ["3:a=3", "4:c=1", "5:b=2"]);
    assert_eq!((cleaned.len(), until), (1, 6));
    assert_eq!(
        cleaned[0].bytes(),
        log[2].bytes(),
        "what loses nothing stays byte for byte"
    );
}

#[test]
fn a_record_without_a_key_goes() {
    let (cleaned, _) = pass(&[batch(0, &["=x", "a=1"])], 0, 100, MOMENT);
    assert_eq!(shown(&cleaned), ["1:a=1"]);
}

#[test]
fn a_tombstone_gets_its_horizon_from_the_first_pass_and_goes_with_one_after_it() {
    let log = [batch(0, &["a=1", "b=1"]), batch(2, &["a=", "c=1"])];
    let (cleaned, until) = pass(&log, 0, 100, MOMENT);
    assert_eq!(shown(&cleaned), ["1:b=1", "2:a=", "3:c=1"]);
    let horizons = |log: &[Batch]| log.iter().map(|b| b.header().delete_horizon_ms()).collect::<Vec<_>>();
    assert_eq!(horizons(&cleaned), [None, Some(10_500)]);
    let times: Vec<i64> = cleaned[1]
        .records(1000)
        .unwrap()
        .iter()
        .map(|(_, r)| r.timestamp_ms)
        .collect();
    assert_eq!(times, [0, 1], "timestamps do not move with the base");
    // Later passes leave the horizon as it is.
    let at = |now_ms| Moment { now_ms, ..MOMENT };
    let (again, _) = pass(&cleaned, until, 100, at(10_499));
    assert_eq!((shown(&again), horizons(&again)), (shown(&cleaned), horizons(&cleaned)));
    let (gone, _) = pass(&again, until, 100, at(10_500));
    assert_eq!(shown(&gone), ["1:b=1", "3:c=1"]);
}

#[test]
fn what_lies_behind_a_full_map_is_left_for_the_next_pass() {
    let log = [
        batch(0, &["a=1", "b=1"]),
        batch(2, &["b=2", "c=1", "a=2"]),
        batch(5, &["b=3"]),
    ];
    let (cleaned, until) = pass(&log, 0, 2, MOMENT);
    // It knows a and b up to the record before c.
    assert_eq!(until, 3);
    assert_eq!(shown(&cleaned), ["0:a=1", "2:b=2", "3:c=1", "4:a=2", "5:b=3"]);
    let (cleaned, until) = pass(&cleaned, until, 2, MOMENT);
    assert_eq!(until, 5);
    assert_eq!(shown(&cleaned), ["2:b=2", "3:c=1", "4:a=2", "5:b=3"]);
    let (cleaned, until) = pass(&cleaned, until, 2, MOMENT);
    assert_eq!(
        (shown(&cleaned), until),
        (vec!["3:c=1".into(), "4:a=2".into(), "5:b=3".into()], 6)
    );
}

#[test]
fn what_a_batch_says_of_itself_stays() {
    let header = RecordHeader {
        name: "h".into(),
        value: Some(Bytes::from_static(b"x")),
    };
    let record = |key: &'static str, timestamp_ms| Record {
        key: Some(Bytes::from_static(key.as_bytes())),
        value: Some(Bytes::from_static(b"value value value")),
        headers: vec![header.clone()],
        timestamp_ms,
    };
    let records = [
        record("a", 9),
        record("b", 7),
        record("a", 8),
        record("c", 5),
        record("c", 6),
    ];
    for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        for append_time in [None, Some(77)] {
            let mut bytes = pack_compressed(&records, codec);
            stamp(&mut bytes, Offset(40), 3);
            stamp_producer(&mut bytes, 5, 2, 11, false);
            if let Some(time) = append_time {
                stamp_append_time(&mut bytes, time);
            }
            let before = Batch::parse(bytes.into()).unwrap();
            let (cleaned, _) = pass(std::slice::from_ref(&before), 40, 100, MOMENT);
            let [after] = &cleaned[..] else { panic!("one batch") };
            let (was, is) = (before.header(), after.header());
            assert_eq!(is.codec(), Ok(codec));
            assert_eq!(is.attributes, was.attributes);
            assert_eq!((is.base_offset, is.last_offset_delta), (40, 4));
            assert_eq!((is.producer_id, is.producer_epoch, is.base_sequence), (5, 2, 11));
            assert_eq!(is.partition_leader_epoch, 3);
            assert_eq!(is.records_count, 3);
            assert_eq!(is.max_timestamp, append_time.unwrap_or(8));
            assert_eq!(after.offset_next(), before.offset_next());
            let wanted: Vec<_> = before.records(1 << 20).unwrap();
            let wanted: Vec<_> = [1, 2, 4].map(|at: usize| wanted[at].clone()).into();
            assert_eq!(after.records(1 << 20).unwrap(), wanted);
        }
    }
}

#[test]
fn a_batch_that_does_not_open_is_told() {
    let mut bytes = batch(0, &["a=1"]).bytes().to_vec();
    bytes[61] = 0x80;
    stamp_append_time(&mut bytes, 1);
    let damaged = Batch::parse(bytes.into()).unwrap();
    let mut inflater = Inflater::default();
    let mut keys = KeyMap::new(0, 10);
    assert!(keys.add(&damaged, &mut inflater).is_err());
    assert!(clean(&damaged, &keys, MOMENT, &mut inflater).is_err());
}

/// What must hold after every pass, whatever came: a record is gone only if a later one of its key is there, or was there and was a
/// tombstone whose time was over.
#[test]
fn a_reader_from_the_start_sees_the_last_value_of_each_key_in_order() {
    let (mut removed, mut tombstones_gone, mut partial) = (0, 0, 0);
    for seed in 0..60 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let codec = [Codec::None, Codec::Zstd, Codec::Lz4][rng.usize(..3)];
        let mut log: Vec<Batch> = Vec::new();
        let mut model: BTreeMap<u64, Record> = BTreeMap::new();
        let (mut next, mut from, mut now_ms) = (0, 0, 1_000);
        for _ in 0..30 {
            for _ in 0..rng.usize(..6) {
                let records: Vec<Record> = (0..rng.usize(1..20))
                    .map(|_| Record {
                        key: Some(vec![rng.u8(..12)].into()),
                        value: (rng.u8(..4) > 0).then(|| vec![rng.u8(..); rng.usize(..30)].into()),
                        headers: Vec::new(),
                        timestamp_ms: rng.i64(0..2_000),
                    })
                    .collect();
                let mut bytes = pack_compressed(&records, codec);
                stamp(&mut bytes, Offset(next), 0);
                log.push(Batch::parse(bytes.into()).unwrap());
                for record in records {
                    model.insert(next, record);
                    next += 1;
                }
            }
            now_ms += rng.i64(0..400);
            let moment = Moment {
                now_ms,
                delete_retention_ms: 500,
            };
            let keys_max = if rng.bool() { rng.usize(1..12) } else { 100 };
            let horizons: BTreeMap<i64, i64> = log
                .iter()
                .filter_map(|b| Some((b.header().base_offset, b.header().delete_horizon_ms()?)))
                .collect();
            let before: BTreeMap<u64, Record> = records(&log);
            let (cleaned, until) = pass(&log, from, keys_max, moment);
            partial += usize::from(until < next);
            let after = records(&cleaned);
            for (offset, record) in &before {
                let behind = before.range(offset + 1..).take_while(|(other, _)| **other < until);
                let later = behind.into_iter().any(|(_, other)| other.key == record.key);
                let over = || {
                    let holder = log.iter().find(|b| b.offset_next().0 > *offset).unwrap();
                    let horizon = horizons.get(&holder.header().base_offset);
                    record.value.is_none() && horizon.is_some_and(|horizon| now_ms >= *horizon)
                };
                let stays = *offset >= until || !later && !over();
                assert_eq!(after.contains_key(offset), stays, "seed {seed}, offset {offset}");
                removed += usize::from(!stays);
                tombstones_gone += usize::from(!stays && !later);
            }
            assert!(
                after.iter().all(|(offset, record)| model[offset] == *record),
                "seed {seed}"
            );
            // The table that a reader builds is the one that all records would give.
            let table = |records: &BTreeMap<u64, Record>| {
                let mut table = BTreeMap::new();
                records
                    .values()
                    .for_each(|r| drop(table.insert(r.key.clone(), r.value.clone())));
                table.retain(|_, value| value.is_some());
                table
            };
            assert_eq!(table(&after), table(&model), "seed {seed}");
            (log, from) = (cleaned, until);
        }
    }
    assert!(removed > 5_000, "{removed}");
    assert!(tombstones_gone > 50, "{tombstones_gone}");
    assert!(partial > 50, "{partial}");
}

fn records(log: &[Batch]) -> BTreeMap<u64, Record> {
    let records = log.iter().flat_map(|batch| batch.records(1 << 20).unwrap());
    records.map(|(offset, record)| (offset.0, record)).collect()
}
