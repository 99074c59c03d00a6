//! DescribeConfigs: the settings in force, with where each comes from.

use super::broker::NODE_ID;
use super::call::{Call, Context, Ready, error, text};
use crate::kafka_wire::messages::describe_configs_request::DescribeConfigsResource;
use crate::kafka_wire::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym,
};
use crate::kafka_wire::messages::{DescribeConfigsRequest, DescribeConfigsResponse};
use crate::log::TopicInfo;
use crate::model::Code;
use crate::model::compression::Codec;

/// Kafka's `ConfigResource.Type`.
pub(super) const TOPIC: i8 = 2;
pub(super) const BROKER: i8 = 4;

/// DYNAMIC_TOPIC_CONFIG: given when the topic was made, or later.
const FROM_TOPIC: i8 = 1;
/// STATIC_BROKER_CONFIG: from the configuration file.
const FROM_FILE: i8 = 4;
/// DEFAULT_CONFIG
const FROM_DEFAULT: i8 = 5;

/// Kafka's `ConfigDef.Type`, as the protocol numbers it.
#[derive(Clone, Copy)]
enum Type {
    Boolean = 1,
    String = 2,
    Int = 3,
    Long = 5,
    Double = 6,
    List = 7,
}

/// A setting by its Kafka name.
pub(super) struct Setting {
    pub(super) name: &'static str,
    pub(super) value: String,
    pub(super) source: i8,
    pub(super) read_only: bool,
    kind: Type,
}

/// The settings of a topic.
pub(super) fn of_topic(info: &TopicInfo) -> Vec<Setting> {
    let is = &info.settings;
    let compaction = &is.compaction;
    let time = if is.log_append_time {
        "LogAppendTime"
    } else {
        "CreateTime"
    };
    let compression = match is.packed_codec {
        None => "producer",
        Some(Codec::None) => "uncompressed",
        Some(codec) => codec.name(),
    };
    let setting = |name, value: String, kind| {
        let pinned = info.pinned(name).is_some();
        let source = match info.given.iter().any(|given| given == name) {
            _ if pinned => FROM_FILE,
            true => FROM_TOPIC,
            false => FROM_DEFAULT,
        };
        Setting {
            name,
            value,
            source,
            read_only: pinned,
            kind,
        }
    };
    vec![
        setting("cleanup.policy", is.cleanup_policy.clone(), Type::List),
        setting("compression.type", compression.into(), Type::String),
        setting(
            "delete.retention.ms",
            compaction.delete_retention_ms.to_string(),
            Type::Long,
        ),
        setting("max.compaction.lag.ms", compaction.lag_ms_max.to_string(), Type::Long),
        setting("hold.max.bytes", unlimited(is.hold_bytes_max), Type::Long),
        setting("hold.max.ms", unlimited(is.hold_ms_max), Type::Long),
        setting(
            "hold.until.forwarded",
            is.hold_until_forwarded.to_string(),
            Type::Boolean,
        ),
        setting("max.message.bytes", is.batch_bytes_max.to_string(), Type::Int),
        setting("message.timestamp.type", time.into(), Type::String),
        setting(
            "min.cleanable.dirty.ratio",
            compaction.dirty_ratio_min.to_string(),
            Type::Double,
        ),
        setting("min.compaction.lag.ms", compaction.lag_ms_min.to_string(), Type::Long),
        setting("min.insync.replicas", "1".into(), Type::Int),
        setting("priority", is.priority.to_string(), Type::Int),
        setting("shed", is.shed.name().to_owned(), Type::String),
        setting("retention.bytes", unlimited(is.retention_bytes), Type::Long),
        setting("retention.ms", unlimited(is.retention_ms), Type::Long),
    ]
}

/// The settings of the node, by the names that Kafka has for them.
fn of_node(cx: &Context<'_>) -> Vec<Setting> {
    let config = &cx.broker.config;
    let defaults = &config.topic_defaults;
    let (host, port) = cx.broker.address(cx.peer);
    let setting = |name, value: String, kind| Setting {
        name,
        value,
        source: FROM_FILE,
        read_only: true,
        kind,
    };
    let fixed = |name, value: &str, kind| Setting {
        source: FROM_DEFAULT,
        ..setting(name, value.into(), kind)
    };
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_string()
    };
    vec![
        setting(
            "advertised.listeners",
            format!("PLAINTEXT://{host}:{port}"),
            Type::String,
        ),
        setting(
            "auto.create.topics.enable",
            defaults.auto_create.to_string(),
            Type::Boolean,
        ),
        fixed("default.replication.factor", "1", Type::Int),
        setting(
            "fetch.max.bytes",
            config.limits.kafka_fetch_bytes.to_string(),
            Type::Int,
        ),
        fixed("log.cleanup.policy", "delete", Type::List),
        setting("log.dirs", config.node.data_dir.display().to_string(), Type::String),
        setting("log.retention.bytes", unlimited(defaults.retention_bytes), Type::Long),
        setting("log.retention.ms", unlimited(defaults.retention_ms), Type::Long),
        setting("message.max.bytes", defaults.batch_bytes_max.to_string(), Type::Int),
        fixed("min.insync.replicas", "1", Type::Int),
        fixed("node.id", &NODE_ID.to_string(), Type::Int),
        setting("num.partitions", defaults.partitions.to_string(), Type::Int),
        setting(
            "socket.request.max.bytes",
            config.limits.kafka_request_bytes.to_string(),
            Type::Int,
        ),
    ]
}

fn unlimited(value: Option<u64>) -> String {
    value.map_or_else(|| "-1".to_owned(), |value| value.to_string())
}

pub(super) fn begin(request: DescribeConfigsRequest, cx: &Context<'_>) -> Box<dyn Call> {
    let synonyms = request.include_synonyms;
    let results = request
        .resources
        .iter()
        .map(|resource| describe(resource, synonyms, cx));
    let response = DescribeConfigsResponse::default().with_results(results.collect());
    Ready::<DescribeConfigsRequest>::call(response)
}

fn describe(resource: &DescribeConfigsResource, synonyms: bool, cx: &Context<'_>) -> DescribeConfigsResult {
    let result = DescribeConfigsResult::default()
        .with_error_message(None)
        .with_resource_type(resource.resource_type)
        .with_resource_name(resource.resource_name.clone());
    let name = resource.resource_name.as_str();
    let settings = match resource.resource_type {
        TOPIC => match cx.broker.log.topic(name) {
            Some(info) => Ok(of_topic(&info)),
            None => Err((Code::UnknownTopic, "no such topic".to_owned())),
        },
        // The nameless one is what holds for all brokers and was set at run time: there is no such thing here.
        BROKER if name.is_empty() => Ok(Vec::new()),
        BROKER if name == NODE_ID.to_string() => Ok(of_node(cx)),
        BROKER => Err((Code::InvalidRequest, format!("there is one node. Try: {NODE_ID}"))),
        _ => Err((Code::InvalidRequest, "only topics and brokers have settings".to_owned())),
    };
    match settings {
        Err((code, why)) => result
            .with_error_code(error(cx, code.kafka()))
            .with_error_message(text(why)),
        Ok(settings) => {
            let wanted = resource.configuration_keys.as_deref().filter(|keys| !keys.is_empty());
            let wanted = |s: &Setting| wanted.is_none_or(|keys| keys.iter().any(|key| key.as_str() == s.name));
            let configs = settings.into_iter().filter(wanted).map(|s| entry(s, synonyms, cx));
            result.with_configs(configs.collect())
        }
    }
}

fn entry(setting: Setting, synonyms: bool, cx: &Context<'_>) -> DescribeConfigsResourceResult {
    let synonym = DescribeConfigsSynonym::default()
        .with_name(setting.name.into())
        .with_value(text(setting.value.as_str()))
        .with_source(setting.source);
    let entry = DescribeConfigsResourceResult::default()
        .with_name(setting.name.into())
        .with_value(text(setting.value))
        .with_read_only(setting.read_only)
        .with_config_source(setting.source)
        .with_documentation(None)
        .with_synonyms(if synonyms { vec![synonym] } else { Vec::new() });
    match cx.version {
        ..3 => entry,
        _ => entry.with_config_type(setting.kind as i8),
    }
}
