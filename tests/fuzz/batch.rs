//! Record batches as a producer sends them: whatever the bytes, parsing, decompressing and walking the records ends without a
//! panic and within the bound.

use bytes::Bytes;
use headwater::model::batch::{Batch, Retained, pack_compressed, retain};
use headwater::model::compression::{Codec, Inflater};
use headwater::model::{Offset, Record, RecordHeader};

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
    let even = |offset: Offset| offset.0.is_multiple_of(2);
    match retain(batch, inflater, OUTPUT_BYTES_MAX, 7, |view| even(view.offset)) {
        Err(_) => assert!(stored.is_err(), "what is sound can be cleaned"),
        Ok(Retained::Part(bytes, kept)) => {
            let left = Batch::parse(bytes.into()).expect("a whole batch is left");
            // Timestamps that are counted from another base may take more bytes.
            let left = left.records(4 * OUTPUT_BYTES_MAX).expect("and it is sound");
            assert_eq!(left.len(), kept as usize);
            let all = records.expect("it was sound before").into_iter();
            assert!(
                all.filter(|(offset, _)| even(*offset)).eq(left),
                "nothing of a record changes"
            );
        }
        Ok(Retained::Whole | Retained::Nothing) => assert!(stored.is_ok()),
    }
}
