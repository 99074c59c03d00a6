//! IncrementalAlterConfigs and the older AlterConfigs, which gives a topic exactly the settings it names.

use std::collections::HashSet;
use std::sync::Arc;

use super::call::{Call, Context, Step, answer, error, text};
use super::configs::{BROKER, TOPIC};
use crate::kafka_wire::StrBytes;
use crate::kafka_wire::messages::alter_configs_response::AlterConfigsResourceResponse as Replaced;
use crate::kafka_wire::messages::incremental_alter_configs_response::AlterConfigsResourceResponse as Altered;
use crate::kafka_wire::messages::{
    AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
};
use crate::log::{Refused, SettingChange, Ticket, TopicChange, TopicInfo};
use crate::model::{Code, Output, Topic};

/// Kafka's `AlterConfigOp.OpType`.
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// A setting as it was asked for: name, operation, value.
type Asked = (StrBytes, i8, Option<StrBytes>);

struct Alter {
    resources: Vec<(i8, StrBytes, Stage)>,
    /// IncrementalAlterConfigs.
    incremental: bool,
}

enum Stage {
    Going(Ticket<Arc<TopicInfo>>),
    Done,
    Refused(i16, String),
}

pub(super) fn begin_incremental(request: IncrementalAlterConfigsRequest, cx: &Context<'_>) -> Box<dyn Call> {
    let resources = request.resources.into_iter().map(|resource| {
        let asked = resource.configs.into_iter();
        let asked = asked.map(|config| (config.name, config.config_operation, config.value));
        (resource.resource_type, resource.resource_name, asked.collect())
    });
    let resources = resources.collect();
    begin(resources, true, request.validate_only, cx)
}

pub(super) fn begin_replacing(request: AlterConfigsRequest, cx: &Context<'_>) -> Box<dyn Call> {
    let resources = request.resources.into_iter().map(|resource| {
        let asked = resource.configs.into_iter();
        let asked = asked.map(|config| (config.name, SET, config.value));
        (resource.resource_type, resource.resource_name, asked.collect())
    });
    let resources = resources.collect();
    begin(resources, false, request.validate_only, cx)
}

fn begin(
    asked: Vec<(i8, StrBytes, Vec<Asked>)>,
    incremental: bool,
    validate_only: bool,
    cx: &Context<'_>,
) -> Box<dyn Call> {
    let (mut once, mut twice) = (HashSet::new(), HashSet::new());
    for (kind, name, _) in &asked {
        if !once.insert((*kind, name.clone())) {
            twice.insert((*kind, name.clone()));
        }
    }
    let resources = asked.into_iter().map(|(kind, name, settings)| {
        let change = match twice.contains(&(kind, name.clone())) {
            true => Err(invalid("named twice in one request")),
            false => change(kind, &name, settings, incremental),
        };
        let log = &cx.broker.log;
        let stage = match change {
            Err((code, why)) => Stage::Refused(code.kafka(), why),
            Ok(change) if validate_only => match log.check_change(&change) {
                Ok(()) => Stage::Done,
                Err(Refused { code, why }) => Stage::Refused(code.kafka(), why),
            },
            Ok(change) => Stage::Going(log.alter_topic(change, cx.waker)),
        };
        (kind, name, stage)
    });
    let resources = resources.collect();
    Box::new(Alter { resources, incremental })
}

fn invalid(why: impl Into<String>) -> (Code, String) {
    (Code::InvalidRequest, why.into())
}

fn change(kind: i8, name: &StrBytes, settings: Vec<Asked>, incremental: bool) -> Result<TopicChange, (Code, String)> {
    match kind {
        TOPIC => {}
        BROKER => {
            return Err(invalid(
                "the node's settings are in its configuration file. Try: change it there",
            ));
        }
        _ => return Err(invalid("only topics have settings that can be changed")),
    }
    let unknown = |_| (Code::UnknownTopic, "no such topic".to_owned());
    let name = Topic::parse(name.as_str()).map_err(unknown)?;
    let mut names = HashSet::new();
    let mut changes = Vec::with_capacity(settings.len());
    for (setting, operation, value) in settings {
        if !names.insert(setting.clone()) {
            return Err(invalid(format!("{setting} is named twice", setting = setting.as_str())));
        }
        let setting = setting.to_string();
        let value = value.map(|value| value.to_string());
        let change = match (operation, value) {
            (DELETE, _) => SettingChange::Unset,
            (SET | APPEND | SUBTRACT, None) => return Err(invalid(format!("{setting} has no value"))),
            (SET, Some(value)) => SettingChange::Set(value),
            (APPEND, Some(value)) => SettingChange::Append(value),
            (SUBTRACT, Some(value)) => SettingChange::Subtract(value),
            (operation, _) => return Err(invalid(format!("{setting}: there is no operation {operation}"))),
        };
        changes.push((setting, change));
    }
    Ok(TopicChange {
        name,
        settings: changes,
        replaces_all: !incremental,
    })
}

impl Call for Alter {
    fn poll(&mut self, cx: &Context<'_>, out: &mut Output) -> Step {
        for (_, _, stage) in &mut self.resources {
            let Stage::Going(ticket) = stage else { continue };
            *stage = match ticket.take() {
                None => return Step::Waiting,
                Some(Ok(_)) => Stage::Done,
                Some(Err(Refused { code, why })) => Stage::Refused(code.kafka(), why),
            };
        }
        let results = self.resources.iter().map(|(kind, name, stage)| {
            let (code, why) = match stage {
                Stage::Refused(code, why) => (error(cx, *code), text(why.as_str())),
                Stage::Done | Stage::Going(_) => (0, None),
            };
            (*kind, name.clone(), code, why)
        });
        if self.incremental {
            let responses = results.map(|(kind, name, code, why)| {
                Altered::default()
                    .with_resource_type(kind)
                    .with_resource_name(name)
                    .with_error_code(code)
                    .with_error_message(why)
            });
            let response = IncrementalAlterConfigsResponse::default().with_responses(responses.collect());
            return answer::<IncrementalAlterConfigsRequest>(&response, cx, out);
        }
        let responses = results.map(|(kind, name, code, why)| {
            Replaced::default()
                .with_resource_type(kind)
                .with_resource_name(name)
                .with_error_code(code)
                .with_error_message(why)
        });
        let response = AlterConfigsResponse::default().with_responses(responses.collect());
        answer::<AlterConfigsRequest>(&response, cx, out)
    }
}
