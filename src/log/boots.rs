//! Boots of the machine, and which records got their times before its clock was trusted. A row a boot says whether the
//! clock was trusted and what corrects its times; a mark says which offsets of a partition are meant. What is stored of
//! records never changes: corrections are for lookups by time, retention and forwarding.
//!
//! ```text
//! boot key    number u32
//! boot value  crc-32c u32 of the rest | boot id 16 | offset ms i64 | begun ms i64 | seen ms i64 | state u8 |
//!             until ms i64 | by ms i64
//! mark key    topic key u32 | partition u32 | first offset u64
//! mark value  crc-32c u32 of the rest | offset after the last u64 | boot u32 | own u8
//! ```
//!
//! State: 0 untrusted, 1 trusted from its start on, 2 corrected: what has a time from `begun` to `until` gets `by`
//! added. Own 1: the timestamps of the records are the gateway's, too, and not only the time at which they were
//! appended.

use std::collections::{BTreeMap, HashMap};

use crate::model::Now;

use super::commit::Commit;
use super::desk::Desk;
use super::layout::{Fields, PartitionKey, damaged};
use super::partition::{Indexed, PartitionLog};
use super::state::State;
use super::store::{Map, Op, Store, StoreError};

/// What was seen is stored with a commit once so much time has passed, milliseconds.
const SEEN_MS: i64 = 60_000;

/// A boot of the machine in which this log was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Boot {
    /// Counts boots in this store.
    pub number: u32,
    /// The kernel's `boot_id`.
    #[serde(serialize_with = "as_hex")]
    pub id: [u8; 16],
    /// The time that was held to be right, less the time since the machine booted.
    pub offset_ms: i64,
    /// When the log was first served in it.
    pub begun_ms: i64,
    /// The newest time that was stored.
    pub seen_ms: i64,
    /// What is known of its times.
    #[serde(flatten)]
    pub state: BootState,
}

/// What is known of the times of a boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "clock", rename_all = "snake_case")]
pub enum BootState {
    /// The clock was not trusted so far.
    Untrusted,
    /// It was from the start.
    Trusted,
    /// It became trusted, in this boot or in a later one.
    Corrected {
        /// Times up to here are meant, as they were then.
        until_ms: i64,
        /// What has to be added to them.
        by_ms: i64,
    },
}

/// What the rim says of the clock: at the start, when it changes, and now and then.
#[derive(Clone, Copy, Debug)]
pub struct BootClock {
    /// The kernel's `boot_id`.
    pub id: [u8; 16],
    /// The time held to be right, less the time since the machine booted.
    pub offset_ms: i64,
    /// Whether it is trusted. Once it was, it stays so until the next boot.
    pub trusted: bool,
    /// What has to be added to times of before: with the change to trusted alone.
    pub correction_ms: Option<i64>,
    /// The time.
    pub now: Now,
}

/// Offsets of one partition that were appended before the clock was trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClockMark {
    pub(super) first: u64,
    /// The offset after the last one.
    pub(super) next: u64,
    pub(super) boot: u32,
    /// The records' timestamps are the gateway's.
    pub(super) own: bool,
    /// The boot's correction, once there is one, and the times that are meant by it. Not stored here.
    pub(super) by_ms: i64,
    pub(super) until_ms: i64,
}

/// A mark and where it is: offsets whose times were not trusted when they were appended.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct UntrustedRange {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: u32,
    /// First offset.
    pub offset_first: u64,
    /// Last offset, inclusive.
    pub offset_last: u64,
    /// The boot, by its number.
    pub boot: u32,
    /// The records' timestamps are the gateway's; else it is only the time at which they were appended.
    pub own: bool,
}

/// What the desk knows of the clock.
#[derive(Debug, Default)]
pub(super) struct Clock {
    told: Option<BootClock>,
    /// The boot, while its clock is not trusted.
    untrusted: Option<u32>,
    /// Boots whose rows are to be stored.
    dirty: Vec<u32>,
    /// The time of the newest row.
    stored_ms: i64,
    /// The newest mark of partitions that grew, durable or not.
    newest: HashMap<PartitionKey, ClockMark>,
    /// Boots whose rows are to be removed.
    gone: Vec<u32>,
}

impl Clock {
    /// Whether time may pass for what is stored.
    pub(super) fn is_trusted(&self) -> bool {
        self.untrusted.is_none()
    }

    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// The time of a commit. The rim's clock may be trusted already while what was stamped before is still in the
    /// queue; all of it is marked, so all of it gets the time of before.
    pub(super) fn time(&self, now: Now) -> Now {
        match (&self.told, self.untrusted) {
            (Some(told), Some(_)) => {
                let since_us = now.mono_us.saturating_sub(told.now.mono_us);
                let since_ms = i64::try_from(since_us / 1000).unwrap_or(i64::MAX);
                let wall_ms = told.now.wall_ms.saturating_add(since_ms);
                Now { wall_ms, ..now }
            }
            _ => now,
        }
    }
}

impl Boot {
    pub(super) fn op(&self) -> Op {
        let mut value = vec![0; 4];
        value.extend_from_slice(&self.id);
        for time in [self.offset_ms, self.begun_ms, self.seen_ms] {
            value.extend_from_slice(&time.to_be_bytes());
        }
        let (state, until_ms, by_ms) = match self.state {
            BootState::Untrusted => (0, 0, 0),
            BootState::Trusted => (1, 0, 0),
            BootState::Corrected { until_ms, by_ms } => (2, until_ms, by_ms),
        };
        value.push(state);
        value.extend_from_slice(&until_ms.to_be_bytes());
        value.extend_from_slice(&by_ms.to_be_bytes());
        Op::put(Map::Boots, self.number.to_be_bytes(), sealed(value))
    }

    pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<Self, StoreError> {
        let number = Fields(key).u32()?;
        let mut fields = opened(value)?;
        let id = fields.array()?;
        let (offset_ms, begun_ms, seen_ms) = (fields.i64()?, fields.i64()?, fields.i64()?);
        let [state] = fields.array()?;
        let (until_ms, by_ms) = (fields.i64()?, fields.i64()?);
        let state = match state {
            0 => BootState::Untrusted,
            1 => BootState::Trusted,
            2 => BootState::Corrected { until_ms, by_ms },
            _ => return Err(damaged("the row of a boot has a state that is not known")),
        };
        Ok(Self {
            number,
            id,
            offset_ms,
            begun_ms,
            seen_ms,
            state,
        })
    }

    /// A time that was taken in it, corrected; any other as it is.
    pub(super) fn corrected(&self, time_ms: i64) -> Option<i64> {
        match self.state {
            BootState::Corrected { until_ms, by_ms } if (self.begun_ms..=until_ms).contains(&time_ms) => {
                Some(time_ms.saturating_add(by_ms))
            }
            _ => None,
        }
    }
}

impl ClockMark {
    pub(super) fn op(&self, partition: PartitionKey) -> Op {
        let mut value = vec![0; 4];
        value.extend_from_slice(&self.next.to_be_bytes());
        value.extend_from_slice(&self.boot.to_be_bytes());
        value.push(u8::from(self.own));
        Op::put(Map::Untrusted, partition.segment(self.first), sealed(value))
    }

    pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<(PartitionKey, Self), StoreError> {
        let partition = PartitionKey::parse(key)?;
        let first = Fields(key.get(8..).unwrap_or_default()).u64()?;
        let mut fields = opened(value)?;
        let (next, boot) = (fields.u64()?, fields.u32()?);
        let [own] = fields.array()?;
        let own = own == 1;
        let (by_ms, until_ms) = (0, 0);
        Ok((
            partition,
            Self {
                first,
                next,
                boot,
                own,
                by_ms,
                until_ms,
            },
        ))
    }

    /// Whether a mark goes on where this one ends.
    pub(super) fn joins(&self, other: &Self) -> bool {
        (self.next, self.boot, self.own) == (other.first, other.boot, other.own)
    }
}

/// The value with its checksum in front.
fn sealed(mut value: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&value[4..]);
    value[..4].copy_from_slice(&crc.to_be_bytes());
    value
}

fn opened(value: &[u8]) -> Result<Fields<'_>, StoreError> {
    let mut fields = Fields(value);
    if fields.u32()? != crc32c::crc32c(fields.0) {
        return Err(damaged("the checksum of a row of boots is wrong"));
    }
    Ok(fields)
}

fn as_hex<S: serde::Serializer>(id: &[u8; 16], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&super::inspect::hex(id))
}

/// What has to be added to the timestamp of the record at an offset.
pub(super) fn shift_ms(marks: &[ClockMark], offset: u64) -> i64 {
    let at = marks.partition_point(|mark| mark.next <= offset);
    let mark = marks.get(at).filter(|mark| mark.own && mark.first <= offset);
    mark.map_or(0, |mark| mark.by_ms)
}

/// Every boot, in order.
pub(super) fn boots(store: &dyn Store) -> Result<Vec<Boot>, StoreError> {
    let mut boots = Vec::new();
    store.scan(Map::Boots, &[], None, &mut |key, value| {
        boots.push(Boot::decode(key, value)?);
        Ok(true)
    })?;
    Ok(boots)
}

impl PartitionLog {
    /// Enters a mark behind the others, or a longer form of the last one.
    pub(super) fn mark(&mut self, mark: ClockMark) {
        match self.marks.last_mut() {
            Some(last) if last.first == mark.first => *last = mark,
            _ => self.marks.push(mark),
        }
    }

    /// Forgets the marks of what is past; gives the first offset of each.
    pub(super) fn drop_marks(&mut self) -> Vec<u64> {
        let gone = self.marks.partition_point(|mark| mark.next <= self.log_start);
        self.marks.drain(..gone).map(|mark| mark.first).collect()
    }

    /// The marks of offsets of a batch.
    pub(super) fn marks_of(&self, batch: &Indexed) -> &[ClockMark] {
        let first = self.marks.partition_point(|mark| mark.next <= batch.base_offset);
        let next = self.marks.partition_point(|mark| mark.first < batch.offset_next());
        self.marks.get(first..next).unwrap_or_default()
    }

    /// Largest timestamp of a batch and when it came in, by the right time. The index holds what is stored. Of a batch
    /// that is only in part from before the clock was trusted, the timestamp is the largest that one of its records can
    /// have.
    pub(super) fn times(&self, batch: &Indexed) -> (i64, i64) {
        let (stamped_ms, append_ms) = (batch.max_timestamp, batch.append_ms);
        let marks = self.marks_of(batch);
        let Some(first) = marks.first() else {
            return (stamped_ms, append_ms);
        };
        let whole = first.first <= batch.base_offset && batch.offset_next() <= first.next;
        let shifts = marks.iter().map(|mark| if mark.own { mark.by_ms } else { 0 });
        let shift_ms = shifts.chain((!whole).then_some(0)).max().unwrap_or(0);
        // Where a journal row was laid together with later ones, its time is theirs, and right.
        let append_by_ms = if append_ms <= first.until_ms { first.by_ms } else { 0 };
        (
            stamped_ms.saturating_add(shift_ms),
            append_ms.saturating_add(append_by_ms),
        )
    }

    /// When the newest record of a batch is from, by its own word. A timestamp ahead of the clock would never become old: then the
    /// time it came in counts.
    pub(super) fn dated_ms(&self, batch: &Indexed, now: Now) -> i64 {
        let (stamped_ms, append_ms) = self.times(batch);
        if stamped_ms > now.wall_ms || stamped_ms < 0 {
            append_ms
        } else {
            stamped_ms
        }
    }
}

impl State {
    /// Every mark learns what its boot's correction is.
    pub(super) fn correct(&mut self) {
        let boots = &self.boots;
        let logs = self.topics.values_mut().flat_map(|topic| &mut topic.partitions);
        for mark in logs.flat_map(|log| &mut log.marks) {
            let boot = boots.iter().find(|boot| boot.number == mark.boot);
            if let Some(BootState::Corrected { until_ms, by_ms }) = boot.map(|boot| boot.state) {
                (mark.until_ms, mark.by_ms) = (until_ms, by_ms);
            }
        }
    }

    /// A time that the gateway's clock gave: corrected, where it was not trusted and is by now.
    pub(super) fn corrected(&self, time_ms: i64) -> i64 {
        let corrected = self.boots.iter().rev().find_map(|boot| boot.corrected(time_ms));
        corrected.unwrap_or(time_ms)
    }
}

impl Desk {
    /// The rim says what the clock is. Nothing is on its way to the disk, and everything that was submitted before is
    /// committed.
    pub(super) fn turn_clock(&mut self, mut told: BootClock) {
        // A correction that could not be stored yet, because the store takes nothing, is not lost.
        let before = self.clock.told.filter(|before| before.id == told.id);
        told.correction_ms = told.correction_ms.or(before.and_then(|before| before.correction_ms));
        let mut state = self.shared.write_state();
        let seen_ms = told.now.wall_ms;
        match state.boots.last_mut() {
            Some(boot) if boot.id == told.id => {
                (boot.offset_ms, boot.seen_ms) = (told.offset_ms, boot.seen_ms.max(seen_ms));
            }
            newest => {
                let number = newest.map_or(0, |boot| boot.number + 1);
                let named = |number| {
                    let logs = state.topics.values().flat_map(|topic| &topic.partitions);
                    logs.flat_map(|log| &log.marks).any(|mark| mark.boot == number)
                };
                let (kept, gone): (Vec<Boot>, Vec<Boot>) = state.boots.iter().copied().partition(|b| named(b.number));
                self.clock.gone.extend(gone.iter().map(|boot| boot.number));
                state.boots = kept;
                state.boots.push(Boot {
                    number,
                    id: told.id,
                    offset_ms: told.offset_ms,
                    begun_ms: seen_ms,
                    seen_ms,
                    state: match told.trusted {
                        true => BootState::Trusted,
                        false => BootState::Untrusted,
                    },
                });
            }
        }
        let number = state.boots.last().map_or(0, |boot| boot.number);
        self.clock.dirty.push(number);
        if let (true, Some(by_ms)) = (told.trusted, told.correction_ms) {
            // Earlier boots that nobody corrected ran before this one: with the same correction their order stays, and
            // none of their records becomes past too early.
            for boot in &mut state.boots {
                if boot.state != BootState::Untrusted {
                    continue;
                }
                let until_ms = match boot.number == number {
                    true => seen_ms.saturating_sub(by_ms),
                    false => boot.seen_ms.saturating_add(SEEN_MS),
                };
                boot.state = BootState::Corrected { until_ms, by_ms };
                self.clock.dirty.push(boot.number);
            }
            state.correct();
            // Nobody was silent for as long as the clock was wrong.
            for producer in self.producers.values_mut() {
                producer.last_ms = state.corrected(producer.last_ms);
            }
        }
        self.clock.untrusted = (!told.trusted).then_some(number);
        self.clock.told = Some(told);
        drop(state);
        self.due.look_now();
    }

    /// The store was opened anew: what it does not have yet of this boot is stored again.
    pub(super) fn clock_again(&mut self) {
        self.clock.dirty.clear();
        self.clock.gone.clear();
        self.clock.newest.clear();
        if let Some(told) = self.clock.told {
            self.turn_clock(told);
        }
    }

    /// Marks what a commit appends while the clock is not trusted.
    pub(super) fn mark(&mut self, commit: &mut Commit, ops: &mut Vec<Op>) {
        let Some(boot) = self.clock.untrusted else {
            return;
        };
        let state = self.shared.read_state();
        let mut marks = BTreeMap::new();
        for (partition, first, next, own) in commit.appended() {
            let mut mark = ClockMark {
                first,
                next,
                boot,
                own,
                by_ms: 0,
                until_ms: 0,
            };
            let stored = || state.partition(partition).and_then(|log| log.marks.last());
            let before = self.clock.newest.get(&partition).or_else(stored);
            if let Some(before) = before.filter(|before| before.joins(&mark)) {
                mark.first = before.first;
            }
            self.clock.newest.insert(partition, mark);
            marks.insert((partition, mark.first), mark);
        }
        ops.extend(marks.iter().map(|((partition, _), mark)| mark.op(*partition)));
        commit.marks = marks
            .into_iter()
            .map(|((partition, _), mark)| (partition, mark))
            .collect();
    }

    /// The rows of boots that a commit takes along.
    pub(super) fn boot_ops(&mut self, now: Now, ops: &mut Vec<Op>) {
        if let Some(told) = self.clock.told
            && !ops.is_empty()
            && now.wall_ms.saturating_sub(self.clock.stored_ms) >= SEEN_MS
        {
            let mut state = self.shared.write_state();
            if let Some(boot) = state.boots.last_mut().filter(|boot| boot.id == told.id) {
                boot.seen_ms = now.wall_ms;
                self.clock.dirty.push(boot.number);
            }
        }
        if !self.clock.is_dirty() {
            return;
        }
        self.clock.stored_ms = now.wall_ms;
        let state = self.shared.read_state();
        self.clock.dirty.sort_unstable();
        self.clock.dirty.dedup();
        for number in self.clock.dirty.drain(..) {
            ops.extend(state.boots.iter().find(|boot| boot.number == number).map(Boot::op));
        }
        let gone = self.clock.gone.drain(..);
        ops.extend(gone.map(|number| Op::delete(Map::Boots, number.to_be_bytes())));
    }
}
