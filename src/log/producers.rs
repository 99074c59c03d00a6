//! Idempotent producers: what sequence each partition expects of each, and the last batches, to know a resend by.
//!
//! The rules are those of Kafka's `ProducerAppendInfo` and `ProducerStateEntry`: five batches are remembered; a producer that is
//! not known may begin with any sequence; a newer epoch begins at 0.

use std::collections::{HashMap, VecDeque};

use crate::model::Code;
use crate::model::batch::Header;

use super::Refused;
use super::layout::{Fields, PartitionKey};
use super::store::StoreError;

/// Batches remembered a producer and partition (`ProducerStateEntry.NUM_BATCHES_TO_RETAIN`).
const BATCHES_KEPT: usize = 5;
/// A producer that was silent for so long is forgotten (`producer.id.expiration.ms`).
pub const EXPIRY_MS: i64 = 86_400_000;

/// Every producer of every partition.
pub type Producers = HashMap<(PartitionKey, i64), Producer>;

/// One producer in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer {
    /// Its epoch.
    pub epoch: i16,
    /// When it last appended, by the wall clock.
    pub last_ms: i64,
    /// Its newest batches, oldest first.
    pub batches: VecDeque<Sequenced>,
}

/// A batch that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequenced {
    /// Sequence of its first record.
    pub first: i32,
    /// Sequence of its last record.
    pub last: i32,
    /// Where it is.
    pub base_offset: u64,
}

/// What to do with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Store it.
    Next,
    /// It is stored already, there.
    Duplicate(u64),
}

/// First and last sequence of a batch; sequences wrap from `i32::MAX` to 0.
pub fn sequences(header: &Header) -> (i32, i32) {
    let first = header.base_sequence;
    let last = (i64::from(first) + i64::from(header.last_offset_delta)) % (i64::from(i32::MAX) + 1);
    (first, last as i32)
}

/// Looks at a batch of an idempotent producer.
pub fn check(known: Option<&Producer>, header: &Header) -> Result<Verdict, Refused> {
    let (first, last) = sequences(header);
    if first < 0 {
        let why = format!("producer {} sent no sequence", header.producer_id);
        return Err(Refused::new(Code::InvalidRecord, why));
    }
    let Some(known) = known else {
        return Ok(Verdict::Next);
    };
    if header.producer_epoch < known.epoch {
        let why = format!(
            "producer {} has epoch {} by now, the batch has {}",
            header.producer_id, known.epoch, header.producer_epoch
        );
        return Err(Refused::new(Code::InvalidProducerEpoch, why));
    }
    let expected = if header.producer_epoch > known.epoch {
        0
    } else {
        let same = |batch: &&Sequenced| (batch.first, batch.last) == (first, last);
        if let Some(stored) = known.batches.iter().find(same) {
            return Ok(Verdict::Duplicate(stored.base_offset));
        }
        match known.batches.back() {
            Some(newest) if newest.last == i32::MAX => 0,
            Some(newest) => newest.last + 1,
            None => first,
        }
    };
    if first == expected {
        return Ok(Verdict::Next);
    }
    let why = format!(
        "producer {} sent sequence {first}, expected {expected}",
        header.producer_id
    );
    Err(Refused::new(Code::OutOfOrderSequence, why))
}

impl Producer {
    /// The state after a batch that `check` let through.
    pub fn after(known: Option<&Self>, header: &Header, base_offset: u64, now_ms: i64) -> Self {
        let (first, last) = sequences(header);
        let mut batches = match known {
            Some(known) if known.epoch == header.producer_epoch => known.batches.clone(),
            _ => VecDeque::new(),
        };
        if batches.len() == BATCHES_KEPT {
            batches.pop_front();
        }
        batches.push_back(Sequenced {
            first,
            last,
            base_offset,
        });
        Self {
            epoch: header.producer_epoch,
            last_ms: now_ms,
            batches,
        }
    }

    /// The value in `Map::Producers`: epoch (as i32), last append, then the batches.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(12 + self.batches.len() * 16);
        out.extend_from_slice(&i32::from(self.epoch).to_be_bytes());
        out.extend_from_slice(&self.last_ms.to_be_bytes());
        for batch in &self.batches {
            out.extend_from_slice(&batch.first.to_be_bytes());
            out.extend_from_slice(&batch.last.to_be_bytes());
            out.extend_from_slice(&batch.base_offset.to_be_bytes());
        }
        out
    }

    /// Reads what `encode` wrote.
    pub fn decode(value: &[u8]) -> Result<Self, StoreError> {
        let mut fields = Fields(value);
        let epoch = fields.u32()? as i16;
        let last_ms = fields.i64()?;
        let mut batches = VecDeque::new();
        while !fields.0.is_empty() {
            batches.push_back(Sequenced {
                first: fields.u32()? as i32,
                last: fields.u32()? as i32,
                base_offset: fields.u64()?,
            });
        }
        Ok(Self {
            epoch,
            last_ms,
            batches,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(epoch: i16, first: i32, records: i32) -> Header {
        Header {
            base_offset: 0,
            total_bytes: 0,
            partition_leader_epoch: 0,
            crc: 0,
            attributes: 0,
            last_offset_delta: records - 1,
            base_timestamp: 0,
            max_timestamp: 0,
            producer_id: 7,
            producer_epoch: epoch,
            base_sequence: first,
            records_count: records,
        }
    }

    #[test]
    fn sequences_follow_each_other_and_wrap() {
        let mut producer = Producer::after(None, &header(0, 0, 3), 0, 1);
        assert_eq!(check(Some(&producer), &header(0, 3, 2)), Ok(Verdict::Next));
        producer = Producer::after(Some(&producer), &header(0, i32::MAX - 1, 3), 3, 1);
        assert_eq!(producer.batches.back().map(|batch| batch.last), Some(0));
        assert_eq!(check(Some(&producer), &header(0, 1, 1)), Ok(Verdict::Next));
    }

    #[test]
    fn a_resend_among_the_last_five_is_known() {
        let mut producer = Producer::after(None, &header(0, 0, 1), 100, 1);
        for sequence in 1..6 {
            producer = Producer::after(Some(&producer), &header(0, sequence, 1), 100 + sequence as u64, 1);
        }
        assert_eq!(check(Some(&producer), &header(0, 1, 1)), Ok(Verdict::Duplicate(101)));
        let refused = check(Some(&producer), &header(0, 0, 1)).unwrap_err();
        assert_eq!(refused.code, Code::OutOfOrderSequence);
    }

    #[test]
    fn gaps_and_old_epochs_are_refused_and_a_new_epoch_begins_at_zero() {
        let producer = Producer::after(None, &header(3, 0, 1), 0, 1);
        let code = |epoch, first| check(Some(&producer), &header(epoch, first, 1)).map_err(|refused| refused.code);
        assert_eq!(code(3, 2), Err(Code::OutOfOrderSequence));
        assert_eq!(code(2, 1), Err(Code::InvalidProducerEpoch));
        assert_eq!(code(4, 1), Err(Code::OutOfOrderSequence));
        assert_eq!(code(4, 0), Ok(Verdict::Next));
    }

    #[test]
    fn state_reads_back() {
        let producer = Producer::after(None, &header(9, 5, 2), 1 << 41, 77);
        assert_eq!(Producer::decode(&producer.encode()), Ok(producer));
    }
}
