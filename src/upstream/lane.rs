//! One partition of the local log on its way out: where it stands, what is being read, what was read and not sent yet.

use std::collections::VecDeque;
use std::task::Waker;

use super::entry::{Entry, LaneKey, Made};
use super::progress::Checkpoint;
use super::target::TargetKey;
use crate::log::{Log, ReadBatches, ReadRequest, Refused, Ticket};
use crate::model::batch::Batch;
use crate::model::{Code, Offset, Topic};

/// Bytes of one read.
pub(super) const READ_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) key: LaneKey,
    /// The local topic's id: a topic that is made again under its old name is another one.
    pub(super) topic_id: [u8; 16],
    /// The topic's name in the centre.
    pub(super) name_there: Topic,
    /// Where to; fixed once it is known, so that order within a key survives partitions being added there.
    pub(super) target: Option<TargetKey>,
    reading: Option<(Ticket<ReadBatches>, usize)>,
    /// Next offset to read.
    read_next: Offset,
    raw: VecDeque<Batch>,
    raw_bytes: usize,
    /// Next offset to put into an entry.
    made_next: Offset,
    /// Everything before it is in the centre, or refused and kept, or was lost to retention.
    pub(super) acked_next: Offset,
    /// What is stored of `acked_next`.
    pub(super) saved_next: Option<Offset>,
    /// Records that retention removed before they could go.
    pub(super) skipped: u64,
    /// Records acknowledged since the start.
    pub(super) forwarded: u64,
    /// Entries of it in its target.
    pub(super) queued: usize,
}

/// What a lane found when it looked at its read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing to tell.
    Nothing,
    /// This many records were gone before they could be read.
    Skipped(u64),
    /// The log ends before what was forwarded already: it begins again at its end.
    WentBack(Offset),
    /// This many stored records cannot be parsed, for this reason.
    Damaged(u64, String),
    /// The log cannot be read now.
    Unreadable(String),
}

impl Lane {
    /// A lane that goes on from `position`, which is `saved` in the log's database or not yet.
    pub(super) fn new(key: LaneKey, topic_id: [u8; 16], name_there: Topic, position: Offset, saved: bool) -> Self {
        Self {
            key,
            topic_id,
            name_there,
            target: None,
            reading: None,
            read_next: position,
            raw: VecDeque::new(),
            raw_bytes: 0,
            made_next: position,
            acked_next: position,
            saved_next: saved.then_some(position),
            skipped: 0,
            forwarded: 0,
            queued: 0,
        }
    }

    /// Bytes that were read, or may come with the read that is out.
    pub(super) fn bytes(&self) -> usize {
        self.raw_bytes
            .saturating_add(self.reading.as_ref().map_or(0, |(_, reserved)| *reserved))
    }

    /// Whether there is something for an entry.
    pub(super) fn has_raw(&self) -> bool {
        !self.raw.is_empty()
    }

    pub(super) fn checkpoint(&self) -> Checkpoint {
        Checkpoint {
            topic_id: self.topic_id,
            partition: self.key.1,
            next: self.acked_next,
        }
    }

    /// Tells the log what is durably forwarded: retention may wait for it.
    pub(super) fn tell_floor(&self, upstream: &str, log: &Log) {
        let floor = self.saved_next.map(|saved| saved.min(self.acked_next));
        log.set_floor(upstream, self.topic_id, self.key.1, floor);
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.saved_next != Some(self.acked_next)
    }

    /// Whether records wait in the log that were not read.
    pub(super) fn is_behind(&self, high_watermark: Offset) -> bool {
        self.read_next < high_watermark
    }

    /// Records that the centre does not have yet.
    pub(super) fn lag(&self, high_watermark: Offset) -> u64 {
        high_watermark.0.saturating_sub(self.acked_next.0)
    }

    /// Compares where it stands with what the log holds: retention may have passed it, a lost tail may lie behind it.
    pub(super) fn check_bounds(&mut self, log: &Log) -> Found {
        let Some(bounds) = log.bounds(self.key.0.as_str(), self.key.1) else {
            return Found::Nothing;
        };
        if self.reading.is_some() {
            return Found::Nothing;
        }
        if self.read_next > bounds.high_watermark {
            let to = bounds.high_watermark;
            self.jump(to);
            self.acked_next = to;
            return Found::WentBack(to);
        }
        if self.read_next < bounds.log_start {
            let gone = bounds.log_start.0.saturating_sub(self.read_next.0);
            self.skipped = self.skipped.saturating_add(gone);
            self.read_next = bounds.log_start;
            if self.raw.is_empty() {
                self.made_next = bounds.log_start;
            }
            self.pass_what_is_gone();
            return Found::Skipped(gone);
        }
        Found::Nothing
    }

    /// Starts a read when none is out and what is there is used up.
    pub(super) fn read(&mut self, log: &Log, high_watermark: Offset, bytes_max: usize, waker: &Waker) {
        if self.reading.is_some() || !self.raw.is_empty() || self.read_next >= high_watermark {
            return;
        }
        let (topic, partition) = self.key.clone();
        let request = ReadRequest {
            topic,
            partition,
            from: self.read_next,
            bytes_max,
        };
        self.reading = Some((log.read(request, waker), bytes_max));
    }

    /// Looks whether the read is there.
    pub(super) fn take_read(&mut self, log: &Log) -> Found {
        let Some((ticket, _)) = &mut self.reading else {
            return Found::Nothing;
        };
        let Some(result) = ticket.take() else {
            return Found::Nothing;
        };
        self.reading = None;
        match result {
            Ok(read) => self.take_batches(read, log),
            Err(Refused {
                code: Code::OffsetOutOfRange,
                ..
            }) => self.check_bounds(log),
            Err(Refused {
                code: Code::UnknownTopic,
                ..
            }) => Found::Nothing,
            Err(refused) => Found::Unreadable(refused.why),
        }
    }

    /// The next entry out of what was read.
    pub(super) fn make(&mut self, id: u64, bytes_target: usize) -> Option<Made> {
        let made = Entry::make(id, &self.key, &mut self.raw, self.made_next, bytes_target);
        self.raw_bytes = self.raw.iter().map(|b| b.bytes().len()).sum();
        match &made {
            Some(Made::Entry(entry)) => {
                self.made_next = entry.next;
                self.queued = self.queued.saturating_add(1);
            }
            Some(Made::Nothing { next }) => {
                self.made_next = self.made_next.max(*next);
                self.pass_what_is_gone();
            }
            Some(Made::Damaged { batch, .. }) => {
                self.made_next = batch.offset_next();
                self.pass_what_is_gone();
            }
            None => {}
        }
        made
    }

    /// An entry of it is settled.
    pub(super) fn passed(&mut self, next: Offset) {
        self.queued = self.queued.saturating_sub(1);
        self.acked_next = self.acked_next.max(next);
        self.pass_what_is_gone();
    }

    /// Its entries from `first` on were given up unsent: they are read again later.
    pub(super) fn released(&mut self, first: Offset) {
        self.queued = self.queued.saturating_sub(1);
        self.jump(first);
    }

    /// Drops what was read and not made an entry of.
    pub(super) fn forget_raw(&mut self) {
        self.jump(self.made_next);
    }

    fn jump(&mut self, to: Offset) {
        self.raw.clear();
        self.raw_bytes = 0;
        self.reading = None;
        self.read_next = to;
        self.made_next = to;
    }

    /// With nothing on its way, everything before the next entry is done with.
    fn pass_what_is_gone(&mut self) {
        if self.queued == 0 {
            self.acked_next = self.acked_next.max(self.made_next);
        }
    }

    fn take_batches(&mut self, read: ReadBatches, log: &Log) -> Found {
        for piece in read.batches {
            for batch in Batch::split_trusted(piece) {
                match batch {
                    Ok(batch) => {
                        let shift_ms = log.shift_ms(self.key.0.as_str(), self.key.1, batch.base_offset());
                        let batch = batch.shifted(shift_ms);
                        self.raw_bytes = self.raw_bytes.saturating_add(batch.bytes().len());
                        self.raw.push_back(batch);
                    }
                    // The header is not one: nothing behind it can be found in what was read.
                    Err(error) => {
                        let reached = self.raw.back().map_or(self.read_next, Batch::offset_next);
                        let gone = read.offset_next.0.saturating_sub(reached.0);
                        self.skipped = self.skipped.saturating_add(gone);
                        self.read_next = read.offset_next;
                        if self.raw.is_empty() {
                            self.made_next = read.offset_next;
                            self.pass_what_is_gone();
                        }
                        return Found::Damaged(gone, error.to_string());
                    }
                }
            }
        }
        self.read_next = read.offset_next;
        Found::Nothing
    }
}
