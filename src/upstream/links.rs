//! The connections to the centre, without sockets: which there are, what is asked over each, and when one counts as hung.
//!
//! A link is asked at most `REQUESTS_MAX` things at once and answers in order. It hangs when something is asked and nothing
//! moves (no byte in, none taken out) for the request time-out: then it is closed and what was asked counts as unanswered.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::backoff::{Backoff, Jitter};
use super::target::TargetKey;
use super::wire::Versions;
use crate::kafka_wire::{LENGTH_BYTES, frame_bytes, response_correlation};
use crate::model::Now;

/// Requests that a link has unanswered at most: what an idempotent producer may have, so that the broker can tell resends.
pub(super) const REQUESTS_MAX: usize = 5;
/// Longest answer; ours ask for few things.
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Longest time that a throttling broker is believed, ms.
const THROTTLE_MS_MAX: u64 = 5 * 60_000;
/// Least bytes of records that a link may have unanswered, however slow it is.
const WINDOW_BYTES_MIN: usize = 16 << 10;
/// The window of a new link.
const WINDOW_BYTES_FIRST: usize = 1 << 20;

/// One connection, from the command to open it until it is lost or closed. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// What the driver is to do.
#[derive(Debug)]
pub enum Command {
    /// Open a connection, then call `connected`, or `lost` when it cannot be had.
    Connect {
        /// The link that it is for.
        link: LinkId,
        /// Name or address; the driver looks it up.
        host: Arc<str>,
        /// Port.
        port: u16,
    },
    /// Send these, in order.
    Send {
        /// Over which link.
        link: LinkId,
        /// What.
        segments: Vec<Bytes>,
    },
    /// Drop the connection, with all that is unsent. `lost` is not called for it.
    Close {
        /// Which link.
        link: LinkId,
    },
}

/// Where a broker is.
pub(super) type Address = (Arc<str>, u16);

/// What a request was about.
#[derive(Debug)]
pub(super) enum Asked {
    Versions,
    Metadata,
    CreateTopics(Vec<crate::model::Topic>),
    Producer,
    /// The entries in it, by target and id.
    Produce(Vec<(TargetKey, u64)>),
}

/// A request that is out.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) correlation: i32,
    pub(super) version: i16,
    pub(super) asked: Asked,
    /// Bytes of records in it.
    pub(super) bytes: usize,
    pub(super) sent_us: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting,
    Greeting,
    Ready,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) address: Address,
    /// The broker's number, once metadata says which one this is.
    pub(super) node: Option<i32>,
    pub(super) versions: Versions,
    state: State,
    requests: VecDeque<Request>,
    received: BytesMut,
    correlation_next: i32,
    moved_us: u64,
    /// The broker asked for no requests before this time.
    throttled_until_us: u64,
    /// Bytes of records that may be unanswered: grows with every answer, halves when the link hangs. So a slow link gets no
    /// more than it can carry within the time-out, and a backlog drains over it all the same.
    window_bytes: usize,
    inflight_bytes: usize,
}

impl Link {
    pub(super) fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    pub(super) fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }

    /// Whether a small request may go out.
    pub(super) fn may_ask(&self) -> bool {
        self.is_ready() && self.requests.len() < REQUESTS_MAX
    }

    /// Bytes of records that a request may have now; `None` for no request. Always one batch when nothing is out.
    pub(super) fn room(&self, now: Now) -> Option<usize> {
        if !self.may_ask() || self.throttled_until_us > now.mono_us {
            return None;
        }
        match self.window_bytes.checked_sub(self.inflight_bytes) {
            Some(room) if room > 0 => Some(room),
            _ => None,
        }
    }

    pub(super) fn throttled_until(&self, now: Now) -> Option<u64> {
        (self.throttled_until_us > now.mono_us).then_some(self.throttled_until_us)
    }

    pub(super) fn window_bytes(&self) -> usize {
        self.window_bytes
    }

    pub(super) fn throttle(&mut self, ms: i32, now: Now) {
        let ms = u64::try_from(ms).unwrap_or(0).min(THROTTLE_MS_MAX);
        self.throttled_until_us = self.throttled_until_us.max(now.after_ms(ms));
    }

    /// When it counts as hung.
    fn hangs_at(&self, timeout_ms: u64) -> Option<u64> {
        let waits = self.state == State::Connecting || !self.requests.is_empty();
        let quiet_from = self.moved_us.max(self.throttled_until_us);
        waits.then(|| quiet_from.saturating_add(timeout_ms.saturating_mul(1000)))
    }

    fn answered(&mut self, frame: &[u8], bytes_max: usize) -> Result<Request, String> {
        let correlation = response_correlation(frame).map_err(|e| e.to_string())?;
        // What does not fit stays asked, and is open again once the link is closed for it.
        match self.requests.front().map(|request| request.correlation) {
            None => return Err("an answer to nothing".to_owned()),
            Some(asked) if asked != correlation => return Err(format!("answer {correlation} where {asked} was asked")),
            Some(_) => {}
        }
        let request = self.requests.pop_front().ok_or("an answer to nothing")?;
        self.inflight_bytes = self.inflight_bytes.saturating_sub(request.bytes);
        self.window_bytes = self.window_bytes.saturating_add(request.bytes).min(bytes_max);
        Ok(request)
    }
}

/// All links of one forwarder.
#[derive(Debug)]
pub(super) struct Links {
    pub(super) all: BTreeMap<LinkId, Link>,
    pub(super) outbox: VecDeque<Command>,
    next: u64,
    timeout_ms: u64,
    backoff_ms_max: u64,
    inflight_bytes_max: usize,
    /// Waits, and how much the last link to there could carry.
    addresses: BTreeMap<Address, (Backoff, usize)>,
}

impl Links {
    pub(super) fn new(timeout_ms: u64, backoff_ms_max: u64, inflight_bytes_max: usize) -> Self {
        Self {
            all: BTreeMap::new(),
            outbox: VecDeque::new(),
            next: 1,
            timeout_ms,
            backoff_ms_max,
            inflight_bytes_max,
            addresses: BTreeMap::new(),
        }
    }

    /// Opens a link to `address`, or says when that may be tried.
    pub(super) fn open(&mut self, address: &Address, node: Option<i32>, now: Now) -> Result<LinkId, u64> {
        let mut others = self.all.iter_mut().filter(|(_, link)| link.address == *address);
        if let Some((id, link)) = others.find(|(_, link)| link.node.is_none() || link.node == node) {
            // One way there is enough, and now it is known whom it leads to.
            link.node = link.node.or(node);
            return Ok(*id);
        }
        let most = self.inflight_bytes_max;
        let (backoff, window_bytes) = self
            .addresses
            .entry(address.clone())
            .or_insert_with(|| (Backoff::default(), WINDOW_BYTES_FIRST.min(most)));
        if let Some(until) = backoff.waits_until(now) {
            return Err(until);
        }
        let window_bytes = *window_bytes;
        let id = LinkId(self.next);
        self.next = self.next.saturating_add(1);
        let link = Link {
            address: address.clone(),
            node,
            versions: Versions::default(),
            state: State::Connecting,
            requests: VecDeque::new(),
            received: BytesMut::new(),
            correlation_next: 0,
            moved_us: now.mono_us,
            throttled_until_us: 0,
            window_bytes,
            inflight_bytes: 0,
        };
        self.all.insert(id, link);
        self.outbox.push_back(Command::Connect {
            link: id,
            host: Arc::clone(&address.0),
            port: address.1,
        });
        Ok(id)
    }

    /// The connection is there.
    pub(super) fn connected(&mut self, id: LinkId, now: Now) {
        if let Some(link) = self.all.get_mut(&id) {
            link.state = State::Greeting;
            link.moved_us = now.mono_us;
        }
    }

    /// The broker told its versions: requests may go out.
    pub(super) fn greeted(&mut self, id: LinkId, versions: Versions) {
        if let Some(link) = self.all.get_mut(&id) {
            link.versions = versions;
            link.state = State::Ready;
            if let Some((backoff, _)) = self.addresses.get_mut(&link.address) {
                backoff.worked();
            }
        }
    }

    /// Some bytes went out.
    pub(super) fn wrote(&mut self, id: LinkId, now: Now) {
        if let Some(link) = self.all.get_mut(&id) {
            link.moved_us = now.mono_us;
        }
    }

    /// Sends a request that `encode` makes of its correlation id; `bytes` of records are in it.
    pub(super) fn ask(
        &mut self,
        id: LinkId,
        asked: Asked,
        version: i16,
        bytes: usize,
        now: Now,
        encode: impl FnOnce(i32) -> Vec<Bytes>,
    ) -> Option<i32> {
        let link = self.all.get_mut(&id)?;
        let correlation = link.correlation_next;
        link.correlation_next = correlation.wrapping_add(1) & i32::MAX;
        if link.requests.is_empty() {
            link.moved_us = now.mono_us;
        }
        link.requests.push_back(Request {
            correlation,
            version,
            asked,
            bytes,
            sent_us: now.mono_us,
        });
        link.inflight_bytes = link.inflight_bytes.saturating_add(bytes);
        self.outbox.push_back(Command::Send {
            link: id,
            segments: encode(correlation),
        });
        Some(correlation)
    }

    /// Takes bytes in, to be followed by `next_answer`.
    pub(super) fn input(&mut self, id: LinkId, bytes: &[u8], now: Now) {
        if let Some(link) = self.all.get_mut(&id) {
            link.moved_us = now.mono_us;
            link.received.extend_from_slice(bytes);
        }
    }

    /// The next whole answer of what came in, with its request and its frame. An error means that the peer does not speak
    /// Kafka: the link is to be closed.
    pub(super) fn next_answer(&mut self, id: LinkId) -> Result<Option<(Request, Bytes)>, String> {
        let Some(link) = self.all.get_mut(&id) else {
            return Ok(None);
        };
        if link.received.is_empty() {
            // A link at rest holds no buffer.
            link.received = BytesMut::new();
            return Ok(None);
        }
        match frame_bytes(&link.received, ANSWER_BYTES_MAX).map_err(|e| e.to_string())? {
            Some(whole) if link.received.len() >= whole => {
                let frame = link.received.split_to(whole).freeze().slice(LENGTH_BYTES..);
                let request = link.answered(&frame, self.inflight_bytes_max)?;
                Ok(Some((request, frame)))
            }
            _ => Ok(None),
        }
    }

    /// The link is gone: what was asked over it is given back, oldest first. Whoever is at that address waits before the next
    /// attempt, unless it was at rest: brokers close what is idle.
    pub(super) fn lost(&mut self, id: LinkId, hung: bool, now: Now, jitter: &mut Jitter) -> Option<Link> {
        let link = self.all.remove(&id)?;
        let at_rest = link.is_ready() && link.requests.is_empty();
        if let Some((backoff, window_bytes)) = self.addresses.get_mut(&link.address) {
            if !at_rest {
                backoff.failed(now, self.backoff_ms_max, jitter);
            }
            *window_bytes = match hung {
                true => (link.window_bytes / 2).max(WINDOW_BYTES_MIN),
                false => link.window_bytes,
            };
        }
        Some(link)
    }

    /// As `lost`, at our own wish.
    pub(super) fn close(&mut self, id: LinkId, hung: bool, now: Now, jitter: &mut Jitter) -> Option<Link> {
        let link = self.lost(id, hung, now, jitter)?;
        self.outbox.push_back(Command::Close { link: id });
        Some(link)
    }

    /// Links that hang now.
    pub(super) fn hung(&self, now: Now) -> Vec<LinkId> {
        let late = |link: &Link| link.hangs_at(self.timeout_ms).is_some_and(|at| at <= now.mono_us);
        self.all
            .iter()
            .filter(|(_, link)| late(link))
            .map(|(id, _)| *id)
            .collect()
    }

    /// When the first link counts as hung if nothing moves.
    pub(super) fn hangs_at(&self) -> Option<u64> {
        self.all
            .values()
            .filter_map(|link| link.hangs_at(self.timeout_ms))
            .min()
    }

    /// A link that can be asked something small, the least busy one.
    pub(super) fn any(&self) -> Option<LinkId> {
        let free = self.all.iter().filter(|(_, link)| link.may_ask());
        free.min_by_key(|(_, link)| link.requests.len()).map(|(id, _)| *id)
    }

    /// The link to a broker, in whatever state.
    pub(super) fn to_node(&self, node: i32) -> Option<(LinkId, &Link)> {
        self.all
            .iter()
            .find(|(_, link)| link.node == Some(node))
            .map(|(id, link)| (*id, link))
    }

    pub(super) fn is_connected(&self) -> bool {
        self.all.values().any(Link::is_ready)
    }
}

impl Link {
    /// What is still unanswered, oldest first.
    pub(super) fn into_requests(self) -> VecDeque<Request> {
        self.requests
    }
}
