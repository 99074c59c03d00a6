//! This machine's readings on their way in, a thread a way: whatever happens to the broker, new readings are taken, and what is
//! not acknowledged is sent again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::super::{Failure, sensors};
use super::account::{Ledger, Outgoing, Way};
use super::child::Addresses;

mod compact;
mod mqtt;

/// Between two rounds of readings.
pub(super) const ROUND: Duration = Duration::from_millis(250);
/// Between two attempts to connect.
const RETRY: Duration = Duration::from_millis(50);

/// What the story tells the feeders.
#[derive(Debug, Default)]
struct Orders {
    /// Take no more readings; end when everything is acknowledged.
    ending: AtomicBool,
    /// End now.
    abandoned: AtomicBool,
}

/// One way in.
struct Feeder {
    way: Way,
    ledger: Arc<Mutex<Ledger>>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

/// All ways in.
pub(super) struct Feeders {
    orders: Arc<Orders>,
    feeders: Vec<Feeder>,
}

impl Feeders {
    /// Begins to feed the broker at these addresses.
    pub(super) fn start(at: &Addresses) -> Self {
        let orders = Arc::new(Orders::default());
        let feeder = |(turn, way): (u32, Way)| {
            let ledger = Arc::new(Mutex::new(Ledger::new(way)));
            let source = Source {
                orders: Arc::clone(&orders),
                ledger: Arc::clone(&ledger),
                // One after the other, so that a kill at any moment meets one of them.
                next_round: Instant::now() + ROUND / 3 * turn,
            };
            let at = at.clone();
            let thread = std::thread::spawn(move || match way {
                Way::Qos1 => mqtt::feed(source, &at.mqtt, way.name(), 1),
                Way::Qos2 => mqtt::feed(source, &at.mqtt, way.name(), 2),
                Way::Compact => compact::feed(source, &at.compact),
            });
            Feeder {
                way,
                ledger,
                thread: Some(thread),
            }
        };
        let feeders = (0..).zip(Way::ALL).map(feeder).collect();
        Self { orders, feeders }
    }

    /// Sent and acknowledged so far.
    pub(super) fn progress(&self) -> (usize, usize) {
        let counts = self.feeders.iter().map(|feeder| {
            let ledger = lock(&feeder.ledger);
            (ledger.sent(), ledger.acked())
        });
        counts.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }

    /// Takes no more readings.
    pub(super) fn finish(&self) {
        self.orders.ending.store(true, Ordering::Release);
    }

    /// Whether all have ended; an error when one could not go on.
    pub(super) fn ended(&mut self) -> Result<bool, Failure> {
        for feeder in &mut self.feeders {
            let Some(thread) = feeder.thread.take_if(|thread| thread.is_finished()) else {
                continue;
            };
            let ended = thread.join().unwrap_or_else(|_| Err("a feeder panicked".to_owned()));
            ended.map_err(|why| Failure::failed(format!("{}: {why}", feeder.way.label())))?;
        }
        Ok(self.feeders.iter().all(|feeder| feeder.thread.is_none()))
    }

    /// What each has sent and what was acknowledged.
    pub(super) fn ledgers(&self) -> Vec<Ledger> {
        self.feeders.iter().map(|feeder| lock(&feeder.ledger).clone()).collect()
    }
}

impl Drop for Feeders {
    fn drop(&mut self) {
        self.orders.abandoned.store(true, Ordering::Release);
        for thread in self.feeders.iter_mut().filter_map(|feeder| feeder.thread.take()) {
            // How it ended no longer matters.
            let _ = thread.join();
        }
    }
}

/// A ledger is whole between any two of its calls.
fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a feeder's readings come from and where it notes its acks.
struct Source {
    orders: Arc<Orders>,
    ledger: Arc<Mutex<Ledger>>,
    next_round: Instant,
}

impl Source {
    /// Adds a round of readings when it is time for one.
    fn take(&mut self, backlog: &mut VecDeque<Outgoing>) {
        if self.is_ending() || Instant::now() < self.next_round {
            return;
        }
        self.next_round += ROUND;
        let readings = sensors::read();
        let mut ledger = lock(&self.ledger);
        backlog.extend(readings.iter().map(|reading| ledger.enter(reading)));
    }

    fn ack(&self, number: usize) {
        lock(&self.ledger).ack(number);
    }

    fn is_ending(&self) -> bool {
        self.orders.ending.load(Ordering::Acquire)
    }

    fn is_abandoned(&self) -> bool {
        self.orders.abandoned.load(Ordering::Acquire)
    }

    /// Everything is sent and acknowledged, and no more is wanted.
    fn is_done(&self, backlog: &VecDeque<Outgoing>) -> bool {
        let ledger = lock(&self.ledger);
        self.is_ending() && backlog.is_empty() && ledger.acked() == ledger.sent()
    }
}
