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

    /// Queues; false when there is no room. Wakes nobody: `wake` does, once for many.
    pub(super) fn push(&self, queued: Queued) -> bool {
        let bytes = size_bytes(&queued.message);
        let mut inner = self.lock();
        if inner.ending.is_some() {
            return true;
        }
        if inner.bytes.saturating_add(bytes) > self.bytes_max {
            if queued.qos > 0 {
                inner.ending = Some(Ending::TooSlow);
                inner.queue = VecDeque::new();
                inner.bytes = 0;
                self.ready.store(true, Ordering::Release);
            }
            return false;
        }
        inner.bytes = inner.bytes.saturating_add(bytes);
        inner.queue.push_back(queued);
        self.ready.store(true, Ordering::Release);
        true
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
