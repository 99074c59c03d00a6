//! The codes of Nack and Bye. Numbers are for ever; what a code asks for is in its range, so that a device need not know it.
//!
//! ```text
//!   1..=31   go back: send again from the sequence given, after retry_after_ms
//!  32..=63   settled: this record is refused for good and is not sent again; an Ack will cover it
//!  64..=255  the session ends (Bye only)
//! ```

/// A code of a Nack or Bye.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code(pub u8);

impl Code {
    /// A frame before this one is missing: it was lost on the line.
    pub const OUT_OF_ORDER: Self = Self(1);
    /// Too much waits for the disk.
    pub const BUSY: Self = Self(2);
    /// The quota of the node is reached.
    pub const QUOTA: Self = Self(3);
    /// The store failed.
    pub const STORAGE: Self = Self(4);
    /// The channel does not map to a topic.
    pub const INVALID_CHANNEL: Self = Self(32);
    /// The record is larger than its topic allows.
    pub const RECORD_TOO_LARGE: Self = Self(33);
    /// The topic is not there and may not be made.
    pub const UNKNOWN_TOPIC: Self = Self(34);
    /// The limit on topics or partitions is reached.
    pub const TOO_MANY_TOPICS: Self = Self(35);
    /// The log refused the record for another reason.
    pub const REFUSED: Self = Self(36);
    /// Goodbye without a fault.
    pub const NORMAL: Self = Self(64);
    /// The protocol version is not served.
    pub const VERSION: Self = Self(65);
    /// The listener asks for a proof and this one is missing its key or wrong.
    pub const NOT_AUTHORIZED: Self = Self(66);
    /// The limit on devices is reached.
    pub const TOO_MANY_DEVICES: Self = Self(67);
    /// A newer session of the same device took over.
    pub const TAKEN_OVER: Self = Self(68);
    /// More records were sent without an Ack than the window allows.
    pub const WINDOW: Self = Self(69);
    /// A frame with a right CRC that breaks the protocol.
    pub const PROTOCOL: Self = Self(70);
    /// Say Hello first.
    pub const HELLO_REQUIRED: Self = Self(71);
    /// Nothing was heard for too long.
    pub const TIMEOUT: Self = Self(72);
    /// The broker is stopping; try again later.
    pub const STOPPING: Self = Self(73);
    /// The broker failed.
    pub const INTERNAL: Self = Self(74);

    /// Whether it asks to send again from its sequence.
    pub fn is_go_back(self) -> bool {
        (1..=31).contains(&self.0)
    }

    /// Whether it says that one record is refused for good.
    pub fn is_settled(self) -> bool {
        (32..=63).contains(&self.0)
    }

    /// Short lower-case name, for logs; unknown codes are named by their range.
    pub fn name(self) -> &'static str {
        match self {
            Self::OUT_OF_ORDER => "out_of_order",
            Self::BUSY => "busy",
            Self::QUOTA => "quota",
            Self::STORAGE => "storage",
            Self::INVALID_CHANNEL => "invalid_channel",
            Self::RECORD_TOO_LARGE => "record_too_large",
            Self::UNKNOWN_TOPIC => "unknown_topic",
            Self::TOO_MANY_TOPICS => "too_many_topics",
            Self::REFUSED => "refused",
            Self::NORMAL => "normal",
            Self::VERSION => "version",
            Self::NOT_AUTHORIZED => "not_authorized",
            Self::TOO_MANY_DEVICES => "too_many_devices",
            Self::TAKEN_OVER => "taken_over",
            Self::WINDOW => "window",
            Self::PROTOCOL => "protocol",
            Self::HELLO_REQUIRED => "hello_required",
            Self::TIMEOUT => "timeout",
            Self::STOPPING => "stopping",
            Self::INTERNAL => "internal",
            code if code.is_go_back() => "go_back",
            code if code.is_settled() => "settled",
            _ => "ended",
        }
    }
}
