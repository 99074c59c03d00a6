//! The broker's side of the compact protocol, sans-io. The specification is `src/manual/compact.md`; frames and messages are in
//! the crate `headwater-wire`.
//!
//! Every submission carries the device's row (`row`: epoch, last sequence, losses) with what it must have been before, so that
//! the rows of one device form a chain: a record whose predecessor is not the newest of the chain is refused by the log, and a
//! resend after a crash on either side, or by a second connection, is stored once.
//!
//! Parts: `broker` (who is connected, keys), `session` (frames, handshake, timers), `intake` (records to submissions, Ack and
//! Nack), `commands` (downlink), `row` (what is stored for a device), `psk` (the key file).
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

mod broker;
mod commands;
mod intake;
mod psk;
mod row;
mod session;
#[cfg(test)]
mod tests;

pub use broker::Broker;
pub use psk::Keys;
pub use row::{Row, device_key};
