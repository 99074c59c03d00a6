//! The configuration: one TOML file, parsed whole or refused with file, line, cause and a `Try:`. This page holds what the other
//! rooms read; how text becomes it is in `parse`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

mod error;
mod parse;
mod section;
#[cfg(test)]
mod tests;
mod tree;
mod units;

pub use error::ConfigError;
pub use units::duration_ms;

/// The commented file that stands for the defaults: `headwater config default` prints it.
pub const DEFAULT: &str = include_str!("../../config/headwater.toml");

/// What a configuration takes from the machine.
pub struct Env<'a> {
    /// Reads an environment variable, for `${NAME}`.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// The default of `node.name`.
    pub host_name: String,
}

impl Env<'static> {
    /// This process's.
    pub fn process() -> Self {
        Self {
            variable: &|name| std::env::var(name).ok(),
            host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        }
    }

    /// No variables, and a host of a fixed name: for tests.
    pub fn fixed() -> Self {
        Self {
            variable: &|_| None,
            host_name: "headwater".to_owned(),
        }
    }
}

/// Everything that is configured, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[node]`
    pub node: Node,
    /// `[listen]` and every `[[listener]]`, resolved.
    pub listeners: Vec<Listener>,
    /// `listen.kafka_advertised`: host and port, if not the address that a client reached.
    pub kafka_advertised: Option<(String, u16)>,
    /// `[storage]`
    pub storage: Storage,
    /// `[topic_defaults]`
    pub topic_defaults: TopicDefaults,
    /// Every `[[topic]]`.
    pub topics: Vec<TopicEntry>,
    /// Every `[[route]]`, in order.
    pub routes: Vec<RouteEntry>,
    /// Every `[[upstream]]`.
    pub upstreams: Vec<Upstream>,
    /// `[limits]`
    pub limits: Limits,
    /// `[clock]`
    pub clock: Clock,
    /// Every value in force as TOML, those from the environment as `${NAME}`.
    pub(crate) shown: String,
}

impl Config {
    /// Reads the file at `path`, or the embedded default, with every `KEY=VALUE` of `sets` laid over it.
    pub fn load(path: Option<&Path>, sets: &[String], env: &Env<'_>) -> Result<Self, ConfigError> {
        let Some(path) = path else {
            return Self::parse("default configuration", DEFAULT, sets, env);
        };
        let file = path.display().to_string();
        let text = std::fs::read(path).map_err(|e| {
            ConfigError::at_line(
                &file,
                0,
                e.to_string(),
                "`headwater config default > headwater.toml` to begin with",
            )
        })?;
        let text = String::from_utf8(text).map_err(|e| {
            let valid = e.as_bytes().get(..e.utf8_error().valid_up_to()).unwrap_or_default();
            let line = 1 + valid.iter().filter(|b| **b == b'\n').count();
            ConfigError::at_line(&file, line, "this is not UTF-8", "saving the file as UTF-8")
        })?;
        Self::parse(&file, &text, sets, env)
    }

    /// Parses text; `file` is its name in errors.
    pub fn parse(file: &str, text: &str, sets: &[String], env: &Env<'_>) -> Result<Self, ConfigError> {
        let read = || {
            let mut root = tree::parse(text, env.variable)?;
            for set in sets {
                tree::set(&mut root, set, env.variable)?;
            }
            parse::config(&root, env)
        };
        read().map_err(|mistake| ConfigError::new(file, mistake))
    }

    /// What is in force, defaults and `--set` included, as a file that would bring it about. Values from the environment are
    /// shown as `${NAME}`.
    pub fn effective_toml(&self) -> &str {
        self.shown.trim_end()
    }
}

impl Default for Config {
    /// The embedded default on a host named `headwater`.
    fn default() -> Self {
        Self::parse("default configuration", DEFAULT, &[], &Env::fixed()).expect("the embedded default parses")
    }
}

/// `[node]`
#[derive(Clone, Debug)]
pub struct Node {
    /// Name of this gateway; default: the host name.
    pub name: String,
    /// Where everything is kept.
    pub data_dir: PathBuf,
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// MQTT 3.1.1 and 5.
    Mqtt,
    /// Kafka.
    Kafka,
    /// The compact protocol.
    Compact,
    /// HTTP.
    Http,
}

impl Protocol {
    /// Its name in the configuration and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mqtt => "mqtt",
            Self::Kafka => "kafka",
            Self::Compact => "compact",
            Self::Http => "http",
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One listening address with its rules.
#[derive(Clone, Debug)]
pub struct Listener {
    /// What it speaks.
    pub protocol: Protocol,
    /// Where.
    pub address: SocketAddr,
    /// Whether anybody may connect. True by default on loopback; beyond it, it must be written out, or keys be given.
    pub allow_anonymous: bool,
    /// Compact only: file with `device-id:hex key` lines; a listener that has one requires the proof from every device.
    pub psk_file: Option<PathBuf>,
}

/// `[storage]`
#[derive(Clone, Debug)]
pub struct Storage {
    /// Fixed wait before a commit, microseconds; `None` is `auto`: none when alone, gathers while the disk is busy.
    pub linger_us: Option<u64>,
    /// redb's page cache, bytes.
    pub cache_bytes: usize,
    /// Newest batches kept in memory, bytes.
    pub tail_bytes: usize,
    /// Soft bound of what waits for the writer, bytes: past it sockets are not read. The hard bound is twice that.
    pub queue_bytes: usize,
    /// Most bytes gathered into one commit.
    pub commit_bytes_max: usize,
    /// `quota`: of everything in the data directory.
    pub quota: Quota,
    /// What the disk is.
    pub profile: Profile,
    /// Bytes a day that the store may write before commits wait longer; `None` is no bound.
    pub wear_budget: Option<u64>,
    /// The longest wait that the wear budget may bring, microseconds.
    pub linger_us_max: u64,
    /// How often each cell of the disk may be written, for the forecast of its life.
    pub write_cycles: u64,
}

/// `storage.profile`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// What the data directory lies on decides.
    Auto,
    /// A disk that begins a write quickly.
    Ssd,
    /// A memory card.
    Sd,
}

/// `storage.quota`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quota {
    /// Percent of the file system.
    Share(u8),
    /// A size.
    Bytes(u64),
}

/// What a topic gives up when the quota is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shed {
    /// Its oldest records.
    #[default]
    Oldest,
    /// New records.
    Refuse,
}

/// The smallest quota: below it the store's own files leave no room for records.
pub const QUOTA_BYTES_MIN: u64 = 64 << 20;

impl Quota {
    /// In bytes, on a file system of that size (0: of none). A share is at least the smallest quota.
    pub fn bytes(self, disk_bytes: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Share(_) if disk_bytes == 0 => u64::MAX,
            Self::Share(percent) => (disk_bytes / 100 * u64::from(percent)).max(QUOTA_BYTES_MIN),
        }
    }
}

impl Shed {
    /// By its name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "oldest" => Some(Self::Oldest),
            "refuse" => Some(Self::Refuse),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Oldest => "oldest",
            Self::Refuse => "refuse",
        }
    }
}

/// `[topic_defaults]`
#[derive(Clone, Debug)]
pub struct TopicDefaults {
    /// Whether a topic is made on first use.
    pub auto_create: bool,
    /// Partitions of a new topic.
    pub partitions: u32,
    /// `retention_time`, milliseconds; `None` keeps for ever.
    pub retention_ms: Option<u64>,
    /// `retention_size`, bytes a partition; `None` is no bound.
    pub retention_bytes: Option<u64>,
    /// 0 is shed first, 9 last.
    pub priority: u8,
    /// Whether retention waits until records are forwarded.
    pub hold_until_forwarded: bool,
    /// `hold_time_max`: for how long at most after they came in, milliseconds; `None` is no bound.
    pub hold_ms_max: Option<u64>,
    /// `hold_size_max`: up to how many bytes a partition; `None` is no bound.
    pub hold_bytes_max: Option<u64>,
    /// Largest batch, bytes.
    pub batch_bytes_max: usize,
}

/// A `[[topic]]`: what the file names is `Some`, and wins at every start.
#[derive(Clone, Debug)]
pub struct TopicEntry {
    /// Name.
    pub name: crate::model::Topic,
    /// Line in the file, for the refusal of a change.
    pub line: usize,
    /// Partitions; more than there are adds, fewer is an error in the log.
    pub partitions: Option<u32>,
    /// `retention_time`, ms; inner `None` keeps for ever.
    pub retention_ms: Option<Option<u64>>,
    /// `retention_size`, bytes a partition.
    pub retention_bytes: Option<Option<u64>>,
    /// 0 to 9.
    pub priority: Option<u8>,
    /// What goes when the quota is reached.
    pub shed: Option<Shed>,
    /// Whether retention waits until records are forwarded.
    pub hold_until_forwarded: Option<bool>,
    /// `hold_time_max`, ms; inner `None` is no bound.
    pub hold_ms_max: Option<Option<u64>>,
    /// `hold_size_max`, bytes a partition.
    pub hold_bytes_max: Option<Option<u64>>,
}

/// A `[[route]]`, as written; `route` compiles it (and `config check` calls that).
#[derive(Clone, Debug)]
pub struct RouteEntry {
    /// Line in the file.
    pub line: usize,
    /// MQTT filter whose wildcards may have names.
    pub filter: String,
    /// Topic template.
    pub topic: String,
    /// Key template; default `{mqtt_topic}`.
    pub key: Option<String>,
    /// Header templates, in the file's order.
    pub headers: Vec<(String, String)>,
}

/// An `[[upstream]]`
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Name, unique.
    pub name: String,
    /// `host:port` of the centre's brokers.
    pub bootstrap: Vec<String>,
    /// Patterns of topics to forward (`*` matches any run of characters); a leading `!` excludes.
    pub topics: Vec<String>,
    /// Template of the name there; may use `{node}` and `{topic}`.
    pub topic_name: String,
    /// Time after which an unanswered request means that the link hangs, ms.
    pub request_timeout_ms: u64,
    /// Longest wait between attempts, ms.
    pub backoff_ms_max: u64,
    /// With a link and without a trusted clock, the wait for the clock before times are forwarded as they are, ms.
    pub clock_wait_ms: u64,
    /// Most bytes of records in flight to this upstream.
    pub inflight_bytes_max: usize,
}

/// `[clock]`
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// When the machine's clock is believed.
    pub trust: crate::model::clock::Trust,
}

/// `[limits]`: behind each stands one written rule.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections over all listeners; the next one is closed at once.
    pub connections: usize,
    /// Topics; making one more is refused.
    pub topics: usize,
    /// Partitions over all topics; making more is refused.
    pub partitions: usize,
    /// Largest MQTT packet, bytes; a larger one ends the connection (0x95).
    pub mqtt_packet_bytes: usize,
    /// QoS 1 and 2 messages a publisher may have unacknowledged (Receive Maximum).
    pub mqtt_inflight: u16,
    /// Unsent bytes a subscriber may have: QoS 0 beyond it is dropped and counted, QoS 1 ends the connection.
    pub mqtt_outbound_bytes: usize,
    /// Subscriptions of one session.
    pub mqtt_subscriptions: usize,
    /// Longest session expiry, s.
    pub mqtt_session_expiry_s_max: u32,
    /// Sessions kept for absent clients; the next one is refused (0x97).
    pub mqtt_sessions: usize,
    /// Time a new connection has for CONNECT, Hello or its first request, ms.
    pub handshake_ms: u64,
    /// Largest Kafka request, bytes.
    pub kafka_request_bytes: usize,
    /// Largest Kafka Fetch answer, bytes.
    pub kafka_fetch_bytes: usize,
    /// Largest compact frame, bytes after decoding.
    pub compact_frame_bytes: usize,
    /// Devices whose sequence state is kept; a new one is refused beyond it.
    pub compact_devices: usize,
}
