//! What is degraded right now, in words. A part sets its line when it begins to fail and clears it when it works again;
//! `/healthz` shows all of them, `/readyz` says whether every listener accepts and the log is open.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// Shared by all rooms through `Metrics`.
#[derive(Debug, Default)]
pub struct Health {
    ready: AtomicBool,
    degraded: Mutex<BTreeMap<Cow<'static, str>, String>>,
}

impl Health {
    /// Every listener accepts and the log is open; or not any more.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// Whether it is ready.
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// `part` works less well than it should, and why.
    pub fn degrade(&self, part: impl Into<Cow<'static, str>>, why: String) {
        self.lines().insert(part.into(), why);
    }

    /// `part` works again.
    pub fn restore(&self, part: &str) {
        self.lines().remove(part);
    }

    /// Every degraded part with its reason.
    pub fn degraded(&self) -> Vec<(String, String)> {
        let lines = self.lines();
        lines
            .iter()
            .map(|(part, why)| (part.to_string(), why.clone()))
            .collect()
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, BTreeMap<Cow<'static, str>, String>> {
        // A panic while it was held left a whole map: single inserts and removes.
        self.degraded.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
