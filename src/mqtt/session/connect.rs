//! CONNECT: version, client id, user, will, limits; then CONNACK.
//!
//! Authentication is not there yet: a listener that allows anonymous clients accepts any user name and password, one that does
//! not refuses everybody.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::publish::message;
use super::{Client, Incoming, MqttSession, Stage};
use crate::model::{Code, End, Now, Record, Topic};
use crate::mqtt::broker::Opening;
use crate::mqtt::codec;
use crate::mqtt::guard::{self, Head};
use crate::mqtt::outbox::Outbox;
use crate::mqtt::packet::{ConnAck, Connect, Fault, Packet, Version, Will, reason};
use crate::route::Source;

/// Longest client id, bytes: it is part of keys in the log's tables.
const CLIENT_ID_BYTES_MAX: usize = 256;

/// An id that a connection before this one left.
const LEFT: Incoming = Incoming {
    stage: Stage::Stored,
    counted: false,
};

/// Topic aliases a client may set.
pub(super) const ALIAS_MAX: u16 = 8;

impl MqttSession {
    pub(super) fn connect(&mut self, frame: BytesMut, head: &Head, now: Now) -> Result<(), Fault> {
        let version = match guard::version(&frame, head) {
            Ok(version) => version,
            Err(level) => {
                self.refuse_version(level);
                return Ok(());
            }
        };
        let decoded =
            guard::walk(&frame, head, version).and_then(|shape| codec::of(version).decode(frame, head, shape));
        match decoded {
            Ok(Packet::Connect(connect)) => self.connected(version, *connect, now),
            Ok(_) => return Err(Fault::protocol("the first packet is not CONNECT")),
            Err(fault) => self.refuse(version, fault.reason, fault.why),
        }
        Ok(())
    }

    fn connected(&mut self, version: Version, connect: Connect, now: Now) {
        if let Err(fault) = self.check(version, &connect) {
            return self.refuse(version, fault.reason, fault.why);
        }
        let assigned = connect.client_id.is_empty();
        let client_id = if assigned {
            format!("headwater-{:016x}", self.seed)
        } else {
            connect.client_id.clone()
        };
        let user = connect.username.clone().unwrap_or_default();
        let will = match connect.will {
            Some(will) => match self.will(&will, &client_id, &user, now) {
                Ok(will) => Some(will),
                Err(_) => return self.refuse(version, reason::TOPIC, "a will that no topic can hold"),
            },
            None => None,
        };
        let expiry_s_max = self.broker.limits.mqtt_session_expiry_s_max;
        let asked_s = match version {
            Version::V5 => connect.expiry_s.unwrap_or(0),
            Version::V311 if connect.clean_start => 0,
            Version::V311 => u32::MAX,
        };
        let expiry_s = asked_s.min(expiry_s_max);
        let outbox = Outbox::new(self.waker.clone(), self.broker.limits.mqtt_outbound_bytes);
        let opening = Opening {
            client_id: &client_id,
            clean_start: connect.clean_start,
            expiry_s,
            outbox: &outbox,
            incarnation: self.seed,
        };
        let opened = match self.broker.open(&opening, now) {
            Ok(opened) => opened,
            Err(reason) => return self.refuse(version, reason, "no room for one more session"),
        };
        let metrics = self.broker.metrics();
        metrics.connects.inc();
        let keep_alive_us = u64::from(connect.keep_alive_s).saturating_mul(1_500_000);
        let inflight = self.broker.limits.mqtt_inflight;
        let codec = codec::of(version);
        let ack = ConnAck {
            reason: reason::SUCCESS,
            session_present: opened.session_present,
            expiry_s: (expiry_s != asked_s).then_some(expiry_s),
            receive_max: inflight,
            packet_bytes_max: u32::try_from(self.broker.limits.mqtt_packet_bytes).unwrap_or(u32::MAX),
            alias_max: ALIAS_MAX,
            assigned_client_id: assigned.then_some(client_id.as_str()),
            why: None,
        };
        self.output.put_with(|out| codec.connack(out, &ack));
        let no_local = opened.subscriptions.iter().any(|(_, s)| s.no_local);
        self.client = Some(Client {
            version,
            codec,
            id: client_id,
            user,
            number: opened.number,
            incarnation: opened.incarnation,
            expiry_s,
            keep_alive_us: (keep_alive_us > 0).then_some(keep_alive_us),
            packet_at_us: now.mono_us,
            receive_max: usize::from(connect.receive_max.unwrap_or(u16::MAX).min(inflight.max(1))),
            packet_bytes_max: connect
                .packet_bytes_max
                .and_then(|bytes| usize::try_from(bytes).ok())
                .unwrap_or(usize::MAX),
            will,
            aliases: Vec::new(),
            incoming: opened.incoming.into_iter().map(|id| (id, LEFT)).collect(),
            subscriptions: opened.subscriptions.into_iter().collect::<HashMap<_, _>>(),
            no_local,
            sent: HashSet::new(),
            sent_id: 0,
        });
        self.outbox = Some(Arc::clone(&outbox));
    }

    fn check(&self, version: Version, connect: &Connect) -> Result<(), Fault> {
        let fault = |reason, why| Err(Fault { reason, why });
        if self.stopping {
            return fault(reason::UNAVAILABLE, "the broker is stopping");
        }
        if connect.auth_method {
            return fault(reason::AUTH_METHOD, "authentication methods are not served");
        }
        if !self.allow_anonymous {
            return fault(reason::NOT_AUTHORIZED, "this listener allows no anonymous clients");
        }
        if connect.client_id.len() > CLIENT_ID_BYTES_MAX {
            return fault(reason::CLIENT_ID, "a client id longer than 256 bytes");
        }
        if version == Version::V311 && connect.client_id.is_empty() && !connect.clean_start {
            return fault(reason::CLIENT_ID, "a session to keep without a client id");
        }
        Ok(())
    }

    /// The record that is written if the client goes without a goodbye.
    fn will(&self, will: &Will, client_id: &str, user: &str, now: Now) -> Result<(Topic, Record), Code> {
        let name = Bytes::copy_from_slice(&will.topic);
        let source = Source {
            name: &name,
            client: client_id,
            user,
        };
        let payload = Bytes::copy_from_slice(&will.payload);
        let message = message(payload, will.qos, will.retain, Some(&will.properties), None);
        self.broker.router.record(&source, message, now.wall_ms)
    }

    fn refuse(&mut self, version: Version, reason: u8, why: &'static str) {
        let ack = ConnAck {
            reason,
            why: Some(why),
            ..ConnAck::default()
        };
        // A malformed CONNECT of 3.1.1 is not answered (section 4.8).
        if version == Version::V5 || !matches!(reason, reason::MALFORMED | reason::PROTOCOL) {
            self.output.put_with(|out| codec::of(version).connack(out, &ack));
        }
        self.refused(reason, why);
    }

    fn refuse_version(&mut self, level: Option<u8>) {
        let version = match level {
            Some(0..=5) => Version::V311,
            Some(_) => Version::V5,
            None => return self.refused(reason::PROTOCOL, "not MQTT"),
        };
        self.refuse(
            version,
            reason::UNSUPPORTED_VERSION,
            "a protocol level that is not served",
        );
    }

    fn refused(&mut self, reason: u8, why: &'static str) {
        let metrics = self.broker.metrics();
        metrics.add(&metrics.connects_refused, reason::name(reason), 1);
        self.end = Some(End::Peer(format!("CONNECT from {} refused: {why}", self.peer.address)));
    }
}
