//! What is stored of forwarding, in `Table::Forward` of the log's database. Byte layouts; numbers are big-endian:
//!
//! ```text
//! checkpoint key    'p' | name length u8 | upstream name | topic id 16 | partition u32
//!            value  1 | next local offset u64
//! refused    key    'r' | name length u8 | upstream name | slot u32
//!            value  1 | number u64 | wall ms i64 | error i16 | partition u32 | first offset u64 | records u32
//!                   | topic length u16 | topic | cause length u16 | cause | the batch, when it is at most 4 KiB
//! ```
//!
//! A checkpoint is data, not an event: the exactly-once form writes the same into the centre's transaction. Refused records lie
//! in a ring of slots, so the oldest go when there are many; they stay in the local log as long as its retention says.

use super::entry::LaneKey;
use super::target::Refusal;
use crate::log::{Expect, StateChange, Table};
use crate::model::{Now, Offset, Partition};

/// Refused batches that are kept.
pub(super) const REFUSED_KEPT: u64 = 1000;
/// A refused batch beyond this size is kept by its coordinates alone.
const REFUSED_BATCH_BYTES: usize = 4 << 10;
const FORMAT: u8 = 1;

/// How far one partition is forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The local topic's id.
    pub topic_id: [u8; 16],
    /// The local partition.
    pub partition: Partition,
    /// Everything before it is in the centre, or refused and kept.
    pub next: Offset,
}

impl Checkpoint {
    /// The change that stores it.
    pub(super) fn change(&self, upstream: &str) -> StateChange {
        let mut value = vec![FORMAT];
        value.extend_from_slice(&self.next.0.to_be_bytes());
        put(checkpoint_key(upstream, &self.topic_id, self.partition), Some(value))
    }

    /// The change that forgets it: the topic is gone.
    pub(super) fn removal(&self, upstream: &str) -> StateChange {
        put(checkpoint_key(upstream, &self.topic_id, self.partition), None)
    }
}

/// The key of a checkpoint.
pub(super) fn checkpoint_key(upstream: &str, topic_id: &[u8; 16], partition: Partition) -> Vec<u8> {
    let mut key = prefix(b'p', upstream);
    key.extend_from_slice(topic_id);
    key.extend_from_slice(&partition.0.to_be_bytes());
    key
}

/// The offset in a checkpoint's value; `None` when it is not of this format.
pub(super) fn checkpoint_offset(value: &[u8]) -> Option<Offset> {
    let (&format, rest) = value.split_first()?;
    let offset = rest.first_chunk::<8>().filter(|_| rest.len() == 8)?;
    (format == FORMAT).then_some(Offset(u64::from_be_bytes(*offset)))
}

/// A batch, mostly of one record, that the centre does not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// How many were refused before it.
    pub number: u64,
    /// When, by the wall clock.
    pub wall_ms: i64,
    /// Kafka's error; -2 when it was our own batch that did not open.
    pub error: i16,
    /// The local topic's name.
    pub topic: String,
    /// The local partition.
    pub partition: u32,
    /// Its first local offset.
    pub first: u64,
    /// Its records.
    pub records: u32,
    /// The centre's words, or ours.
    pub cause: String,
    /// The batch; empty when it was too large to keep.
    pub batch: Vec<u8>,
}

impl Kept {
    pub(super) fn new(number: u64, refusal: &Refusal, error: i16, cause: String, now: Now) -> Self {
        let (topic, partition): &LaneKey = &refusal.lane;
        let batch = if refusal.bytes.len() <= REFUSED_BATCH_BYTES {
            refusal.bytes.to_vec()
        } else {
            Vec::new()
        };
        Self {
            number,
            wall_ms: now.wall_ms,
            error,
            topic: topic.as_str().to_owned(),
            partition: partition.0,
            first: refusal.first.0,
            records: refusal.count,
            cause: cause.chars().take(500).collect(),
            batch,
        }
    }

    pub(super) fn change(&self, upstream: &str) -> StateChange {
        let slot = u32::try_from(self.number.checked_rem(REFUSED_KEPT).unwrap_or(0)).unwrap_or(0);
        let mut key = refused_prefix(upstream);
        key.extend_from_slice(&slot.to_be_bytes());
        let mut value = vec![FORMAT];
        value.extend_from_slice(&self.number.to_be_bytes());
        value.extend_from_slice(&self.wall_ms.to_be_bytes());
        value.extend_from_slice(&self.error.to_be_bytes());
        value.extend_from_slice(&self.partition.to_be_bytes());
        value.extend_from_slice(&self.first.to_be_bytes());
        value.extend_from_slice(&self.records.to_be_bytes());
        for text in [&self.topic, &self.cause] {
            value.extend_from_slice(&u16::try_from(text.len()).unwrap_or(0).to_be_bytes());
            value.extend_from_slice(text.as_bytes());
        }
        value.extend_from_slice(&self.batch);
        put(key, Some(value))
    }

    /// Reads a value back; `None` when it is not of this format.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (&format, rest) = value.split_first()?;
        let (number, rest) = rest.split_first_chunk::<8>()?;
        let (wall_ms, rest) = rest.split_first_chunk::<8>()?;
        let (error, rest) = rest.split_first_chunk::<2>()?;
        let (partition, rest) = rest.split_first_chunk::<4>()?;
        let (first, rest) = rest.split_first_chunk::<8>()?;
        let (records, rest) = rest.split_first_chunk::<4>()?;
        let (topic, rest) = text(rest)?;
        let (cause, batch) = text(rest)?;
        (format == FORMAT).then(|| Self {
            number: u64::from_be_bytes(*number),
            wall_ms: i64::from_be_bytes(*wall_ms),
            error: i16::from_be_bytes(*error),
            partition: u32::from_be_bytes(*partition),
            first: u64::from_be_bytes(*first),
            records: u32::from_be_bytes(*records),
            topic,
            cause,
            batch: batch.to_vec(),
        })
    }
}

/// What every key of a refused batch of this upstream begins with.
pub(super) fn refused_prefix(upstream: &str) -> Vec<u8> {
    prefix(b'r', upstream)
}

fn text(bytes: &[u8]) -> Option<(String, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (text, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    Some((String::from_utf8(text.to_vec()).ok()?, rest))
}

fn prefix(kind: u8, upstream: &str) -> Vec<u8> {
    // Names are at most 64 bytes.
    let mut key = vec![kind, u8::try_from(upstream.len()).unwrap_or(u8::MAX)];
    key.extend_from_slice(upstream.as_bytes());
    key
}

fn put(key: Vec<u8>, value: Option<Vec<u8>>) -> StateChange {
    StateChange {
        table: Table::Forward,
        key,
        expect: Expect::Any,
        value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_have_their_layout_for_ever() {
        let checkpoint = Checkpoint {
            topic_id: [7; 16],
            partition: Partition(3),
            next: Offset(258),
        };
        let change = checkpoint.change("central");
        let key: Vec<u8> = [b"p\x07central".as_slice(), &[7; 16], &[0, 0, 0, 3]].concat();
        assert_eq!(change.key, key);
        assert_eq!(change.value.as_deref(), Some(&[1, 0, 0, 0, 0, 0, 0, 1, 2][..]));
        assert_eq!(checkpoint_offset(&[1, 0, 0, 0, 0, 0, 0, 1, 2]), Some(Offset(258)));
        assert_eq!(checkpoint_offset(&[2, 0, 0, 0, 0, 0, 0, 1, 2]), None);
    }

    #[test]
    fn what_is_kept_of_a_refused_batch_reads_back() {
        let kept = Kept {
            number: 1003,
            wall_ms: -5,
            error: 10,
            topic: "sensors".into(),
            partition: 2,
            first: 9,
            records: 1,
            cause: "MESSAGE_TOO_LARGE".into(),
            batch: vec![1, 2, 3],
        };
        let change = kept.change("c");
        assert_eq!(change.key, b"r\x01c\x00\x00\x00\x03");
        assert_eq!(Kept::parse(&change.value.expect("a value")), Some(kept));
        assert_eq!(Kept::parse(&[1, 2, 3]), None);
    }
}
