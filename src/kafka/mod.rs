//! The broker side of the Kafka protocol, sans-io: what Kafka's own clients and tools need to produce, fetch, and look after
//! topics on one node. Frames and messages are `kafka_wire`'s, records are the log's; here is what requests mean.
//!
//! ```text
//! bytes ─▶ session: frame, header, body ─▶ queue of calls ─▶ one file an API family ─▶ log
//!                                              │ answered strictly in the order of the requests
//!                                              └─▶ output: small answers copied, fetched batches as they lie in the log
//! ```
//! Parts: `session` (one connection), `call` (a request at work, and the dispatch), `broker` (what sessions share: address,
//! cluster id, producer ids, the budget of fetches), and the families: `versions`, `metadata`, `produce`, `fetch`,
//! `list_offsets`, `producer_id`, `coordinator`, `create_topics`, `delete_topics`, `delete_records`, `configs`, `alter_configs`, `cluster`, `leader_epoch`.
//!
//! Bounds, and the rule behind each: a frame (`limits.kafka_request`, the connection is closed), requests waiting on one
//! connection (it is not read), unsent answers (no further request is begun), the records of one Fetch answer
//! (`limits.kafka_fetch`, the answer is shorter) and of all of them (answers become small), decompressed records of one batch
//! (refused). What is served and what is refused, for users: `src/manual/kafka.md`.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

mod alter_configs;
mod broker;
mod call;
mod cluster;
mod configs;
mod coordinator;
mod create_partitions;
mod create_topics;
mod delete_records;
mod delete_topics;
mod fetch;
mod leader_epoch;
mod list_offsets;
mod metadata;
mod produce;
mod producer_id;
mod session;
#[cfg(test)]
mod tests;
mod versions;

pub use broker::Broker;
