//! MQTT packets as the session sees them: what `codec` decodes to, free of any codec's types. Numbers are MQTT 5.0's reason
//! codes (section 2.4); 3.1.1's few return codes are made from them where they are written.

use bytes::Bytes;

/// Protocol of a connection, decided by the level in CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// MQTT 3.1.1 (level 4).
    V311,
    /// MQTT 5.0 (level 5).
    V5,
}

/// Reason codes that this broker sends.
pub(super) mod reason {
    pub(crate) const SUCCESS: u8 = 0x00;
    pub(crate) const NO_SUBSCRIPTION: u8 = 0x11;
    pub(crate) const UNSPECIFIED: u8 = 0x80;
    pub(crate) const MALFORMED: u8 = 0x81;
    pub(crate) const PROTOCOL: u8 = 0x82;
    pub(crate) const UNSUPPORTED_VERSION: u8 = 0x84;
    pub(crate) const CLIENT_ID: u8 = 0x85;
    pub(crate) const NOT_AUTHORIZED: u8 = 0x87;
    pub(crate) const UNAVAILABLE: u8 = 0x88;
    pub(crate) const SHUTTING_DOWN: u8 = 0x8B;
    pub(crate) const AUTH_METHOD: u8 = 0x8C;
    pub(crate) const KEEP_ALIVE: u8 = 0x8D;
    pub(crate) const TAKEN_OVER: u8 = 0x8E;
    pub(crate) const FILTER: u8 = 0x8F;
    pub(crate) const TOPIC: u8 = 0x90;
    pub(crate) const ID_NOT_FOUND: u8 = 0x92;
    pub(crate) const RECEIVE_MAXIMUM: u8 = 0x93;
    pub(crate) const ALIAS: u8 = 0x94;
    pub(crate) const TOO_LARGE: u8 = 0x95;
    pub(crate) const QUOTA: u8 = 0x97;
    pub(crate) const SHARED: u8 = 0x9E;

    /// A name for labels and logs.
    pub(crate) fn name(reason: u8) -> &'static str {
        match reason {
            MALFORMED => "malformed",
            PROTOCOL => "protocol",
            UNSUPPORTED_VERSION => "version",
            CLIENT_ID => "client_id",
            NOT_AUTHORIZED => "not_authorized",
            UNAVAILABLE => "unavailable",
            SHUTTING_DOWN => "stopping",
            AUTH_METHOD => "auth_method",
            KEEP_ALIVE => "keep_alive",
            TAKEN_OVER => "taken_over",
            FILTER => "filter",
            TOPIC => "topic",
            RECEIVE_MAXIMUM => "receive_maximum",
            ALIAS => "topic_alias",
            TOO_LARGE => "too_large",
            QUOTA => "quota",
            SHARED => "shared",
            _ => "other",
        }
    }
}

/// What a peer did wrong: the reason code to tell it and the words for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// MQTT 5 reason code.
    pub(super) reason: u8,
    /// In words.
    pub(super) why: &'static str,
}

impl Fault {
    pub(super) const fn malformed(why: &'static str) -> Self {
        Self {
            reason: reason::MALFORMED,
            why,
        }
    }

    pub(super) const fn protocol(why: &'static str) -> Self {
        Self {
            reason: reason::PROTOCOL,
            why,
        }
    }
}

/// A packet from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Packet {
    Connect(Box<Connect>),
    Publish(Publish),
    /// The client has a QoS 1 message of ours.
    PubAck(u16),
    /// Answers to QoS 2 messages, which we do not send.
    PubRecOrComp,
    PubRel(u16),
    Subscribe(Subscribe),
    Unsubscribe {
        id: u16,
        filters: Vec<String>,
    },
    PingReq,
    Disconnect {
        reason: u8,
        expiry_s: Option<u32>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Connect {
    pub(super) client_id: String,
    pub(super) clean_start: bool,
    pub(super) keep_alive_s: u16,
    /// `None`: absent, which means 0 (5.0) or is decided by `clean_start` (3.1.1).
    pub(super) expiry_s: Option<u32>,
    pub(super) receive_max: Option<u16>,
    pub(super) packet_bytes_max: Option<u32>,
    pub(super) auth_method: bool,
    pub(super) will: Option<Will>,
    pub(super) username: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Will {
    pub(super) topic: Bytes,
    pub(super) payload: Bytes,
    pub(super) qos: u8,
    pub(super) retain: bool,
    pub(super) properties: Properties,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Publish {
    pub(super) qos: u8,
    pub(super) retain: bool,
    /// 0 with QoS 0.
    pub(super) id: u16,
    pub(super) topic: Bytes,
    pub(super) payload: Bytes,
    pub(super) alias: Option<u16>,
    pub(super) properties: Option<Box<Properties>>,
}

/// Properties that go with a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Properties {
    pub(super) payload_is_text: bool,
    pub(super) expiry_s: Option<u32>,
    pub(super) content_type: Option<String>,
    pub(super) response_topic: Option<String>,
    pub(super) correlation: Option<Bytes>,
    pub(super) user: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subscribe {
    pub(super) id: u16,
    pub(super) subscription_id: Option<u32>,
    pub(super) filters: Vec<SubscribeFilter>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SubscribeFilter {
    pub(super) filter: String,
    pub(super) qos: u8,
    pub(super) no_local: bool,
    pub(super) retain_as_published: bool,
}

/// What CONNACK says.
#[derive(Clone, Debug, Default)]
pub(super) struct ConnAck<'a> {
    pub(super) reason: u8,
    pub(super) session_present: bool,
    /// Told only when something differs from what was asked for.
    pub(super) expiry_s: Option<u32>,
    pub(super) receive_max: u16,
    pub(super) packet_bytes_max: u32,
    pub(super) alias_max: u16,
    pub(super) assigned_client_id: Option<&'a str>,
    pub(super) why: Option<&'a str>,
}
