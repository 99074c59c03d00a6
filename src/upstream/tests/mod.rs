//! The forwarder against a simulated centre, with a clock that the test turns: `world` joins them, `centre` is the centre, the
//! others are what is expected, one subject a file.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing
)]

mod bounds;
mod centre;
mod clock;
mod delivery;
mod hold;
mod refused;
mod restart;
mod trouble;
mod world;

use std::task::Waker;

use bytes::Bytes;

use super::*;
use crate::log::TopicSpec;
use crate::model::batch::{self, Batch};
use crate::model::compression::Codec;
use crate::model::{Offset, Partition, Record};
use world::{START, World, config, numbers, topic};
