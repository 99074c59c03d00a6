//! Who we are to the centre: an idempotent producer's id, taken before anything is sent. The first step of delivery.

use super::backoff::{Backoff, Jitter};
use super::target::Producer;
use crate::model::Now;

/// How far delivery has come. The exactly-once form has a step between the two: reading its checkpoints back from the centre.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Step {
    /// A producer id is wanted.
    #[default]
    Identify,
    /// Records go out under this id.
    Deliver(Producer),
}

#[derive(Debug, Default)]
pub(super) struct Identity {
    step: Step,
    /// A request is out.
    pub(super) asking: bool,
    backoff: Backoff,
}

impl Identity {
    /// The producer, unless it is the one that was given up.
    pub(super) fn producer(&self, given_up: Option<Producer>) -> Option<Producer> {
        match self.step {
            Step::Deliver(producer) if Some(producer) != given_up => Some(producer),
            _ => None,
        }
    }

    /// When an id may be asked for; `None` while a request is out.
    pub(super) fn ask_at(&self, now: Now) -> Option<u64> {
        (!self.asking).then(|| self.backoff.waits_until(now).unwrap_or(now.mono_us))
    }

    pub(super) fn got(&mut self, producer: Producer) {
        self.asking = false;
        self.backoff.worked();
        self.step = Step::Deliver(producer);
    }

    pub(super) fn refused(&mut self, now: Now, backoff_ms_max: u64, jitter: &mut Jitter) {
        self.asking = false;
        self.backoff.failed(now, backoff_ms_max, jitter);
    }

    /// The link went with the request.
    pub(super) fn unanswered(&mut self) {
        self.asking = false;
    }
}
