//! What waits for the log, in the order it came: answers leave in that order, each only when what it says is durable.

use crate::log::{Append, Committed, Refused, Ticket};
use crate::model::Topic;
use crate::mqtt::codec::Ack;

/// Bytes and messages of one group: a refusal refuses all of it.
pub(super) const GROUP_BYTES_MAX: usize = 64 << 10;
pub(super) const GROUP_MESSAGES_MAX: usize = 256;

/// A record as large as this goes alone, so that its own size refuses nobody else's.
pub(super) const ALONE_BYTES: usize = 4 << 10;

/// Messages of QoS 0 and 1, one after the other, to one topic, that go into the log together.
pub(super) struct Group {
    pub(super) topic: Topic,
    pub(super) appends: Vec<Append>,
    pub(super) ids: Vec<u16>,
    pub(super) bytes: usize,
    pub(super) started_us: u64,
}

/// One thing that waits.
pub(super) enum Pending {
    /// QoS 0 and 1.
    Group {
        ticket: Ticket<Committed>,
        /// To be acknowledged.
        ids: Vec<u16>,
        messages: usize,
        bytes: usize,
        started_us: u64,
    },
    /// QoS 2.
    Exact {
        ticket: Ticket<Committed>,
        id: u16,
        bytes: usize,
        started_us: u64,
    },
    /// PUBREL.
    Release { ticket: Ticket<Committed>, id: u16 },
    /// SUBSCRIBE and UNSUBSCRIBE.
    Subscription {
        ticket: Option<Ticket<Committed>>,
        id: u16,
        codes: Vec<u8>,
        unsubscribe: bool,
    },
    /// An answer that waits for nothing but its turn.
    Answer { ack: Ack, id: u16, reason: u8 },
}

impl Pending {
    /// The result, once it is there.
    pub(super) fn result(&mut self) -> Option<Result<(), Refused>> {
        let ticket = match self {
            Self::Group { ticket, .. } | Self::Exact { ticket, .. } | Self::Release { ticket, .. } => ticket,
            Self::Subscription {
                ticket: Some(ticket), ..
            } => ticket,
            Self::Subscription { ticket: None, .. } | Self::Answer { .. } => return Some(Ok(())),
        };
        ticket.take().map(|result| result.map(drop))
    }
}
