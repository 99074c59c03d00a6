//! The compact protocol of headwater: frames, messages, limits. No std, no alloc, no panic on a peer's bytes. The specification,
//! byte by byte, is `src/manual/compact.md`; this crate is one reading of it, `tests/golden/decode.py` another.
//!
//! ```text
//! frame:    COBS( message, CRC-32 little-endian ) 0x00
//! message:  number (varint), fields (postcard)
//! ```
//!
//! What it costs on a Cortex-M3 at opt-level z: a CRC table of 1 KiB flash, nothing with the feature `crc-small`, 16 KiB with
//! `crc-fast`; the feature `psk` adds SHA-256, about 3 KiB. No static RAM: buffers belong to the caller and are as large as
//! the caller's const generics say.

#![no_std]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

mod cobs;
mod code;
mod crc32;
mod error;
mod frame;
mod message;
#[cfg(feature = "psk")]
mod proof;
mod receiver;

pub use code::Code;
pub use error::WireError;
pub use frame::{BatchWriter, Frame, decode, encode, encoded_bytes_max, open, split};
pub use message::{Command, Entries, Entry, Hello, HelloAck, Message, Nack, Publish, PublishBatch, Time};
#[cfg(feature = "psk")]
pub use proof::{proof, proof_matches};
pub use receiver::Receiver;

/// The version of the protocol that this crate speaks.
pub const VERSION: u8 = 1;
/// Largest sequence that a device may give: what counts on from one can then never overflow.
pub const SEQUENCE_MAX: u64 = (1 << 63) - 1;
/// Longest device id, bytes of UTF-8; the shortest is 1.
pub const DEVICE_BYTES_MAX: usize = 64;
/// Longest channel or command name, bytes of UTF-8.
pub const CHANNEL_BYTES_MAX: usize = 255;
/// Largest frame after COBS decoding (message and CRC) that the protocol allows; a broker may say less in HelloAck.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// Smallest limit that a broker may give, so that every device can say Hello and send a small reading.
pub const FRAME_BYTES_MIN: usize = 256;
/// Bytes of the CRC behind every message.
pub const CRC_BYTES: usize = 4;
/// Bytes of a challenge's nonce.
pub const NONCE_BYTES: usize = 16;
/// Bytes of a proof.
pub const PROOF_BYTES: usize = 32;
