//! Records in place: parsed one by one from the decompressed records section, borrowing keys, values and headers from it.

use super::{BatchError, Header, RecordFault};
use crate::model::Offset;

/// Bytes of the smallest record: seven one-byte fields.
const RECORD_BYTES_MIN: usize = 7;

/// A record in place.
#[derive(Clone, Debug)]
pub struct RecordView<'a> {
    /// Its offset.
    pub offset: Offset,
    /// Milliseconds since 1970-01-01 UTC: the producer's, or the append time where the batch says so.
    pub timestamp_ms: i64,
    /// Key; `None` is null.
    pub key: Option<&'a [u8]>,
    /// Value; `None` is null.
    pub value: Option<&'a [u8]>,
    /// Headers in order, duplicates kept.
    pub headers: Headers<'a>,
    /// Its attributes, which no version uses yet.
    pub(super) attributes: u8,
    /// Its bytes from the offset delta on.
    pub(super) rest: &'a [u8],
}

/// A header in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderView<'a> {
    /// Name.
    pub name: &'a str,
    /// Value; `None` is null.
    pub value: Option<&'a [u8]>,
}

/// The headers of a record, checked when the record was parsed.
#[derive(Clone, Debug)]
pub struct Headers<'a> {
    cursor: Cursor<'a>,
    left: u32,
}

impl<'a> Headers<'a> {
    /// How many are left.
    pub fn len(&self) -> usize {
        self.left as usize
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// The value of the last header named `name`, as Kafka's `lastHeader`.
    pub fn last(&self, name: &str) -> Option<HeaderView<'a>> {
        self.clone().filter(|h| h.name == name).last()
    }
}

impl<'a> Iterator for Headers<'a> {
    type Item = HeaderView<'a>;

    fn next(&mut self) -> Option<HeaderView<'a>> {
        self.left = self.left.checked_sub(1)?;
        self.cursor.header().ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len(), Some(self.len()))
    }
}

/// The records of a batch. After an error nothing more comes.
#[derive(Clone, Debug)]
pub struct RecordViews<'a> {
    cursor: Cursor<'a>,
    base_offset: u64,
    last_offset_delta: i32,
    base_timestamp: i64,
    append_time: Option<i64>,
    index: u32,
    count: u32,
    delta_least: i32,
    gaps: bool,
    keyed: bool,
    over: bool,
}

impl<'a> RecordViews<'a> {
    pub(super) fn new(header: &Header, section: &'a [u8]) -> Self {
        Self {
            cursor: Cursor { rest: section, at: 0 },
            base_offset: header.base_offset.unsigned_abs(),
            last_offset_delta: header.last_offset_delta,
            base_timestamp: header.base_timestamp,
            append_time: header.is_append_time().then_some(header.max_timestamp),
            index: 0,
            count: header.records_count.unsigned_abs(),
            delta_least: 0,
            gaps: true,
            keyed: false,
            over: false,
        }
    }

    /// From now on a gap between offsets is an error.
    pub(super) fn without_gaps(mut self) -> Self {
        self.gaps = false;
        self
    }

    /// From now on a record without a key is an error, if so wanted.
    pub(super) fn keyed(mut self, keyed: bool) -> Self {
        self.keyed = keyed;
        self
    }

    /// How many records there can be at most, whatever the header says: for reserving memory.
    pub(super) fn records_max(&self) -> usize {
        (self.count as usize).min(self.cursor.rest.len().checked_div(RECORD_BYTES_MIN).unwrap_or(0))
    }

    fn record(&mut self) -> Result<RecordView<'a>, RecordFault> {
        let length = self.cursor.length()?.ok_or(RecordFault::Length)?;
        let at = self.cursor.at;
        let mut body = Cursor {
            rest: self.cursor.take(length)?,
            at,
        };
        let attributes = body.take(1)?.first().copied().unwrap_or_default();
        let timestamp_delta = body.varlong()?;
        let rest = body.rest;
        let offset_delta = body.varint()?;
        let key = body.field()?;
        let value = body.field()?;
        let headers_count = u32::try_from(body.varint()?).map_err(|_| RecordFault::Length)?;
        let headers = Headers {
            cursor: body.clone(),
            left: headers_count,
        };
        for _ in 0..headers_count {
            body.header()?;
        }
        if !body.rest.is_empty() {
            return Err(RecordFault::LeftOver);
        }
        let in_batch = offset_delta >= self.delta_least && offset_delta <= self.last_offset_delta;
        if !in_batch || (!self.gaps && offset_delta != self.delta_least) {
            return Err(RecordFault::OffsetDelta);
        }
        if self.keyed && key.is_none() {
            return Err(RecordFault::NoKey);
        }
        self.delta_least = offset_delta.saturating_add(1);
        // Wrapping, as a Java client adds them up.
        let created = self.base_timestamp.wrapping_add(timestamp_delta);
        Ok(RecordView {
            offset: Offset(self.base_offset).plus(offset_delta.unsigned_abs().into()),
            timestamp_ms: self.append_time.unwrap_or(created),
            key,
            value,
            headers,
            attributes,
            rest,
        })
    }
}

impl<'a> Iterator for RecordViews<'a> {
    type Item = Result<RecordView<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        if self.index == self.count {
            self.over = true;
            let bytes = self.cursor.rest.len();
            return (bytes > 0).then_some(Err(BatchError::LeftOver { bytes }));
        }
        let index = self.index;
        self.index = index.saturating_add(1);
        let at = self.cursor.at;
        let record = self.record().map_err(|fault| BatchError::Record { index, at, fault });
        self.over = record.is_err();
        Some(record)
    }
}

#[derive(Clone, Debug)]
struct Cursor<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], RecordFault> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(RecordFault::Truncated)?;
        self.rest = rest;
        self.at = self.at.saturating_add(n);
        Ok(taken)
    }

    fn unsigned(&mut self, bits: u32) -> Result<u64, RecordFault> {
        let mut value = 0u64;
        let mut shift = 0u32;
        loop {
            let (&byte, rest) = self.rest.split_first().ok_or(RecordFault::Truncated)?;
            self.rest = rest;
            self.at = self.at.saturating_add(1);
            let low = u64::from(byte & 0x7f);
            let room = bits.saturating_sub(shift);
            if room < 7 && low.checked_shr(room).is_none_or(|over| over != 0) {
                return Err(RecordFault::Varint);
            }
            value |= low.checked_shl(shift).ok_or(RecordFault::Varint)?;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
            shift = shift.saturating_add(7);
            if shift >= bits {
                return Err(RecordFault::Varint);
            }
        }
    }

    fn varint(&mut self) -> Result<i32, RecordFault> {
        // 32 bits were checked, so the zigzag value fits.
        let raw = self.unsigned(32)? as u32;
        Ok((raw >> 1) as i32 ^ (raw & 1).wrapping_neg() as i32)
    }

    fn varlong(&mut self) -> Result<i64, RecordFault> {
        let raw = self.unsigned(64)?;
        Ok((raw >> 1) as i64 ^ (raw & 1).wrapping_neg() as i64)
    }

    /// A length; `None` for -1.
    fn length(&mut self) -> Result<Option<usize>, RecordFault> {
        match self.varint()? {
            -1 => Ok(None),
            n => usize::try_from(n).map(Some).map_err(|_| RecordFault::Length),
        }
    }

    fn field(&mut self) -> Result<Option<&'a [u8]>, RecordFault> {
        self.length()?.map(|n| self.take(n)).transpose()
    }

    fn header(&mut self) -> Result<HeaderView<'a>, RecordFault> {
        let name = self.field()?.ok_or(RecordFault::Length)?;
        let name = std::str::from_utf8(name).map_err(|_| RecordFault::HeaderName)?;
        Ok(HeaderView {
            name,
            value: self.field()?,
        })
    }
}
