//! LZ4 frames, block by block straight into the output. Blocks may be independent (Kafka's own producers) or linked (what some
//! libraries write); checksums are stepped over, since the batch's CRC-32C covers the same bytes. Dictionaries and the legacy
//! frame, which no Kafka client writes, are refused. Source: LZ4 Frame Format Description 1.6.4.

#![deny(clippy::expect_used)]

use std::io::Write;

use lz4_flex::block::{DecompressError, decompress_into, decompress_into_with_dict};
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

use super::{Codec, CompressionError};

const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
/// How far back a linked block may reach.
const WINDOW_BYTES: usize = 64 * 1024;

pub(super) fn inflate(input: &[u8], output: &mut Vec<u8>, bytes_max: usize) -> Result<(), CompressionError> {
    let (frame, mut rest) = Frame::parse(input).ok_or(corrupt("not a frame header"))?;
    loop {
        let (size, after) = take::<4>(rest).ok_or(corrupt("cut off"))?;
        let size = u32::from_le_bytes(size);
        if size == 0 {
            return Ok(());
        }
        let stored = size & 0x8000_0000 != 0;
        let size = usize::try_from(size & 0x7fff_ffff).unwrap_or(usize::MAX);
        let (block, after) = after.split_at_checked(size).ok_or(corrupt("cut off"))?;
        rest = after
            .get(if frame.block_checksums { 4 } else { 0 }..)
            .ok_or(corrupt("cut off"))?;
        let room = bytes_max.saturating_sub(output.len());
        if stored {
            if block.len() > frame.block_bytes_max {
                return Err(corrupt("a block beyond the frame's block size"));
            }
            if block.len() > room {
                return Err(CompressionError::TooLarge { bytes_max });
            }
            output.extend_from_slice(block);
            continue;
        }
        block_into(&frame, block, output, room).map_err(|e| match e {
            DecompressError::OutputTooSmall { .. } if room < frame.block_bytes_max => {
                CompressionError::TooLarge { bytes_max }
            }
            _ => corrupt("a block does not decode"),
        })?;
    }
}

fn block_into(frame: &Frame, block: &[u8], output: &mut Vec<u8>, room: usize) -> Result<(), DecompressError> {
    let before = output.len();
    // 255 is LZ4's largest ratio: a small block does not clear a large buffer.
    let largest = block.len().saturating_mul(255).min(frame.block_bytes_max).min(room);
    output.resize(before.saturating_add(largest), 0);
    let (earlier, free) = output.split_at_mut(before);
    let window = earlier.get(before.saturating_sub(WINDOW_BYTES)..).unwrap_or_default();
    let used = match frame.linked {
        true if !window.is_empty() => decompress_into_with_dict(block, free, window),
        _ => decompress_into(block, free),
    };
    output.truncate(before.saturating_add(*used.as_ref().unwrap_or(&0)));
    used.map(|_| ())
}

pub(super) fn deflate(input: &[u8], output: &mut Vec<u8>) {
    // As Kafka's own producers: readers of theirs know no linked blocks.
    let info = FrameInfo::new()
        .block_size(BlockSize::Max64KB)
        .block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(info, output);
    let written = encoder.write_all(input).is_ok() && encoder.finish().is_ok();
    debug_assert!(written, "writing to a Vec does not fail");
}

struct Frame {
    block_bytes_max: usize,
    linked: bool,
    block_checksums: bool,
}

impl Frame {
    fn parse(input: &[u8]) -> Option<(Self, &[u8])> {
        let (magic, rest) = take::<4>(input)?;
        let ([flags, sizes], rest) = take::<2>(rest)?;
        let has = |bit: u8| flags & bit != 0;
        if magic != MAGIC || flags >> 6 != 1 || has(0x01) {
            return None;
        }
        let block_bytes_max = match sizes >> 4 & 0x07 {
            4 => 64 << 10,
            5 => 256 << 10,
            6 => 1 << 20,
            7 => 4 << 20,
            _ => return None,
        };
        let content_size_and_checksum = if has(0x08) { 9 } else { 1 };
        let rest = rest.get(content_size_and_checksum..)?;
        Some((
            Self {
                block_bytes_max,
                linked: !has(0x20),
                block_checksums: has(0x10),
            },
            rest,
        ))
    }
}

fn take<const N: usize>(bytes: &[u8]) -> Option<([u8; N], &[u8])> {
    bytes.split_first_chunk::<N>().map(|(head, rest)| (*head, rest))
}

fn corrupt(why: &'static str) -> CompressionError {
    CompressionError::Corrupt { codec: Codec::Lz4, why }
}
