//! The rows of `Table::MqttSessions` and `Table::MqttQos2`.
//!
//! ```text
//! MqttSessions  key: client id
//!               value: version 1 (1) | incarnation (8) | expiry s (4) | gone, ms since 1970, 0 while connected (8)
//!                      | count (2) | count times: options (1) | subscription id, 0 none (4) | length (2) | filter
//!               options: QoS (bits 0-1), no-local (2), retain-as-published (3)
//! MqttQos2      key: client id | 0x00 | incarnation (8) | packet id (2)
//!               value: version 1 (1)
//! ```
//! Integers are big-endian. A client id has no NUL, so the ids of one client stand together. The incarnation keeps what a
//! session that was discarded left in flight from being taken for the next one's.

use super::subscriptions::Subscription;

const VERSION: u8 = 1;

/// A stored session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) incarnation: u64,
    pub(super) expiry_s: u32,
    /// 0 while connected.
    pub(super) gone_ms: i64,
    pub(super) subscriptions: Vec<(String, Subscription)>,
}

impl Row {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend(self.incarnation.to_be_bytes());
        out.extend(self.expiry_s.to_be_bytes());
        out.extend(self.gone_ms.to_be_bytes());
        let count = u16::try_from(self.subscriptions.len()).unwrap_or(u16::MAX);
        out.extend(count.to_be_bytes());
        for (filter, s) in self.subscriptions.iter().take(usize::from(count)) {
            out.push(s.qos | (u8::from(s.no_local) << 2) | (u8::from(s.retain_as_published) << 3));
            out.extend(s.id.unwrap_or(0).to_be_bytes());
            out.extend(u16::try_from(filter.len()).unwrap_or(u16::MAX).to_be_bytes());
            out.extend(filter.as_bytes());
        }
        out
    }

    /// `None` when it is not such a row.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        if take::<1>(&mut rest)? != [VERSION] {
            return None;
        }
        let mut row = Self {
            incarnation: u64::from_be_bytes(take(&mut rest)?),
            expiry_s: u32::from_be_bytes(take(&mut rest)?),
            gone_ms: i64::from_be_bytes(take(&mut rest)?),
            subscriptions: Vec::new(),
        };
        for _ in 0..u16::from_be_bytes(take(&mut rest)?) {
            let [options] = take(&mut rest)?;
            let id = u32::from_be_bytes(take(&mut rest)?);
            let bytes = usize::from(u16::from_be_bytes(take(&mut rest)?));
            let (filter, after) = rest.split_at_checked(bytes)?;
            rest = after;
            let subscription = Subscription {
                qos: options & 0b11,
                no_local: options & 0b100 != 0,
                retain_as_published: options & 0b1000 != 0,
                id: (id != 0).then_some(id),
            };
            row.subscriptions
                .push((std::str::from_utf8(filter).ok()?.to_owned(), subscription));
        }
        rest.is_empty().then_some(row)
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

/// What the keys of all incoming QoS 2 ids of a client begin with.
pub(super) fn qos2_client_prefix(client_id: &str) -> Vec<u8> {
    let mut key = client_id.as_bytes().to_vec();
    key.push(0);
    key
}

/// What those of one incarnation begin with.
pub(super) fn qos2_prefix(client_id: &str, incarnation: u64) -> Vec<u8> {
    let mut key = qos2_client_prefix(client_id);
    key.extend(incarnation.to_be_bytes());
    key
}

/// The key of an incoming QoS 2 id.
pub(super) fn qos2_key(client_id: &str, incarnation: u64, id: u16) -> Vec<u8> {
    let mut key = qos2_prefix(client_id, incarnation);
    key.extend(id.to_be_bytes());
    key
}

/// Its value.
pub(super) fn qos2_value() -> Vec<u8> {
    vec![VERSION]
}

/// The packet id in a key.
pub(super) fn qos2_id(key: &[u8]) -> Option<u16> {
    key.last_chunk::<2>().map(|id| u16::from_be_bytes(*id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_back() {
        let row = Row {
            incarnation: 77,
            expiry_s: 3600,
            gone_ms: 5,
            subscriptions: vec![(
                "a/+/é".to_owned(),
                Subscription {
                    qos: 1,
                    no_local: true,
                    retain_as_published: true,
                    id: Some(9),
                },
            )],
        };
        let bytes = row.encode();
        assert_eq!(Row::decode(&bytes), Some(row));
        assert_eq!(Row::decode(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Row::decode(&[]), None);
    }

    #[test]
    fn a_qos2_key_holds_its_id() {
        let key = qos2_key("c", 1, 0x1234);
        assert!(key.starts_with(&qos2_prefix("c", 1)));
        assert_eq!(qos2_id(&key), Some(0x1234));
    }
}
