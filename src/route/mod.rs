//! MQTT and compact names to topic, key and headers, and back: what a `[[route]]` says, compiled once and applied to every
//! message. The first route whose filter matches wins; without one a record goes to the topic `telemetry` with the MQTT
//! topic as its key.
//!
//! Parts: `filter` (an MQTT filter whose wildcards may have names), `template` (texts with `{names}`), `escape` (Kafka's
//! names for MQTT's), `record` (the reserved headers, both ways).
//!
//! A reading from the compact protocol has a name as well, `device/<device id>/<channel>`, so that the same table routes it
//! and an MQTT subscriber finds it: see [`device_name`].
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

mod escape;
mod filter;
mod record;
mod template;

use std::borrow::Cow;
use std::fmt::{self, Display};

use bytes::Bytes;

pub use escape::{escape, unescape};
pub use filter::Filter;
pub use record::{Message, Outgoing, outgoing};

use crate::config::RouteEntry;
use crate::model::{Code, Record, RecordHeader, Topic};
use template::{Template, Values};

/// Topic of what no route matches.
pub const TOPIC_DEFAULT: &str = "telemetry";

/// Where a message comes from.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The MQTT topic, or what `device_name` made; UTF-8.
    pub name: &'a Bytes,
    /// MQTT client id or device id.
    pub client: &'a str,
    /// User name; empty without one.
    pub user: &'a str,
}

/// A route that cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteError {
    /// Line of the `[[route]]` in the configuration file.
    pub line: usize,
    /// Cause and `Try:`.
    pub why: String,
}

impl Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.why)
    }
}

impl std::error::Error for RouteError {}

/// The compiled routes.
#[derive(Debug)]
pub struct Router {
    routes: Vec<Route>,
    fallback: Topic,
}

#[derive(Debug)]
struct Route {
    filter: Filter,
    topic: Template,
    /// The topic when its template names nothing.
    topic_fixed: Option<Topic>,
    /// `None` is the MQTT topic itself.
    key: Option<Template>,
    headers: Vec<(String, Template)>,
}

/// Where one message goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routed {
    /// The log's topic.
    pub topic: Topic,
    /// The key; `None` when the template gave the empty text.
    pub key: Option<Bytes>,
    /// The route's own headers.
    pub headers: Vec<RecordHeader>,
}

impl Router {
    /// Compiles every route, in order.
    pub fn compile(entries: &[RouteEntry]) -> Result<Self, RouteError> {
        let routes = entries.iter().map(Route::compile).collect::<Result<_, _>>()?;
        let fallback = Topic::parse(TOPIC_DEFAULT).map_err(|e| RouteError {
            line: 0,
            why: e.to_string(),
        })?;
        Ok(Self { routes, fallback })
    }

    /// Topic, key and the route's headers. `Code::InvalidTopic` when the name that comes out is empty or too long for Kafka.
    pub fn route(&self, source: &Source<'_>) -> Result<Routed, Code> {
        let name = std::str::from_utf8(source.name).map_err(|_| Code::InvalidTopic)?;
        for route in &self.routes {
            if let Some(wildcards) = route.filter.captures(name) {
                return route.apply(source, name, &wildcards);
            }
        }
        Ok(Routed {
            topic: self.fallback.clone(),
            key: Some(source.name.clone()),
            headers: Vec::new(),
        })
    }

    /// The whole record of a message: routed, with the reserved headers that bring it back to a subscriber.
    pub fn record(
        &self,
        source: &Source<'_>,
        message: Message<'_>,
        timestamp_ms: i64,
    ) -> Result<(Topic, Record), Code> {
        let routed = self.route(source)?;
        let key_is_name = routed.key.as_ref() == Some(source.name);
        let mut headers = routed.headers;
        message.write_headers(source.name, key_is_name, &mut headers);
        let record = Record {
            key: routed.key,
            value: Some(message.payload),
            headers,
            timestamp_ms,
        };
        Ok((routed.topic, record))
    }
}

impl Route {
    fn compile(entry: &RouteEntry) -> Result<Self, RouteError> {
        let fail = |what: &str, why: String| RouteError {
            line: entry.line,
            why: format!("{what}: {why}"),
        };
        let filter = Filter::parse(&entry.filter).map_err(|e| fail("route match", e))?;
        let template = |text: &str, topic_known: bool| Template::parse(text, filter.names(), topic_known);
        let topic = template(&entry.topic, false).map_err(|e| fail("route topic", e))?;
        topic.check_topic_literals().map_err(|e| fail("route topic", e))?;
        let topic_fixed = match topic.fixed() {
            Some(text) => Some(Topic::parse(text).map_err(|e| fail("route topic", e.to_string()))?),
            None => None,
        };
        let key = match entry.key.as_deref() {
            None | Some("{mqtt_topic}") => None,
            Some(text) => Some(template(text, true).map_err(|e| fail("route key", e))?),
        };
        let mut headers = Vec::new();
        for (name, text) in &entry.headers {
            if name.is_empty() || record::is_own_name(name) {
                let why = format!(
                    "the header name {name:?} is headwater's own. Try: a name that does not begin with \"mqtt.\""
                );
                return Err(fail("route headers", why));
            }
            let value = template(text, true).map_err(|e| fail("route headers", e))?;
            headers.push((name.clone(), value));
        }
        Ok(Self {
            filter,
            topic,
            topic_fixed,
            key,
            headers,
        })
    }

    fn apply(&self, source: &Source<'_>, name: &str, wildcards: &[&str]) -> Result<Routed, Code> {
        let mut values = Values {
            wildcards,
            mqtt_topic: name,
            topic: "",
            client: source.client,
            user: source.user,
        };
        let topic = match &self.topic_fixed {
            Some(topic) => topic.clone(),
            None => Topic::parse(&self.topic.fill_topic(&values)).map_err(|_| Code::InvalidTopic)?,
        };
        values.topic = topic.as_str();
        let key = match &self.key {
            None => Some(source.name.clone()),
            Some(template) => Some(Bytes::from(template.fill(&values))).filter(|k| !k.is_empty()),
        };
        let headers = self
            .headers
            .iter()
            .map(|(name, template)| RecordHeader {
                name: name.clone(),
                value: Some(Bytes::from(template.fill(&values))),
            })
            .collect();
        Ok(Routed { topic, key, headers })
    }
}

/// The name of a reading from the compact protocol: `device/<device id>/<channel>`. What the id holds beyond Kafka's
/// characters is escaped as in topics, so that an id is always one level and never a wildcard.
pub fn device_name(device: &str, channel: impl Display) -> Bytes {
    let device: Cow<'_, str> = escape(device);
    Bytes::from(format!("device/{device}/{channel}"))
}

/// Whether a text may be an MQTT topic that messages are published to: not empty, no wildcards, no NUL.
pub fn is_topic_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= usize::from(u16::MAX) && !name.contains(['+', '#', '\0'])
}

#[cfg(test)]
mod tests;
