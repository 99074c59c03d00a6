//! One partition in the centre: the entries on their way to it, in order, and the idempotent producer's sequence there.
//!
//! Entries are sent in order, at most a few unanswered. When one fails, nothing more is sent to this partition until every
//! answer is in (`draining`); then sending starts again from the first that is not settled, with the same sequence numbers, so
//! that the broker recognises what it has. Only when the broker has lost track of them (`needs_producer`) do the rest get new
//! ones: what was in doubt then may arrive twice.

use std::collections::VecDeque;

use bytes::Bytes;

use super::backoff::{Backoff, Jitter};
use super::entry::{Entry, LaneKey, Standing};
use super::links::LinkId;
use super::verdict::Verdict;
use crate::model::compression::Codec;
use crate::model::{Now, Offset, Partition, Topic};

/// A partition in the centre.
pub(super) type TargetKey = (Topic, Partition);

/// Entries that wait or are unanswered at most: what the broker remembers of a producer.
pub(super) const ENTRIES_MAX: usize = 5;

/// A batch that is found corrupt is sent again so often before it is taken for damaged on our side.
const CORRUPT_MAX: u32 = 3;

/// An idempotent producer's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Producer {
    pub(super) id: i64,
    pub(super) epoch: i16,
}

#[derive(Debug, Default)]
pub(super) struct Target {
    pub(super) queue: VecDeque<Entry>,
    producer: Option<Producer>,
    /// Sequence of the next entry that has none.
    sequence_next: i32,
    /// A failure: no more sending until every answer is in.
    draining: bool,
    /// The newest answer was good. Until then one entry goes at a time: a broker that has nothing of this producer takes any
    /// sequence number as the first, so a second entry could pass a first that it refuses.
    proven: bool,
    /// After a refusal: entries behind it are numbered anew from here once every answer is in.
    renumber_from: Option<i32>,
    /// The producer that was given up; another one is needed.
    given_up: Option<Producer>,
    pub(super) backoff: Backoff,
}

/// What an answer led to.
#[derive(Debug, Default)]
pub(super) struct Effect {
    /// Records acknowledged, and their bytes.
    pub(super) records_acked: u64,
    pub(super) bytes_acked: u64,
    /// Entries that came to be by dividing it.
    pub(super) entries_added: usize,
    /// It will be sent again.
    pub(super) retried: bool,
    /// The leader may be another one.
    pub(super) refresh: bool,
    /// A record was refused for good.
    pub(super) refused: Option<Refusal>,
    /// A new producer is needed.
    pub(super) producer_lost: bool,
}

/// A record that the centre does not take.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) lane: LaneKey,
    pub(super) first: Offset,
    pub(super) next: Offset,
    pub(super) count: u32,
    /// The batch as it was refused.
    pub(super) bytes: Bytes,
}

impl Target {
    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.queue.iter().map(|e| e.bytes.len()).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether another entry may be made for it.
    pub(super) fn has_room(&self) -> bool {
        self.queue.iter().filter(|e| !e.standing.is_settled()).count() < ENTRIES_MAX
    }

    /// A producer that is not the one it gave up, if it lacks one.
    pub(super) fn adopt(&mut self, producer: Producer) {
        if self.producer.is_some() || self.given_up == Some(producer) {
            return;
        }
        self.producer = Some(producer);
        self.given_up = None;
        self.proven = false;
        self.sequence_next = 0;
        self.renumber_from = None;
        for entry in self.unsettled() {
            entry.sequence = None;
            entry.maybe_there = false;
        }
    }

    /// Whether `adopt` is needed before anything can be sent, and every answer is in.
    pub(super) fn wants_producer(&self) -> bool {
        self.producer.is_none() && self.in_flight() == 0
    }

    /// The producer that it must not get again.
    pub(super) fn given_up(&self) -> Option<Producer> {
        self.given_up
    }

    /// The bytes of the entry that is next to be sent, if one may be.
    pub(super) fn next_bytes(&mut self, now: Now) -> Option<usize> {
        self.settle_answers();
        let one_at_a_time = !self.proven && self.in_flight() > 0;
        if self.draining || one_at_a_time || self.producer.is_none() || self.backoff.waits_until(now).is_some() {
            return None;
        }
        self.queue
            .iter()
            .find(|e| e.standing == Standing::Waiting)
            .map(|e| e.bytes.len())
    }

    /// Stamps the next entry and gives its id and bytes; `mark_sent` follows.
    pub(super) fn take_next(&mut self) -> Option<(u64, Bytes)> {
        let producer = self.producer?;
        let entry = self.queue.iter_mut().find(|e| e.standing == Standing::Waiting)?;
        if entry.sequence.is_none() {
            entry.stamp(producer.id, producer.epoch, self.sequence_next);
            self.sequence_next = sequence_after(self.sequence_next, entry.count);
        }
        Some((entry.id, entry.bytes.clone()))
    }

    pub(super) fn mark_sent(&mut self, id: u64, link: LinkId, correlation: i32) {
        if let Some(entry) = self.queue.iter_mut().find(|e| e.id == id) {
            entry.standing = Standing::InFlight(link, correlation);
            entry.tries = entry.tries.saturating_add(1);
        }
    }

    /// Takes the centre's answer for an entry, or that there is none (`Verdict::Unknown`).
    pub(super) fn answer(
        &mut self,
        id: u64,
        verdict: Verdict,
        entry_ids: &mut u64,
        now: Now,
        backoff_ms_max: u64,
        jitter: &mut Jitter,
    ) -> Effect {
        let mut effect = Effect::default();
        let Some(at) = self.queue.iter().position(|e| e.id == id) else {
            return effect;
        };
        let is_first = self.queue.iter().position(|e| !e.standing.is_settled()) == Some(at);
        let Some(entry) = self.queue.get_mut(at) else {
            return effect;
        };
        entry.standing = Standing::Waiting;
        match verdict {
            Verdict::Acked => {
                entry.standing = Standing::Acked;
                effect.records_acked = entry.count.into();
                effect.bytes_acked = entry.bytes.len() as u64;
                entry.bytes = Bytes::new();
                self.backoff.worked();
                self.proven = true;
                return effect;
            }
            Verdict::Unknown | Verdict::RetryMaybeThere => entry.maybe_there = true,
            Verdict::Corrupt => entry.corrupt = entry.corrupt.saturating_add(1),
            _ => {}
        }
        self.draining = true;
        self.proven = false;
        let corrupt_for_good = verdict == Verdict::Corrupt && entry.corrupt >= CORRUPT_MAX;
        match verdict {
            Verdict::Split | Verdict::Uncompress => self.divide(at, verdict, entry_ids, &mut effect),
            Verdict::Corrupt if corrupt_for_good => self.divide(at, verdict, entry_ids, &mut effect),
            Verdict::NewProducer if is_first => {
                self.give_producer_up();
                effect.producer_lost = true;
            }
            _ => effect.retried = true,
        }
        effect.refresh = matches!(verdict, Verdict::Refresh);
        // One that is not the first failed because of the first; an unanswered one is the link's failure.
        if is_first && !matches!(verdict, Verdict::Unknown | Verdict::Split | Verdict::Uncompress) {
            self.backoff.failed(now, backoff_ms_max, jitter);
        }
        effect
    }

    /// Every lane's progress that the settled entries at the front stand for; they go.
    pub(super) fn pop_settled(&mut self) -> Vec<(LaneKey, Offset)> {
        let mut passed = Vec::new();
        while self.queue.front().is_some_and(|e| e.standing.is_settled()) {
            if let Some(entry) = self.queue.pop_front() {
                passed.push((entry.lane, entry.next));
            }
        }
        passed
    }

    /// Gives up the entries at the back that the centre cannot have, so that a partition that must wait holds no memory: each
    /// lane begins again at the offset given for it.
    pub(super) fn release(&mut self) -> Vec<(LaneKey, Offset)> {
        let mut released = Vec::new();
        while let Some(last) = self.queue.back() {
            if last.standing != Standing::Waiting || last.maybe_there || last.corrupt > 0 {
                break;
            }
            if let Some(entry) = self.queue.pop_back() {
                if let Some(sequence) = entry.sequence {
                    self.sequence_next = sequence;
                }
                released.push((entry.lane, entry.first));
            }
        }
        released
    }

    pub(super) fn in_flight(&self) -> usize {
        self.queue
            .iter()
            .filter(|e| matches!(e.standing, Standing::InFlight(..)))
            .count()
    }

    /// Replaces the entry by its halves, by itself uncompressed, or, when it is one record, by the mark that it is refused.
    fn divide(&mut self, at: usize, verdict: Verdict, entry_ids: &mut u64, effect: &mut Effect) {
        let (producer, sequence) = (self.producer, self.queue.get(at).and_then(|e| e.sequence));
        let Some(entry) = self.queue.get_mut(at) else { return };
        let restamp = |part: &mut Entry, skip: u32| {
            if let (Some(producer), Some(sequence)) = (producer, sequence) {
                part.stamp(producer.id, producer.epoch, sequence_after(sequence, skip));
            }
        };
        if verdict == Verdict::Uncompress && entry.codec() != Codec::None {
            if let Some(mut plain) = entry.uncompressed() {
                restamp(&mut plain, 0);
                *entry = plain;
                effect.retried = true;
                return;
            }
        } else if let Some((mut left, mut right)) = entry.split(*entry_ids) {
            *entry_ids = entry_ids.saturating_add(1);
            restamp(&mut left, 0);
            restamp(&mut right, left.count);
            *entry = left;
            self.queue.insert(at.saturating_add(1), right);
            effect.retried = true;
            effect.entries_added = 1;
            return;
        }
        entry.standing = Standing::Refused;
        effect.refused = Some(Refusal {
            lane: entry.lane.clone(),
            first: entry.first,
            next: entry.next,
            count: entry.count,
            bytes: std::mem::take(&mut entry.bytes),
        });
        if let Some(sequence) = sequence {
            self.renumber_from.get_or_insert(sequence);
        }
    }

    /// Once every answer is in: numbers the entries behind a refused one anew, and sending may go on.
    fn settle_answers(&mut self) {
        if self.in_flight() > 0 {
            return;
        }
        self.draining = false;
        let Some(from) = self.renumber_from.take() else { return };
        // A later one that may be there, or is, holds a number that would be given twice.
        let refused_at = self
            .queue
            .iter()
            .position(|e| e.standing == Standing::Refused)
            .unwrap_or(0);
        let behind = self.queue.iter().skip(refused_at);
        if behind.clone().any(|e| e.maybe_there || e.standing == Standing::Acked) {
            self.give_producer_up();
            return;
        }
        self.sequence_next = from;
        let unsettled = self
            .queue
            .iter_mut()
            .skip(refused_at)
            .filter(|e| !e.standing.is_settled());
        unsettled.for_each(|entry| entry.sequence = None);
    }

    fn give_producer_up(&mut self) {
        if let Some(producer) = self.producer.take() {
            self.given_up = Some(producer);
        }
    }

    fn unsettled(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.queue.iter_mut().filter(|e| !e.standing.is_settled())
    }
}

/// Sequence numbers wrap at 2^31 to 0 (`DefaultRecordBatch.incrementSequence`).
fn sequence_after(sequence: i32, records: u32) -> i32 {
    sequence.wrapping_add_unsigned(records) & i32::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_wrap_as_the_java_client_has_it() {
        assert_eq!(sequence_after(0, 5), 5);
        assert_eq!(sequence_after(i32::MAX, 1), 0);
        assert_eq!(sequence_after(i32::MAX - 1, 5), 3);
    }
}
