//! The reserved headers: what a record carries so that an MQTT subscriber gets the message back as it was sent.
//!
//! | header | value | there when |
//! |---|---|---|
//! | `mqtt.topic` | the MQTT topic | the key is not the MQTT topic |
//! | `mqtt.qos` | `0` or `2` | the publisher's QoS was not 1 |
//! | `mqtt.retain` | `1` | the retain flag was set |
//! | `content-type` | text | the property was |
//! | `mqtt.response-topic` | text | the property was |
//! | `mqtt.correlation` | bytes | the property was |
//! | `mqtt.expiry` | seconds as digits, counted from the record's timestamp | the property was |
//! | `mqtt.payload-format` | `1` | the payload was declared as UTF-8 |
//! | `mqtt.origin` | client id | the publisher asked not to get its own messages back |
//! | `mqtt.user.<name>` | text | a user property has a reserved name |
//! | any other | text | a user property, under its own name; or a route's header |

use std::borrow::Cow;

use bytes::Bytes;

use super::is_topic_name;
use crate::model::RecordHeader;

const TOPIC: &str = "mqtt.topic";
const QOS: &str = "mqtt.qos";
const RETAIN: &str = "mqtt.retain";
const CONTENT_TYPE: &str = "content-type";
const RESPONSE_TOPIC: &str = "mqtt.response-topic";
const CORRELATION: &str = "mqtt.correlation";
const EXPIRY: &str = "mqtt.expiry";
const PAYLOAD_FORMAT: &str = "mqtt.payload-format";
const ORIGIN: &str = "mqtt.origin";
const USER: &str = "mqtt.user.";

/// A message as its publisher sent it.
#[derive(Clone, Debug, Default)]
pub struct Message<'a> {
    /// The value of the record.
    pub payload: Bytes,
    /// 0, 1 or 2. A reading from the compact protocol has 1.
    pub qos: u8,
    /// The retain flag.
    pub retain: bool,
    /// Declared as UTF-8 text.
    pub payload_is_text: bool,
    /// Content type.
    pub content_type: Option<&'a str>,
    /// Response topic.
    pub response_topic: Option<&'a str>,
    /// Correlation data.
    pub correlation: Option<&'a [u8]>,
    /// Message expiry interval, s.
    pub expiry_s: Option<u32>,
    /// User properties, in order.
    pub user: &'a [(String, String)],
    /// The publisher, when it must not get its own message back.
    pub origin: Option<&'a str>,
}

impl Message<'_> {
    pub(super) fn write_headers(&self, name: &Bytes, key_is_name: bool, headers: &mut Vec<RecordHeader>) {
        let mut put = |name: Cow<'static, str>, value: Bytes| {
            headers.push(RecordHeader {
                name: name.into_owned(),
                value: Some(value),
            });
        };
        if !key_is_name {
            put(TOPIC.into(), name.clone());
        }
        match self.qos {
            0 => put(QOS.into(), Bytes::from_static(b"0")),
            1 => {}
            _ => put(QOS.into(), Bytes::from_static(b"2")),
        }
        if self.retain {
            put(RETAIN.into(), Bytes::from_static(b"1"));
        }
        if self.payload_is_text {
            put(PAYLOAD_FORMAT.into(), Bytes::from_static(b"1"));
        }
        if let Some(text) = self.response_topic {
            put(RESPONSE_TOPIC.into(), Bytes::copy_from_slice(text.as_bytes()));
        }
        if let Some(bytes) = self.correlation {
            put(CORRELATION.into(), Bytes::copy_from_slice(bytes));
        }
        if let Some(seconds) = self.expiry_s {
            put(EXPIRY.into(), Bytes::from(seconds.to_string()));
        }
        if let Some(client) = self.origin {
            put(ORIGIN.into(), Bytes::copy_from_slice(client.as_bytes()));
        }
        for (name, value) in self.user {
            let reserved = is_own_name(name) || name == CONTENT_TYPE;
            let name = if reserved {
                format!("{USER}{name}")
            } else {
                name.clone()
            };
            put(name.into(), Bytes::copy_from_slice(value.as_bytes()));
        }
        // The publisher's word wins over a route's.
        if let Some(text) = self.content_type {
            headers.retain(|h| h.name != CONTENT_TYPE);
            headers.push(RecordHeader {
                name: CONTENT_TYPE.to_owned(),
                value: Some(Bytes::copy_from_slice(text.as_bytes())),
            });
        }
    }
}

/// Names that only headwater writes.
pub(super) fn is_own_name(name: &str) -> bool {
    name.starts_with("mqtt.")
}

/// A record as an MQTT subscriber gets it. Borrowed from the record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outgoing<'a> {
    /// The MQTT topic.
    pub topic: &'a str,
    /// The publisher's QoS.
    pub qos: u8,
    /// The publisher set retain.
    pub retain: bool,
    /// Declared as UTF-8 text.
    pub payload_is_text: bool,
    /// Content type.
    pub content_type: Option<&'a str>,
    /// Response topic.
    pub response_topic: Option<&'a str>,
    /// Correlation data.
    pub correlation: Option<&'a [u8]>,
    /// Message expiry interval as it was sent, s.
    pub expiry_s: Option<u32>,
    /// User properties, in order.
    pub user: Vec<(&'a str, &'a str)>,
    /// The publisher, when it must not get its own message back.
    pub origin: Option<&'a str>,
}

/// The message that a record is: its topic from the header `mqtt.topic`, else from the key. `None` when neither is a name
/// that MQTT can publish to. Headers that MQTT cannot carry (not UTF-8, or with NUL) are left out.
pub fn outgoing<'a>(
    key: Option<&'a [u8]>,
    headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>,
) -> Option<Outgoing<'a>> {
    let mut message = Outgoing {
        qos: 1,
        ..Outgoing::default()
    };
    let mut topic = None;
    for (name, value) in headers {
        let value = value.unwrap_or_default();
        let text = std::str::from_utf8(value)
            .ok()
            .filter(|t| !t.contains('\0') && t.len() <= usize::from(u16::MAX));
        match name {
            TOPIC => topic = topic.or(text),
            QOS => message.qos = text.and_then(|t| t.parse().ok()).filter(|q| *q <= 2).unwrap_or(1),
            RETAIN => message.retain = text == Some("1"),
            PAYLOAD_FORMAT => message.payload_is_text = text == Some("1"),
            CONTENT_TYPE => message.content_type = text,
            RESPONSE_TOPIC => message.response_topic = text.filter(|t| is_topic_name(t)),
            CORRELATION => message.correlation = Some(value).filter(|v| v.len() <= usize::from(u16::MAX)),
            EXPIRY => message.expiry_s = text.and_then(|t| t.parse().ok()),
            ORIGIN => message.origin = text,
            _ => {
                let name = name.strip_prefix(USER).unwrap_or(name);
                if let Some(text) = text
                    && !name.contains('\0')
                    && name.len() <= usize::from(u16::MAX)
                {
                    message.user.push((name, text));
                }
            }
        }
    }
    let from_key = || key.and_then(|k| std::str::from_utf8(k).ok());
    message.topic = topic.or_else(from_key).filter(|t| is_topic_name(t))?;
    Some(message)
}
