//! What waits for one subscriber, between the hub that follows the log and the session that writes. Bounded in bytes
//! (`limits.mqtt_outbound_bytes`): beyond it QoS 0 is dropped and counted, QoS 1 ends the session with 0x97.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::Bytes;

use super::packet::Properties;

/// Bytes that a queued message takes beside its content.
const OVERHEAD_BYTES: usize = 64;

/// A committed message; shared by all subscribers that get it.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    pub(super) qos: u8,
    pub(super) retain: bool,
    pub(super) properties: Properties,
    /// Milliseconds since 1970: when the broker took it in.
    pub(super) timestamp_ms: i64,
    /// The publisher, if it asked not to get its own messages.
    pub(super) origin: Option<String>,
}

/// A message for one subscriber.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) message: Arc<Message>,
    pub(super) qos: u8,
    pub(super) retain: bool,
    pub(super) subscription_ids: Vec<u32>,
    /// Every subscription that matched leaves out the subscriber's own messages.
    pub(super) no_local: bool,
}

/// One session's queue and the ways to call it.
#[derive(Debug)]
pub(super) struct Outbox {
    inner: Mutex<Inner>,
    /// Something to look at: lets a session without deliveries skip the lock.
    ready: AtomicBool,
    waker: Waker,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<Queued>,
    bytes: usize,
    ending: Option<Ending>,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pushed {
    /// There was no room.
    pub(super) dropped: bool,
    /// The session was at rest.
    pub(super) to_wake: bool,
}

/// Why the session must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Another connection with the same client id.
    TakenOver,
    /// It reads too slowly for what it subscribed to.
    TooSlow,
}

impl Outbox {
    pub(super) fn new(waker: Waker, bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::default(),
            ready: AtomicBool::new(false),
            waker,
            bytes_max,
        })
    }

    /// Queues, or not when there is no room. Wakes nobody: whoever is told `to_wake` calls `wake`, once for many. A session that
    /// has not emptied its queue since is not to be woken: it was already, or waits for its client, which wakes it.
    pub(super) fn push(&self, queued: Queued) -> Pushed {
        let bytes = size_bytes(&queued.message);
        let mut inner = self.lock();
        if inner.ending.is_some() {
            return Pushed::default();
        }
        let room = inner.bytes.saturating_add(bytes) <= self.bytes_max;
        if room {
            inner.bytes = inner.bytes.saturating_add(bytes);
            inner.queue.push_back(queued);
        } else if queued.qos > 0 {
            inner.ending = Some(Ending::TooSlow);
            inner.queue = VecDeque::new();
            inner.bytes = 0;
        } else {
            return Pushed {
                dropped: true,
                to_wake: false,
            };
        }
        let was_ready = self.ready.swap(true, Ordering::AcqRel);
        Pushed {
            dropped: !room,
            // One that ends is not waited for.
            to_wake: !was_ready || !room,
        }
    }

    pub(super) fn wake(&self) {
        self.waker.wake_by_ref();
    }

    /// Ends the session.
    pub(super) fn take_over(&self) {
        self.lock().ending = Some(Ending::TakenOver);
        self.ready.store(true, Ordering::Release);
        self.wake();
    }

    /// Whether there may be something to look at.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    pub(super) fn ending(&self) -> Option<Ending> {
        if self.is_ready() { self.lock().ending } else { None }
    }

    /// The next message, if `fits` takes it.
    pub(super) fn pop(&self, fits: impl FnOnce(&Queued) -> bool) -> Option<Queued> {
        let mut inner = self.lock();
        let Some(front) = inner.queue.front() else {
            if inner.ending.is_none() {
                // A connection at rest holds no buffer.
                inner.queue = VecDeque::new();
                self.ready.store(false, Ordering::Release);
            }
            return None;
        };
        if !fits(front) {
            return None;
        }
        let queued = inner.queue.pop_front()?;
        inner.bytes = inner.bytes.saturating_sub(size_bytes(&queued.message));
        Some(queued)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while it was held left a whole queue: single pushes and pops.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size_bytes(message: &Message) -> usize {
    let text = |t: &Option<String>| t.as_ref().map_or(0, String::len);
    let p = &message.properties;
    let user: usize = p.user.iter().map(|(n, v)| n.len().saturating_add(v.len())).sum();
    [
        message.topic.len(),
        message.payload.len(),
        text(&p.content_type),
        text(&p.response_topic),
        p.correlation.as_ref().map_or(0, Bytes::len),
        user,
    ]
    .into_iter()
    .fold(OVERHEAD_BYTES, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(qos: u8, payload_bytes: usize) -> Queued {
        let message = Message {
            topic: "t".to_owned(),
            payload: Bytes::from(vec![0; payload_bytes]),
            qos,
            retain: false,
            properties: Properties::default(),
            timestamp_ms: 0,
            origin: None,
        };
        Queued {
            message: Arc::new(message),
            qos,
            retain: false,
            subscription_ids: Vec::new(),
            no_local: false,
        }
    }

    #[test]
    fn a_session_is_woken_once_until_its_queue_is_empty() {
        let outbox = Outbox::new(Waker::noop().clone(), 1000);
        let kept = |to_wake| Pushed {
            dropped: false,
            to_wake,
        };
        assert_eq!(outbox.push(queued(1, 10)), kept(true));
        assert_eq!(outbox.push(queued(1, 10)), kept(false));
        assert!(outbox.pop(|_| true).is_some());
        assert!(outbox.pop(|_| false).is_none(), "it waits for its client");
        assert_eq!(outbox.push(queued(1, 10)), kept(false));
        while outbox.pop(|_| true).is_some() {}
        assert!(!outbox.is_ready());
        assert_eq!(outbox.push(queued(0, 10)), kept(true));
    }

    #[test]
    fn beyond_its_bound_qos_0_is_dropped_and_qos_1_ends_it() {
        let outbox = Outbox::new(Waker::noop().clone(), 1000);
        let dropped = |to_wake| Pushed { dropped: true, to_wake };
        assert_eq!(outbox.push(queued(0, 2000)), dropped(false));
        assert!(!outbox.is_ready(), "nothing to look at");
        assert!(!outbox.push(queued(0, 500)).dropped);
        assert_eq!(outbox.push(queued(0, 500)), dropped(false));
        assert_eq!(outbox.ending(), None);
        assert_eq!(outbox.push(queued(1, 500)), dropped(true));
        assert_eq!(outbox.ending(), Some(Ending::TooSlow));
        assert_eq!(outbox.push(queued(1, 1)), Pushed::default(), "it is over");
    }
}
