//! Gathers a frame from a stream in one fixed buffer and opens it in place: for a device, whose stream may be a noisy line.

use crate::{Message, WireError, frame};

/// A receiver with room for `N` stuffed bytes. A longer or damaged frame is thrown away up to its 0x00 and counted.
#[derive(Debug)]
pub struct Receiver<const N: usize> {
    buf: [u8; N],
    len: usize,
    /// Bytes of the last message, which stands at the start of the buffer until the next byte comes.
    opened: usize,
    overflow: bool,
    bad: u32,
}

impl<const N: usize> Default for Receiver<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> Receiver<N> {
    /// An empty one.
    pub const fn new() -> Self {
        Self {
            buf: [0; N],
            len: 0,
            opened: 0,
            overflow: false,
            bad: 0,
        }
    }

    /// Takes bytes up to the end of a frame. Returns how many it used and, when they ended a frame, what that says; call it
    /// again with the rest.
    pub fn feed(&mut self, bytes: &[u8]) -> (usize, Option<Result<Message<'_>, WireError>>) {
        self.opened = 0;
        let Some(end) = bytes.iter().position(|b| *b == 0) else {
            self.gather(bytes);
            return (bytes.len(), None);
        };
        self.gather(bytes.get(..end).unwrap_or_default());
        let used = end.saturating_add(1);
        let (len, overflow) = (self.len, self.overflow);
        (self.len, self.overflow) = (0, false);
        if overflow {
            self.bad = self.bad.saturating_add(1);
            return (used, Some(Err(WireError::TooLarge(len))));
        }
        if len == 0 {
            return (used, None);
        }
        let stuffed = self.buf.get_mut(..len).unwrap_or_default();
        let result = frame::open_in_place(stuffed).and_then(|message| Ok((Message::decode(message)?, message.len())));
        match result {
            Ok((message, opened)) => {
                self.opened = opened;
                (used, Some(Ok(message)))
            }
            Err(error) => {
                self.bad = self.bad.saturating_add(1);
                (used, Some(Err(error)))
            }
        }
    }

    /// The last message again, as long as `feed` was not called after it.
    pub fn last(&self) -> Option<Message<'_>> {
        Message::decode(self.buf.get(..self.opened).unwrap_or_default()).ok()
    }

    /// Forgets a half-received frame: the transport is a new one.
    pub fn reset(&mut self) {
        (self.len, self.opened, self.overflow) = (0, 0, false);
    }

    /// Frames thrown away.
    pub fn bad(&self) -> u32 {
        self.bad
    }

    fn gather(&mut self, bytes: &[u8]) {
        let end = self.len.saturating_add(bytes.len());
        match self.buf.get_mut(self.len..end) {
            Some(place) => {
                place.copy_from_slice(bytes);
                self.len = end;
            }
            None => self.overflow = true,
        }
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_at_the_next_frame_after_damage_and_overflow() {
        let mut wire = [0u8; 32];
        let n = frame::encode(&Message::Ack(5), &mut wire).unwrap();
        let mut receiver = Receiver::<16>::new();
        assert!(matches!(receiver.feed(&[9, 9, 0]), (3, Some(Err(_)))));
        assert_eq!(receiver.feed(&[1; 40]), (40, None));
        assert!(matches!(receiver.feed(&[1, 0]), (2, Some(Err(WireError::TooLarge(_))))));
        assert_eq!(receiver.bad(), 2);
        assert_eq!(receiver.feed(&wire[..3]), (3, None));
        assert_eq!(receiver.feed(&wire[3..n]), (n - 3, Some(Ok(Message::Ack(5)))));
    }
}
