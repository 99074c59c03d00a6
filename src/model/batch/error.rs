//! What is wrong with a batch, with its place, and the code a peer is told.

use std::fmt;

use crate::model::Code;
use crate::model::compression::{Codec, CompressionError};

/// What is wrong with a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchError {
    /// Fewer bytes than a header has.
    Short {
        /// Bytes there are.
        have: usize,
    },
    /// The length field does not fit the bytes.
    Length {
        /// Whole bytes of the batch by its length field.
        says: usize,
        /// Bytes there are.
        have: usize,
    },
    /// Not a v2 batch.
    Magic(u8),
    /// The CRC-32C is wrong.
    Crc {
        /// By the header.
        says: u32,
        /// By the bytes.
        is: u32,
    },
    /// A header field with a value that cannot be.
    Field {
        /// Kafka's name of the field.
        name: &'static str,
        /// Its value.
        value: i64,
    },
    /// A compression type that Kafka does not have.
    UnknownCodec(u8),
    /// The records do not decompress.
    Compressed {
        /// By this codec.
        codec: Codec,
        /// Why.
        why: &'static str,
    },
    /// The records would decompress to more than the bound.
    TooLarge {
        /// The bound, bytes.
        bytes_max: usize,
    },
    /// A record does not decode or breaks a rule.
    Record {
        /// Which one, from 0.
        index: u32,
        /// Where in the decompressed records it was noticed, bytes.
        at: usize,
        /// What is wrong.
        fault: RecordFault,
    },
    /// Bytes follow the last record.
    LeftOver {
        /// How many.
        bytes: usize,
    },
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordFault {
    /// A length points past the end.
    Truncated,
    /// A number with more bits than its type.
    Varint,
    /// A length that is negative and not -1, or -1 where null is not allowed.
    Length,
    /// Bytes follow the last header.
    LeftOver,
    /// A header name that is not UTF-8.
    HeaderName,
    /// The offset delta does not rise, leaves the batch, or leaves a gap in a producer's batch.
    OffsetDelta,
    /// It has no key, and its topic is compacted.
    NoKey,
}

impl BatchError {
    /// What a peer is told.
    pub fn code(&self) -> Code {
        match self {
            Self::Short { .. } | Self::Length { .. } | Self::Crc { .. } | Self::Compressed { .. } => Code::CorruptBatch,
            Self::Record {
                fault: RecordFault::OffsetDelta | RecordFault::HeaderName | RecordFault::NoKey,
                ..
            } => Code::InvalidRecord,
            Self::Record { .. } | Self::LeftOver { .. } => Code::CorruptBatch,
            Self::Magic(_) | Self::Field { .. } => Code::InvalidRecord,
            Self::UnknownCodec(_) => Code::UnsupportedCompression,
            Self::TooLarge { .. } => Code::TooLarge,
        }
    }
}

impl From<CompressionError> for BatchError {
    fn from(e: CompressionError) -> Self {
        match e {
            CompressionError::TooLarge { bytes_max } => Self::TooLarge { bytes_max },
            CompressionError::Corrupt { codec, why } => Self::Compressed { codec, why },
        }
    }
}

impl fmt::Display for RecordFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "a length points past the end",
            Self::Varint => "a number has too many bits",
            Self::Length => "a length is negative",
            Self::LeftOver => "bytes follow the last header",
            Self::HeaderName => "a header name is not UTF-8",
            Self::OffsetDelta => "the offset does not follow",
            Self::NoKey => "it has no key, and the topic is compacted. Try: a key, or cleanup.policy=delete",
        })
    }
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { have } => write!(f, "a batch of {have} bytes is shorter than its header"),
            Self::Length { says, have } => write!(f, "a batch says {says} bytes, but there are {have}"),
            Self::Magic(magic) => write!(f, "batch magic is {magic}; only 2 is served"),
            Self::Crc { says, is } => write!(f, "batch CRC is {is:08x}, the header says {says:08x}"),
            Self::Field { name, value } => write!(f, "batch field {name} cannot be {value}"),
            Self::UnknownCodec(id) => write!(f, "compression type {id} is unknown"),
            Self::Compressed { codec, why } => write!(f, "records do not decompress by {codec}: {why}"),
            Self::TooLarge { bytes_max } => write!(f, "records decompress to more than {bytes_max} bytes"),
            Self::Record { index, at, fault } => write!(f, "record {index} at byte {at}: {fault}"),
            Self::LeftOver { bytes } => write!(f, "{bytes} bytes follow the last record"),
        }
    }
}

impl std::error::Error for BatchError {}
