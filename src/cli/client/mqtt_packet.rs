//! MQTT packets as a client writes and reads them, by hand: the broker's own codec must not check itself.
//! Sources: MQTT 3.1.1 chapters 2 and 3, MQTT 5 chapters 2 and 3.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

use super::mqtt::{Level, MqttOptions};

/// A packet from the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Packet {
    ConnAck { session_present: bool, code: u8 },
    PubAck { id: u16, code: u8 },
    PubRec { id: u16, code: u8 },
    PubComp { id: u16, code: u8 },
    Disconnect { code: u8 },
}

/// First byte of PUBREL.
pub(in crate::cli) const PUBREL: u8 = 0x62;
/// DISCONNECT, which has no body.
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

/// A packet that only carries an id, with success, which MQTT 5 lets out.
pub(in crate::cli) fn acknowledge(kind: u8, id: u16) -> Vec<u8> {
    framed(kind, &id.to_be_bytes())
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
pub(in crate::cli) fn decode(bytes: &[u8]) -> Result<Option<(Packet, usize)>, String> {
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
    let packet = body_of(*first, &mut Cursor(body)).ok_or_else(|| format!("a packet of kind {first:#x} ends early"))?;
    Ok(Some((
        packet.ok_or_else(|| format!("packet kind {first:#x} is not for a client"))?,
        from.saturating_add(length),
    )))
}

/// Outer `None`: it ends early; inner: not a kind that a client gets.
fn body_of(first: u8, body: &mut Cursor<'_>) -> Option<Option<Packet>> {
    Some(Some(match first >> 4 {
        2 => Packet::ConnAck {
            session_present: body.u8()? & 1 == 1,
            code: body.u8()?,
        },
        4 => Packet::PubAck {
            id: body.u16()?,
            code: body.u8().unwrap_or(0),
        },
        5 => Packet::PubRec {
            id: body.u16()?,
            code: body.u8().unwrap_or(0),
        },
        7 => Packet::PubComp {
            id: body.u16()?,
            code: body.u8().unwrap_or(0),
        },
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
}
