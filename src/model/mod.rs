//! The words of the log, shared by every room: names, offsets, records, batches, time, error codes, and the shape of a
//! sans-io session. Nothing here touches sockets, clocks, threads or randomness.

pub mod batch;
pub mod clock;
pub mod code;
pub mod compression;
pub mod name;
pub mod nearest;
pub mod record;
pub mod session;
pub mod time;

pub use code::Code;
pub use name::{Offset, Partition, Topic, TopicError};
pub use nearest::nearest;
pub use record::{Record, RecordHeader};
pub use session::{End, Output, Peer, Session};
pub use time::Now;
