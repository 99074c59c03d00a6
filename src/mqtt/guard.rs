//! What stands in front of the codec: a packet is walked once, within its bounds, before the codec sees it. The codec alone
//! would panic on packets that only servers send, takes reserved bits and trailing bytes, and reads past a property length.
//!
//! ```text
//! byte 1: packet type (4 bits) | flags (4 bits)
//! remaining length: 1 to 4 bytes, 7 bits each, low first, top bit: one more follows
//! variable header, payload: by type (MQTT 3.1.1 and 5.0, chapter 3)
//! ```
//! `head` works on the first bytes, so that a packet too large or of the wrong kind is refused before its body arrives.

use super::packet::{Fault, Version, reason};

/// Longest topic name a client may publish to, bytes: bounds what topic aliases hold.
pub(super) const TOPIC_BYTES_MAX: usize = 4096;

/// The kinds of packets that a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Connect,
    Publish,
    PubAck,
    PubRec,
    PubRel,
    PubComp,
    Subscribe,
    Unsubscribe,
    PingReq,
    Disconnect,
}

/// A fixed header that is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) flags: u8,
    /// Bytes of the fixed header.
    pub(super) header_bytes: usize,
    /// Bytes of the whole packet.
    pub(super) total_bytes: usize,
}

/// What the walk found that the codec does not give.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// Packet id; 0 without one.
    pub(super) id: u16,
    /// CONNECT: where user name and password begin in the packet, and the user name. The codec gets the packet without them,
    /// because it refuses passwords that are not UTF-8.
    pub(super) login_at: Option<usize>,
    pub(super) username: Option<String>,
    /// DISCONNECT: the reason, 0 when absent.
    pub(super) reason: u8,
    /// Nothing but a packet id (and a reason): the codec need not look.
    pub(super) bare: bool,
}

/// Checks the fixed header. `None`: more bytes are needed.
pub(super) fn head(bytes: &[u8], bytes_max: usize) -> Result<Option<Head>, Fault> {
    let Some(&first) = bytes.first() else {
        return Ok(None);
    };
    let (kind, flags) = kind(first)?;
    let mut remaining = 0usize;
    for (i, &byte) in bytes.iter().skip(1).take(4).enumerate() {
        let shift = u32::try_from(i).unwrap_or(0).saturating_mul(7);
        remaining |= usize::from(byte & 0x7f).wrapping_shl(shift);
        if byte & 0x80 == 0 {
            let header_bytes = i.saturating_add(2);
            let total_bytes = remaining.saturating_add(header_bytes);
            if total_bytes > bytes_max {
                return Err(Fault {
                    reason: reason::TOO_LARGE,
                    why: "a packet larger than the limit",
                });
            }
            return Ok(Some(Head {
                kind,
                flags,
                header_bytes,
                total_bytes,
            }));
        }
    }
    if bytes.len() > 4 {
        return Err(Fault::malformed("a remaining length of more than four bytes"));
    }
    Ok(None)
}

fn kind(first: u8) -> Result<(Kind, u8), Fault> {
    let flags = first & 0x0f;
    let (kind, wanted) = match first >> 4 {
        1 => (Kind::Connect, 0),
        3 => {
            if flags & 0b0110 == 0b0110 {
                return Err(Fault::malformed("PUBLISH with QoS 3"));
            }
            if flags & 0b1110 == 0b1000 {
                return Err(Fault::malformed("PUBLISH with QoS 0 and DUP"));
            }
            return Ok((Kind::Publish, flags));
        }
        4 => (Kind::PubAck, 0),
        5 => (Kind::PubRec, 0),
        6 => (Kind::PubRel, 2),
        7 => (Kind::PubComp, 0),
        8 => (Kind::Subscribe, 2),
        10 => (Kind::Unsubscribe, 2),
        12 => (Kind::PingReq, 0),
        14 => (Kind::Disconnect, 0),
        15 => return Err(Fault::protocol("AUTH without an authentication method")),
        0 => return Err(Fault::malformed("packet type 0")),
        _ => return Err(Fault::protocol("a packet that only a server sends")),
    };
    if flags != wanted {
        return Err(Fault::malformed("reserved flags of the fixed header"));
    }
    Ok((kind, flags))
}

/// The protocol that a CONNECT asks for. `Err(None)`: not MQTT at all, nothing to answer with. `Err(Some(level))`: a level
/// that is not served.
pub(super) fn version(packet: &[u8], head: &Head) -> Result<Version, Option<u8>> {
    let mut body = Reader::new(packet, head.header_bytes);
    let name = body.binary().map_err(|_| None)?;
    let level = body.u8().map_err(|_| None)?;
    match (name, level) {
        (b"MQTT", 4) => Ok(Version::V311),
        (b"MQTT", 5) => Ok(Version::V5),
        (b"MQTT", level) => Err(Some(level)),
        (b"MQIsdp", level) => Err(Some(level)),
        _ => Err(None),
    }
}

/// Walks a whole packet. Everything that the codec will read is there, in bounds and legal after this.
pub(super) fn walk(packet: &[u8], head: &Head, version: Version) -> Result<Shape, Fault> {
    let mut body = Reader::new(packet, head.header_bytes);
    let v5 = version == Version::V5;
    let mut shape = Shape::default();
    match head.kind {
        Kind::Connect => connect(&mut body, packet.len(), v5, &mut shape)?,
        Kind::Publish => {
            let topic = body.string()?;
            if topic.len() > TOPIC_BYTES_MAX {
                return Err(Fault {
                    reason: reason::TOPIC,
                    why: "a topic name longer than 4096 bytes",
                });
            }
            if topic.contains(['+', '#']) {
                return Err(Fault::malformed("a wildcard in a published topic"));
            }
            if head.flags & 0b0110 != 0 {
                shape.id = body.id()?;
            }
            let alias = if v5 {
                properties(&mut body, PUBLISH)? & bit(35) != 0
            } else {
                false
            };
            if topic.is_empty() && !alias {
                return Err(Fault::protocol("an empty topic name"));
            }
            // The rest is the payload.
            return Ok(shape);
        }
        Kind::PubAck | Kind::PubRec | Kind::PubRel | Kind::PubComp => {
            shape.id = body.id()?;
            shape.bare = true;
            if v5 && !body.rest.is_empty() {
                shape.reason = body.u8()?;
                if !body.rest.is_empty() {
                    properties(&mut body, ACK)?;
                }
            }
        }
        Kind::Subscribe => {
            shape.id = body.id()?;
            if v5 {
                properties(&mut body, SUBSCRIBE)?;
            }
            if body.rest.is_empty() {
                return Err(Fault::protocol("SUBSCRIBE without a filter"));
            }
            while !body.rest.is_empty() {
                let filter = body.string()?;
                let options = body.u8()?;
                if options & 0b11 == 0b11 || options & if v5 { 0xc0 } else { 0xfc } != 0 {
                    return Err(Fault::malformed("reserved bits of subscription options"));
                }
                if v5 && options & 0x30 == 0x30 {
                    return Err(Fault::protocol("retain handling 3"));
                }
                if v5 && options & 0x04 != 0 && filter.starts_with("$share/") {
                    return Err(Fault::protocol("no-local on a shared subscription"));
                }
            }
        }
        Kind::Unsubscribe => {
            shape.id = body.id()?;
            if v5 {
                properties(&mut body, UNSUBSCRIBE)?;
            }
            if body.rest.is_empty() {
                return Err(Fault::protocol("UNSUBSCRIBE without a filter"));
            }
            while !body.rest.is_empty() {
                body.string()?;
            }
        }
        Kind::PingReq => shape.bare = true,
        Kind::Disconnect => {
            shape.bare = true;
            if v5 && !body.rest.is_empty() {
                shape.reason = body.u8()?;
                if !body.rest.is_empty() {
                    let found = properties(&mut body, DISCONNECT)?;
                    if found & bit(28) != 0 {
                        // It is legal in the packet, but not from this side (MQTT 5.0, section 3.14.2.2.5).
                        return Err(Fault::protocol("a server reference from a client"));
                    }
                    shape.bare = found == 0;
                }
            }
        }
    }
    if !body.rest.is_empty() {
        return Err(Fault::malformed("bytes after the end of the packet"));
    }
    Ok(shape)
}

fn connect(body: &mut Reader<'_>, packet_bytes: usize, v5: bool, shape: &mut Shape) -> Result<(), Fault> {
    body.binary()?;
    body.u8()?;
    let flags = body.u8()?;
    let (will, will_qos) = (flags & 0x04 != 0, (flags >> 3) & 0b11);
    if flags & 1 != 0 {
        return Err(Fault::malformed("the reserved flag of CONNECT"));
    }
    if will_qos == 3 || (!will && flags & 0x38 != 0) {
        return Err(Fault::malformed("will flags of CONNECT"));
    }
    if !v5 && flags & 0xc0 == 0x40 {
        return Err(Fault::malformed("a password without a user name"));
    }
    body.u16()?;
    if v5 {
        let found = properties(body, CONNECT)?;
        if found & bit(22) != 0 && found & bit(21) == 0 {
            return Err(Fault::protocol("authentication data without a method"));
        }
    }
    body.string()?;
    if will {
        if v5 {
            properties(body, WILL)?;
        }
        let topic = body.string()?;
        if topic.is_empty() || topic.len() > TOPIC_BYTES_MAX || topic.contains(['+', '#']) {
            return Err(Fault {
                reason: reason::TOPIC,
                why: "a will topic that nothing can be published to",
            });
        }
        body.binary()?;
    }
    if flags & 0xc0 != 0 {
        shape.login_at = Some(packet_bytes.saturating_sub(body.rest.len()));
    }
    if flags & 0x80 != 0 {
        shape.username = Some(body.string()?.to_owned());
    }
    if flags & 0x40 != 0 {
        body.binary()?;
    }
    Ok(())
}

const fn bit(property: u8) -> u64 {
    1u64.wrapping_shl(property as u32)
}

// Which properties may be where (MQTT 5.0, table 2-4), as bits by identifier.
const CONNECT: u64 = bit(17) | bit(33) | bit(39) | bit(34) | bit(25) | bit(23) | bit(38) | bit(21) | bit(22);
const WILL: u64 = bit(24) | bit(1) | bit(2) | bit(3) | bit(8) | bit(9) | bit(38);
const PUBLISH: u64 = bit(1) | bit(2) | bit(35) | bit(8) | bit(9) | bit(38) | bit(3);
const ACK: u64 = bit(31) | bit(38);
const SUBSCRIBE: u64 = bit(11) | bit(38);
const UNSUBSCRIBE: u64 = bit(38);
const DISCONNECT: u64 = bit(17) | bit(31) | bit(38) | bit(28);

/// Walks the properties; returns which were there.
fn properties(body: &mut Reader<'_>, allowed: u64) -> Result<u64, Fault> {
    let bytes = body.varint()?;
    let mut list = Reader {
        rest: body.take(bytes)?,
    };
    let mut found = 0u64;
    while !list.rest.is_empty() {
        let property = list.u8()?;
        let here = if property < 64 { bit(property) } else { 0 };
        if here & allowed == 0 {
            return Err(Fault::malformed("a property that does not belong here"));
        }
        if found & here != 0 && property != 38 {
            return Err(Fault::protocol("a property given twice"));
        }
        found |= here;
        match property {
            1 | 23 | 25 => {
                if list.u8()? > 1 {
                    return Err(Fault::protocol("a property that must be 0 or 1"));
                }
            }
            2 | 17 | 24 => {
                list.u32()?;
            }
            39 => {
                if list.u32()? == 0 {
                    return Err(Fault::protocol("Maximum Packet Size of 0"));
                }
            }
            33 => {
                if list.u16()? == 0 {
                    return Err(Fault::protocol("Receive Maximum of 0"));
                }
            }
            34 => {
                list.u16()?;
            }
            35 => {
                if list.u16()? == 0 {
                    return Err(Fault {
                        reason: reason::ALIAS,
                        why: "Topic Alias of 0",
                    });
                }
            }
            11 => {
                if list.varint()? == 0 {
                    return Err(Fault::protocol("Subscription Identifier of 0"));
                }
            }
            8 => {
                let topic = list.string()?;
                if topic.is_empty() || topic.contains(['+', '#']) {
                    return Err(Fault::protocol("a response topic that nothing can be published to"));
                }
            }
            9 | 22 => {
                list.binary()?;
            }
            38 => {
                list.string()?;
                list.string()?;
            }
            _ => {
                list.string()?;
            }
        }
    }
    Ok(found)
}

/// Reads within bounds.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(packet: &'a [u8], skip: usize) -> Self {
        Self {
            rest: packet.get(skip..).unwrap_or_default(),
        }
    }

    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Fault> {
        let (head, rest) = self
            .rest
            .split_at_checked(bytes)
            .ok_or(Fault::malformed("a field runs past the end of the packet"))?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u8(&mut self) -> Result<u8, Fault> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Result<u16, Fault> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_be_bytes)
    }

    fn id(&mut self) -> Result<u16, Fault> {
        match self.u16()? {
            0 => Err(Fault::protocol("packet id 0")),
            id => Ok(id),
        }
    }

    fn binary(&mut self) -> Result<&'a [u8], Fault> {
        let bytes = self.u16()?;
        self.take(usize::from(bytes))
    }

    fn string(&mut self) -> Result<&'a str, Fault> {
        let text = std::str::from_utf8(self.binary()?).map_err(|_| Fault::malformed("text that is not UTF-8"))?;
        if text.contains('\0') {
            return Err(Fault::malformed("NUL in a text"));
        }
        Ok(text)
    }

    fn varint(&mut self) -> Result<usize, Fault> {
        let mut value = 0usize;
        for shift in [0u32, 7, 14, 21] {
            let byte = self.u8()?;
            value |= usize::from(byte & 0x7f).wrapping_shl(shift);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Fault::malformed("a variable length of more than four bytes"))
    }
}
