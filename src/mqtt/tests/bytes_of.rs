//! Packets as a client writes them, by hand.

pub(super) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut left = body.len();
    loop {
        let low = (left & 0x7f) as u8;
        left >>= 7;
        out.push(if left > 0 { low | 0x80 } else { low });
        if left == 0 {
            break;
        }
    }
    out.extend(body);
    out
}

pub(super) fn text(text: &str) -> Vec<u8> {
    let mut out = (text.len() as u16).to_be_bytes().to_vec();
    out.extend(text.as_bytes());
    out
}

/// A list of properties with its length.
pub(super) fn properties(list: &[&[u8]]) -> Vec<u8> {
    let list = list.concat();
    assert!(list.len() < 128);
    [&[list.len() as u8], &list[..]].concat()
}

pub(super) fn property_text(id: u8, value: &str) -> Vec<u8> {
    [vec![id], text(value)].concat()
}

pub(super) fn user_property(name: &str, value: &str) -> Vec<u8> {
    [vec![38], text(name), text(value)].concat()
}

/// CONNECT 3.1.1.
pub(super) fn connect4(client_id: &str, clean: bool, keep_alive_s: u16) -> Vec<u8> {
    connect_raw(
        "MQTT",
        4,
        if clean { 2 } else { 0 },
        keep_alive_s,
        None,
        &[&text(client_id)],
    )
}

/// CONNECT 5.0.
pub(super) fn connect5(client_id: &str, clean: bool, list: &[&[u8]]) -> Vec<u8> {
    let flags = if clean { 2 } else { 0 };
    connect_raw("MQTT", 5, flags, 0, Some(list), &[&text(client_id)])
}

/// Session expiry interval.
pub(super) fn expiry(seconds: u32) -> Vec<u8> {
    [vec![17], seconds.to_be_bytes().to_vec()].concat()
}

pub(super) fn connect_raw(
    name: &str,
    level: u8,
    flags: u8,
    keep_alive_s: u16,
    list: Option<&[&[u8]]>,
    payload: &[&[u8]],
) -> Vec<u8> {
    let mut body = text(name);
    body.extend([level, flags]);
    body.extend(keep_alive_s.to_be_bytes());
    if let Some(list) = list {
        body.extend(properties(list));
    }
    body.extend(payload.concat());
    packet(0x10, &body)
}

/// PUBLISH 3.1.1.
pub(super) fn publish4(topic: &str, qos: u8, id: u16, payload: &str) -> Vec<u8> {
    let mut body = text(topic);
    if qos > 0 {
        body.extend(id.to_be_bytes());
    }
    body.extend(payload.as_bytes());
    packet(0x30 | (qos << 1), &body)
}

/// PUBLISH 5.0.
pub(super) fn publish5(topic: &str, qos: u8, id: u16, list: &[&[u8]], payload: &str) -> Vec<u8> {
    let mut body = text(topic);
    if qos > 0 {
        body.extend(id.to_be_bytes());
    }
    body.extend(properties(list));
    body.extend(payload.as_bytes());
    packet(0x30 | (qos << 1), &body)
}

pub(super) fn pubrel(id: u16) -> Vec<u8> {
    packet(0x62, &id.to_be_bytes())
}

pub(super) fn puback(id: u16) -> Vec<u8> {
    packet(0x40, &id.to_be_bytes())
}

pub(super) fn subscribe4(id: u16, filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    for (filter, qos) in filters {
        body.extend(text(filter));
        body.push(*qos);
    }
    packet(0x82, &body)
}

pub(super) fn subscribe5(id: u16, list: &[&[u8]], filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.extend(properties(list));
    for (filter, options) in filters {
        body.extend(text(filter));
        body.push(*options);
    }
    packet(0x82, &body)
}

pub(super) const PING: [u8; 2] = [0xc0, 0];
pub(super) const PONG: [u8; 2] = [0xd0, 0];
pub(super) const DISCONNECT: [u8; 2] = [0xe0, 0];

/// The reason of the DISCONNECT that ends these bytes.
pub(super) fn disconnect_reason(bytes: &[u8]) -> Option<u8> {
    let at = bytes.iter().rposition(|b| *b == 0xe0)?;
    bytes.get(at + 2).copied()
}
