//! Frames: a message and its CRC, stuffed, ended by 0x00. Empty frames (0x00 after 0x00) mean nothing and are skipped; a sender
//! may put one first to flush a noisy line.

use crate::message::put;
use crate::{CRC_BYTES, Entries, Entry, Message, WireError, cobs, crc32};

/// One frame that arrived whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it says.
    pub message: Message<'a>,
}

/// Bytes that a frame of `decoded` bytes (message and CRC) takes on the wire at most, its 0x00 included.
pub const fn encoded_bytes_max(decoded: usize) -> usize {
    decoded.saturating_add(cobs::overhead(decoded)).saturating_add(1)
}

/// The first frame's stuffed bytes, without their 0x00, and how many bytes of `buf` it used; empty frames before it are used up
/// with it. `None` when no frame is whole.
pub fn split(buf: &[u8]) -> Option<(&[u8], usize)> {
    let start = buf.iter().position(|b| *b != 0)?;
    let rest = buf.get(start..)?;
    let len = rest.iter().position(|b| *b == 0)?;
    Some((rest.get(..len)?, start.saturating_add(len).saturating_add(1)))
}

/// Unstuffs a frame into `scratch`, checks its CRC and returns the message's bytes.
pub fn open<'a>(stuffed: &[u8], scratch: &'a mut [u8]) -> Result<&'a [u8], WireError> {
    let len = cobs::unstuff(stuffed, scratch)?;
    checked(scratch.get(..len).unwrap_or_default())
}

/// Unstuffs a frame in place, checks its CRC and returns the message's bytes.
pub(crate) fn open_in_place(stuffed: &mut [u8]) -> Result<&[u8], WireError> {
    let len = cobs::unstuff_in_place(stuffed)?;
    checked(stuffed.get(..len).unwrap_or_default())
}

fn checked(decoded: &[u8]) -> Result<&[u8], WireError> {
    let Some((message, sent)) = decoded.split_last_chunk::<CRC_BYTES>() else {
        return Err(WireError::Short(decoded.len()));
    };
    if message.is_empty() {
        return Err(WireError::Short(decoded.len()));
    }
    let (sent, computed) = (u32::from_le_bytes(*sent), crc32::checksum(message));
    if sent != computed {
        return Err(WireError::Crc { sent, computed });
    }
    Ok(message)
}

/// Reads the first frame of `buf`: `Ok(None)` when it is not whole yet. The frame borrows from `scratch`, whose size is the
/// limit on a frame. After an error the frame is used up all the same: `split` says how many bytes.
pub fn decode<'a>(buf: &[u8], scratch: &'a mut [u8]) -> Result<Option<(Frame<'a>, usize)>, WireError> {
    let Some((stuffed, used)) = split(buf) else {
        return Ok(None);
    };
    let message = Message::decode(open(stuffed, scratch)?)?;
    Ok(Some((Frame { message }, used)))
}

/// Writes one frame to the start of `buf` and returns how many bytes it is. `buf` needs what `encoded_bytes_max` says.
pub fn encode(message: &Message<'_>, buf: &mut [u8]) -> Result<usize, WireError> {
    let from = room_before(buf.len());
    let len = message.write(buf.get_mut(from..).ok_or(WireError::Buffer)?)?;
    finish(buf, from, len)
}

/// The message begins here, so that stuffing in place has room before it.
fn room_before(buf_bytes: usize) -> usize {
    cobs::overhead(buf_bytes)
}

fn finish(buf: &mut [u8], from: usize, len: usize) -> Result<usize, WireError> {
    let end = from.saturating_add(len);
    let message = buf.get(from..end).ok_or(WireError::Buffer)?;
    let crc = crc32::checksum(message).to_le_bytes();
    let crc_end = end.saturating_add(CRC_BYTES);
    buf.get_mut(end..crc_end)
        .ok_or(WireError::Buffer)?
        .copy_from_slice(&crc);
    let stuffed = cobs::stuff_in_place(buf, from, len.saturating_add(CRC_BYTES)).ok_or(WireError::Buffer)?;
    *buf.get_mut(stuffed).ok_or(WireError::Buffer)? = 0;
    Ok(stuffed.saturating_add(1))
}

/// Builds a PublishBatch in its final buffer, entry by entry, without a copy between.
#[derive(Debug)]
pub struct BatchWriter<'b> {
    buf: &'b mut [u8],
    from: usize,
    len: usize,
    decoded_bytes_max: usize,
    count: u32,
}

impl<'b> BatchWriter<'b> {
    /// Begins a batch whose first record has this sequence; `decoded_bytes_max` is the frame limit of HelloAck.
    pub fn new(buf: &'b mut [u8], sequence: u64, decoded_bytes_max: usize) -> Result<Self, WireError> {
        let from = room_before(buf.len());
        let message = buf.get_mut(from..).ok_or(WireError::Buffer)?;
        let head = Message::PublishBatch(crate::PublishBatch {
            sequence,
            // `check` wants an entry; it is overwritten by the first.
            entries: Entries(&[0]),
        })
        .write(message)?;
        Ok(Self {
            buf,
            from,
            len: head.saturating_sub(1),
            decoded_bytes_max,
            count: 0,
        })
    }

    /// Adds an entry, or returns `false` and adds nothing when it does not fit. An empty channel repeats the one before.
    pub fn push(&mut self, entry: &Entry<'_>) -> bool {
        // The CRC, and the 0x00 that ends the frame, still have to follow.
        let behind = CRC_BYTES.saturating_add(1);
        let start = self.from.saturating_add(self.len);
        let limit = self
            .from
            .saturating_add(self.decoded_bytes_max.saturating_sub(CRC_BYTES))
            .min(self.buf.len().saturating_sub(behind));
        let Some(room) = self.buf.get_mut(start..limit) else {
            return false;
        };
        match put(entry, room) {
            Ok(bytes) => {
                self.len = self.len.saturating_add(bytes);
                self.count = self.count.saturating_add(1);
                true
            }
            Err(_) => false,
        }
    }

    /// Entries so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Ends the frame and returns its bytes on the wire, from the start of the buffer. Must have an entry.
    pub fn finish(self) -> Result<usize, WireError> {
        if self.count == 0 {
            return Err(WireError::Limit("entries"));
        }
        finish(self.buf, self.from, self.len)
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;
    use crate::{Hello, Publish};

    #[test]
    fn a_message_comes_back_and_the_next_frame_begins_behind_it() {
        let hello = Message::Hello(Hello {
            version: 1,
            device: "pump-7",
            epoch: 9,
            next: 1,
            frame_bytes_max: 300,
            proof: Some([0; 32]),
        });
        let mut wire = [0u8; 200];
        let n = encode(&hello, &mut wire[..100]).unwrap();
        let m = encode(&Message::Ack(300), &mut wire[n..]).unwrap();
        let mut scratch = [0; 100];
        let (frame, used) = decode(&wire[..n + m], &mut scratch).unwrap().unwrap();
        assert_eq!((frame.message, used), (hello, n));
        let (frame, used) = decode(&wire[n..n + m], &mut scratch).unwrap().unwrap();
        assert_eq!((frame.message, used), (Message::Ack(300), m));
        assert_eq!(decode(&wire[n..n + m - 1], &mut scratch), Ok(None));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let publish = Message::Publish(Publish {
            sequence: 77,
            time: Some(-5),
            channel: "t",
            payload: &[0, 1, 0, 2],
        });
        let mut wire = [0u8; 64];
        let n = encode(&publish, &mut wire).unwrap();
        for at in 0..n - 1 {
            for bit in 0..8 {
                let mut bad = wire;
                bad[at] ^= 1 << bit;
                let mut scratch = [0; 64];
                match decode(&bad[..n], &mut scratch) {
                    Ok(Some((frame, _))) => panic!("byte {at} bit {bit}: {frame:?}"),
                    Ok(None) => panic!("the end is still there"),
                    Err(_) => {}
                }
            }
        }
    }

    #[test]
    fn a_batch_stops_at_the_limit_and_repeats_its_channel() {
        let mut wire = [0u8; 400];
        let mut batch = BatchWriter::new(&mut wire, 10, 100).unwrap();
        let first = Entry {
            time: None,
            channel: "a/b",
            payload: &[7; 20],
        };
        assert!(batch.push(&first));
        while batch.push(&Entry { channel: "", ..first }) {}
        let count = batch.count();
        assert_eq!(count, 3);
        let n = batch.finish().unwrap();
        let mut scratch = [0; 100];
        let (frame, _) = decode(&wire[..n], &mut scratch).unwrap().unwrap();
        let Message::PublishBatch(batch) = frame.message else {
            panic!("{frame:?}")
        };
        let entries: usize = batch.entries.into_iter().map(|e| assert_eq!(e, Ok(first))).count();
        assert_eq!((batch.sequence, entries), (10, 3));
    }

    #[test]
    fn another_version_is_named_before_its_fields_are_read() {
        let mut wire = [0u8; 64];
        let hello = Message::Hello(Hello {
            version: 2,
            device: "x",
            epoch: 1,
            next: 1,
            frame_bytes_max: 300,
            proof: None,
        });
        let n = encode(&hello, &mut wire).unwrap();
        assert_eq!(decode(&wire[..n], &mut [0; 64]), Err(WireError::Version(2)));
    }
}
