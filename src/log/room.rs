//! What the writer looks after once a second beside retention: whether a full disk has room again, damage that reads found, and
//! for how long damage is told.

use crate::model::Now;

use super::desk::Desk;
use super::reserve::RESERVE_BYTES;
use super::store::StoreError;

/// For so long `/healthz` tells of damage that was met, microseconds. The markers, the counters and what was set aside stay.
const TOLD_US: u64 = 600_000_000;

impl Desk {
    /// The disk is full: the reserve is given back, so that what is past can be removed.
    pub(super) fn fill_up(&mut self, error: &StoreError) {
        let given = self.shared.keeper.give_reserve();
        if given {
            tracing::warn!(
                bytes = RESERVE_BYTES, %error,
                "the disk is full: nothing is taken but what makes room, for which the reserve is given back"
            );
        }
        if given && self.full.is_none() {
            self.full = Some(error.clone());
            let why = format!("{error}; records are refused, what is past is removed");
            self.shared.metrics.health.degrade("disk-full", why);
        }
    }

    /// Takes the reserve. Once it can be had the disk is not full any more.
    pub(super) fn look_for_room(&mut self) {
        match (self.shared.keeper.take_reserve(), self.full.is_some()) {
            (Ok(()), true) => {
                self.full = None;
                tracing::info!("the disk has room again");
                self.shared.metrics.health.restore("disk-full");
            }
            // What is past is removed in the ring first; its space comes back with the flush.
            (Err(_), true) if !self.due.has_garbage() => self.shared.bell.ring(),
            (Err(error), false) => tracing::debug!(%error, "there is no room for the reserve"),
            _ => {}
        }
    }

    /// Has the markers of damage that reads found stored.
    pub(super) fn mark_damage(&mut self) {
        for (key, marker) in self.shared.take_damage() {
            self.due.mark(key, marker);
        }
    }

    /// Ends what is told of damage when it was told for long enough.
    pub(super) fn forget_damage(&mut self, now: Now) {
        if self
            .told_us
            .take_if(|told_us| now.mono_us.saturating_sub(*told_us) >= TOLD_US)
            .is_some()
        {
            for part in ["store-damaged", "store-lost"] {
                self.shared.metrics.health.restore(part);
            }
        }
    }
}
