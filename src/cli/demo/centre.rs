//! The real Apache Kafka behind a link that is cut and mended, and what has arrived there.

use std::time::Duration;

use super::super::Failure;
use super::super::broker::get;
use super::super::client::dial;
use super::super::client::kafka::{KafkaClient, KafkaError};
use super::account::{Arrival, Stored};
use super::link::Link;
use super::readback;
use crate::config;
use crate::upstream::UpstreamStatus;

/// Bound of every wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The centre.
pub(super) struct Centre {
    /// Where it listens, for reading back past the link.
    address: String,
    /// The topic there: of this run alone.
    topic: String,
    link: Link,
    /// It tells clients to connect to the link, and not to itself.
    behind_link: bool,
}

impl Centre {
    /// Puts the link in front of `address`, on `port` if the centre tells clients to connect there.
    pub(super) fn new(address: &str, port: u16, topic: &str) -> Result<Self, Failure> {
        let unreachable = |error: &dyn std::fmt::Display| {
            Failure::absent(format!(
                "cannot reach an Apache Kafka at {address}: {error}. Try: scripts/demo --upstream"
            ))
        };
        let mut client = KafkaClient::connect(address, TIMEOUT).map_err(|e| unreachable(&e))?;
        let brokers = client.brokers().map_err(|e| unreachable(&e))?;
        let link = Link::open(port, address).map_err(|error| {
            Failure::failed(format!(
                "port {port} of the link cannot be opened: {error}. Try: --link-port with a free one"
            ))
        })?;
        let here = link.address().port();
        for (host, port) in brokers.iter().filter(|(_, port)| *port != here) {
            let (named, bound) = (format!("{host}:{port}"), Duration::from_secs(3));
            dial(&named, bound).map_err(|error| {
                Failure::absent(format!(
                    "the Apache Kafka at {address} tells clients to connect to {named}, which fails: {error}. \
                     Try: --link-port {port}, if that port is free for the link"
                ))
            })?;
        }
        Ok(Self {
            address: address.to_owned(),
            topic: format!("headwater-demo-{:08x}-{topic}", fastrand::u32(..)),
            behind_link: brokers.iter().all(|(_, port)| *port == here),
            link,
        })
    }

    /// The embedded default with this centre as an upstream.
    pub(super) fn config(&self, topic: &str) -> String {
        let topic_there = self.topic.strip_suffix(topic).unwrap_or_default();
        format!(
            "{}\n[[upstream]]\nname = \"centre\"\nbootstrap = [\"{}\"]\ntopics = [\"{topic}\"]\n\
             topic_name = \"{topic_there}{{topic}}\"\nrequest_timeout = \"5s\"\nbackoff_max = \"1s\"\n",
            config::DEFAULT,
            self.link.address(),
        )
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    pub(super) fn is_behind_link(&self) -> bool {
        self.behind_link
    }

    /// Records there now.
    pub(super) fn count(&self) -> Result<u64, Failure> {
        let count = readback::count(&self.address, &self.topic).map_err(|e| self.failed(&e))?;
        Ok(count.unwrap_or(0))
    }

    /// What is there, held against what is here.
    pub(super) fn compare(&self, here: &[Stored]) -> Result<Arrival, Failure> {
        let there = readback::read(&self.address, &self.topic).map_err(|e| self.failed(&e))?;
        Ok(Arrival::of(here, &there))
    }

    fn failed(&self, error: &KafkaError) -> Failure {
        Failure::failed(format!("reading {} back from {}: {error}", self.topic, self.address))
    }
}

/// What the broker says about its upstream, asked at its HTTP listener.
pub(super) fn status(http: &str) -> Result<UpstreamStatus, Failure> {
    let failed = |why: &dyn std::fmt::Display| Failure::failed(format!("the upstream's status cannot be read: {why}"));
    let (_, body) = get(http, "/api/v1/upstreams", TIMEOUT).map_err(|e| failed(&e))?;
    let all: Vec<UpstreamStatus> = serde_json::from_str(&body).map_err(|e| failed(&e))?;
    all.into_iter().next().ok_or_else(|| failed(&"there is none"))
}
