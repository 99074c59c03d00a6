//! What the centre's error codes mean for a batch (`org.apache.kafka.common.protocol.Errors`).

/// What is to become of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is there; also when it was there before.
    Acked,
    /// There was no answer: it may be there.
    Unknown,
    /// Not there: send it again.
    Retry,
    /// Not confirmed, but perhaps appended.
    RetryMaybeThere,
    /// Not there, and the leader may be another broker: ask for metadata, then send it again.
    Refresh,
    /// The broker does not know this producer, or not at this sequence.
    NewProducer,
    /// Broken on the way, or in our hands.
    Corrupt,
    /// Refused as it is: record by record it may pass, but for those that do not.
    Split,
    /// The centre does not take this compression.
    Uncompress,
}

impl Verdict {
    /// By the error of a partition in a Produce answer.
    pub(super) fn of(error: i16) -> Self {
        match error {
            // 46: a resend of what is there and no longer remembered batch by batch.
            0 | 46 => Self::Acked,
            7 | 20 => Self::RetryMaybeThere,
            // Unknown topic, no leader, other leader, replica, network, storage, fenced or unknown epoch, unknown topic id.
            3 | 5 | 6 | 9 | 13 | 56 | 74 | 75 | 100 => Self::Refresh,
            45 | 47 | 59 | 90 => Self::NewProducer,
            2 => Self::Corrupt,
            // Message too large, record list too large, timestamp, record; 43: not in the topic's message format.
            10 | 18 | 32 | 43 | 87 => Self::Split,
            76 => Self::Uncompress,
            // Not about the record (authorization, too few replicas, throttling): it waits, with the error in the status.
            _ => Self::Retry,
        }
    }
}

/// Kafka's name of an error that forwarding meets, for logs and status.
pub(super) fn error_name(error: i16) -> &'static str {
    match error {
        -1 => "UNKNOWN_SERVER_ERROR",
        2 => "CORRUPT_MESSAGE",
        3 => "UNKNOWN_TOPIC_OR_PARTITION",
        5 => "LEADER_NOT_AVAILABLE",
        6 => "NOT_LEADER_OR_FOLLOWER",
        7 => "REQUEST_TIMED_OUT",
        9 => "REPLICA_NOT_AVAILABLE",
        10 => "MESSAGE_TOO_LARGE",
        13 => "NETWORK_EXCEPTION",
        14 => "COORDINATOR_LOAD_IN_PROGRESS",
        15 => "COORDINATOR_NOT_AVAILABLE",
        17 => "INVALID_TOPIC_EXCEPTION",
        18 => "RECORD_LIST_TOO_LARGE",
        19 => "NOT_ENOUGH_REPLICAS",
        20 => "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
        29 => "TOPIC_AUTHORIZATION_FAILED",
        31 => "CLUSTER_AUTHORIZATION_FAILED",
        32 => "INVALID_TIMESTAMP",
        36 => "TOPIC_ALREADY_EXISTS",
        38 => "INVALID_REPLICATION_FACTOR",
        41 => "NOT_CONTROLLER",
        43 => "UNSUPPORTED_FOR_MESSAGE_FORMAT",
        44 => "POLICY_VIOLATION",
        45 => "OUT_OF_ORDER_SEQUENCE_NUMBER",
        47 => "INVALID_PRODUCER_EPOCH",
        56 => "KAFKA_STORAGE_ERROR",
        59 => "UNKNOWN_PRODUCER_ID",
        76 => "UNSUPPORTED_COMPRESSION_TYPE",
        87 => "INVALID_RECORD",
        89 => "THROTTLING_QUOTA_EXCEEDED",
        90 => "PRODUCER_FENCED",
        _ => "an error",
    }
}
