//! One connection. `input` takes whole packets and turns them into submissions; `poll` answers what became durable, in the
//! order it came, and writes what the outbox has.
//!
//! Parts: `connect` (CONNECT and its checks), `publish` (messages in), `pending` (what waits for the log), `subscribe`,
//! `deliver` (messages out).

mod connect;
mod deliver;
mod pending;
mod publish;
mod subscribe;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::task::Waker;

use bytes::{Bytes, BytesMut};

use self::pending::{Group, Pending};
use super::broker::Broker;
use super::codec::Codec;
use super::guard::{self, Kind};
use super::outbox::{Ending, Outbox};
use super::packet::{Fault, Packet, Version, reason};
use super::subscriptions::Subscription;
use crate::model::{End, Now, Output, Peer, Record, Session, Topic};

/// Most bytes of packets copied out of the driver's buffer at once.
const CHUNK_BYTES_MAX: usize = 128 << 10;

/// Unsent bytes beyond which nothing more is read or delivered.
const OUTPUT_BYTES_MAX: usize = 64 << 10;

/// Bytes, messages and other packets waiting for the log beyond which nothing more is read.
const PENDING_BYTES_MAX: usize = 1 << 20;
const PENDING_MESSAGES_MAX: usize = 4096;
const PENDING_MAX: usize = 4096;

/// A connection's session.
pub(super) struct MqttSession {
    broker: Arc<Broker>,
    peer: Peer,
    allow_anonymous: bool,
    waker: Waker,
    seed: u64,
    output: Output,
    end: Option<End>,
    /// Bytes of the packet that `input` waits for.
    wanted_bytes: usize,
    /// Monotonic µs until which CONNECT must have come.
    handshake_us: u64,
    /// Set by CONNECT.
    client: Option<Client>,
    outbox: Option<Arc<Outbox>>,
    stopping: bool,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    pending_messages: usize,
    /// Of them, those whose sender waits for a PUBACK or PUBREC.
    pending_acks: usize,
    /// QoS 1 and 2 messages of this connection without PUBACK or PUBCOMP: what Receive Maximum counts (section 4.9).
    unacknowledged: usize,
    group: Option<Group>,
    /// The output was full: whoever empties it calls us again.
    output_full: bool,
}

/// What CONNECT told.
struct Client {
    version: Version,
    codec: &'static dyn Codec,
    id: String,
    user: String,
    /// Of this connection, for the broker.
    number: u64,
    incarnation: u64,
    /// 0: the session ends with the connection and nothing of it is stored.
    expiry_s: u32,
    keep_alive_us: Option<u64>,
    packet_at_us: u64,
    /// QoS 1 messages that may be on their way to the client.
    receive_max: usize,
    packet_bytes_max: usize,
    will: Option<(Topic, Record)>,
    aliases: Vec<Option<Bytes>>,
    /// Incoming QoS 2 ids.
    incoming: HashMap<u16, Incoming>,
    subscriptions: HashMap<String, Subscription>,
    no_local: bool,
    sent: HashSet<u16>,
    sent_id: u16,
}

/// An incoming QoS 2 message until its PUBCOMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Incoming {
    stage: Stage,
    /// It came on this connection. Receive Maximum starts anew with every connection (section 4.9): what one before it left
    /// does not count.
    counted: bool,
}

/// Where an incoming QoS 2 message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// On its way into the log.
    Pending,
    /// In the log, PUBREC is out.
    Stored,
    /// PUBREL came, its id is on its way out of the log.
    Releasing,
}

impl MqttSession {
    pub(super) fn new(
        broker: Arc<Broker>,
        peer: Peer,
        allow_anonymous: bool,
        waker: Waker,
        seed: u64,
        now: Now,
    ) -> Self {
        let handshake_us = now.after_ms(broker.limits.handshake_ms);
        Self {
            broker,
            peer,
            allow_anonymous,
            waker,
            seed,
            output: Output::default(),
            end: None,
            wanted_bytes: 0,
            handshake_us,
            client: None,
            outbox: None,
            stopping: false,
            pending: VecDeque::new(),
            pending_bytes: 0,
            pending_messages: 0,
            pending_acks: 0,
            unacknowledged: 0,
            group: None,
            output_full: false,
        }
    }

    /// Takes the whole packets at the start of `bytes`; returns how many bytes they were.
    fn packets(&mut self, bytes: &[u8], now: Now) -> Result<usize, Fault> {
        let packet_bytes_max = self.broker.limits.mqtt_packet_bytes;
        let mut whole = 0usize;
        while let Some(rest) = bytes.get(whole..)
            && let Ok(Some(head)) = guard::head(rest, packet_bytes_max)
            && head.total_bytes <= rest.len()
            && (whole == 0 || whole.saturating_add(head.total_bytes) <= CHUNK_BYTES_MAX)
        {
            whole = whole.saturating_add(head.total_bytes);
        }
        // The one copy of a payload on its way in: what is decoded shares this piece until the log has packed it.
        let mut chunk = BytesMut::from(bytes.get(..whole).unwrap_or_default());
        while self.wants_input()
            && let Some(head) = guard::head(&chunk, packet_bytes_max)?
        {
            if self.client.is_none() && head.kind != Kind::Connect {
                return Err(Fault::protocol("the first packet is not CONNECT"));
            }
            let frame = chunk.split_to(head.total_bytes.min(chunk.len()));
            match &self.client {
                None => self.connect(frame, &head, now)?,
                Some(client) => {
                    let shape = guard::walk(&frame, &head, client.version)?;
                    let packet = client.codec.decode(frame, &head, shape)?;
                    self.packet(packet, now)?;
                }
            }
        }
        let used = whole.saturating_sub(chunk.len());
        self.wanted_bytes = 0;
        if chunk.is_empty()
            && self.end.is_none()
            && let Some(rest) = bytes.get(used..)
            && let Some(head) = guard::head(rest, packet_bytes_max)?
        {
            if self.client.is_none() && head.kind != Kind::Connect {
                return Err(Fault::protocol("the first packet is not CONNECT"));
            }
            self.wanted_bytes = head.total_bytes;
        }
        Ok(used)
    }

    fn packet(&mut self, packet: Packet, now: Now) -> Result<(), Fault> {
        if let Some(client) = &mut self.client {
            client.packet_at_us = now.mono_us;
        }
        match packet {
            Packet::Publish(publish) => return self.publish(publish, now),
            Packet::PubAck(id) => {
                if let Some(client) = &mut self.client {
                    client.sent.remove(&id);
                }
            }
            Packet::PubRel(id) => self.release(id),
            Packet::Subscribe(subscribe) => self.subscribe(subscribe, now)?,
            Packet::Unsubscribe { id, filters } => self.unsubscribe(id, filters),
            Packet::PingReq => self.output.put(&[0xd0, 0]),
            Packet::Disconnect { reason, expiry_s } => return self.disconnected(reason, expiry_s),
            Packet::Connect(_) => return Err(Fault::protocol("a second CONNECT")),
            Packet::PubRecOrComp => {
                return Err(Fault::protocol("an answer to a QoS 2 message that was never sent"));
            }
        }
        Ok(())
    }

    /// The client says goodbye.
    fn disconnected(&mut self, reason: u8, expiry_s: Option<u32>) -> Result<(), Fault> {
        self.flush_group();
        let expiry_s_max = self.broker.limits.mqtt_session_expiry_s_max;
        if let Some(client) = &mut self.client {
            if let Some(wanted_s) = expiry_s {
                if client.expiry_s == 0 && wanted_s > 0 {
                    return Err(Fault::protocol(
                        "DISCONNECT asks to keep a session that CONNECT did not",
                    ));
                }
                client.expiry_s = wanted_s.min(expiry_s_max);
            }
            if reason == reason::SUCCESS {
                client.will = None;
            }
        }
        self.end = Some(End::Finished);
        Ok(())
    }

    /// Ends the session with a reason that a 5.0 client is told.
    fn finish(&mut self, reason: u8, end: End) {
        if self.end.is_some() {
            return;
        }
        let why = match &end {
            End::Finished => "",
            End::Peer(why) | End::Broker(why) => why,
        };
        if let Some(client) = &self.client {
            let fits = client.packet_bytes_max > why.len().saturating_add(16);
            let why = if fits { why } else { "" };
            self.output.put_with(|out| client.codec.disconnect(out, reason, why));
        }
        let metrics = self.broker.metrics();
        metrics.add(&metrics.disconnects, reason::name(reason), 1);
        self.end = Some(end);
    }

    fn fault(&mut self, fault: Fault) {
        self.flush_group();
        self.finish(fault.reason, End::Peer(fault.why.to_owned()));
    }

    fn timers(&mut self, now: Now) {
        let readable = self.wants_input() && !self.broker.log.congested();
        match &mut self.client {
            None if now.mono_us >= self.handshake_us && self.end.is_none() => {
                let metrics = self.broker.metrics();
                metrics.add(&metrics.connects_refused, "handshake_timeout", 1);
                self.end = Some(End::Peer("no CONNECT in time".to_owned()));
            }
            Some(client) => {
                if !readable {
                    // We are not listening: its silence says nothing.
                    client.packet_at_us = now.mono_us;
                }
                if let Some(keep_alive_us) = client.keep_alive_us
                    && now.mono_us >= client.packet_at_us.saturating_add(keep_alive_us)
                {
                    self.finish(reason::KEEP_ALIVE, End::Peer("keep-alive time is over".to_owned()));
                }
            }
            None => {}
        }
    }
}

impl Session for MqttSession {
    fn input(&mut self, bytes: &[u8], now: Now) -> usize {
        if self.outbox.as_ref().is_some_and(|o| o.ending().is_some()) {
            self.poll(now);
        }
        if !self.wants_input() {
            return 0;
        }
        let used = match self.packets(bytes, now) {
            Ok(used) => used,
            Err(fault) => {
                self.fault(fault);
                bytes.len()
            }
        };
        self.flush_group();
        self.settle(now);
        if self.end.is_none() {
            // A PUBACK made room within Receive Maximum, and nothing else would call us for what waited for it.
            self.deliver(now);
        }
        used
    }

    fn frame_bytes_wanted(&self) -> usize {
        self.wanted_bytes
    }

    fn poll(&mut self, now: Now) {
        if self.end.is_some() {
            return;
        }
        self.settle(now);
        match self.outbox.as_ref().and_then(|o| o.ending()) {
            Some(Ending::TakenOver) => {
                let why = "another connection has its client id".to_owned();
                self.finish(reason::TAKEN_OVER, End::Peer(why));
            }
            Some(Ending::TooSlow) => {
                let why = "it reads more slowly than its subscriptions bring".to_owned();
                self.finish(reason::QUOTA, End::Peer(why));
            }
            None => self.deliver(now),
        }
        self.timers(now);
        if self.stopping && self.pending.is_empty() {
            self.finish(reason::SHUTTING_DOWN, End::Finished);
        }
    }

    fn output(&mut self) -> &mut Output {
        if self.output.len() >= OUTPUT_BYTES_MAX {
            self.output_full = true;
        } else if self.output_full && self.output.len() <= OUTPUT_BYTES_MAX / 2 {
            self.output_full = false;
            self.waker.wake_by_ref();
        }
        &mut self.output
    }

    fn wants_input(&self) -> bool {
        // 3.1.1 has no Receive Maximum to tell, and not every 5.0 client listens to it: what is beyond it waits in the socket.
        // Messages whose PUBREC is out do not count here, because their PUBREL is behind them in the same socket.
        let inflight_max = usize::from(self.broker.limits.mqtt_inflight);
        self.end.is_none()
            && !self.stopping
            && self.output.len() < OUTPUT_BYTES_MAX
            && self.pending_bytes < PENDING_BYTES_MAX
            && self.pending_messages < PENDING_MESSAGES_MAX
            && self.pending.len() < PENDING_MAX
            && self.pending_acks < inflight_max
    }

    fn deadline_us(&self) -> Option<u64> {
        if self.end.is_some() {
            return None;
        }
        match &self.client {
            None => Some(self.handshake_us),
            Some(client) => Some(client.packet_at_us.saturating_add(client.keep_alive_us?)),
        }
    }

    fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    fn stop(&mut self, now: Now) {
        self.stopping = true;
        self.poll(now);
    }

    fn gone(&mut self, now: Now) {
        let Some(mut client) = self.client.take() else { return };
        if let Some((topic, record)) = client.will.take() {
            self.broker.publish_will(topic, record);
        }
        let filters = client.subscriptions.keys();
        self.broker
            .close(client.number, &client.id, client.expiry_s, filters, now);
    }
}
