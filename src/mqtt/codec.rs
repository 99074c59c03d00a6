//! Bytes to packets and back, behind the private trait `Codec`. The decoders and the rarer encoders are those of
//! `rumqttd::protocol`, which only this file names; `guard::walk` has passed every packet before it comes here.
//!
//! Written by hand: acknowledgements and PUBLISH (the crate keeps packet ids to itself and would copy each payload once more),
//! and DISCONNECT (the crate's comes out with a wrong length).
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

use bytes::{BufMut, BytesMut};
use rumqttd::protocol as wire;
use rumqttd::protocol::Protocol as _;

use super::guard::{Head, Kind, Shape};
use super::packet::{
    ConnAck, Connect, Fault, Packet, Properties, Publish, Subscribe, SubscribeFilter, Version, Will, reason,
};

/// One protocol version's codec.
pub(super) trait Codec: Sync {
    /// A whole packet that the guard has passed.
    fn decode(&self, frame: BytesMut, head: &Head, shape: Shape) -> Result<Packet, Fault>;
    /// CONNACK.
    fn connack(&self, out: &mut BytesMut, ack: &ConnAck<'_>);
    /// SUBACK.
    fn suback(&self, out: &mut BytesMut, id: u16, codes: &[u8]);
    /// UNSUBACK.
    fn unsuback(&self, out: &mut BytesMut, id: u16, codes: &[u8]);
    /// PUBACK, PUBREC or PUBCOMP. 3.1.1 has no reason: a refusal is not written at all there.
    fn ack(&self, out: &mut BytesMut, ack: Ack, id: u16, reason: u8);
    /// Everything of a PUBLISH before its payload.
    fn publish(&self, out: &mut BytesMut, publish: &Delivery<'_>);
    /// Bytes that `publish` and the payload take.
    fn publish_bytes(&self, publish: &Delivery<'_>) -> usize;
    /// DISCONNECT; only 5.0 lets a server send one.
    fn disconnect(&self, out: &mut BytesMut, reason: u8, why: &str);
}

/// Which acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ack {
    Puback = 0x40,
    Pubrec = 0x50,
    Pubcomp = 0x70,
}

/// A message on its way to a subscriber.
#[derive(Clone, Debug)]
pub(super) struct Delivery<'a> {
    pub(super) topic: &'a str,
    pub(super) payload_bytes: usize,
    pub(super) qos: u8,
    pub(super) retain: bool,
    pub(super) id: u16,
    pub(super) properties: &'a Properties,
    /// What is left of the message's expiry.
    pub(super) expiry_s: Option<u32>,
    pub(super) subscription_ids: &'a [u32],
}

/// The codec of a version.
pub(super) fn of(version: Version) -> &'static dyn Codec {
    match version {
        Version::V311 => &Rumqtt(Version::V311),
        Version::V5 => &Rumqtt(Version::V5),
    }
}

struct Rumqtt(Version);

impl Codec for Rumqtt {
    fn decode(&self, mut frame: BytesMut, head: &Head, shape: Shape) -> Result<Packet, Fault> {
        if shape.bare {
            return Ok(bare(head.kind, &shape));
        }
        if let Some(at) = shape.login_at {
            frame = without_login(&frame, head, at);
        }
        let packet = match self.0 {
            Version::V311 => wire::v4::V4.read_mut(&mut frame, usize::MAX),
            Version::V5 => wire::v5::V5.read_mut(&mut frame, usize::MAX),
        };
        // The guard knows every rule that the codec knows; what still fails here is malformed in a way it did not foresee.
        let packet = packet.map_err(|_| Fault::malformed("a packet that does not decode"))?;
        Ok(match packet {
            wire::Packet::Publish(publish, properties) => publish_in(head, &shape, publish, properties),
            wire::Packet::Connect(connect, properties, will, will_properties, _) => {
                connect_in(connect, properties, will.zip(Some(will_properties)), shape.username)
            }
            wire::Packet::Subscribe(subscribe, properties) => Packet::Subscribe(Subscribe {
                id: shape.id,
                subscription_id: properties.and_then(|p| p.id).and_then(|id| u32::try_from(id).ok()),
                filters: subscribe.filters.into_iter().map(filter_in).collect(),
            }),
            wire::Packet::Unsubscribe(unsubscribe, _) => Packet::Unsubscribe {
                id: shape.id,
                filters: unsubscribe.filters,
            },
            wire::Packet::Disconnect(_, properties) => Packet::Disconnect {
                reason: shape.reason,
                expiry_s: properties.and_then(|p| p.session_expiry_interval),
            },
            _ => return Err(Fault::protocol("a packet that only a server sends")),
        })
    }

    fn connack(&self, out: &mut BytesMut, ack: &ConnAck<'_>) {
        let success = ack.reason == reason::SUCCESS;
        let properties = (self.0 == Version::V5).then(|| wire::ConnAckProperties {
            session_expiry_interval: ack.expiry_s,
            receive_max: success.then_some(ack.receive_max),
            max_packet_size: success.then_some(ack.packet_bytes_max),
            topic_alias_max: success.then_some(ack.alias_max),
            assigned_client_identifier: ack.assigned_client_id.map(str::to_owned),
            // Retained messages and shared subscriptions are not served yet, and a client may rely on what it is told.
            retain_available: success.then_some(0),
            shared_subscription_available: success.then_some(0),
            reason_string: ack.why.map(str::to_owned),
            ..wire::ConnAckProperties::default()
        });
        let packet = wire::Packet::ConnAck(
            wire::ConnAck {
                session_present: ack.session_present && success,
                code: connect_code(self.0, ack.reason),
            },
            properties,
        );
        self.write(packet, out);
    }

    fn suback(&self, out: &mut BytesMut, id: u16, codes: &[u8]) {
        let return_codes = codes.iter().map(|code| subscribe_code(self.0, *code)).collect();
        self.write(wire::Packet::SubAck(wire::SubAck { pkid: id, return_codes }, None), out);
    }

    fn unsuback(&self, out: &mut BytesMut, id: u16, codes: &[u8]) {
        let reasons = codes
            .iter()
            .map(|code| match *code {
                reason::SUCCESS => wire::UnsubAckReason::Success,
                reason::NO_SUBSCRIPTION => wire::UnsubAckReason::NoSubscriptionExisted,
                reason::FILTER => wire::UnsubAckReason::TopicFilterInvalid,
                _ => wire::UnsubAckReason::UnspecifiedError,
            })
            .collect();
        self.write(wire::Packet::UnsubAck(wire::UnsubAck { pkid: id, reasons }, None), out);
    }

    fn ack(&self, out: &mut BytesMut, ack: Ack, id: u16, reason: u8) {
        let [high, low] = id.to_be_bytes();
        if reason == reason::SUCCESS || self.0 == Version::V311 {
            out.put_slice(&[ack as u8, 2, high, low]);
        } else {
            out.put_slice(&[ack as u8, 3, high, low, reason]);
        }
    }

    fn publish(&self, out: &mut BytesMut, publish: &Delivery<'_>) {
        let properties_bytes = self.properties_bytes(publish);
        let retain = u8::from(publish.retain);
        out.put_u8(0x30 | (publish.qos << 1) | retain);
        put_varint(out, self.body_bytes(publish, properties_bytes));
        put_text(out, publish.topic.as_bytes());
        if publish.qos > 0 {
            out.put_u16(publish.id);
        }
        if self.0 == Version::V311 {
            return;
        }
        put_varint(out, properties_bytes);
        if publish.properties.payload_is_text {
            out.put_slice(&[1, 1]);
        }
        if let Some(seconds) = publish.expiry_s {
            out.put_u8(2);
            out.put_u32(seconds);
        }
        if let Some(text) = &publish.properties.content_type {
            out.put_u8(3);
            put_text(out, text.as_bytes());
        }
        if let Some(text) = &publish.properties.response_topic {
            out.put_u8(8);
            put_text(out, text.as_bytes());
        }
        if let Some(bytes) = &publish.properties.correlation {
            out.put_u8(9);
            put_text(out, bytes);
        }
        for id in publish.subscription_ids {
            out.put_u8(11);
            put_varint(out, usize::try_from(*id).unwrap_or(0));
        }
        for (name, value) in &publish.properties.user {
            out.put_u8(38);
            put_text(out, name.as_bytes());
            put_text(out, value.as_bytes());
        }
    }

    fn publish_bytes(&self, publish: &Delivery<'_>) -> usize {
        let body = self.body_bytes(publish, self.properties_bytes(publish));
        body.saturating_add(varint_bytes(body)).saturating_add(1)
    }

    fn disconnect(&self, out: &mut BytesMut, reason: u8, why: &str) {
        if self.0 == Version::V311 {
            return;
        }
        // A reason string is for people; more than this says no more.
        let why = why.as_bytes().get(..why.len().min(100)).unwrap_or_default();
        let why = if std::str::from_utf8(why).is_ok() { why } else { &[] };
        let properties = why.len().saturating_add(3);
        out.put_u8(0xe0);
        put_varint(out, properties.saturating_add(2));
        out.put_u8(reason);
        put_varint(out, properties);
        out.put_u8(31);
        put_text(out, why);
    }
}

impl Rumqtt {
    fn write(&self, packet: wire::Packet, out: &mut BytesMut) {
        let written = match self.0 {
            Version::V311 => wire::v4::V4.write(packet, out),
            Version::V5 => wire::v5::V5.write(packet, out),
        };
        debug_assert!(written.is_ok(), "an answer that does not encode: {written:?}");
    }

    fn properties_bytes(&self, publish: &Delivery<'_>) -> usize {
        if self.0 == Version::V311 {
            return 0;
        }
        let text = |bytes: usize| bytes.saturating_add(3);
        let p = publish.properties;
        let fixed = usize::from(p.payload_is_text)
            .saturating_mul(2)
            .saturating_add(publish.expiry_s.map_or(0, |_| 5))
            .saturating_add(p.content_type.as_ref().map_or(0, |t| text(t.len())))
            .saturating_add(p.response_topic.as_ref().map_or(0, |t| text(t.len())))
            .saturating_add(p.correlation.as_ref().map_or(0, |b| text(b.len())));
        let ids = publish
            .subscription_ids
            .iter()
            .map(|id| varint_bytes(usize::try_from(*id).unwrap_or(0)).saturating_add(1));
        let user = p
            .user
            .iter()
            .map(|(n, v)| text(n.len()).saturating_add(v.len()).saturating_add(2));
        ids.chain(user).fold(fixed, usize::saturating_add)
    }

    fn body_bytes(&self, publish: &Delivery<'_>, properties_bytes: usize) -> usize {
        let id = if publish.qos > 0 { 2 } else { 0 };
        let properties = match self.0 {
            Version::V311 => 0,
            Version::V5 => properties_bytes.saturating_add(varint_bytes(properties_bytes)),
        };
        [2, publish.topic.len(), id, properties, publish.payload_bytes]
            .into_iter()
            .fold(0, usize::saturating_add)
    }
}

fn bare(kind: Kind, shape: &Shape) -> Packet {
    match kind {
        Kind::PubAck => Packet::PubAck(shape.id),
        Kind::PubRel => Packet::PubRel(shape.id),
        Kind::PingReq => Packet::PingReq,
        Kind::Disconnect => Packet::Disconnect {
            reason: shape.reason,
            expiry_s: None,
        },
        _ => Packet::PubRecOrComp,
    }
}

fn publish_in(
    head: &Head,
    shape: &Shape,
    publish: wire::Publish,
    properties: Option<wire::PublishProperties>,
) -> Packet {
    let alias = properties.as_ref().and_then(|p| p.topic_alias);
    let properties = properties.map(|p| {
        Box::new(Properties {
            payload_is_text: p.payload_format_indicator == Some(1),
            expiry_s: p.message_expiry_interval,
            content_type: p.content_type,
            response_topic: p.response_topic,
            correlation: p.correlation_data,
            user: p.user_properties,
        })
    });
    Packet::Publish(Publish {
        qos: (head.flags >> 1) & 0b11,
        retain: publish.retain,
        id: shape.id,
        topic: publish.topic,
        payload: publish.payload,
        alias,
        properties,
    })
}

fn connect_in(
    connect: wire::Connect,
    properties: Option<wire::ConnectProperties>,
    will: Option<(wire::LastWill, Option<wire::LastWillProperties>)>,
    username: Option<String>,
) -> Packet {
    let will = will.map(|(will, properties)| Will {
        topic: will.topic,
        payload: will.message,
        qos: will.qos as u8,
        retain: will.retain,
        properties: properties.map_or_else(Properties::default, |p| Properties {
            payload_is_text: p.payload_format_indicator == Some(1),
            expiry_s: p.message_expiry_interval,
            content_type: p.content_type,
            response_topic: p.response_topic,
            correlation: p.correlation_data,
            user: p.user_properties,
        }),
    });
    let properties = properties.as_ref();
    Packet::Connect(Box::new(Connect {
        client_id: connect.client_id,
        clean_start: connect.clean_session,
        keep_alive_s: connect.keep_alive,
        expiry_s: properties.and_then(|p| p.session_expiry_interval),
        receive_max: properties.and_then(|p| p.receive_maximum),
        packet_bytes_max: properties.and_then(|p| p.max_packet_size),
        auth_method: properties.is_some_and(|p| p.authentication_method.is_some()),
        will,
        username,
    }))
}

fn filter_in(filter: wire::Filter) -> SubscribeFilter {
    SubscribeFilter {
        filter: filter.path,
        qos: filter.qos as u8,
        no_local: filter.nolocal,
        retain_as_published: filter.preserve_retain,
    }
}

/// The CONNECT again, with user name and password cut off and their flags cleared.
fn without_login(frame: &[u8], head: &Head, at: usize) -> BytesMut {
    let body = frame.get(head.header_bytes..at).unwrap_or_default();
    let mut cut = BytesMut::with_capacity(at.saturating_add(4));
    cut.put_u8(0x10);
    put_varint(&mut cut, body.len());
    let flags_at = cut.len().saturating_add(7);
    cut.put_slice(body);
    if let Some(flags) = cut.get_mut(flags_at) {
        *flags &= 0x3f;
    }
    cut
}

fn put_varint(out: &mut BytesMut, mut value: usize) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap_or(0);
        value >>= 7;
        if value == 0 {
            out.put_u8(low);
            return;
        }
        out.put_u8(low | 0x80);
    }
}

fn varint_bytes(value: usize) -> usize {
    match value {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        _ => 4,
    }
}

/// Writes a length and bytes; every caller's text came out of such a field or is shorter than one can be.
fn put_text(out: &mut BytesMut, text: &[u8]) {
    let bytes = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.put_u16(bytes);
    out.put_slice(text.get(..usize::from(bytes)).unwrap_or_default());
}

/// 3.1.1 has five refusals; what it cannot say becomes the nearest (section 3.2.2.3).
fn connect_code(version: Version, code: u8) -> wire::ConnectReturnCode {
    use wire::ConnectReturnCode as C;
    match (version, code) {
        (_, reason::SUCCESS) => C::Success,
        (Version::V311, reason::UNSUPPORTED_VERSION) => C::RefusedProtocolVersion,
        (Version::V311, reason::CLIENT_ID) => C::ClientIdentifierNotValid,
        (Version::V311, reason::NOT_AUTHORIZED | reason::AUTH_METHOD) => C::NotAuthorized,
        (Version::V311, _) => C::ServiceUnavailable,
        (_, reason::MALFORMED) => C::MalformedPacket,
        (_, reason::PROTOCOL) => C::ProtocolError,
        (_, reason::UNSUPPORTED_VERSION) => C::UnsupportedProtocolVersion,
        (_, reason::CLIENT_ID) => C::ClientIdentifierNotValid,
        (_, reason::NOT_AUTHORIZED) => C::NotAuthorized,
        (_, reason::UNAVAILABLE) => C::ServerUnavailable,
        (_, reason::AUTH_METHOD) => C::BadAuthenticationMethod,
        (_, reason::TOPIC) => C::TopicNameInvalid,
        (_, reason::TOO_LARGE) => C::PacketTooLarge,
        (_, reason::QUOTA) => C::QuotaExceeded,
        _ => C::UnspecifiedError,
    }
}

fn subscribe_code(version: Version, code: u8) -> wire::SubscribeReasonCode {
    use wire::SubscribeReasonCode as S;
    match (version, code) {
        (_, 0) => S::Success(wire::QoS::AtMostOnce),
        (_, 1) => S::Success(wire::QoS::AtLeastOnce),
        (Version::V311, _) => S::Failure,
        (_, reason::NOT_AUTHORIZED) => S::NotAuthorized,
        (_, reason::FILTER) => S::TopicFilterInvalid,
        (_, reason::QUOTA) => S::QuotaExceeded,
        (_, reason::SHARED) => S::SharedSubscriptionsNotSupported,
        _ => S::Unspecified,
    }
}
