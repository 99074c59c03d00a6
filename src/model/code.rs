//! The one table of what can go wrong between a peer and the log, with its number in each protocol. Numbers are for ever.

/// A refusal that a peer can be told about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// No such topic or partition, and it may not be made.
    UnknownTopic,
    /// The name breaks the rules.
    InvalidTopic,
    /// The topic is there already.
    TopicExists,
    /// The limit on topics or partitions is reached.
    TooManyTopics,
    /// A partition count or replication factor that cannot be.
    InvalidPartitions,
    /// A setting that is unknown or out of range.
    InvalidConfig,
    /// The offset is not in the log: before its start or past its end.
    OffsetOutOfRange,
    /// A batch whose CRC or records do not decode.
    CorruptBatch,
    /// A batch that decodes but breaks the record format's rules.
    InvalidRecord,
    /// Larger than the limit on a batch or record.
    TooLarge,
    /// Compression this broker does not know.
    UnsupportedCompression,
    /// An idempotent producer skipped a sequence number.
    OutOfOrderSequence,
    /// An idempotent producer resent something older than what is remembered.
    DuplicateSequence,
    /// A newer incarnation of the producer exists.
    InvalidProducerEpoch,
    /// The producer's state is gone.
    UnknownProducer,
    /// The state that a submission builds on is not what it expected: somebody else moved it.
    Conflict,
    /// The quota is reached; try later.
    Quota,
    /// The store failed; nothing of the submission is kept.
    Storage,
    /// The queue to the writer is full; try later.
    Busy,
    /// The broker is stopping.
    Stopping,
    /// A request that makes no sense.
    InvalidRequest,
    /// A protocol version that is not served.
    UnsupportedVersion,
    /// Not allowed.
    NotAuthorized,
}

impl Code {
    /// Kafka's error code (`org.apache.kafka.common.protocol.Errors`).
    pub fn kafka(self) -> i16 {
        match self {
            Self::UnknownTopic => 3,
            Self::InvalidTopic => 17,
            Self::TopicExists => 36,
            Self::TooManyTopics => 44,
            Self::InvalidPartitions => 37,
            Self::InvalidConfig => 40,
            Self::OffsetOutOfRange => 1,
            Self::CorruptBatch => 2,
            Self::InvalidRecord => 87,
            Self::TooLarge => 10,
            Self::UnsupportedCompression => 76,
            Self::OutOfOrderSequence => 45,
            Self::DuplicateSequence => 46,
            Self::InvalidProducerEpoch => 47,
            Self::UnknownProducer => 59,
            Self::Conflict => 42,
            // KAFKA_STORAGE_ERROR: retriable, so that a producer keeps what it holds.
            Self::Quota | Self::Storage => 56,
            // NOT_LEADER_OR_FOLLOWER would make clients refresh for nothing; REQUEST_TIMED_OUT is retriable as well.
            Self::Busy | Self::Stopping => 7,
            Self::InvalidRequest => 42,
            Self::UnsupportedVersion => 35,
            Self::NotAuthorized => 29,
        }
    }

    /// MQTT 5 reason code for a PUBACK, PUBREC or DISCONNECT (MQTT 5.0, section 2.4).
    pub fn mqtt5(self) -> u8 {
        match self {
            Self::InvalidTopic | Self::UnknownTopic => 0x90,
            Self::Quota | Self::TooManyTopics | Self::Busy => 0x97,
            Self::TooLarge => 0x95,
            Self::NotAuthorized => 0x87,
            Self::Storage | Self::Stopping => 0x83,
            _ => 0x80,
        }
    }

    /// Short lower-case name, for logs, metrics labels and `--json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::UnknownTopic => "unknown_topic",
            Self::InvalidTopic => "invalid_topic",
            Self::TopicExists => "topic_exists",
            Self::TooManyTopics => "too_many_topics",
            Self::InvalidPartitions => "invalid_partitions",
            Self::InvalidConfig => "invalid_config",
            Self::OffsetOutOfRange => "offset_out_of_range",
            Self::CorruptBatch => "corrupt_batch",
            Self::InvalidRecord => "invalid_record",
            Self::TooLarge => "too_large",
            Self::UnsupportedCompression => "unsupported_compression",
            Self::OutOfOrderSequence => "out_of_order_sequence",
            Self::DuplicateSequence => "duplicate_sequence",
            Self::InvalidProducerEpoch => "invalid_producer_epoch",
            Self::UnknownProducer => "unknown_producer",
            Self::Conflict => "conflict",
            Self::Quota => "quota",
            Self::Storage => "storage",
            Self::Busy => "busy",
            Self::Stopping => "stopping",
            Self::InvalidRequest => "invalid_request",
            Self::UnsupportedVersion => "unsupported_version",
            Self::NotAuthorized => "not_authorized",
        }
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
