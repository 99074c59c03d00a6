//! Metrics of `kafka`.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// A counter for each value of one label, from a fixed set.
type ByLabel = Family<[(&'static str, &'static str); 1], Counter>;

/// Counters, gauges and histograms of `kafka`.
#[derive(Debug, Default)]
pub struct KafkaMetrics {
    /// Requests whose header was read, by API.
    requests: ByLabel,
    /// Error codes in answers, a partition or topic each, by Kafka's name.
    errors: ByLabel,
    /// Connections open now.
    pub clients: Gauge,
    /// Connections closed because of what the peer sent: malformed, too large, not served, refused with acks=0.
    pub closed: Counter,
    /// Bytes of batches that passed the checks.
    pub produced_bytes: Counter,
    /// Records in them.
    pub produced_records: Counter,
    /// Batches that were stored already.
    pub produced_duplicates: Counter,
    /// Bytes of batches in Fetch answers.
    pub fetched_bytes: Counter,
    /// Fetch answers that were shorter than asked for because all fetches together took too much memory.
    pub fetches_shortened: Counter,
    /// Fetches that wait for records now.
    pub long_polls: Gauge,
}

impl KafkaMetrics {
    /// Counts a request of an API.
    pub fn request(&self, api: &'static str) {
        self.requests.get_or_create(&[("api", api)]).inc();
    }

    /// Counts an error code of an answer.
    pub fn error(&self, code: i16) {
        self.errors.get_or_create(&[("code", error_name(code))]).inc();
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("kafka");
        r.register("requests", "Requests, by API", self.requests.clone());
        r.register("errors", "Error codes in answers, by Kafka's name", self.errors.clone());
        r.register("clients", "Connections open now", self.clients.clone());
        r.register(
            "peer_errors",
            "Connections closed because of what the peer sent",
            self.closed.clone(),
        );
        r.register_with_unit(
            "produced",
            "Batches from producers that passed the checks",
            Unit::Bytes,
            self.produced_bytes.clone(),
        );
        r.register(
            "produced_records",
            "Records from producers that passed the checks",
            self.produced_records.clone(),
        );
        r.register(
            "produced_duplicates",
            "Batches that an idempotent producer sent again and that were stored already",
            self.produced_duplicates.clone(),
        );
        r.register_with_unit(
            "fetched",
            "Batches in Fetch answers",
            Unit::Bytes,
            self.fetched_bytes.clone(),
        );
        r.register(
            "fetches_shortened",
            "Fetch answers shorter than asked for, to bound memory",
            self.fetches_shortened.clone(),
        );
        r.register(
            "long_polls",
            "Fetches that wait for records now",
            self.long_polls.clone(),
        );
    }
}

/// Kafka's names of the codes that are answered here.
fn error_name(code: i16) -> &'static str {
    match code {
        1 => "OFFSET_OUT_OF_RANGE",
        2 => "CORRUPT_MESSAGE",
        3 => "UNKNOWN_TOPIC_OR_PARTITION",
        7 => "REQUEST_TIMED_OUT",
        10 => "MESSAGE_TOO_LARGE",
        17 => "INVALID_TOPIC_EXCEPTION",
        21 => "INVALID_REQUIRED_ACKS",
        29 => "TOPIC_AUTHORIZATION_FAILED",
        35 => "UNSUPPORTED_VERSION",
        36 => "TOPIC_ALREADY_EXISTS",
        37 => "INVALID_PARTITIONS",
        38 => "INVALID_REPLICATION_FACTOR",
        39 => "INVALID_REPLICA_ASSIGNMENT",
        40 => "INVALID_CONFIG",
        42 => "INVALID_REQUEST",
        44 => "POLICY_VIOLATION",
        45 => "OUT_OF_ORDER_SEQUENCE_NUMBER",
        46 => "DUPLICATE_SEQUENCE_NUMBER",
        47 => "INVALID_PRODUCER_EPOCH",
        53 => "TRANSACTIONAL_ID_AUTHORIZATION_FAILED",
        56 => "KAFKA_STORAGE_ERROR",
        59 => "UNKNOWN_PRODUCER_ID",
        70 => "FETCH_SESSION_ID_NOT_FOUND",
        71 => "INVALID_FETCH_SESSION_EPOCH",
        74 => "FENCED_LEADER_EPOCH",
        75 => "UNKNOWN_LEADER_EPOCH",
        76 => "UNSUPPORTED_COMPRESSION_TYPE",
        87 => "INVALID_RECORD",
        100 => "UNKNOWN_TOPIC_ID",
        115 => "UNSUPPORTED_ENDPOINT_TYPE",
        _ => "OTHER",
    }
}
