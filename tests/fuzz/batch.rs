//! Record batches as a producer sends them: whatever the bytes, parsing, decompressing and walking the records ends without a
//! panic and within the bound.

use bytes::Bytes;
use headwater::model::batch::{Batch, pack_compressed};
use headwater::model::compression::{Codec, Inflater};
use headwater::model::{Record, RecordHeader};

const OUTPUT_BYTES_MAX: usize = 1 << 18;

#[test]
fn batch() {
    let record = |i: i64| Record {
        key: (i % 3 > 0).then(|| Bytes::from(format!("key-{i}"))),
        value: (i % 5 > 0).then(|| Bytes::from(format!("a reading of {i} and {}", i * 7))),
        headers: (0..i % 3)
            .map(|n| RecordHeader {
                name: format!("h{n}"),
                value: Some(Bytes::from_static(b"x")),
            })
            .collect(),
        timestamp_ms: 1_700_000_000_000 + i,
    };
    let records: Vec<Record> = (0..20).map(record).collect();
    let codecs = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];
    let seeds: Vec<Vec<u8>> = codecs.iter().map(|codec| pack_compressed(&records, *codec)).collect();
    let mut inflater = Inflater::default();
    crate::engine::run("batch", &seeds, |input| {
        for whole in Batch::split(Bytes::copy_from_slice(input)) {
            let _ = whole.map(|batch| walk(&batch, &mut inflater));
        }
        // Most mutations break the CRC: the rest is reached without it, as if the peer had computed it.
        for batch in Batch::split_trusted(Bytes::copy_from_slice(input)).flatten() {
            walk(&batch, &mut inflater);
        }
        for codec in codecs {
            if let Ok(output) = inflater.inflate(codec, input.get(61..).unwrap_or_default(), OUTPUT_BYTES_MAX) {
                assert!(output.len() <= OUTPUT_BYTES_MAX);
            }
        }
    });
}

fn walk(batch: &Batch, inflater: &mut Inflater) {
    let strict = batch.verify_records_with(inflater, OUTPUT_BYTES_MAX, false);
    let stored = batch.verify_stored(inflater, OUTPUT_BYTES_MAX);
    let records = batch.records(OUTPUT_BYTES_MAX);
    assert!(strict.is_err() || stored.is_ok(), "strict implies stored");
    assert_eq!(stored.is_ok(), records.is_ok(), "views and records agree");
}
