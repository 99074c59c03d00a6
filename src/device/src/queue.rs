//! Records that are not acknowledged yet, oldest first.
//!
//! ```text
//! RamQueue, one record:  channel bytes u8 | payload bytes u16 | has time u8 | time i64 | channel | payload
//! ```
//! A record never wraps: where it does not fit before the end of the buffer, a channel length of 0 (or too little room for a
//! header) sends the reader to the start.

const HEADER: usize = 12;

/// A record in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored<'a> {
    /// When it was taken, on the clock that the client is polled with; `None` when unknown.
    pub taken_ms: Option<i64>,
    /// What it is about.
    pub channel: &'a str,
    /// The value.
    pub payload: &'a [u8],
}

/// The queue has no room for the record, or the record no valid shape (an empty or too long channel or payload).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// What the client needs of a queue. Sequences are counted from 1 in each epoch, without a hole.
pub trait Queue {
    /// The sequence of the oldest record; `next` when there is none.
    fn first(&self) -> u64;

    /// The sequence that the next record gets.
    fn next(&self) -> u64;

    /// Adds a record and returns its sequence.
    fn push(&mut self, record: Stored<'_>) -> Result<u64, Full>;

    /// A record; mostly asked for in order.
    fn read(&mut self, sequence: u64) -> Option<Stored<'_>>;

    /// Everything up to and including this sequence may go.
    fn release(&mut self, last: u64);

    /// A new epoch begins: what is held is counted from 1 again.
    fn renumber(&mut self);
}

/// A queue of `N` bytes in RAM.
#[derive(Debug)]
pub struct RamQueue<const N: usize> {
    buf: [u8; N],
    /// Place of the oldest record, and the place behind the newest.
    head: usize,
    tail: usize,
    first: u64,
    next: u64,
    /// Place of one record, so that reading in order need not walk.
    seen: (u64, usize),
    dropped: u32,
}

impl<const N: usize> Default for RamQueue<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> RamQueue<N> {
    /// An empty queue.
    pub const fn new() -> Self {
        Self {
            buf: [0; N],
            head: 0,
            tail: 0,
            first: 1,
            next: 1,
            seen: (1, 0),
            dropped: 0,
        }
    }

    /// Adds a record, dropping the oldest ones until it fits. The broker learns of the hole.
    pub fn push_dropping(&mut self, record: Stored<'_>) -> Result<u64, Full> {
        loop {
            match self.push(record) {
                Err(Full) if self.first < self.next => {
                    self.dropped = self.dropped.saturating_add(1);
                    self.release(self.first);
                }
                result => return result,
            }
        }
    }

    /// Records dropped by `push_dropping`.
    pub fn dropped(&self) -> u32 {
        self.dropped
    }

    /// Where a record of `bytes` may be written.
    fn room(&self, bytes: usize) -> Option<usize> {
        if self.first == self.next {
            return (bytes <= N).then_some(0);
        }
        let after = self.tail.checked_add(bytes)?;
        if self.tail > self.head {
            // The records are in one piece: behind them, or before them.
            if after <= N {
                return Some(self.tail);
            }
            return (bytes <= self.head).then_some(0);
        }
        (after <= self.head).then_some(self.tail)
    }

    /// The place of the record at or after `at`, past a wrap.
    fn settle(&self, at: usize) -> usize {
        let wraps = at.saturating_add(HEADER) > N || self.buf.get(at).is_none_or(|channel| *channel == 0);
        if wraps { 0 } else { at }
    }

    fn bytes_at(&self, at: usize) -> Option<usize> {
        let channel = usize::from(*self.buf.get(at)?);
        let payload = self.buf.get(at.checked_add(1)?..at.checked_add(3)?)?;
        let payload = usize::from(u16::from_le_bytes(payload.try_into().ok()?));
        HEADER.checked_add(channel)?.checked_add(payload)
    }

    /// The place behind the record at `at`.
    fn after(&self, at: usize) -> usize {
        at.saturating_add(self.bytes_at(at).unwrap_or(0))
    }

    fn place(&mut self, sequence: u64) -> usize {
        let (mut number, mut at) = self.seen;
        if number < self.first || number > sequence || number >= self.next {
            (number, at) = (self.first, self.head);
        }
        at = self.settle(at);
        while number < sequence {
            at = self.settle(self.after(at));
            number = number.saturating_add(1);
        }
        self.seen = (number, at);
        at
    }

    fn write(&mut self, at: usize, record: Stored<'_>) -> Option<usize> {
        let channel = record.channel.as_bytes();
        let header = self.buf.get_mut(at..at.checked_add(HEADER)?)?;
        let (lengths, time) = header.split_at_mut_checked(4)?;
        let payload_bytes = u16::try_from(record.payload.len()).ok()?.to_le_bytes();
        let known = u8::from(record.taken_ms.is_some());
        lengths.copy_from_slice(&[
            u8::try_from(channel.len()).ok()?,
            *payload_bytes.first()?,
            *payload_bytes.last()?,
            known,
        ]);
        time.copy_from_slice(&record.taken_ms.unwrap_or(0).to_le_bytes());
        let channel_at = at.checked_add(HEADER)?;
        let payload_at = channel_at.checked_add(channel.len())?;
        let end = payload_at.checked_add(record.payload.len())?;
        self.buf.get_mut(channel_at..payload_at)?.copy_from_slice(channel);
        self.buf.get_mut(payload_at..end)?.copy_from_slice(record.payload);
        Some(end)
    }

    fn view(&self, at: usize) -> Option<Stored<'_>> {
        let channel_bytes = usize::from(*self.buf.get(at)?);
        let known = *self.buf.get(at.checked_add(3)?)? != 0;
        let time = self.buf.get(at.checked_add(4)?..at.checked_add(HEADER)?)?;
        let time = i64::from_le_bytes(time.try_into().ok()?);
        let channel_at = at.checked_add(HEADER)?;
        let payload_at = channel_at.checked_add(channel_bytes)?;
        let end = at.checked_add(self.bytes_at(at)?)?;
        Some(Stored {
            taken_ms: known.then_some(time),
            channel: core::str::from_utf8(self.buf.get(channel_at..payload_at)?).ok()?,
            payload: self.buf.get(payload_at..end)?,
        })
    }
}

impl<const N: usize> Queue for RamQueue<N> {
    fn first(&self) -> u64 {
        self.first
    }

    fn next(&self) -> u64 {
        self.next
    }

    fn push(&mut self, record: Stored<'_>) -> Result<u64, Full> {
        let fits =
            (1..=usize::from(u8::MAX)).contains(&record.channel.len()) && record.payload.len() <= usize::from(u16::MAX);
        let bytes = HEADER
            .saturating_add(record.channel.len())
            .saturating_add(record.payload.len());
        let at = self.room(bytes).filter(|_| fits).ok_or(Full)?;
        if self.first == self.next {
            (self.head, self.seen) = (at, (self.next, at));
        } else if at != self.tail
            && let Some(mark) = self.buf.get_mut(self.tail)
        {
            *mark = 0;
        }
        self.tail = self.write(at, record).ok_or(Full)?;
        let sequence = self.next;
        self.next = sequence.saturating_add(1);
        Ok(sequence)
    }

    fn read(&mut self, sequence: u64) -> Option<Stored<'_>> {
        if !(self.first..self.next).contains(&sequence) {
            return None;
        }
        let at = self.place(sequence);
        self.view(at)
    }

    fn release(&mut self, last: u64) {
        while self.first <= last && self.first < self.next {
            self.head = self.after(self.settle(self.head));
            self.first = self.first.saturating_add(1);
        }
        if self.first < self.next {
            self.head = self.settle(self.head);
        }
    }

    fn renumber(&mut self) {
        self.next = self.next.saturating_sub(self.first).saturating_add(1);
        self.first = 1;
        self.seen = (1, self.head);
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::VecDeque;
    use std::vec::Vec;

    #[test]
    fn a_small_ring_holds_what_a_list_would_hold() {
        let mut ring = RamQueue::<97>::new();
        let mut list: VecDeque<(u64, Vec<u8>)> = VecDeque::new();
        let mut state = 7u32;
        let mut random = move || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 16
        };
        for _ in 0..20_000 {
            if random() % 2 == 0 {
                let payload: Vec<u8> = (0..random() % 30).map(|_| random() as u8).collect();
                let record = Stored {
                    taken_ms: Some(i64::from(payload.len() as u32)),
                    channel: "c",
                    payload: &payload,
                };
                if let Ok(sequence) = ring.push(record) {
                    list.push_back((sequence, payload));
                }
            } else if random() % 2 == 0 && !list.is_empty() {
                let (sequence, _) = list.pop_front().unwrap();
                ring.release(sequence);
            }
            assert_eq!(ring.next() - ring.first(), list.len() as u64);
            if !list.is_empty() {
                let (sequence, payload) = &list[random() as usize % list.len()];
                let stored = ring.read(*sequence).unwrap();
                assert_eq!(
                    (stored.payload, stored.taken_ms),
                    (&payload[..], Some(payload.len() as i64))
                );
            }
        }
    }

    #[test]
    fn the_oldest_go_and_are_counted_when_the_caller_says_so() {
        let mut ring = RamQueue::<64>::new();
        let record = Stored {
            taken_ms: None,
            channel: "abcd",
            payload: &[1; 4],
        };
        while ring.push(record).is_ok() {}
        let (first, next) = (ring.first(), ring.next());
        assert_eq!(ring.push_dropping(record), Ok(next));
        assert_eq!((ring.first(), ring.dropped()), (first + 1, 1));
        let long = Stored {
            payload: &[0; 64],
            ..record
        };
        assert_eq!(ring.push_dropping(long), Err(Full));
    }
}
