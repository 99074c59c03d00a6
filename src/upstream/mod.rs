//! The forwarder: carries the log's partitions to a central Apache Kafka cluster, whenever there is a link. It is a state
//! machine without sockets and clocks; `net::upstream` drives it. What it does and promises is in `src/manual/upstream.md`.
//!
//! ```text
//! log ──read──▶ lane ──entries──▶ target ──Produce──▶ link ──▶ centre
//!               (local partition) (partition there)   (a broker)
//!  ▲                                                     │ answers
//!  └──────────── keeper: checkpoints, refused ◀──────────┘
//! ```
//!
//! Delivery today is at least once: `Deliver` is reached by way of `Identify` alone (`identity`), and checkpoints go into the
//! local database after the centre's answer. The exactly-once form puts a step that reads the checkpoints back from the centre
//! between the two, and writes them there in the transaction that holds the records; lanes, targets and links stay as they are.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

mod answers;
mod backoff;
mod cluster;
mod counters;
mod entry;
mod flow;
mod identity;
mod keeper;
mod lane;
mod links;
mod progress;
mod selection;
mod status;
mod target;
#[cfg(test)]
mod tests;
mod verdict;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::task::Waker;

pub use links::{Command, LinkId};
pub use progress::{Checkpoint, Kept};
pub use status::{PartitionStatus, RefusedStatus, Statuses, UpstreamStatus};

use crate::config;
use crate::log::{Carrier, Log, Watch};
use crate::metrics::Metrics;
use crate::model::{Now, Topic};

use backoff::Jitter;
use cluster::Cluster;
use counters::Counters;
use entry::LaneKey;
use identity::Identity;
use keeper::Keeper;
use lane::Lane;
use links::{Address, Links};
use selection::Selection;
use target::{Target, TargetKey};

/// What is unanswered when the broker stops has this long to be answered.
const STOP_MS: u64 = 1000;

/// Forwards to one upstream. The driver's loop: after any call, and when the waker fires or `deadline_us` passes, call `poll`,
/// then do every `poll_command`.
pub struct Forwarder {
    config: config::Upstream,
    client_id: String,
    log: Log,
    metrics: Arc<Metrics>,
    counters: Counters,
    waker: Waker,
    jitter: Jitter,
    selection: Selection,
    links: Links,
    seeds: Vec<Address>,
    seed_next: usize,
    cluster: Cluster,
    identity: Identity,
    lanes: BTreeMap<LaneKey, Lane>,
    targets: BTreeMap<TargetKey, Target>,
    /// Partitions of topics that are gone, with entries still on their way: no new lane of that name until they are through.
    ghosts: BTreeSet<LaneKey>,
    /// Topics that are to be forwarded and can have no name in the centre.
    nameless: BTreeSet<Topic>,
    entry_ids: u64,
    keeper: Keeper,
    commit_seen: u64,
    watch: Option<Watch>,
    topics_seen: Option<u64>,
    topics_due_us: u64,
    fill_due_us: u64,
    fill_now: bool,
    /// When the first link came to be.
    linked_us: Option<u64>,
    /// Which target is first in the next request, so that all get their turn.
    turn: usize,
    stop_by_us: Option<u64>,
    deadline_us: Option<u64>,
    last_error: Option<(String, i64)>,
    troubled: bool,
}

impl Forwarder {
    /// A forwarder that goes on from its stored checkpoints. `node` fills `{node}`; `seed` is for jitter; `waker` is woken when
    /// the log has something for it.
    pub fn new(
        config: config::Upstream,
        node: &str,
        log: Log,
        metrics: Arc<Metrics>,
        waker: Waker,
        seed: u64,
        now: Now,
    ) -> Self {
        let seeds: Vec<Address> = config.bootstrap.iter().filter_map(|text| address(text)).collect();
        let mut jitter = Jitter::new(seed);
        let first = usize::try_from(jitter.upper_half(seeds.len() as u64)).unwrap_or(0);
        Self {
            client_id: format!("headwater-{node}"),
            counters: Counters::new(&metrics, &config.name),
            selection: Selection::new(&config, node),
            links: Links::new(
                config.request_timeout_ms,
                config.backoff_ms_max,
                config.inflight_bytes_max,
            ),
            seed_next: first,
            cluster: Cluster::new(now),
            identity: Identity::default(),
            lanes: BTreeMap::new(),
            targets: BTreeMap::new(),
            ghosts: BTreeSet::new(),
            nameless: BTreeSet::new(),
            entry_ids: 0,
            keeper: Keeper::open(&config.name, &log),
            commit_seen: 0,
            watch: None,
            topics_seen: None,
            topics_due_us: 0,
            fill_due_us: 0,
            linked_us: None,
            fill_now: true,
            turn: 0,
            stop_by_us: None,
            deadline_us: None,
            last_error: None,
            troubled: false,
            seeds,
            config,
            log,
            metrics,
            waker,
            jitter,
        }
    }

    /// Looks at everything it waits for and does what can be done.
    pub fn poll(&mut self, now: Now) {
        self.deadline_us = None;
        self.end_hung_links(now);
        self.settle();
        self.follow_log(now);
        if self.stop_by_us.is_none() {
            self.ask_metadata(now);
            self.ask_topics(now);
            self.fill(now);
            self.ask_producer(now);
            self.reach_leaders(now);
            self.send(now);
        } else {
            self.stop_by_us.into_iter().for_each(|at| self.wake_at(at));
        }
        let (due, failed) = self
            .keeper
            .poll(&mut self.lanes, &self.log, &self.waker, self.stop_by_us.is_some(), now);
        due.into_iter().for_each(|at| self.wake_at(at));
        if let Some(why) = failed {
            self.note_error(why, now);
        }
        self.links.hangs_at().into_iter().for_each(|at| self.wake_at(at));
        let connected = self.links.is_connected();
        self.counters.connected.set(connected.into());
    }

    /// The next thing for the driver to do.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.links.outbox.pop_front()
    }

    /// Monotonic microseconds at which `poll` must be called at the latest.
    pub fn deadline_us(&self) -> Option<u64> {
        self.deadline_us
    }

    /// The connection of a `Command::Connect` is there.
    pub fn connected(&mut self, link: LinkId, now: Now) {
        self.links.connected(link, now);
        self.linked_us.get_or_insert(now.mono_us);
        let client = &self.client_id;
        self.links.ask(link, links::Asked::Versions, 0, 0, now, |c| {
            wire::versions_request(c, client)
        });
        self.counters.connects.inc();
    }

    /// Bytes came in. Answers are taken apart here; a peer that breaks the protocol loses its link.
    pub fn input(&mut self, link: LinkId, bytes: &[u8], now: Now) {
        self.links.input(link, bytes, now);
        loop {
            let why = match self.links.next_answer(link) {
                Ok(None) => return,
                Ok(Some((request, frame))) => match self.answered(link, request, frame, now) {
                    Ok(()) => continue,
                    Err(why) => format!("it answers nonsense: {why}"),
                },
                Err(why) => format!("it does not speak Kafka: {why}"),
            };
            return self.end_link(link, &why, false, now);
        }
    }

    /// Some of what was to be sent is out: the link moves.
    pub fn wrote(&mut self, link: LinkId, now: Now) {
        self.links.wrote(link, now);
    }

    /// The connection is gone or could not be had.
    pub fn lost(&mut self, link: LinkId, why: &str, now: Now) {
        if let Some(link) = self.links.lost(link, false, now, &mut self.jitter) {
            self.unanswered(link, why, now);
        }
    }

    /// The broker stops: nothing new is sent; what is out may be answered for a moment; then progress is stored.
    pub fn stop(&mut self, now: Now) {
        self.stop_by_us.get_or_insert(now.after_ms(STOP_MS));
    }

    /// Whether everything is stored after `stop`, or the time for it is over.
    pub fn is_stopped(&self, now: Now) -> bool {
        let Some(stop_by_us) = self.stop_by_us else {
            return false;
        };
        let quiet = self.targets.values().all(|t| t.in_flight() == 0) && self.keeper.is_clean(&self.lanes);
        quiet || now.mono_us >= stop_by_us
    }

    /// What it looks like from outside.
    pub fn status(&self) -> UpstreamStatus {
        let partitions: Vec<PartitionStatus> = self.lanes.values().map(|lane| self.partition_status(lane)).collect();
        let refused = self.keeper.shown.iter().rev().map(|kept| RefusedStatus {
            topic: kept.topic.clone(),
            partition: kept.partition,
            offset: kept.first,
            records: kept.records,
            error: kept.error,
            cause: kept.cause.clone(),
            wall_ms: kept.wall_ms,
        });
        UpstreamStatus {
            name: self.config.name.clone(),
            connected: self.links.is_connected(),
            lag_records: partitions.iter().map(|p| p.lag_records).fold(0, u64::saturating_add),
            forwarded_records: self.counters.records_forwarded.get(),
            refused_batches: self.keeper.refused_ever,
            skipped_records: self.counters.records_skipped.get(),
            inflight_bytes: self.bytes_held() as u64,
            last_error: self.last_error.as_ref().map(|(text, _)| text.clone()),
            last_error_ms: self.last_error.as_ref().map(|(_, at)| *at),
            refused: refused.collect(),
            partitions,
        }
    }

    fn partition_status(&self, lane: &Lane) -> PartitionStatus {
        let (topic, partition) = &lane.key;
        let bounds = self.log.bounds(topic.as_str(), *partition);
        PartitionStatus {
            topic: topic.as_str().to_owned(),
            partition: partition.0,
            topic_there: lane.name_there.as_str().to_owned(),
            partition_there: lane.target.as_ref().map(|(_, p)| p.0),
            next_offset: lane.acked_next.0,
            lag_records: bounds.map_or(0, |b| lane.lag(b.high_watermark)),
            forwarded_records: lane.forwarded,
            skipped_records: lane.skipped,
        }
    }

    fn bytes_held(&self) -> usize {
        let read: usize = self.lanes.values().map(Lane::bytes).sum();
        read.saturating_add(self.targets.values().map(Target::bytes).sum())
    }

    fn wake_at(&mut self, us: u64) {
        self.deadline_us = Some(self.deadline_us.map_or(us, |at| at.min(us)));
    }

    fn note_error(&mut self, why: String, now: Now) {
        self.last_error = Some((why, now.wall_ms));
    }
}

/// The upstreams as those who carry records away, for a log whose retention may wait for them.
pub fn carriers(upstreams: &[config::Upstream], node: &str) -> Vec<Carrier> {
    let carrier = |upstream: &config::Upstream| {
        let selection = Selection::new(upstream, node);
        Carrier {
            name: upstream.name.clone(),
            wants: Arc::new(move |topic| selection.wants(topic)),
        }
    };
    upstreams.iter().map(carrier).collect()
}

/// Under which name `/healthz` tells of an upstream: one line for each.
pub fn health_part(upstream: &str) -> String {
    format!("upstream {upstream}")
}

/// `host:port` or `[v6]:port`; the configuration was checked.
fn address(text: &str) -> Option<Address> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    Some((host.into(), port.parse().ok()?))
}
