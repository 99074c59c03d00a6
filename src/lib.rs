//! headwater: a durable log broker for the edge. This page is the list of rooms; `src/manual/layout.md` says who may use whom.

pub mod cli;
pub mod compact;
pub mod config;
pub mod http;
pub mod kafka;
pub mod kafka_wire;
pub mod log;
pub mod metrics;
pub mod model;
pub mod mqtt;
pub mod net;
pub mod route;
pub mod upstream;
