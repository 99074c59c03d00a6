//! A record as Kafka knows it: key, value, headers, timestamp. Owned; the borrowed view of a stored one is in `batch`.

use bytes::Bytes;

/// One header of a record. Names may repeat; order is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// UTF-8 name.
    pub name: String,
    /// Value; `None` is Kafka's null.
    pub value: Option<Bytes>,
}

/// One record before it has an offset.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Record {
    /// Key; `None` is Kafka's null.
    pub key: Option<Bytes>,
    /// Value; `None` is Kafka's null, a tombstone in a compacted topic.
    pub value: Option<Bytes>,
    /// Headers in order, duplicates kept.
    pub headers: Vec<RecordHeader>,
    /// Milliseconds since 1970-01-01 UTC; the time the sensor gave, or the gateway's append time.
    pub timestamp_ms: i64,
}

impl Record {
    /// Bytes this record holds, for limits and queues: key, value, headers and a fixed share for framing.
    pub fn size_bytes(&self) -> usize {
        let field = |b: &Option<Bytes>| b.as_ref().map_or(0, Bytes::len);
        let headers: usize = self.headers.iter().map(|h| h.name.len() + field(&h.value) + 10).sum();
        field(&self.key) + field(&self.value) + headers + 24
    }
}
