//! MQTT 3.1.1 and 5.0, sans-io: bytes and time in, bytes and an ending out. Every message goes into the log first; what a
//! subscriber gets comes back out of the log, after the commit, by one path.
//!
//! ```text
//! bytes ─▶ guard ─▶ codec ─▶ session ─▶ route ─▶ log ── commit ─▶ session: PUBACK, PUBREC
//!                                                  └─▶ hub ─▶ subscriptions ─▶ outbox ─▶ session: PUBLISH
//! ```
//! Parts: `guard` (what a packet must be before the codec sees it), `codec` (the only file that names the codec crate),
//! `packet` (packets as plain values), `session` (one connection), `subscriptions` (the tree of filters), `outbox` (what waits
//! for one subscriber), `broker` (sessions, take-over, what is stored of them), `hub` (follows the log), `row` (stored bytes).
//!
//! An incoming QoS 2 id of a persistent session is stored in the commit of its message, expecting that it is absent: a resend
//! after a crash or on a second connection conflicts with it and is not stored again. The id goes, durably, before PUBCOMP.
//!
//! Not here yet, and where it will stand: messages for absent subscribers (`row::Row` has the subscriptions, positions in the
//! log join them; `hub` reads from there), retained messages (a table of their own, written by `session::publish` in the
//! record's commit, read on SUBSCRIBE), will delay (`session::gone` hands the will to `broker`, which has the timers), shared
//! subscriptions (`subscriptions`, chosen among in `hub`), authentication (`session::connect`), records that Kafka clients
//! produced under names of their own (`route::outgoing`).
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

mod broker;
mod codec;
mod guard;
mod hub;
mod outbox;
mod packet;
mod row;
mod session;
mod subscriptions;

pub use broker::Broker;

#[cfg(test)]
mod tests;
