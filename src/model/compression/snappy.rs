//! Snappy in Kafka comes in two forms: raw (librdkafka) and xerial's framing of raw blocks (Java): an 8-byte magic, version and
//! compatible version (int32 each), then blocks of an int32 length and raw Snappy. Written is xerial's, as every client reads it.

#![deny(clippy::expect_used)]

use super::{Codec, CompressionError};

const XERIAL_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
/// What a block of ours holds before compression; xerial's default.
const BLOCK_BYTES: usize = 32 * 1024;

pub(super) fn inflate(input: &[u8], output: &mut Vec<u8>, bytes_max: usize) -> Result<(), CompressionError> {
    let Some(framed) = input.strip_prefix(&XERIAL_MAGIC) else {
        return raw(input, output, bytes_max);
    };
    let mut rest = framed.get(8..).ok_or(corrupt("xerial header cut off"))?;
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = usize::try_from(i32::from_be_bytes(*length)).map_err(|_| corrupt("negative block length"))?;
        let (block, after) = after.split_at_checked(length).ok_or(corrupt("block cut off"))?;
        raw(block, output, bytes_max)?;
        rest = after;
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(corrupt("block length cut off"))
    }
}

fn raw(block: &[u8], output: &mut Vec<u8>, bytes_max: usize) -> Result<(), CompressionError> {
    let length = snap::raw::decompress_len(block).map_err(|_| corrupt("length does not decode"))?;
    // An element of 3 bytes makes 64 at most: what says more than that lies, and reserves nothing.
    if length > block.len().saturating_mul(32) {
        return Err(corrupt("length beyond what the block can hold"));
    }
    let before = output.len();
    let after = before.saturating_add(length);
    if after > bytes_max {
        return Err(CompressionError::TooLarge { bytes_max });
    }
    output.resize(after, 0);
    let free = output.get_mut(before..).unwrap_or_default();
    snap::raw::Decoder::new()
        .decompress(block, free)
        .map_err(|_| corrupt("does not decode"))?;
    Ok(())
}

pub(super) fn deflate(input: &[u8], output: &mut Vec<u8>) {
    output.extend_from_slice(&XERIAL_MAGIC);
    output.extend_from_slice(&1i32.to_be_bytes());
    output.extend_from_slice(&1i32.to_be_bytes());
    let mut encoder = snap::raw::Encoder::new();
    for piece in input.chunks(BLOCK_BYTES) {
        // Fails only beyond 4 GiB.
        let block = encoder.compress_vec(piece).unwrap_or_default();
        let length = i32::try_from(block.len()).unwrap_or_default();
        output.extend_from_slice(&length.to_be_bytes());
        output.extend_from_slice(&block);
    }
}

fn corrupt(why: &'static str) -> CompressionError {
    CompressionError::Corrupt {
        codec: Codec::Snappy,
        why,
    }
}
