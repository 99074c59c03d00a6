//! The compressions of the Kafka protocol, each with a bound on what it may decompress to: a bomb ends at the bound, and no
//! length that a peer wrote reserves memory beyond it.

#![deny(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::fmt;
use std::io::{Read, Write};

use zstd::zstd_safe::zstd_sys::ZSTD_ErrorCode;
use zstd::zstd_safe::{self, DCtx};

mod lz4;
mod snappy;
#[cfg(test)]
mod tests;

/// How records are compressed. The numbers are Kafka's (`CompressionType`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// Snappy, raw or in xerial's framing.
    Snappy,
    /// An LZ4 frame.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Codec {
    /// By Kafka's number.
    pub fn from_id(id: u8) -> Option<Self> {
        Some(match id {
            0 => Self::None,
            1 => Self::Gzip,
            2 => Self::Snappy,
            3 => Self::Lz4,
            4 => Self::Zstd,
            _ => return None,
        })
    }

    /// Kafka's number.
    pub fn id(self) -> u8 {
        self as u8
    }

    /// Kafka's name, as in `compression.type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why something does not decompress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompressionError {
    /// It would be more than the bound.
    TooLarge {
        /// The bound, bytes.
        bytes_max: usize,
    },
    /// It is not this codec's format, or is cut off.
    Corrupt {
        /// Which codec.
        codec: Codec,
        /// Why.
        why: &'static str,
    },
}

/// Decompresses, again and again into the same buffer.
#[derive(Default)]
pub struct Inflater {
    buffer: Vec<u8>,
    zstd: Option<DCtx<'static>>,
}

impl fmt::Debug for Inflater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inflater({} bytes)", self.buffer.capacity())
    }
}

impl Inflater {
    /// Gives back what the buffer has above `bytes`, for one that is kept between uses.
    pub fn shrink(&mut self, bytes: usize) {
        self.buffer.clear();
        self.buffer.shrink_to(bytes);
    }

    /// Decompresses `input` whole, to at most `bytes_max` bytes. With `Codec::None` it is a copy.
    pub fn inflate(&mut self, codec: Codec, input: &[u8], bytes_max: usize) -> Result<&[u8], CompressionError> {
        self.buffer.clear();
        let buffer = &mut self.buffer;
        match codec {
            Codec::None if input.len() > bytes_max => return Err(CompressionError::TooLarge { bytes_max }),
            Codec::None => buffer.extend_from_slice(input),
            Codec::Gzip => gunzip(input, buffer, bytes_max)?,
            Codec::Snappy => snappy::inflate(input, buffer, bytes_max)?,
            Codec::Lz4 => lz4::inflate(input, buffer, bytes_max)?,
            Codec::Zstd => self.unzstd(input, bytes_max)?,
        }
        Ok(&self.buffer)
    }

    /// The buffer with what was decompressed last.
    pub fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }

    /// Gives memory back where more than `bytes_max` is held, after a large batch.
    pub fn trim(&mut self, bytes_max: usize) {
        if self.buffer.capacity() > bytes_max {
            self.buffer = Vec::new();
        }
    }

    /// In one shot, so that zstd needs no window of its own, whose size the peer would choose (up to 128 MiB). Frames from
    /// streaming producers do not say their size: the buffer doubles until it fits or the bound is reached.
    fn unzstd(&mut self, input: &[u8], bytes_max: usize) -> Result<(), CompressionError> {
        let corrupt = |why| {
            Err(CompressionError::Corrupt {
                codec: Codec::Zstd,
                why,
            })
        };
        if input.is_empty() {
            return corrupt("nothing there");
        }
        let context = self.zstd.get_or_insert_with(DCtx::create);
        let guess = match zstd_safe::get_frame_content_size(input) {
            Ok(Some(size)) => usize::try_from(size).unwrap_or(usize::MAX),
            _ => input.len().saturating_mul(4),
        };
        // What a peer says of the size is believed only as far as it is likely; more comes by doubling.
        let mut room = guess
            .clamp(4096, input.len().saturating_mul(64).max(4096))
            .max(self.buffer.capacity());
        loop {
            room = room.min(bytes_max);
            if self.buffer.capacity() < room {
                // No need to carry over the failed attempt.
                self.buffer = Vec::with_capacity(room);
            }
            self.buffer.clear();
            match context.decompress(&mut self.buffer, input) {
                Ok(_) if self.buffer.len() > bytes_max => return Err(CompressionError::TooLarge { bytes_max }),
                Ok(_) => return Ok(()),
                Err(e) if zstd_safe::is_error_kind(e, ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall) => {
                    if room >= bytes_max {
                        return Err(CompressionError::TooLarge { bytes_max });
                    }
                    room = room.saturating_mul(2);
                }
                Err(e) => return corrupt(zstd_safe::get_error_name(e)),
            }
        }
    }
}

fn gunzip(input: &[u8], output: &mut Vec<u8>, bytes_max: usize) -> Result<(), CompressionError> {
    let bound = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    let mut reader = flate2::bufread::MultiGzDecoder::new(input).take(bound);
    match reader.read_to_end(output) {
        Ok(_) if output.len() > bytes_max => Err(CompressionError::TooLarge { bytes_max }),
        Ok(_) => Ok(()),
        Err(_) => Err(CompressionError::Corrupt {
            codec: Codec::Gzip,
            why: "not a whole gzip stream",
        }),
    }
}

/// Appends `input`, compressed, to `output`.
#[allow(clippy::expect_used, reason = "writing to a Vec does not fail")]
pub fn compress(codec: Codec, input: &[u8], output: &mut Vec<u8>) {
    match codec {
        Codec::None => output.extend_from_slice(input),
        Codec::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(output, flate2::Compression::default());
            encoder
                .write_all(input)
                .and_then(|()| encoder.finish())
                .expect("gzip into memory");
        }
        Codec::Snappy => snappy::deflate(input, output),
        Codec::Lz4 => lz4::deflate(input, output),
        Codec::Zstd => {
            let packed = zstd::bulk::compress(input, zstd::DEFAULT_COMPRESSION_LEVEL).expect("zstd into memory");
            output.extend_from_slice(&packed);
        }
    }
}
