//! Loss markers: which offsets of a partition went before their retention was over, when and why. They stay for as long as the
//! topic does, and are stored in the commit that moves the log start.
//!
//! ```text
//! loss key    topic key u32 | partition u32 | first offset u64
//! loss value  crc-32c u32 of the rest | last offset u64 | bytes u64 | first time i64 | last time i64 | when i64 | reason u8
//! ```

use std::ops::Range;

use super::layout::{Fields, PartitionKey, damaged};
use super::partition::{Indexed, PartitionLog};
use super::store::{Map, Op, StoreError};
use super::topic::{first_offset, generation_of};

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
    /// What they lay in is damaged or missing, or was when the directory was repaired or copied. The last of a partition ends where
    /// its next epoch begins: how many records it held is not known.
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
            Self::Damage => "because of damage",
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
    /// Of batches that cannot be read from here on; `None` of none. Offsets before `log_start` had gone already.
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

    /// Of offsets whose batches are not known any more.
    pub(super) fn unknown(offsets: Range<u64>, time_ms: i64) -> Self {
        Self {
            offset_first: offsets.start,
            offset_last: offsets.end - 1,
            bytes: 0,
            time_first_ms: time_ms,
            time_last_ms: time_ms,
            lost_ms: 0,
            reason: LossReason::Damage,
        }
    }

    /// Whether damage took this offset: it has no place in what is read.
    pub(super) fn hides(&self, offset: u64) -> bool {
        self.reason == LossReason::Damage && (self.offset_first..=self.offset_last).contains(&offset)
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
    /// Enters a loss among the others: one that goes on where another of its kind ended makes that longer. Gives the marker to store.
    /// Offsets go on behind damage, in the epoch that begins there.
    pub(super) fn lose(&mut self, loss: Loss) -> Loss {
        if loss.reason == LossReason::Damage {
            self.offset_next = self.offset_next.max(loss.offset_last.saturating_add(1));
            self.leader_epoch = self.leader_epoch.max(generation_of(self.offset_next) as i32);
        }
        let at = self
            .losses
            .partition_point(|other| other.offset_first < loss.offset_first);
        if let Some(last) = at.checked_sub(1).and_then(|at| self.losses.get_mut(at))
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
        match self.losses.get_mut(at) {
            // They have one place in the store.
            Some(other) if other.offset_first == loss.offset_first => *other = loss,
            _ => self.losses.insert(at, loss),
        }
        loss
    }

    /// The offset behind the damage that this one lies in, or this one.
    pub(super) fn behind_damage(&self, offset: u64) -> u64 {
        let before = self.losses.partition_point(|loss| loss.offset_first <= offset);
        let mut losses = self.losses.iter().take(before).rev();
        match losses.find(|loss| loss.reason == LossReason::Damage) {
            Some(loss) if loss.hides(offset) => loss.offset_last.saturating_add(1),
            _ => offset,
        }
    }

    /// Whether damage took this offset.
    pub(super) fn is_damaged(&self, offset: u64) -> bool {
        self.behind_damage(offset) > offset
    }

    /// Whether damage took what is held of a batch. One in which the log begins has a marker from there on.
    pub(super) fn is_batch_damaged(&self, batch: &Indexed) -> bool {
        self.is_damaged(batch.base_offset.max(self.log_start))
    }

    /// What is missing and has no marker yet: batches that are gone, offsets that no batch covers, and what may have been
    /// between the last of them and this generation, where one before was damaged. Their time of loss is left to the caller.
    pub(super) fn holes(&self, generation: u32, gone: impl Fn(&Indexed) -> bool) -> Vec<Loss> {
        let (mut holes, mut run): (Vec<Loss>, Vec<Indexed>) = (Vec::new(), Vec::new());
        let (mut next, mut time) = (self.log_start, 0);
        let of_run = |run: &mut Vec<Indexed>| Loss::of(&std::mem::take(run), self.log_start, 0, LossReason::Damage);
        for batch in &self.index {
            // What was compacted away is no hole.
            next = next.max(self.clean_until);
            if batch.base_offset > next && !self.is_damaged(next) {
                holes.extend(of_run(&mut run));
                holes.push(Loss::unknown(next..batch.base_offset, time_ms(batch)));
            }
            (next, time) = (batch.offset_next(), time_ms(batch));
            match gone(batch) && !self.is_batch_damaged(batch) {
                true => run.push(*batch),
                false => holes.extend(of_run(&mut run)),
            }
        }
        holes.extend(of_run(&mut run));
        if generation_of(self.offset_next) < generation {
            holes.push(Loss::unknown(self.offset_next..first_offset(generation), time));
        }
        holes
    }
}
