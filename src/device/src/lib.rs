//! A device on headwater's compact protocol: a queue, and a session that resends until every record is stored. No std, no
//! alloc; time and transport are the caller's. Depends on `headwater-wire` alone.
//!
//! ```text
//! let queue = RamQueue::<2048>::new();
//! let mut client = Client::<_, 256>::new("pump-7", epoch, queue);
//! client.connected(now_ms);
//! loop {
//!     client.push(Some(now_ms), "temperature", b"21.5")?;     // or Full: wait, or queue_mut().push_dropping
//!     match client.poll(&mut uart, now_ms)? { Some(Event::Command(id)) => ..., _ => ... }
//! }
//! ```
//!
//! Sizes: a record takes 12 bytes, its channel and its payload in a `RamQueue<N>`; a `Client<_, F>` has two buffers of `F`
//! bytes, which bound the largest record, and 256 bytes for input. `F` is at least 128.
//!
//! The **epoch** names one life of the queue. A queue in RAM takes a new one at every boot (a boot counter, or a random
//! number); a queue that survives keeps its epoch and its sequence numbers.

#![no_std]
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

mod client;
mod queue;
mod session;

pub use client::Client;
pub use queue::{Full, Queue, RamQueue, Stored};
pub use session::{Event, Phase, Timing};

pub use embedded_io;
pub use headwater_wire as wire;
