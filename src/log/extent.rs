//! Where a body lies in the data files, as the rows say it.

use std::ops::Range;

use bytes::Bytes;

use super::layout::Fields;
use super::ring::BLOCK;
use super::store::StoreError;

/// A body that is not smaller has its blocks for itself.
const ALONE_BYTES: usize = 16 << 10;
/// Of the bytes in a row: the blocks are the body's alone. No body is so long.
const ALONE: u32 = 1 << 31;

/// Where a body lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Extent {
    pub(super) file: u32,
    pub(super) offset: u64,
    pub(super) bytes: u32,
    /// It begins at a block, and what is behind it in its last one is nobody's.
    pub(super) alone: bool,
}

impl Extent {
    /// Bytes of an extent before its CRC.
    const PLACE: usize = 16;
    /// Bytes of an extent.
    pub(super) const ENCODED: usize = Self::PLACE + 4;

    /// Places for bodies of these lengths, one behind the other, and where the last of them ends. A file in which many blocks stay
    /// between what was given back takes a file system long to remove, so larger ones do not share theirs.
    pub(super) fn lay(file: u32, begins: u64, lengths: impl Iterator<Item = usize>) -> (Vec<Self>, u64) {
        let mut end = begins;
        let place = |bytes: usize| {
            let alone = bytes >= ALONE_BYTES;
            let offset = if alone { end.next_multiple_of(BLOCK) } else { end };
            let extent = Self {
                file,
                offset,
                bytes: bytes as u32,
                alone,
            };
            end = extent.blocks().end;
            extent
        };
        let extents = lengths.map(place).collect();
        (extents, end)
    }

    /// What only it takes: whole blocks, if they are its alone.
    pub(super) fn blocks(self) -> Range<u64> {
        let end = self.end();
        self.offset..if self.alone { end.next_multiple_of(BLOCK) } else { end }
    }

    /// For a row. Big-endian: file u32, offset u64, bytes u32 (the highest bit says `alone`), CRC-32C of these u32.
    pub(super) fn encode(self) -> Bytes {
        let mut out = Vec::with_capacity(Self::ENCODED);
        out.extend_from_slice(&self.file.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        let alone = if self.alone { ALONE } else { 0 };
        out.extend_from_slice(&(self.bytes | alone).to_be_bytes());
        out.extend_from_slice(&crc32c::crc32c(&out).to_be_bytes());
        out.into()
    }

    /// Takes it from the front of a row, and gives the rest, too. `None` for a place that is damaged: what lies where it points is
    /// another's.
    pub(super) fn decode(row: &[u8]) -> Result<(Option<Self>, &[u8]), StoreError> {
        let mut fields = Fields(row);
        let (file, offset, bytes) = (fields.u32()?, fields.u64()?, fields.u32()?);
        let extent = Self {
            file,
            offset,
            bytes: bytes & !ALONE,
            alone: bytes & ALONE != 0,
        };
        let sound = fields.u32()? == crc32c::crc32c(&row[..Self::PLACE]);
        Ok((sound.then_some(extent), fields.0))
    }

    /// File, offset, bytes, alone.
    #[cfg(test)]
    pub(super) fn parts(self) -> [u64; 4] {
        [self.file.into(), self.offset, self.bytes.into(), self.alone.into()]
    }

    pub(super) fn end(self) -> u64 {
        self.offset.saturating_add(u64::from(self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_bodies_share_no_block_and_smaller_ones_do() {
        let (extents, end) = Extent::lay(3, 8192, [100, 5000, 16_384, 20_000, 10].into_iter());
        let blocks: Vec<_> = extents.iter().map(|extent| extent.blocks()).collect();
        assert_eq!(
            blocks,
            [8192..8292, 8292..13_292, 16_384..32_768, 32_768..53_248, 53_248..53_258]
        );
        assert_eq!((extents[3].end(), end), (52_768, 53_258));
        for extent in extents {
            assert_eq!(Extent::decode(&extent.encode()).unwrap().0, Some(extent));
        }
    }
}
