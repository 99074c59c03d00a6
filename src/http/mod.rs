//! HTTP, sans-io: a request's head in, an answer out. `net` runs hyper; nothing here touches a socket or a file.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};
use serde_json::{Value, json};

mod process;
mod scrape;
#[cfg(test)]
mod tests;

pub use process::ProcessFacts;

use crate::config::{Config, Protocol};
use crate::log::Log;
use crate::metrics::Metrics;
use crate::model::Partition;
use crate::upstream::Statuses;
use scrape::Scrape;

/// Where a backup is had.
const BACKUP: &str = "/api/v1/backup";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// Everything that HTTP answers from.
pub struct App {
    node: String,
    listeners: Vec<Value>,
    /// Whether a request must name this machine by address or as `localhost`.
    local_names_only: bool,
    log: Log,
    metrics: Arc<Metrics>,
    statuses: Statuses,
    process: fn() -> ProcessFacts,
    scrape: Scrape,
}

struct Answer {
    status: StatusCode,
    kind: &'static str,
    body: String,
}

impl App {
    /// Registers all metrics; one for the process.
    pub fn new(
        config: &Config,
        log: Log,
        metrics: Arc<Metrics>,
        statuses: Statuses,
        process: fn() -> ProcessFacts,
    ) -> Self {
        let listener = |l: &crate::config::Listener| json!({ "protocol": l.protocol.to_string(), "address": l.address.to_string() });
        let http = |l: &&crate::config::Listener| l.protocol == Protocol::Http;
        Self {
            node: config.node.name.clone(),
            listeners: config.listeners.iter().map(listener).collect(),
            // Once it is open to the network there is nothing left for a rebound name to reach.
            local_names_only: config
                .listeners
                .iter()
                .filter(http)
                .all(|l| l.address.ip().to_canonical().is_loopback()),
            scrape: Scrape::new(&metrics),
            log,
            metrics,
            statuses,
            process,
        }
    }

    /// Answers one request. No body is read. `None` for a backup, which the caller writes out (`backup`).
    pub fn handle(&self, request: &Parts, peer: IpAddr) -> Option<Response<Full<Bytes>>> {
        if request.uri.path() != BACKUP {
            return Some(respond(request, self.answer(request)));
        }
        let refused = match (self.refused(request), &request.method) {
            (Some(answer), _) => answer,
            (None, method) if method != Method::GET => text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"),
            _ if !peer.to_canonical().is_loopback() => text(
                StatusCode::FORBIDDEN,
                "everything that is stored goes to this machine only. Try: headwater backup there\n",
            ),
            _ => return None,
        };
        Some(respond(request, refused))
    }

    /// The log that a backup is made of.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The answer where no backup can be made now.
    pub fn no_backup(request: &Parts, why: &str) -> Response<Full<Bytes>> {
        respond(request, text(StatusCode::SERVICE_UNAVAILABLE, &format!("{why}\n")))
    }

    fn answer(&self, request: &Parts) -> Answer {
        if let Some(refused) = self.refused(request) {
            return refused;
        }
        let path = request.uri.path();
        let Some(route) = self.route(path) else {
            return text(StatusCode::NOT_FOUND, "nothing here. Try: / for a list\n");
        };
        if request.method != Method::GET && request.method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        }
        route(self)
    }

    fn refused(&self, request: &Parts) -> Option<Answer> {
        let foreign = self.local_names_only && !is_local(request);
        // A page on the web whose name was pointed at 127.0.0.1 (DNS rebinding) comes with that name.
        foreign.then(|| {
            text(
                StatusCode::FORBIDDEN,
                "unknown host name. Try: http://127.0.0.1 or http://localhost\n",
            )
        })
    }

    fn route(&self, path: &str) -> Option<fn(&Self) -> Answer> {
        Some(match path {
            "/" => Self::index,
            "/healthz" => Self::healthz,
            "/readyz" => Self::readyz,
            "/metrics" => Self::scraped,
            "/api/v1/node" => Self::node,
            "/api/v1/topics" => Self::topics,
            "/api/v1/losses" => Self::losses,
            "/api/v1/upstreams" => Self::upstreams,
            _ => return None,
        })
    }

    fn index(&self) -> Answer {
        let body = format!(
            "headwater {} on {}\n\n/healthz\n/readyz\n/metrics\n/api/v1/node\n/api/v1/topics\n/api/v1/losses\n/api/v1/upstreams\n/api/v1/backup\n",
            env!("CARGO_PKG_VERSION"),
            self.node
        );
        text(StatusCode::OK, &body)
    }

    fn healthz(&self) -> Answer {
        self.log.look_at_disk();
        let degraded = self.metrics.health.degraded();
        if degraded.is_empty() {
            return text(StatusCode::OK, "ok\n");
        }
        let lines: Vec<_> = degraded.iter().map(|(part, why)| format!("{part}: {why}\n")).collect();
        text(StatusCode::OK, &format!("degraded\n{}", lines.concat()))
    }

    fn readyz(&self) -> Answer {
        match self.metrics.health.ready() {
            true => text(StatusCode::OK, "ready\n"),
            false => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        }
    }

    fn scraped(&self) -> Answer {
        self.log.measure();
        Answer {
            status: StatusCode::OK,
            kind: "application/openmetrics-text; version=1.0.0; charset=utf-8",
            body: self.scrape.text(&(self.process)()),
        }
    }

    fn node(&self) -> Answer {
        let facts = (self.process)();
        let degraded: serde_json::Map<_, _> = self
            .metrics
            .health
            .degraded()
            .into_iter()
            .map(|(part, why)| (part, why.into()))
            .collect();
        json_answer(&json!({
            "name": self.node,
            "version": env!("CARGO_PKG_VERSION"),
            "ready": self.metrics.health.ready(),
            "degraded": degraded,
            "listeners": self.listeners,
            "resident_bytes": facts.resident_bytes,
            "start_seconds": facts.start_seconds,
        }))
    }

    fn topics(&self) -> Answer {
        let partition = |topic: &str, number: u32| {
            let bounds = self.log.bounds(topic, Partition(number))?;
            Some(json!({
                "partition": number,
                "log_start": bounds.log_start.0,
                "high_watermark": bounds.high_watermark.0,
                "leader_epoch": bounds.leader_epoch,
            }))
        };
        let topic = |info: &Arc<crate::log::TopicInfo>| {
            let name = info.name.as_str();
            json!({
                "name": name,
                "partitions": (0..info.partitions).filter_map(|p| partition(name, p)).collect::<Vec<_>>(),
                "retention_ms": info.settings.retention_ms,
                "retention_bytes": info.settings.retention_bytes,
                "priority": info.settings.priority,
                "shed": info.settings.shed.name(),
                "cleanup_policy": info.settings.cleanup_policy,
            })
        };
        json_answer(&Value::Array(self.log.topics().iter().map(topic).collect()))
    }

    fn losses(&self) -> Answer {
        json_answer(&json!(self.log.losses()))
    }

    fn upstreams(&self) -> Answer {
        json_answer(&Value::Array(self.statuses.json()))
    }
}

fn respond(request: &Parts, answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    if answer.status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    if request.method == Method::HEAD {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(answer.body.len()));
    } else {
        *response.body_mut() = Full::new(Bytes::from(answer.body));
    }
    response
}

fn text(status: StatusCode, body: &str) -> Answer {
    Answer {
        status,
        kind: TEXT,
        body: body.to_owned(),
    }
}

fn json_answer(value: &Value) -> Answer {
    Answer {
        status: StatusCode::OK,
        kind: JSON,
        body: format!("{value}\n"),
    }
}

/// Whether the request names this machine by an address or as localhost, or names nothing.
fn is_local(request: &Parts) -> bool {
    let from_header = request.headers.get(HOST).map(|host| host.to_str().unwrap_or("\0"));
    let Some(host) = request.uri.authority().map(|a| a.as_str()).or(from_header) else {
        return true;
    };
    if host.parse::<std::net::SocketAddr>().is_ok() || host.parse::<std::net::IpAddr>().is_ok() {
        return true;
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<std::net::IpAddr>().is_ok()
}
