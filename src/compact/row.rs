//! What the table of devices holds, in the same commit as the records it speaks of. Numbers are little-endian.
//!
//! ```text
//! key "d" device   value  1, epoch u32, last u64, lost u64, refused u64, seen_ms i64
//! key "c" device   value  1, topic id 16 bytes, offset u64 for each partition      the next command to look at
//! ```

/// A device's sequence state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The life of its queue.
    pub epoch: u32,
    /// Last sequence of that epoch that is stored, settled or known as lost.
    pub last: u64,
    /// Records that the device lost, over all epochs.
    pub lost: u64,
    /// Records that were refused for good, over all epochs.
    pub refused: u64,
    /// When this row was written, milliseconds since 1970.
    pub seen_ms: i64,
}

/// Where a device's commands go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) topic_id: [u8; 16],
    /// By partition.
    pub(super) offsets: Vec<u64>,
}

/// Key of a device's row.
pub fn device_key(device: &str) -> Vec<u8> {
    [b"d", device.as_bytes()].concat()
}

/// Key of a device's cursor.
pub(super) fn cursor_key(device: &str) -> Vec<u8> {
    [b"c", device.as_bytes()].concat()
}

impl Row {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(37);
        out.push(1);
        out.extend_from_slice(&self.epoch.to_le_bytes());
        for number in [self.last, self.lost, self.refused] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.seen_ms.to_le_bytes());
        out
    }

    /// Reads a row; `None` when it is of no version that this one knows.
    pub fn decode(value: &[u8]) -> Option<Self> {
        let mut rest = value.strip_prefix(&[1])?;
        let row = Self {
            epoch: u32::from_le_bytes(take(&mut rest)?),
            last: u64::from_le_bytes(take(&mut rest)?),
            lost: u64::from_le_bytes(take(&mut rest)?),
            refused: u64::from_le_bytes(take(&mut rest)?),
            seen_ms: i64::from_le_bytes(take(&mut rest)?),
        };
        rest.is_empty().then_some(row)
    }

    /// The last sequence as far as this epoch goes.
    pub(super) fn last_of(&self, epoch: u32) -> u64 {
        if self.epoch == epoch { self.last } else { 0 }
    }
}

impl Cursor {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        out.extend_from_slice(&self.topic_id);
        for offset in &self.offsets {
            out.extend_from_slice(&offset.to_le_bytes());
        }
        out
    }

    pub(super) fn decode(value: &[u8]) -> Option<Self> {
        let mut rest = value.strip_prefix(&[1])?;
        let topic_id = take(&mut rest)?;
        let mut offsets = Vec::new();
        while !rest.is_empty() {
            offsets.push(u64::from_le_bytes(take(&mut rest)?));
        }
        Some(Self { topic_id, offsets })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, after) = rest.split_first_chunk::<N>()?;
    *rest = after;
    Some(*first)
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_written() {
        let row = Row {
            epoch: 7,
            last: u64::MAX,
            lost: 3,
            refused: 2,
            seen_ms: -1,
        };
        assert_eq!(Row::decode(&row.encode()), Some(row));
        assert_eq!(Row::decode(&row.encode()[..36]), None);
        let cursor = Cursor {
            topic_id: [5; 16],
            offsets: vec![1 << 40, 0, u64::MAX],
        };
        assert_eq!(Cursor::decode(&cursor.encode()), Some(cursor.clone()));
        assert_eq!(Cursor::decode(&cursor.encode()[..40]), None);
    }
}
