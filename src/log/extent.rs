//! Where a body lies in the data files, as the rows say it.

use bytes::Bytes;

use super::layout::Fields;
use super::store::StoreError;

/// Where a body lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Extent {
    pub(super) file: u32,
    pub(super) offset: u64,
    pub(super) bytes: u32,
}

impl Extent {
    /// Bytes of an extent before its CRC.
    const PLACE: usize = 16;
    /// Bytes of an extent.
    pub(super) const ENCODED: usize = Self::PLACE + 4;

    /// For a row. Big-endian: file u32, offset u64, bytes u32, CRC-32C of these u32.
    pub(super) fn encode(self) -> Bytes {
        let mut out = Vec::with_capacity(Self::ENCODED);
        out.extend_from_slice(&self.file.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        out.extend_from_slice(&self.bytes.to_be_bytes());
        out.extend_from_slice(&crc32c::crc32c(&out).to_be_bytes());
        out.into()
    }

    /// Takes it from the front of a row, and gives the rest, too. `None` for a place that is damaged: what lies where it points is
    /// another's.
    pub(super) fn decode(row: &[u8]) -> Result<(Option<Self>, &[u8]), StoreError> {
        let mut fields = Fields(row);
        let extent = Self {
            file: fields.u32()?,
            offset: fields.u64()?,
            bytes: fields.u32()?,
        };
        let sound = fields.u32()? == crc32c::crc32c(&row[..Self::PLACE]);
        Ok((sound.then_some(extent), fields.0))
    }

    /// File, offset, bytes.
    #[cfg(test)]
    pub(super) fn parts(self) -> [u64; 3] {
        [self.file.into(), self.offset, self.bytes.into()]
    }

    pub(super) fn end(self) -> u64 {
        self.offset.saturating_add(u64::from(self.bytes))
    }
}
