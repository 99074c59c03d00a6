//! Kafka's names for MQTT's: what a topic name may not hold becomes `_` and two hex digits for each byte of its UTF-8, and a
//! literal `_` is escaped only where two hex digits follow it, so that every name has one way back. A name is never a path:
//! nothing here or above it touches files.

use std::borrow::Cow;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Escapes a text that stands alone.
pub fn escape(text: &str) -> Cow<'_, str> {
    escape_before(text, "")
}

/// Escapes a text that `following` (already escaped) comes after: a `_` at its end counts what follows.
pub(super) fn escape_before<'a>(text: &'a str, following: &str) -> Cow<'a, str> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
    if text.bytes().all(legal) {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len().saturating_add(16));
    for (at, &byte) in bytes.iter().enumerate() {
        let keep = legal(byte) || (byte == b'_' && !hex_follows(bytes, at, following));
        if keep {
            out.push(char::from(byte));
        } else {
            push_escaped(&mut out, byte);
        }
    }
    Cow::Owned(out)
}

/// The text back, from what `escape` gave. `None` when the bytes are not UTF-8: then it never came from `escape`.
pub fn unescape(name: &str) -> Option<String> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'_'
            && let [high, low, tail @ ..] = after
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            out.push((high << 4) | low);
            rest = tail;
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

pub(super) fn push_escaped(out: &mut String, byte: u8) {
    out.push('_');
    for nibble in [byte >> 4, byte & 0x0f] {
        out.push(char::from(HEX.get(usize::from(nibble)).copied().unwrap_or(b'0')));
    }
}

/// Whether the two characters after `at` in the escaped name are hex digits. One that is itself escaped begins with `_`.
fn hex_follows(bytes: &[u8], at: usize, following: &str) -> bool {
    let mut after = bytes
        .iter()
        .skip(at)
        .skip(1)
        .chain(following.as_bytes())
        .take(2)
        .filter(|b| b.is_ascii_hexdigit());
    after.next().is_some() && after.next().is_some()
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok())
}
