//! Topics: what they are, how their settings are named and checked.

use std::collections::BTreeMap;

use crate::config::{Shed, TopicDefaults, TopicEntry};
use crate::model::compression::Codec;
use crate::model::{Code, Topic, nearest};

use super::{Refused, SettingChange};

/// A topic as it is now.
#[derive(Clone, Debug)]
pub struct TopicInfo {
    /// Name.
    pub name: Topic,
    /// Kafka's topic id: unique for every creation.
    pub id: [u8; 16],
    /// Number of partitions.
    pub partitions: u32,
    /// Settings in force.
    pub settings: TopicSettings,
    /// What the configuration file fixes: Kafka name of the setting (or `partitions`) and line.
    pub pinned: Vec<(&'static str, usize)>,
    /// Settings that were given when it was made or later, by Kafka name; all others come from the file or the defaults.
    pub given: Vec<String>,
}

/// A topic's settings, by Kafka's meaning. -1-like "unlimited" is `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicSettings {
    /// `retention.ms`.
    pub retention_ms: Option<u64>,
    /// `retention.bytes`, a partition.
    pub retention_bytes: Option<u64>,
    /// `max.message.bytes`: largest batch.
    pub batch_bytes_max: usize,
    /// `message.timestamp.type=LogAppendTime`.
    pub log_append_time: bool,
    /// `cleanup.policy` as given: `delete`, `compact` or `compact,delete`.
    pub cleanup_policy: String,
    /// `compression.type`, of what headwater packs itself; `None` where it is up to headwater. A producer's batches keep theirs.
    pub packed_codec: Option<Codec>,
    /// When and how it is compacted, if it is.
    pub compaction: CompactionSettings,
    /// 0 is shed first when the quota is reached, 9 last.
    pub priority: u8,
    /// `shed`: what goes when the quota is reached and it is this topic's turn.
    pub shed: Shed,
    /// `hold.until.forwarded`: retention waits until whoever carries the topic's records away has done so (`Carrier`).
    pub hold_until_forwarded: bool,
    /// `hold.max.ms`: for how long at most after they came in.
    pub hold_ms_max: Option<u64>,
    /// `hold.max.bytes`: up to how many bytes a partition.
    pub hold_bytes_max: Option<u64>,
}

/// Settings of compaction, by Kafka's meaning and with its defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct CompactionSettings {
    /// `delete.retention.ms`: how long a tombstone stays after it was first cleaned.
    pub delete_retention_ms: u64,
    /// `min.compaction.lag.ms`: a record younger than that stays.
    pub lag_ms_min: u64,
    /// `max.compaction.lag.ms`: a record that waits longer is cleaned whatever the dirty ratio.
    pub lag_ms_max: u64,
    /// `min.cleanable.dirty.ratio`: the part of a partition, in bytes, that must be new since it was last cleaned; 0 to 1.
    pub dirty_ratio_min: f64,
}

impl Default for CompactionSettings {
    fn default() -> Self {
        Self {
            delete_retention_ms: 24 * 60 * 60 * 1000,
            lag_ms_min: 0,
            lag_ms_max: i64::MAX as u64,
            dirty_ratio_min: 0.5,
        }
    }
}

impl TopicSettings {
    /// Whether old values of a key go.
    pub fn is_compacted(&self) -> bool {
        self.cleanup_policy.contains("compact")
    }

    /// Whether `retention.ms` and `retention.bytes` hold.
    pub fn is_deleted(&self) -> bool {
        self.cleanup_policy.contains("delete")
    }
}

/// A topic to be made. What is `None` comes from the topic defaults of the configuration.
#[derive(Clone, Debug)]
pub struct TopicSpec {
    /// Name.
    pub name: Topic,
    /// Partitions.
    pub partitions: Option<u32>,
    /// Settings by Kafka name (`retention.ms`), as strings; checked here.
    pub settings: Vec<(String, String)>,
}

impl TopicInfo {
    /// The line of the configuration file that fixes a setting (by its Kafka name, or `partitions`), if it does.
    pub fn pinned(&self, setting: &str) -> Option<usize> {
        let found = self.pinned.iter().find(|(name, _)| *name == setting);
        found.map(|(_, line)| *line)
    }
}

/// What the store keeps of a topic: what was asked for, not what the defaults made of it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct TopicRow {
    pub(super) name: String,
    pub(super) id: [u8; 16],
    pub(super) partitions: u32,
    /// Stores that were lost before this topic was made: its first offset is `generation << 40`, its leader epoch `generation`.
    pub(super) generation: u32,
    /// Settings that were given, by Kafka name.
    pub(super) settings: BTreeMap<String, String>,
}

/// First offset of partitions of a generation: above everything that an earlier one can have given out.
pub(super) fn first_offset(generation: u32) -> u64 {
    u64::from(generation) << 40
}

/// The generation that gives out an offset.
pub(super) fn generation_of(offset: u64) -> u32 {
    (offset >> 40) as u32
}

/// Names that are taken.
const SETTINGS: [&str; 18] = [
    "retention.ms",
    "retention.bytes",
    "max.message.bytes",
    "message.timestamp.type",
    "cleanup.policy",
    "delete.retention.ms",
    "min.compaction.lag.ms",
    "max.compaction.lag.ms",
    "min.cleanable.dirty.ratio",
    "priority",
    "shed",
    "hold.until.forwarded",
    "hold.max.ms",
    "hold.max.bytes",
    "compression.type",
    "segment.bytes",
    "segment.ms",
    "min.insync.replicas",
];

impl TopicRow {
    /// The topic with the defaults and the file's entry laid over what is stored; the file wins.
    pub(super) fn info(
        &self,
        name: Topic,
        defaults: &TopicDefaults,
        entry: Option<&TopicEntry>,
    ) -> Result<TopicInfo, Refused> {
        let mut settings = TopicSettings {
            retention_ms: defaults.retention_ms,
            retention_bytes: defaults.retention_bytes,
            batch_bytes_max: defaults.batch_bytes_max,
            log_append_time: false,
            cleanup_policy: CLEANUP_POLICY.into(),
            packed_codec: None,
            compaction: CompactionSettings::default(),
            priority: defaults.priority,
            shed: Shed::default(),
            hold_until_forwarded: defaults.hold_until_forwarded,
            hold_ms_max: defaults.hold_ms_max,
            hold_bytes_max: defaults.hold_bytes_max,
        };
        for (name, value) in &self.settings {
            set(&mut settings, name, value)?;
        }
        let CompactionSettings {
            lag_ms_min, lag_ms_max, ..
        } = settings.compaction;
        if lag_ms_min > lag_ms_max {
            let why = format!(
                "min.compaction.lag.ms ({lag_ms_min}) is above max.compaction.lag.ms ({lag_ms_max}). Try: a smaller one"
            );
            return Err(Refused::new(Code::InvalidConfig, why));
        }
        let mut pinned = Vec::new();
        if let Some(entry) = entry {
            let mut pin = |is: bool, name| pinned.extend(is.then_some((name, entry.line)));
            pin(entry.partitions.is_some(), "partitions");
            pin(entry.retention_ms.is_some(), "retention.ms");
            pin(entry.retention_bytes.is_some(), "retention.bytes");
            pin(entry.priority.is_some(), "priority");
            pin(entry.shed.is_some(), "shed");
            pin(entry.hold_until_forwarded.is_some(), "hold.until.forwarded");
            pin(entry.hold_ms_max.is_some(), "hold.max.ms");
            pin(entry.hold_bytes_max.is_some(), "hold.max.bytes");
            settings.hold_until_forwarded = entry.hold_until_forwarded.unwrap_or(settings.hold_until_forwarded);
            settings.hold_ms_max = entry.hold_ms_max.unwrap_or(settings.hold_ms_max);
            settings.hold_bytes_max = entry.hold_bytes_max.unwrap_or(settings.hold_bytes_max);
            settings.shed = entry.shed.unwrap_or(settings.shed);
            settings.retention_ms = entry.retention_ms.unwrap_or(settings.retention_ms);
            settings.retention_bytes = entry.retention_bytes.unwrap_or(settings.retention_bytes);
            settings.priority = entry.priority.unwrap_or(settings.priority);
        }
        Ok(TopicInfo {
            name,
            id: self.id,
            partitions: self.partitions,
            settings,
            pinned,
            given: self.settings.keys().cloned().collect(),
        })
    }
}

fn set(settings: &mut TopicSettings, name: &str, value: &str) -> Result<(), Refused> {
    let bad = |wanted: &str| {
        let why = format!("{name} cannot be {value:?}. Try: {wanted}");
        Refused::new(Code::InvalidConfig, why)
    };
    let unlimited = || match value.parse::<i64>() {
        Ok(-1) => Ok(None),
        Ok(n) if n >= 0 => Ok(Some(n as u64)),
        _ => Err(bad("a whole number, -1 for no limit")),
    };
    let milliseconds = |least: u64| {
        let value = value.parse().ok();
        let value = value.filter(|ms| (least..=i64::MAX as u64).contains(ms));
        value.ok_or_else(|| bad("a whole number of milliseconds"))
    };
    if value.len() > VALUE_BYTES_MAX {
        let why = format!(
            "a value of {name} cannot have {} bytes. Try: a shorter one",
            value.len()
        );
        return Err(Refused::new(Code::InvalidConfig, why));
    }
    match name {
        "retention.ms" => settings.retention_ms = unlimited()?,
        "retention.bytes" => settings.retention_bytes = unlimited()?,
        "max.message.bytes" => {
            let most = BATCH_BYTES_CEILING;
            let bytes = value.parse().ok().filter(|bytes| (1..=most).contains(bytes));
            settings.batch_bytes_max = bytes.ok_or_else(|| bad("a number of bytes from 1 to 67108864"))?;
        }
        "message.timestamp.type" => {
            settings.log_append_time = match value {
                "CreateTime" => false,
                "LogAppendTime" => true,
                _ => return Err(bad("CreateTime or LogAppendTime")),
            };
        }
        "cleanup.policy" => {
            let mut words: Vec<&str> = value.split(',').map(str::trim).collect();
            words.sort_unstable();
            settings.cleanup_policy = match words[..] {
                ["delete"] => "delete".into(),
                ["compact"] => "compact".into(),
                ["compact", "delete"] => "compact,delete".into(),
                _ => return Err(bad("delete, compact, or compact,delete")),
            };
        }
        "delete.retention.ms" => settings.compaction.delete_retention_ms = milliseconds(0)?,
        "min.compaction.lag.ms" => settings.compaction.lag_ms_min = milliseconds(0)?,
        "max.compaction.lag.ms" => settings.compaction.lag_ms_max = milliseconds(1)?,
        "min.cleanable.dirty.ratio" => {
            let ratio = value.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
            settings.compaction.dirty_ratio_min = ratio.ok_or_else(|| bad("a number from 0 to 1"))?;
        }
        "priority" => {
            let priority = value.parse().ok().filter(|priority| *priority <= 9);
            settings.priority = priority.ok_or_else(|| bad("0 (shed first) to 9 (shed last)"))?;
        }
        "hold.until.forwarded" => {
            let hold = value.parse().map_err(|_| bad("true or false"))?;
            settings.hold_until_forwarded = hold;
        }
        "hold.max.ms" => settings.hold_ms_max = unlimited()?,
        "hold.max.bytes" => settings.hold_bytes_max = unlimited()?,
        "shed" => settings.shed = Shed::parse(value).ok_or_else(|| bad("oldest or refuse"))?,
        "compression.type" => {
            settings.packed_codec = match value {
                "producer" => None,
                "uncompressed" => Some(Codec::None),
                "lz4" => Some(Codec::Lz4),
                "zstd" => Some(Codec::Zstd),
                _ => {
                    return Err(bad(
                        "producer, lz4, zstd or uncompressed: for what headwater packs itself; a producer's batches keep theirs",
                    ));
                }
            };
        }
        // How headwater lays out its store is its own affair: a number is taken and means nothing.
        "segment.bytes" | "segment.ms" => {
            value.parse::<u64>().map_err(|_| bad("a whole number"))?;
        }
        "min.insync.replicas" => {
            if value != "1" {
                return Err(bad("1: there is one replica"));
            }
        }
        _ => return Err(unknown(name)),
    }
    Ok(())
}

fn unknown(name: &str) -> Refused {
    let hint = match nearest(name, SETTINGS) {
        Some(nearest) => nearest.to_owned(),
        None => format!("one of {}", SETTINGS.join(", ")),
    };
    let why = format!("unknown topic setting {name:?}. Try: {hint}");
    Refused::new(Code::InvalidConfig, why)
}

/// Changes one of the settings that are given. Whether its value can be is checked with all of them (`TopicRow::info`).
pub(super) fn altered(given: &mut BTreeMap<String, String>, name: &str, change: &SettingChange) -> Result<(), Refused> {
    if !SETTINGS.contains(&name) {
        return Err(unknown(name));
    }
    let (value, adds) = match change {
        SettingChange::Set(value) => {
            given.insert(name.to_owned(), value.clone());
            return Ok(());
        }
        SettingChange::Unset => {
            given.remove(name);
            return Ok(());
        }
        SettingChange::Append(value) => (value, true),
        SettingChange::Subtract(value) => (value, false),
    };
    if name != "cleanup.policy" {
        let why = format!("{name} is one value, no list. Try: to set it");
        return Err(Refused::new(Code::InvalidConfig, why));
    }
    let before = given.get(name).map_or(CLEANUP_POLICY, String::as_str);
    let named: Vec<&str> = value.split(',').map(str::trim).collect();
    let mut words: Vec<&str> = before.split(',').map(str::trim).collect();
    words.retain(|word| !named.contains(word));
    if adds {
        words.extend(named);
    }
    let words = words.join(",");
    given.insert(name.to_owned(), words);
    Ok(())
}

/// Of a topic that was not given one.
const CLEANUP_POLICY: &str = "delete";

/// No setting has a longer value.
const VALUE_BYTES_MAX: usize = 256;

/// Largest `max.message.bytes` that can be asked for.
const BATCH_BYTES_CEILING: usize = 64 << 20;

/// Kafka's own bound is far above what one gateway holds.
const PARTITIONS_A_TOPIC_MAX: usize = 10_000;

/// Checks that there can be a topic of so many partitions.
pub(super) fn check_partitions(name: &Topic, partitions: u32, partitions_max: usize) -> Result<(), Refused> {
    let most = partitions_max.min(PARTITIONS_A_TOPIC_MAX);
    if (1..=most).contains(&(partitions as usize)) {
        return Ok(());
    }
    let why = format!("topic {name} cannot have {partitions} partitions. Try: 1 to {most}");
    Err(Refused::new(Code::InvalidPartitions, why))
}

/// Checks a topic to be made and gives the row to store, without its id and generation. `partitions_max`: of the whole node.
pub(super) fn row(
    spec: &TopicSpec,
    defaults: &TopicDefaults,
    entry: Option<&TopicEntry>,
    partitions_max: usize,
) -> Result<TopicRow, Refused> {
    let partitions = entry.and_then(|entry| entry.partitions).or(spec.partitions);
    let partitions = partitions.unwrap_or(defaults.partitions);
    check_partitions(&spec.name, partitions, partitions_max)?;
    let row = TopicRow {
        name: spec.name.to_string(),
        id: [0; 16],
        partitions,
        generation: 0,
        settings: spec.settings.iter().cloned().collect(),
    };
    row.info(spec.name.clone(), defaults, entry)?;
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(name: &str, value: &str) -> Result<TopicInfo, Refused> {
        let spec = TopicSpec {
            name: Topic::parse("t").unwrap(),
            partitions: None,
            settings: vec![(name.into(), value.into())],
        };
        let defaults = super::super::inline::topic_defaults();
        row(&spec, &defaults, None, 100)?.info(spec.name.clone(), &defaults, None)
    }

    #[test]
    fn an_unknown_setting_is_refused_with_the_nearest_one() {
        let refused = changed("retention.mss", "5").unwrap_err();
        assert_eq!(refused.code, Code::InvalidConfig);
        assert!(refused.why.ends_with("Try: retention.ms"), "{}", refused.why);
    }

    #[test]
    fn a_setting_that_is_like_no_other_is_refused_with_all_of_them() {
        let refused = changed("flush", "5").unwrap_err();
        assert!(refused.why.ends_with(&SETTINGS.join(", ")), "{}", refused.why);
    }

    #[test]
    fn too_many_partitions_are_refused_with_how_many_there_can_be() {
        let mut options = super::super::inline::options(crate::model::Now { mono_us: 1, wall_ms: 1 });
        options.limits.partitions = 10;
        let depot = super::super::memory::MemoryDepot::default();
        let log = super::super::inline::open_in(Box::new(depot), options).unwrap();
        let make = |name: &str, partitions| {
            let spec = TopicSpec {
                name: Topic::parse(name).unwrap(),
                partitions: Some(partitions),
                settings: Vec::new(),
            };
            let made = log.create_topic(spec, std::task::Waker::noop()).wait();
            made.map(drop)
                .map_err(|refused| (refused.code, refused.why.split_once("Try: ").unwrap().1.to_owned()))
        };
        assert_eq!(make("a", 11), Err((Code::InvalidPartitions, "1 to 10".into())));
        assert_eq!(make("a", 0), Err((Code::InvalidPartitions, "1 to 10".into())));
        assert_eq!(make("a", 7), Ok(()));
        assert_eq!(make("b", 4), Err((Code::TooManyTopics, "1 to 3".into())));
        assert_eq!(make("b", 3), Ok(()));
        assert_eq!(make("c", 1), Err((Code::TooManyTopics, "a higher limit".into())));
    }

    #[test]
    fn settings_take_kafkas_values() {
        assert_eq!(changed("retention.ms", "-1").unwrap().settings.retention_ms, None);
        assert_eq!(
            changed("retention.bytes", "9").unwrap().settings.retention_bytes,
            Some(9)
        );
        assert!(
            changed("message.timestamp.type", "LogAppendTime")
                .unwrap()
                .settings
                .log_append_time
        );
        assert_eq!(
            changed("cleanup.policy", "delete,compact")
                .unwrap()
                .settings
                .cleanup_policy,
            "compact,delete"
        );
        let compaction = |name, value| changed(name, value).map(|info| info.settings.compaction);
        assert_eq!(compaction("delete.retention.ms", "0").unwrap().delete_retention_ms, 0);
        assert_eq!(compaction("min.compaction.lag.ms", "7").unwrap().lag_ms_min, 7);
        assert_eq!(compaction("max.compaction.lag.ms", "7").unwrap().lag_ms_max, 7);
        assert_eq!(
            compaction("min.cleanable.dirty.ratio", "0.01").unwrap().dirty_ratio_min,
            0.01
        );
        for (name, value) in [
            ("compression.type", "gzip"),
            ("delete.retention.ms", "-1"),
            ("max.compaction.lag.ms", "0"),
            ("min.cleanable.dirty.ratio", "1.1"),
            ("min.cleanable.dirty.ratio", "NaN"),
            // Above max.compaction.lag.ms, however large that is.
            ("min.compaction.lag.ms", "9223372036854775808"),
        ] {
            assert_eq!(
                changed(name, value).unwrap_err().code,
                Code::InvalidConfig,
                "{name}={value}"
            );
        }
    }

    #[test]
    fn the_files_entry_wins_and_is_named_by_its_line() {
        let entry = TopicEntry {
            name: Topic::parse("t").unwrap(),
            line: 12,
            partitions: Some(2),
            retention_ms: Some(None),
            retention_bytes: None,
            priority: None,
            shed: None,
            hold_until_forwarded: None,
            hold_ms_max: None,
            hold_bytes_max: None,
        };
        let spec = TopicSpec {
            name: entry.name.clone(),
            partitions: Some(7),
            settings: vec![("retention.ms".into(), "5".into())],
        };
        let defaults = super::super::inline::topic_defaults();
        let info = row(&spec, &defaults, Some(&entry), 100).unwrap();
        let info = info.info(spec.name, &defaults, Some(&entry)).unwrap();
        assert_eq!((info.partitions, info.settings.retention_ms), (2, None));
        assert_eq!(info.pinned("retention.ms"), Some(12));
        assert_eq!(info.pinned("retention.bytes"), None);
    }
}
