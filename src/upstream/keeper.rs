//! Stores progress: checkpoints of lanes that moved and what was refused, together, at most every so often, in the log's own
//! commits. What is in the centre and not stored here yet goes twice after a crash.

use std::collections::{BTreeMap, VecDeque};
use std::task::Waker;

use super::entry::LaneKey;
use super::lane::Lane;
use super::progress::{Checkpoint, Kept, REFUSED_KEPT, refused_prefix};
use crate::log::{Committed, Log, StateChange, Submission, Table, Ticket};
use crate::model::{Now, Offset};

/// Time between two commits of progress.
const SAVE_MS: u64 = 1000;
/// Refused batches shown in the status.
const SHOWN: usize = 20;
/// Refused batches that wait for a commit; nothing more is sent beyond it.
const WAITING_MAX: usize = 100;

#[derive(Debug)]
pub(super) struct Keeper {
    upstream: String,
    saving: Option<Saving>,
    due_us: u64,
    waiting: Vec<Kept>,
    removals: Vec<StateChange>,
    /// Batches refused, ever.
    pub(super) refused_ever: u64,
    /// The newest, oldest first, without their bytes.
    pub(super) shown: VecDeque<Kept>,
}

#[derive(Debug)]
struct Saving {
    ticket: Ticket<Committed>,
    lanes: Vec<(LaneKey, Offset)>,
    kept: Vec<Kept>,
    removals: Vec<StateChange>,
}

impl Keeper {
    /// With what was refused before, out of the log's database.
    pub(super) fn open(upstream: &str, log: &Log) -> Self {
        let limit = usize::try_from(REFUSED_KEPT).unwrap_or(usize::MAX);
        let stored = log
            .state_scan(Table::Forward, &refused_prefix(upstream), limit)
            .unwrap_or_default();
        let mut kept: Vec<Kept> = stored.iter().filter_map(|(_, value)| Kept::parse(value)).collect();
        kept.sort_by_key(|k| k.number);
        let refused_ever = kept.last().map_or(0, |k| k.number.saturating_add(1));
        let shown = kept
            .split_off(kept.len().saturating_sub(SHOWN))
            .into_iter()
            .map(without_bytes)
            .collect();
        Self {
            upstream: upstream.to_owned(),
            saving: None,
            due_us: 0,
            waiting: Vec::new(),
            removals: Vec::new(),
            refused_ever,
            shown,
        }
    }

    /// Keeps a refused batch, which gets its number.
    pub(super) fn keep(&mut self, make: impl FnOnce(u64) -> Kept) {
        let kept = make(self.refused_ever);
        self.refused_ever = self.refused_ever.saturating_add(1);
        if self.shown.len() >= SHOWN {
            self.shown.pop_front();
        }
        self.shown.push_back(without_bytes(kept.clone()));
        self.waiting.push(kept);
    }

    /// The topic is gone, and with it its progress.
    pub(super) fn forget(&mut self, checkpoint: &Checkpoint) {
        self.removals.push(checkpoint.removal(&self.upstream));
    }

    /// Whether so much waits to be kept that sending must wait for it.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX
    }

    /// Whether everything is stored.
    pub(super) fn is_clean(&self, lanes: &BTreeMap<LaneKey, Lane>) -> bool {
        self.saving.is_none()
            && self.waiting.is_empty()
            && self.removals.is_empty()
            && !lanes.values().any(Lane::is_dirty)
    }

    /// Looks at the commit that is out and starts the next when it is due. Gives when it wants to be called again, and what
    /// went wrong.
    pub(super) fn poll(
        &mut self,
        lanes: &mut BTreeMap<LaneKey, Lane>,
        log: &Log,
        waker: &Waker,
        at_once: bool,
        now: Now,
    ) -> (Option<u64>, Option<String>) {
        let failed = self.take(lanes, log, now);
        if self.saving.is_some() || self.is_clean(lanes) {
            return (None, failed);
        }
        let urgent = at_once || !self.waiting.is_empty();
        if failed.is_some() || (self.due_us > now.mono_us && !urgent) {
            return (Some(self.due_us), failed);
        }
        self.start(lanes, log, waker);
        self.due_us = now.after_ms(SAVE_MS);
        // An inline log is done at once.
        (None, self.take(lanes, log, now))
    }

    fn take(&mut self, lanes: &mut BTreeMap<LaneKey, Lane>, log: &Log, now: Now) -> Option<String> {
        let result = self.saving.as_mut()?.ticket.take()?;
        let saving = self.saving.take()?;
        match result {
            Ok(_) => {
                for (key, next) in saving.lanes {
                    if let Some(lane) = lanes.get_mut(&key) {
                        lane.saved_next = Some(next);
                        lane.tell_floor(&self.upstream, log);
                    }
                }
                None
            }
            Err(refused) => {
                self.waiting.splice(0..0, saving.kept);
                self.removals.extend(saving.removals);
                self.due_us = now.after_ms(SAVE_MS);
                Some(format!("progress is not stored: {}", refused.why))
            }
        }
    }

    fn start(&mut self, lanes: &BTreeMap<LaneKey, Lane>, log: &Log, waker: &Waker) {
        let dirty: Vec<&Lane> = lanes.values().filter(|lane| lane.is_dirty()).collect();
        let kept = std::mem::take(&mut self.waiting);
        let removals = std::mem::take(&mut self.removals);
        // Removals first: a topic made again under its name has another id, so keys never meet.
        let mut state = removals.clone();
        state.extend(dirty.iter().map(|lane| lane.checkpoint().change(&self.upstream)));
        state.extend(kept.iter().map(|k| k.change(&self.upstream)));
        let ticket = log.submit(
            Submission {
                appends: Vec::new(),
                state,
            },
            waker,
        );
        let lanes = dirty.iter().map(|lane| (lane.key.clone(), lane.acked_next)).collect();
        self.saving = Some(Saving {
            ticket,
            lanes,
            kept,
            removals,
        });
    }
}

fn without_bytes(mut kept: Kept) -> Kept {
    kept.batch = Vec::new();
    kept
}
