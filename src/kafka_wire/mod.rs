//! The Kafka protocol's frames and messages in both directions: for the broker side (`kafka`) and for the clients (`upstream`,
//! `cli`). What it is not: record batches, which are `model::batch`'s, and any meaning of a message.
//!
//! ```text
//! frame    length int32 | header | body                        length counts what follows it
//! request  api key int16 | version int16 | correlation int32 | client id nullable string | (flexible: tagged fields) | body
//! answer   correlation int32 | (flexible, but for ApiVersions: tagged fields) | body
//! ```
//!
//! Bodies are coded by the crate `kafka-protocol`, which trusts every array length: it reserves memory for as many elements as
//! the peer names. So before it sees a body, `schema` walks the bytes along a descriptor of the message and proves that every
//! array and string fits in what is left of the frame and that the elements stay within a budget, and finds where the message
//! ends: the codec sees no byte behind that. A message without a descriptor cannot be decoded at all.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

mod api;
mod client;
mod fetch;
mod frame;
mod schema;
mod server;
#[cfg(test)]
mod tests;

use std::fmt;

pub use api::Api;
pub use client::{decode_response, encode_request, response_correlation};
pub use fetch::{FetchAnswer, FetchedPartition, FetchedTopic};
pub use frame::{LENGTH_BYTES, frame_bytes};
pub use kafka_protocol::messages;
pub use kafka_protocol::protocol::{Request as RequestType, StrBytes};
pub use server::{Request, RequestHeader, decode_header, decode_request, encode_response, put_response};

/// Why bytes are not the message they should be, with the place, counted from the start of the body, where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The frame's length is negative or too short for a header.
    Length(i32),
    /// The frame is longer than the limit.
    TooLong {
        /// Bytes that the length prefix names.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A field needs more bytes than the frame has left.
    Truncated {
        /// Where the field begins.
        at: usize,
        /// Bytes it needs.
        need: usize,
        /// Bytes that are left.
        have: usize,
    },
    /// A string or byte field has a negative length, or an array a negative count, other than null.
    Negative {
        /// Where it is.
        at: usize,
        /// What it says.
        length: i64,
    },
    /// An array names more elements than the rest of the frame can hold.
    Count {
        /// Where the array begins.
        at: usize,
        /// Elements it names.
        count: usize,
        /// Bytes that are left for them.
        have: usize,
    },
    /// More elements in one message than any honest peer sends.
    TooMany {
        /// The limit.
        elements_max: usize,
    },
    /// The answer is over before its frame is.
    Leftover(usize),
    /// A tagged field's content does not have the size it says.
    Tag(u32),
    /// No such API here.
    UnknownApi(i16),
    /// A version that is not spoken here.
    UnsupportedVersion {
        /// Which API.
        api: Api,
        /// Which version.
        version: i16,
    },
    /// The codec refused it, for example a null where none may be, or bytes that are not UTF-8.
    Codec(String),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(n) => write!(f, "a frame of {n} bytes cannot be a Kafka message"),
            Self::TooLong { bytes, bytes_max } => write!(
                f,
                "a frame of {bytes} bytes is past the limit of {bytes_max}. Try: check that the other side speaks Kafka, and without TLS"
            ),
            Self::Truncated { at, need, have } => {
                write!(
                    f,
                    "the field at byte {at} needs {need} bytes, the frame has {have} left"
                )
            }
            Self::Negative { at, length } => write!(f, "the field at byte {at} has length {length}"),
            Self::Count { at, count, have } => {
                write!(
                    f,
                    "the array at byte {at} names {count} elements, the frame has {have} bytes left"
                )
            }
            Self::TooMany { elements_max } => write!(f, "the message has more than {elements_max} elements"),
            Self::Leftover(n) => write!(f, "{n} bytes are left over after the message"),
            Self::Tag(tag) => write!(f, "the content of tagged field {tag} does not have the size it says"),
            Self::UnknownApi(key) => write!(f, "API key {key} is not served"),
            Self::UnsupportedVersion { api, version } => write!(f, "{} version {version} is not spoken", api.name()),
            Self::Codec(why) => write!(f, "the codec refuses it: {why}"),
        }
    }
}

impl std::error::Error for WireError {}
