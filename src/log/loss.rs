//! Loss markers: which offsets of a partition went before their retention was over, when and why. They stay for as long as the
//! topic does, and are stored in the commit that moves the log start.
//!
//! ```text
//! loss key    topic key u32 | partition u32 | first offset u64
//! loss value  crc-32c u32 of the rest | last offset u64 | bytes u64 | first time i64 | last time i64 | when i64 | reason u8
//! ```

use super::layout::{Fields, PartitionKey, damaged};
use super::partition::{Indexed, PartitionLog};
use super::store::{Map, Op, StoreError};

/// Why records were given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossReason {
    /// The storage quota was reached.
    Quota,
    /// The storage quota was reached, and not everybody who was to forward them had done so.
    QuotaUnforwarded,
    /// Not everybody who was to forward them had done so, and retention waited no longer (`hold.max.ms`, `hold.max.bytes`).
    HoldMax,
    /// They could not be read when the directory was repaired, or copied.
    Damage,
}

impl LossReason {
    /// By its place: the number that is stored.
    const ALL: [Self; 4] = [Self::Quota, Self::QuotaUnforwarded, Self::HoldMax, Self::Damage];

    /// For a person: what it went for.
    pub fn text(self) -> &'static str {
        match self {
            Self::Quota => "for the storage quota",
            Self::QuotaUnforwarded => "for the storage quota, not forwarded",
            Self::HoldMax => "at the end of hold_until_forwarded, not forwarded",
            Self::Damage => "because they could not be read",
        }
    }

    /// Whether somebody was still to get the records.
    pub(super) fn is_unforwarded(self) -> bool {
        matches!(self, Self::QuotaUnforwarded | Self::HoldMax)
    }
}

/// Offsets of one partition that were given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Loss {
    /// First offset.
    pub offset_first: u64,
    /// Last offset, inclusive.
    pub offset_last: u64,
    /// Bytes of their batches.
    pub bytes: u64,
    /// Largest timestamp of the first batch, milliseconds since 1970.
    pub time_first_ms: i64,
    /// Largest timestamp of the last batch.
    pub time_last_ms: i64,
    /// When the last of them went.
    pub lost_ms: i64,
    /// Why.
    pub reason: LossReason,
}

/// A loss and where it was.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct LossFound {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: u32,
    /// Which offsets, when and why.
    #[serde(flatten)]
    pub loss: Loss,
}

impl Loss {
    /// Of batches that are past from here on; `None` of none. Offsets before `log_start` had gone already.
    pub(super) fn of(past: &[Indexed], log_start: u64, now_ms: i64, reason: LossReason) -> Option<Self> {
        let (first, last) = (past.first()?, past.last()?);
        Some(Self {
            offset_first: first.base_offset.max(log_start),
            offset_last: last.offset_next().saturating_sub(1),
            bytes: past.iter().map(|batch| u64::from(batch.bytes)).sum(),
            time_first_ms: time_ms(first),
            time_last_ms: time_ms(last),
            lost_ms: now_ms,
            reason,
        })
    }

    /// How many offsets.
    pub fn records(&self) -> u64 {
        self.offset_last.saturating_sub(self.offset_first).saturating_add(1)
    }

    pub(super) fn op(&self, partition: PartitionKey) -> Op {
        let mut value = vec![0; 4];
        for number in [self.offset_last, self.bytes] {
            value.extend_from_slice(&number.to_be_bytes());
        }
        for time in [self.time_first_ms, self.time_last_ms, self.lost_ms] {
            value.extend_from_slice(&time.to_be_bytes());
        }
        value.push(self.reason as u8);
        let crc = crc32c::crc32c(&value[4..]);
        value[..4].copy_from_slice(&crc.to_be_bytes());
        Op::put(Map::Losses, partition.segment(self.offset_first), value)
    }

    pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<(PartitionKey, Self), StoreError> {
        let partition = PartitionKey::parse(key)?;
        let offset_first = Fields(key.get(8..).unwrap_or_default()).u64()?;
        let mut fields = Fields(value);
        if fields.u32()? != crc32c::crc32c(fields.0) {
            return Err(damaged("the checksum of a loss marker is wrong"));
        }
        let loss = Self {
            offset_first,
            offset_last: fields.u64()?,
            bytes: fields.u64()?,
            time_first_ms: fields.i64()?,
            time_last_ms: fields.i64()?,
            lost_ms: fields.i64()?,
            reason: match fields.0 {
                [number] => LossReason::ALL.get(usize::from(*number)).copied(),
                _ => None,
            }
            .ok_or_else(|| damaged("a loss marker has a reason that is not known"))?,
        };
        Ok((partition, loss))
    }
}

/// Of what a reader sees: the records' own time, where they have one.
fn time_ms(batch: &Indexed) -> i64 {
    match batch.max_timestamp {
        ..0 => batch.append_ms,
        stamped => stamped,
    }
}

impl PartitionLog {
    /// Enters a loss behind the others: one that goes on where the last ended makes that longer. Gives the marker to store.
    pub(super) fn lose(&mut self, loss: Loss) -> Loss {
        if let Some(last) = self.losses.last_mut()
            && last.reason == loss.reason
            && last.offset_last.checked_add(1) == Some(loss.offset_first)
        {
            *last = Loss {
                offset_first: last.offset_first,
                time_first_ms: last.time_first_ms,
                bytes: last.bytes.saturating_add(loss.bytes),
                ..loss
            };
            return *last;
        }
        self.losses.push(loss);
        loss
    }
}
