//! MQTT packets as a client writes and reads them, by hand: the broker's own codec must not check itself.
//! Sources: MQTT 3.1.1 chapters 2 and 3, MQTT 5 chapters 2 and 3.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

use super::mqtt::{Level, Message, MqttOptions};

/// A packet from the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Packet {
    ConnAck { session_present: bool, code: u8 },
    Publish { message: Message, id: Option<u16> },
    PubAck { id: u16, code: u8 },
    PubRec { id: u16, code: u8 },
    PubRel { id: u16 },
    PubComp { id: u16, code: u8 },
    SubAck { id: u16, codes: Vec<u8> },
    PingResp,
    Disconnect { code: u8 },
}

/// The packet kinds that only carry an id.
pub(in crate::cli) const PUBACK: u8 = 0x40;
pub(in crate::cli) const PUBREC: u8 = 0x50;
pub(in crate::cli) const PUBREL: u8 = 0x62;
pub(in crate::cli) const PUBCOMP: u8 = 0x70;
/// Fixed headers of packets without a body.
pub(in crate::cli) const PINGREQ: [u8; 2] = [0xc0, 0];
pub(in crate::cli) const DISCONNECT: [u8; 2] = [0xe0, 0];

/// CONNECT.
pub(in crate::cli) fn connect(options: &MqttOptions, clean_start: bool) -> Vec<u8> {
    let mut body = Vec::new();
    put_text(&mut body, "MQTT");
    body.push(match options.level {
        Level::V311 => 4,
        Level::V5 => 5,
    });
    body.push(if clean_start { 0x02 } else { 0 });
    body.extend(options.keep_alive_s.to_be_bytes());
    if options.level == Level::V5 {
        const SESSION_EXPIRY: u8 = 0x11;
        body.push(5);
        body.push(SESSION_EXPIRY);
        body.extend(options.session_expiry_s.to_be_bytes());
    }
    put_text(&mut body, &options.client_id);
    framed(0x10, &body)
}

/// PUBLISH. A QoS above 0 has an id.
pub(in crate::cli) fn publish(level: Level, topic: &str, payload: &[u8], qos: u8, id: u16, dup: bool) -> Vec<u8> {
    let mut body = Vec::with_capacity(payload.len().saturating_add(topic.len()).saturating_add(8));
    put_text(&mut body, topic);
    if qos > 0 {
        body.extend(id.to_be_bytes());
    }
    if level == Level::V5 {
        body.push(0);
    }
    body.extend(payload);
    framed(0x30 | (qos << 1) | if dup { 0x08 } else { 0 }, &body)
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP with success, which MQTT 5 lets out.
pub(in crate::cli) fn acknowledge(kind: u8, id: u16) -> Vec<u8> {
    framed(kind, &id.to_be_bytes())
}

/// SUBSCRIBE to one filter.
pub(in crate::cli) fn subscribe(level: Level, id: u16, filter: &str, qos: u8) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if level == Level::V5 {
        body.push(0);
    }
    put_text(&mut body, filter);
    body.push(qos);
    framed(0x82, &body)
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    out.extend(length.to_be_bytes());
    out.extend(text.as_bytes().iter().take(usize::from(length)));
}

fn framed(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut rest = body.len();
    loop {
        let low = (rest & 0x7f) as u8;
        rest >>= 7;
        out.push(if rest > 0 { low | 0x80 } else { low });
        if rest == 0 {
            break;
        }
    }
    out.extend(body);
    out
}

/// The first packet in `bytes` and how many it takes; `None` while it is not all there.
pub(in crate::cli) fn decode(level: Level, bytes: &[u8]) -> Result<Option<(Packet, usize)>, String> {
    let Some((first, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let Some((length, length_bytes)) = varint(rest)? else {
        return Ok(None);
    };
    let from = length_bytes.saturating_add(1);
    let Some(body) = bytes.get(from..).and_then(|rest| rest.get(..length)) else {
        return Ok(None);
    };
    let packet =
        body_of(level, *first, &mut Cursor(body)).ok_or_else(|| format!("a packet of kind {first:#x} ends early"))?;
    Ok(Some((
        packet.ok_or_else(|| format!("packet kind {first:#x} is not for a client"))?,
        from.saturating_add(length),
    )))
}

/// Outer `None`: it ends early; inner: not a kind that a client gets.
fn body_of(level: Level, first: u8, body: &mut Cursor<'_>) -> Option<Option<Packet>> {
    let v5 = level == Level::V5;
    Some(Some(match first >> 4 {
        2 => Packet::ConnAck {
            session_present: body.u8()? & 1 == 1,
            code: body.u8()?,
        },
        3 => {
            let qos = (first >> 1) & 3;
            let topic = String::from_utf8_lossy(body.prefixed()?).into_owned();
            let id = if qos > 0 { Some(body.u16()?) } else { None };
            if v5 {
                body.skip_properties()?;
            }
            let message = Message {
                topic,
                payload: body.0.to_vec(),
                qos,
                dup: first & 0x08 != 0,
                retain: first & 1 != 0,
            };
            Packet::Publish { message, id }
        }
        4 => Packet::PubAck {
            id: body.u16()?,
            code: body.u8().unwrap_or(0),
        },
        5 => Packet::PubRec {
            id: body.u16()?,
            code: body.u8().unwrap_or(0),
        },
        6 => Packet::PubRel { id: body.u16()? },
        7 => Packet::PubComp {
            id: body.u16()?,
            code: body.u8().unwrap_or(0),
        },
        9 => {
            let id = body.u16()?;
            if v5 {
                body.skip_properties()?;
            }
            Packet::SubAck {
                id,
                codes: body.0.to_vec(),
            }
        }
        13 => Packet::PingResp,
        14 => Packet::Disconnect {
            code: body.u8().unwrap_or(0),
        },
        _ => return Some(None),
    }))
}

/// A variable byte integer and its length; `None` while it is not all there.
fn varint(bytes: &[u8]) -> Result<Option<(usize, usize)>, String> {
    let mut value = 0_usize;
    for (i, byte) in bytes.iter().take(4).enumerate() {
        let shift = u32::try_from(i).unwrap_or(0).saturating_mul(7);
        value |= usize::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Ok(Some((value, i.saturating_add(1))));
        }
    }
    if bytes.len() >= 4 {
        Err("a length of more than 4 bytes".to_owned())
    } else {
        Ok(None)
    }
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
    }

    fn prefixed(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    fn skip_properties(&mut self) -> Option<()> {
        let (length, used) = varint(self.0).ok().flatten()?;
        self.take(used)?;
        self.take(length).map(|_| ())
    }
}
