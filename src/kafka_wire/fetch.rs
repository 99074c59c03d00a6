//! A Fetch answer written around stored batches without copying them: the codec would copy every record byte once more.
//! Versions 4 to 12; layout as in `FetchResponse.json`.

use bytes::{BufMut, Bytes};

use super::{Api, WireError};
use crate::model::Output;

/// What a Fetch is answered with.
#[derive(Clone, Debug, Default)]
pub struct FetchAnswer {
    /// For the whole request.
    pub error_code: i16,
    /// In the order of the request.
    pub topics: Vec<FetchedTopic>,
}

/// A topic in the answer.
#[derive(Clone, Debug)]
pub struct FetchedTopic {
    /// Name, as asked for.
    pub name: super::StrBytes,
    /// In the order of the request.
    pub partitions: Vec<FetchedPartition>,
}

/// A partition in the answer.
#[derive(Clone, Debug, Default)]
pub struct FetchedPartition {
    /// Its number.
    pub index: i32,
    /// 0, or why there are no records.
    pub error_code: i16,
    /// -1 when unknown.
    pub high_watermark: i64,
    /// -1 when unknown.
    pub log_start: i64,
    /// Whole batches as stored.
    pub batches: Vec<Bytes>,
}

impl FetchedPartition {
    /// Bytes of the batches.
    pub fn records_bytes(&self) -> usize {
        self.batches.iter().map(Bytes::len).fold(0, usize::saturating_add)
    }
}

impl FetchAnswer {
    /// Bytes of all batches.
    pub fn records_bytes(&self) -> usize {
        let partitions = self.topics.iter().flat_map(|t| t.partitions.iter());
        partitions
            .map(FetchedPartition::records_bytes)
            .fold(0, usize::saturating_add)
    }

    /// Appends the whole frame to `out`; batches go in as segments.
    pub fn put(&self, out: &mut Output, version: i16, correlation: i32) -> Result<(), WireError> {
        let api = Api::Fetch;
        api.response_shape(version)?;
        let flexible = api.flexible(version);
        // Everything but the batches is small: it is written aside first, cut where the batches go in, so that the length is known.
        let mut pieces: Vec<(Vec<u8>, &[Bytes])> = Vec::new();
        let mut head = Vec::with_capacity(64);
        head.put_i32(correlation);
        if flexible {
            head.put_u8(0);
        }
        head.put_i32(0);
        if version >= 7 {
            head.put_i16(self.error_code);
            head.put_i32(0);
        }
        put_count(&mut head, self.topics.len(), flexible);
        for topic in &self.topics {
            put_name(&mut head, topic.name.as_bytes(), flexible);
            put_count(&mut head, topic.partitions.len(), flexible);
            for partition in &topic.partitions {
                partition.put_head(&mut head, version, flexible);
                if !partition.batches.is_empty() {
                    pieces.push((std::mem::take(&mut head), &partition.batches));
                }
                if flexible {
                    head.put_u8(0);
                }
            }
            if flexible {
                head.put_u8(0);
            }
        }
        if flexible {
            head.put_u8(0);
        }
        let small = pieces
            .iter()
            .map(|(piece, _)| piece.len())
            .fold(head.len(), usize::saturating_add);
        let bytes = small.saturating_add(self.records_bytes());
        let length = i32::try_from(bytes).map_err(|_| WireError::TooLong {
            bytes,
            bytes_max: i32::MAX as usize,
        })?;
        out.put(&length.to_be_bytes());
        for (piece, batches) in pieces {
            out.put(&piece);
            batches.iter().for_each(|batch| out.put_bytes(batch.clone()));
        }
        out.put(&head);
        Ok(())
    }
}

impl FetchedPartition {
    fn put_head(&self, head: &mut Vec<u8>, version: i16, flexible: bool) {
        head.put_i32(self.index);
        head.put_i16(self.error_code);
        head.put_i64(self.high_watermark);
        // Without transactions everything that is durable is stable.
        head.put_i64(self.high_watermark);
        if version >= 5 {
            head.put_i64(self.log_start);
        }
        // No aborted transactions: an empty array, which Kafka's own clients read as null does.
        put_count(head, 0, flexible);
        if version >= 11 {
            head.put_i32(-1);
        }
        put_count(head, self.records_bytes(), flexible);
    }
}

/// An array's count or a byte field's length.
fn put_count(head: &mut Vec<u8>, count: usize, flexible: bool) {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    if flexible {
        let mut rest = count.saturating_add(1);
        while rest >= 0x80 {
            head.put_u8((rest & 0x7f) as u8 | 0x80);
            rest = rest.wrapping_shr(7);
        }
        head.put_u8(rest as u8);
    } else {
        head.put_u32(count);
    }
}

fn put_name(head: &mut Vec<u8>, name: &[u8], flexible: bool) {
    if flexible {
        put_count(head, name.len(), true);
    } else {
        head.put_u16(u16::try_from(name.len()).unwrap_or(0));
    }
    head.put_slice(name);
}
