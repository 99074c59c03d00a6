//! What all Kafka sessions share.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use super::producer_id::Block;
use super::session::KafkaSession;
use crate::config::Config;
use crate::kafka_wire::StrBytes;
use crate::log::{Expect, Log, StateChange, Submission, Table};
use crate::metrics::{KafkaMetrics, Metrics};
use crate::model::compression::Inflater;
use crate::model::{Now, Peer, Session};

/// The one node's id.
pub(super) const NODE_ID: i32 = 0;

/// Where the cluster id is kept in `Table::Kafka`.
const CLUSTER_ID_KEY: &[u8] = b"cluster_id";

/// Full-sized Fetch answers that may be in memory together; beyond them answers are small.
const FETCHES_AT_ONCE: usize = 8;

/// The Kafka side of the process; sessions hold it.
pub struct Broker {
    pub(super) config: Config,
    pub(super) log: Log,
    pub(super) cluster_id: StrBytes,
    /// Producer ids that are this process's to give out. Held only for moments, never across a call of the log.
    pub(super) producer_ids: Mutex<Block>,
    /// Where ids begin in a store that has given out none.
    pub(super) producer_id_first: u64,
    metrics: Arc<Metrics>,
    inflater: Mutex<Inflater>,
    fetch_bytes_leased: AtomicUsize,
}

impl Broker {
    /// Reads the cluster id from the log, or makes one from `seed`, which must be random.
    pub fn new(config: &Config, log: Log, metrics: Arc<Metrics>, seed: u64) -> Result<Arc<Self>, String> {
        let stored = log
            .state(Table::Kafka, CLUSTER_ID_KEY)
            .map_err(|refused| format!("the Kafka cluster id cannot be read: {}", refused.why))?;
        let stored = stored.and_then(|bytes| String::from_utf8(bytes).ok());
        let cluster_id = stored.unwrap_or_else(|| {
            let id = cluster_id(seed);
            // Nobody waits for it: it is in the first commit, before anything that depends on it.
            let change = StateChange {
                table: Table::Kafka,
                key: CLUSTER_ID_KEY.to_vec(),
                expect: Expect::Any,
                value: Some(id.clone().into_bytes()),
            };
            let submission = Submission {
                appends: Vec::new(),
                state: vec![change],
            };
            drop(log.submit(submission, Waker::noop()));
            id
        });
        Ok(Arc::new(Self {
            config: config.clone(),
            log,
            cluster_id: StrBytes::from_string(cluster_id),
            producer_ids: Mutex::default(),
            // Ids of a store that was lost must not come again: a new store begins somewhere else.
            producer_id_first: mix(seed ^ 0x7072_6f64).wrapping_shr(24).wrapping_shl(16),
            metrics,
            inflater: Mutex::default(),
            fetch_bytes_leased: AtomicUsize::new(0),
        }))
    }

    /// A session for a new connection.
    pub fn session(self: &Arc<Self>, peer: Peer, waker: Waker, _now: Now) -> Box<dyn Session> {
        Box::new(KafkaSession::new(Arc::clone(self), peer, waker))
    }

    pub(super) fn metrics(&self) -> &KafkaMetrics {
        &self.metrics.kafka
    }

    /// Host and port that a client is told to connect to: what is configured, else the address that it reached.
    pub(super) fn address(&self, peer: &Peer) -> (StrBytes, i32) {
        match &self.config.kafka_advertised {
            Some((host, port)) => (StrBytes::from_string(host.clone()), i32::from(*port)),
            None => {
                let host = peer.local.ip().to_canonical().to_string();
                (StrBytes::from_string(host), i32::from(peer.local.port()))
            }
        }
    }

    pub(super) fn inflater(&self) -> MutexGuard<'_, Inflater> {
        // It is cleared at every use, whatever a panic left in it.
        self.inflater.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn producer_ids(&self) -> MutexGuard<'_, Block> {
        // Two plain numbers, always whole.
        self.producer_ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for the records of one answer in the budget of all of them; `None` when it is used up.
    pub(super) fn lease(self: &Arc<Self>, bytes: usize) -> Option<Lease> {
        let most = self.config.limits.kafka_fetch_bytes.saturating_mul(FETCHES_AT_ONCE);
        let take = |leased: usize| leased.checked_add(bytes).filter(|sum| *sum <= most);
        let leased = self
            .fetch_bytes_leased
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, take);
        leased.ok().map(|_| Lease {
            broker: Arc::clone(self),
            bytes,
        })
    }
}

/// Bytes of the fetch budget; given back when dropped.
pub(super) struct Lease {
    broker: Arc<Broker>,
    bytes: usize,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.broker.fetch_bytes_leased.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// 22 characters of base64url, as Kafka's own tools make them.
fn cluster_id(seed: u64) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut rest = u128::from(mix(seed)) << 64 | u128::from(mix(seed.wrapping_add(1)));
    let mut id = String::with_capacity(22);
    for _ in 0..22 {
        id.push(DIGITS.get((rest & 63) as usize).map_or('A', |digit| char::from(*digit)));
        rest >>= 6;
    }
    id
}

/// Spreads a number over all bits (splitmix64).
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ n.wrapping_shr(30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ n.wrapping_shr(27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ n.wrapping_shr(31)
}
