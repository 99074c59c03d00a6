//! The APIs spoken here, with the descriptors of their requests and answers. Source: the message definitions of Apache Kafka
//! (`clients/src/main/resources/common/message`), read off the codec that they must agree with.

use super::WireError;
use super::schema::Kind::{Bool, Bytes, Int8, Int16, Int32, Int64, List, Many, One, Str, Uuid};
use super::schema::{Shape, Struct, Tag, all, between, plain, since, until};

/// An API of the Kafka protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i16)]
#[allow(missing_docs)]
pub enum Api {
    Produce = 0,
    Fetch = 1,
    ListOffsets = 2,
    Metadata = 3,
    FindCoordinator = 10,
    ApiVersions = 18,
    CreateTopics = 19,
    DeleteTopics = 20,
    DeleteRecords = 21,
    InitProducerId = 22,
    OffsetForLeaderEpoch = 23,
    DescribeConfigs = 32,
    AlterConfigs = 33,
    CreatePartitions = 37,
    IncrementalAlterConfigs = 44,
    DescribeCluster = 60,
}

/// What is known of an API.
struct Entry {
    api: Api,
    name: &'static str,
    /// Versions that have descriptors.
    versions: (i16, i16),
    flexible_from: i16,
    request: &'static Struct,
    response: &'static Struct,
}

/// In order of key.
static ENTRIES: [Entry; 16] = [
    entry(Api::Produce, "Produce", (3, 11), 9, &PRODUCE, &PRODUCE_R),
    entry(Api::Fetch, "Fetch", (4, 12), 12, &FETCH, &FETCH_R),
    entry(
        Api::ListOffsets,
        "ListOffsets",
        (1, 7),
        6,
        &LIST_OFFSETS,
        &LIST_OFFSETS_R,
    ),
    entry(Api::Metadata, "Metadata", (0, 12), 9, &METADATA, &METADATA_R),
    entry(
        Api::FindCoordinator,
        "FindCoordinator",
        (0, 4),
        3,
        &FIND_COORDINATOR,
        &FIND_COORDINATOR_R,
    ),
    entry(
        Api::ApiVersions,
        "ApiVersions",
        (0, 4),
        3,
        &API_VERSIONS,
        &API_VERSIONS_R,
    ),
    entry(
        Api::CreateTopics,
        "CreateTopics",
        (2, 7),
        5,
        &CREATE_TOPICS,
        &CREATE_TOPICS_R,
    ),
    entry(
        Api::DeleteTopics,
        "DeleteTopics",
        (1, 6),
        4,
        &DELETE_TOPICS,
        &DELETE_TOPICS_R,
    ),
    entry(
        Api::DeleteRecords,
        "DeleteRecords",
        (0, 2),
        2,
        &DELETE_RECORDS,
        &DELETE_RECORDS_R,
    ),
    entry(
        Api::InitProducerId,
        "InitProducerId",
        (0, 4),
        2,
        &INIT_PRODUCER_ID,
        &INIT_PRODUCER_ID_R,
    ),
    entry(
        Api::OffsetForLeaderEpoch,
        "OffsetForLeaderEpoch",
        (2, 4),
        4,
        &LEADER_EPOCH,
        &LEADER_EPOCH_R,
    ),
    entry(
        Api::DescribeConfigs,
        "DescribeConfigs",
        (1, 4),
        4,
        &DESCRIBE_CONFIGS,
        &DESCRIBE_CONFIGS_R,
    ),
    entry(
        Api::AlterConfigs,
        "AlterConfigs",
        (0, 2),
        2,
        &ALTER_CONFIGS,
        &ALTER_CONFIGS_R,
    ),
    entry(
        Api::CreatePartitions,
        "CreatePartitions",
        (0, 3),
        2,
        &CREATE_PARTITIONS,
        &CREATE_PARTITIONS_R,
    ),
    entry(
        Api::IncrementalAlterConfigs,
        "IncrementalAlterConfigs",
        (0, 1),
        1,
        &INCREMENTAL_ALTER,
        &ALTER_CONFIGS_R,
    ),
    entry(
        Api::DescribeCluster,
        "DescribeCluster",
        (0, 2),
        0,
        &DESCRIBE_CLUSTER,
        &DESCRIBE_CLUSTER_R,
    ),
];

const fn entry(
    api: Api,
    name: &'static str,
    versions: (i16, i16),
    flexible_from: i16,
    request: &'static Struct,
    response: &'static Struct,
) -> Entry {
    Entry {
        api,
        name,
        versions,
        flexible_from,
        request,
        response,
    }
}

/// Elements (topics, partitions, settings) in one request; with some 200 bytes each in memory.
const REQUEST_ELEMENTS_MAX: usize = 32_768;
/// Elements in one answer: a large cluster's metadata has some hundred thousand.
const RESPONSE_ELEMENTS_MAX: usize = 1 << 20;

impl Api {
    /// By its number.
    pub fn from_key(key: i16) -> Option<Self> {
        ENTRIES.iter().map(|e| e.api).find(|a| a.key() == key)
    }

    /// Every API, by number.
    pub fn all() -> impl Iterator<Item = Self> {
        ENTRIES.iter().map(|e| e.api)
    }

    /// Its number.
    pub fn key(self) -> i16 {
        self as i16
    }

    /// Kafka's name for it.
    pub fn name(self) -> &'static str {
        self.entry().map_or("?", |e| e.name)
    }

    /// The versions that can be encoded and decoded here, both ends included.
    pub fn versions(self) -> (i16, i16) {
        self.entry().map_or((0, -1), |e| e.versions)
    }

    /// Whether this version has compact lengths and tagged fields.
    pub fn flexible(self, version: i16) -> bool {
        self.entry().is_some_and(|e| version >= e.flexible_from)
    }

    /// Whether an answer's header has tagged fields; never for ApiVersions, so that a client reads it before it knows the broker.
    pub(super) fn response_header_flexible(self, version: i16) -> bool {
        self != Self::ApiVersions && self.flexible(version)
    }

    pub(super) fn request_shape(self, version: i16) -> Result<Shape, WireError> {
        self.shape(version, |e| e.request, REQUEST_ELEMENTS_MAX)
    }

    pub(super) fn response_shape(self, version: i16) -> Result<Shape, WireError> {
        self.shape(version, |e| e.response, RESPONSE_ELEMENTS_MAX)
    }

    fn entry(self) -> Option<&'static Entry> {
        ENTRIES.iter().find(|e| e.api == self)
    }

    fn shape(
        self,
        version: i16,
        body: impl Fn(&Entry) -> &'static Struct,
        elements_max: usize,
    ) -> Result<Shape, WireError> {
        let unsupported = WireError::UnsupportedVersion { api: self, version };
        let entry = self.entry().ok_or_else(|| unsupported.clone())?;
        let (min, max) = entry.versions;
        if !(min..=max).contains(&version) {
            return Err(unsupported);
        }
        Ok(Shape {
            body: body(entry),
            version,
            flexible: version >= entry.flexible_from,
            elements_max,
        })
    }
}

const fn tag(tag: u32, from: i16, kind: super::schema::Kind) -> Tag {
    Tag { tag, from, kind }
}

static API_VERSIONS: Struct = plain(&[since(3, Str), since(3, Str)]);
static API_VERSIONS_R: Struct = Struct {
    fields: &[all(Int16), all(Many(&API_VERSION)), since(1, Int32)],
    tags: &[
        tag(0, 3, Many(&FEATURE)),
        tag(1, 3, Int64),
        tag(2, 3, Many(&FEATURE)),
        tag(3, 3, Bool),
    ],
};
static API_VERSION: Struct = plain(&[all(Int16), all(Int16), all(Int16)]);
static FEATURE: Struct = plain(&[all(Str), all(Int16), all(Int16)]);

static METADATA: Struct = plain(&[
    all(Many(&METADATA_TOPIC)),
    since(4, Bool),
    between(8, 10, Bool),
    since(8, Bool),
]);
static METADATA_TOPIC: Struct = plain(&[since(10, Uuid), all(Str)]);
static METADATA_R: Struct = plain(&[
    since(3, Int32),
    all(Many(&METADATA_R_BROKER)),
    since(2, Str),
    since(1, Int32),
    all(Many(&METADATA_R_TOPIC)),
    between(8, 10, Int32),
]);
static METADATA_R_BROKER: Struct = plain(&[all(Int32), all(Str), all(Int32), since(1, Str)]);
static METADATA_R_TOPIC: Struct = plain(&[
    all(Int16),
    all(Str),
    since(10, Uuid),
    since(1, Bool),
    all(Many(&METADATA_R_PARTITION)),
    since(8, Int32),
]);
static METADATA_R_PARTITION: Struct = plain(&[
    all(Int16),
    all(Int32),
    all(Int32),
    since(7, Int32),
    all(List(&Int32)),
    all(List(&Int32)),
    since(5, List(&Int32)),
]);

static PRODUCE: Struct = plain(&[all(Str), all(Int16), all(Int32), all(Many(&PRODUCE_TOPIC))]);
static PRODUCE_TOPIC: Struct = plain(&[all(Str), all(Many(&PRODUCE_PARTITION))]);
static PRODUCE_PARTITION: Struct = plain(&[all(Int32), all(Bytes)]);
static PRODUCE_R: Struct = Struct {
    fields: &[all(Many(&PRODUCE_R_TOPIC)), all(Int32)],
    tags: &[tag(0, 10, Many(&NODE_ENDPOINT))],
};
static PRODUCE_R_TOPIC: Struct = plain(&[all(Str), all(Many(&PRODUCE_R_PARTITION))]);
static PRODUCE_R_PARTITION: Struct = Struct {
    fields: &[
        all(Int32),
        all(Int16),
        all(Int64),
        all(Int64),
        since(5, Int64),
        since(8, Many(&PRODUCE_R_RECORD)),
        since(8, Str),
    ],
    tags: &[tag(0, 10, One(&LEADER))],
};
static PRODUCE_R_RECORD: Struct = plain(&[all(Int32), all(Str)]);
static LEADER: Struct = plain(&[all(Int32), all(Int32)]);
static NODE_ENDPOINT: Struct = plain(&[all(Int32), all(Str), all(Int32), all(Str)]);

static FETCH: Struct = Struct {
    fields: &[
        all(Int32),
        all(Int32),
        all(Int32),
        all(Int32),
        all(Int8),
        since(7, Int32),
        since(7, Int32),
        all(Many(&FETCH_TOPIC)),
        since(7, Many(&FETCH_FORGOTTEN)),
        since(11, Str),
    ],
    tags: &[tag(0, 12, Str)],
};
static FETCH_TOPIC: Struct = plain(&[all(Str), all(Many(&FETCH_PARTITION))]);
static FETCH_PARTITION: Struct = plain(&[
    all(Int32),
    since(9, Int32),
    all(Int64),
    since(12, Int32),
    since(5, Int64),
    all(Int32),
]);
static FETCH_FORGOTTEN: Struct = plain(&[all(Str), all(List(&Int32))]);
static FETCH_R: Struct = plain(&[all(Int32), since(7, Int16), since(7, Int32), all(Many(&FETCH_R_TOPIC))]);
static FETCH_R_TOPIC: Struct = plain(&[all(Str), all(Many(&FETCH_R_PARTITION))]);
static FETCH_R_PARTITION: Struct = Struct {
    fields: &[
        all(Int32),
        all(Int16),
        all(Int64),
        all(Int64),
        since(5, Int64),
        all(Many(&FETCH_R_ABORTED)),
        since(11, Int32),
        all(Bytes),
    ],
    tags: &[
        tag(0, 12, One(&EPOCH_END)),
        tag(1, 12, One(&LEADER)),
        tag(2, 12, One(&SNAPSHOT)),
    ],
};
static FETCH_R_ABORTED: Struct = plain(&[all(Int64), all(Int64)]);
static EPOCH_END: Struct = plain(&[all(Int32), all(Int64)]);
static SNAPSHOT: Struct = plain(&[all(Int64), all(Int32)]);

static LIST_OFFSETS: Struct = plain(&[all(Int32), since(2, Int8), all(Many(&LIST_OFFSETS_TOPIC))]);
static LIST_OFFSETS_TOPIC: Struct = plain(&[all(Str), all(Many(&LIST_OFFSETS_PARTITION))]);
static LIST_OFFSETS_PARTITION: Struct = plain(&[all(Int32), since(4, Int32), all(Int64)]);
static LIST_OFFSETS_R: Struct = plain(&[since(2, Int32), all(Many(&LIST_OFFSETS_R_TOPIC))]);
static LIST_OFFSETS_R_TOPIC: Struct = plain(&[all(Str), all(Many(&LIST_OFFSETS_R_PARTITION))]);
static LIST_OFFSETS_R_PARTITION: Struct = plain(&[all(Int32), all(Int16), all(Int64), all(Int64), since(4, Int32)]);

static INIT_PRODUCER_ID: Struct = plain(&[all(Str), all(Int32), since(3, Int64), since(3, Int16)]);
static INIT_PRODUCER_ID_R: Struct = plain(&[all(Int32), all(Int16), all(Int64), all(Int16)]);

static FIND_COORDINATOR: Struct = plain(&[until(3, Str), since(1, Int8), since(4, List(&Str))]);
static FIND_COORDINATOR_R: Struct = plain(&[
    since(1, Int32),
    until(3, Int16),
    between(1, 3, Str),
    until(3, Int32),
    until(3, Str),
    until(3, Int32),
    since(4, Many(&COORDINATOR)),
]);
static COORDINATOR: Struct = plain(&[all(Str), all(Int32), all(Str), all(Int32), all(Int16), all(Str)]);

static CREATE_TOPICS: Struct = plain(&[all(Many(&CREATE_TOPIC)), all(Int32), all(Bool)]);
static CREATE_TOPIC: Struct = plain(&[
    all(Str),
    all(Int32),
    all(Int16),
    all(Many(&CREATE_ASSIGNMENT)),
    all(Many(&CREATE_CONFIG)),
]);
static CREATE_ASSIGNMENT: Struct = plain(&[all(Int32), all(List(&Int32))]);
static CREATE_CONFIG: Struct = plain(&[all(Str), all(Str)]);
static CREATE_TOPICS_R: Struct = plain(&[all(Int32), all(Many(&CREATE_R_TOPIC))]);
static CREATE_R_TOPIC: Struct = Struct {
    fields: &[
        all(Str),
        since(7, Uuid),
        all(Int16),
        all(Str),
        since(5, Int32),
        since(5, Int16),
        since(5, Many(&CREATE_R_CONFIG)),
    ],
    tags: &[tag(0, 5, Int16)],
};
static CREATE_R_CONFIG: Struct = plain(&[all(Str), all(Str), all(Bool), all(Int8), all(Bool)]);

static CREATE_PARTITIONS: Struct = plain(&[all(Many(&CREATE_PARTITIONS_TOPIC)), all(Int32), all(Bool)]);
static CREATE_PARTITIONS_TOPIC: Struct = plain(&[all(Str), all(Int32), all(Many(&PARTITIONS_ASSIGNMENT))]);
static PARTITIONS_ASSIGNMENT: Struct = plain(&[all(List(&Int32))]);
static CREATE_PARTITIONS_R: Struct = plain(&[all(Int32), all(Many(&CREATE_PARTITIONS_R_TOPIC))]);
static CREATE_PARTITIONS_R_TOPIC: Struct = plain(&[all(Str), all(Int16), all(Str)]);

static DELETE_TOPICS: Struct = plain(&[since(6, Many(&DELETE_TOPIC)), until(5, List(&Str)), all(Int32)]);
static DELETE_TOPIC: Struct = plain(&[all(Str), all(Uuid)]);
static DELETE_TOPICS_R: Struct = plain(&[all(Int32), all(Many(&DELETE_R_TOPIC))]);
static DELETE_R_TOPIC: Struct = plain(&[all(Str), since(6, Uuid), all(Int16), since(5, Str)]);

static DELETE_RECORDS: Struct = plain(&[all(Many(&DELETE_RECORDS_TOPIC)), all(Int32)]);
static DELETE_RECORDS_TOPIC: Struct = plain(&[all(Str), all(Many(&DELETE_RECORDS_PARTITION))]);
static DELETE_RECORDS_PARTITION: Struct = plain(&[all(Int32), all(Int64)]);
static DELETE_RECORDS_R: Struct = plain(&[all(Int32), all(Many(&DELETE_RECORDS_R_TOPIC))]);
static DELETE_RECORDS_R_TOPIC: Struct = plain(&[all(Str), all(Many(&DELETE_RECORDS_R_PARTITION))]);
static DELETE_RECORDS_R_PARTITION: Struct = plain(&[all(Int32), all(Int64), all(Int16)]);

static LEADER_EPOCH: Struct = plain(&[since(3, Int32), all(Many(&LEADER_EPOCH_TOPIC))]);
static LEADER_EPOCH_TOPIC: Struct = plain(&[all(Str), all(Many(&LEADER_EPOCH_PARTITION))]);
static LEADER_EPOCH_PARTITION: Struct = plain(&[all(Int32), all(Int32), all(Int32)]);
static LEADER_EPOCH_R: Struct = plain(&[all(Int32), all(Many(&LEADER_EPOCH_R_TOPIC))]);
static LEADER_EPOCH_R_TOPIC: Struct = plain(&[all(Str), all(Many(&LEADER_EPOCH_R_PARTITION))]);
static LEADER_EPOCH_R_PARTITION: Struct = plain(&[all(Int16), all(Int32), all(Int32), all(Int64)]);

static DESCRIBE_CONFIGS: Struct = plain(&[all(Many(&DESCRIBE_RESOURCE)), all(Bool), since(3, Bool)]);
static DESCRIBE_RESOURCE: Struct = plain(&[all(Int8), all(Str), all(List(&Str))]);
static DESCRIBE_CONFIGS_R: Struct = plain(&[all(Int32), all(Many(&DESCRIBE_RESULT))]);
static DESCRIBE_RESULT: Struct = plain(&[all(Int16), all(Str), all(Int8), all(Str), all(Many(&DESCRIBE_CONFIG))]);
static DESCRIBE_CONFIG: Struct = plain(&[
    all(Str),
    all(Str),
    all(Bool),
    all(Int8),
    all(Bool),
    all(Many(&DESCRIBE_SYNONYM)),
    since(3, Int8),
    since(3, Str),
]);
static DESCRIBE_SYNONYM: Struct = plain(&[all(Str), all(Str), all(Int8)]);

static ALTER_CONFIGS: Struct = plain(&[all(Many(&ALTER_RESOURCE)), all(Bool)]);
static ALTER_RESOURCE: Struct = plain(&[all(Int8), all(Str), all(Many(&CREATE_CONFIG))]);
static ALTER_CONFIGS_R: Struct = plain(&[all(Int32), all(Many(&ALTER_RESULT))]);
static ALTER_RESULT: Struct = plain(&[all(Int16), all(Str), all(Int8), all(Str)]);
static INCREMENTAL_ALTER: Struct = plain(&[all(Many(&INCREMENTAL_RESOURCE)), all(Bool)]);
static INCREMENTAL_RESOURCE: Struct = plain(&[all(Int8), all(Str), all(Many(&INCREMENTAL_CONFIG))]);
static INCREMENTAL_CONFIG: Struct = plain(&[all(Str), all(Int8), all(Str)]);

static DESCRIBE_CLUSTER: Struct = plain(&[all(Bool), since(1, Int8), since(2, Bool)]);
static DESCRIBE_CLUSTER_R: Struct = plain(&[
    all(Int32),
    all(Int16),
    all(Str),
    since(1, Int8),
    all(Str),
    all(Int32),
    all(Many(&DESCRIBE_CLUSTER_BROKER)),
    all(Int32),
]);
static DESCRIBE_CLUSTER_BROKER: Struct = plain(&[all(Int32), all(Str), all(Int32), all(Str), since(2, Bool)]);
