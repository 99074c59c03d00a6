//! Sessions on raw bytes, over an inline log.
#![allow(clippy::arithmetic_side_effects, clippy::panic)]

mod bytes_of;
mod connect;
mod deliver;
mod publish;
mod refuse;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use super::Broker;
use crate::config::{Config, Env, Listener, Protocol};
use crate::log::{Log, ReadRequest};
use crate::metrics::Metrics;
use crate::model::batch::Batch;
use crate::model::{End, Now, Offset, Partition, Peer, Record, Session};

pub(super) const START: Now = Now {
    mono_us: 1_000_000,
    wall_ms: 1_700_000_000_000,
};

pub(super) fn at_s(seconds: u64) -> Now {
    Now {
        mono_us: START.mono_us + seconds * 1_000_000,
        wall_ms: START.wall_ms + seconds as i64 * 1000,
    }
}

/// A broker over a log that can outlive it.
pub(super) struct House {
    pub(super) log: Log,
    pub(super) metrics: Arc<Metrics>,
    pub(super) broker: Arc<Broker>,
}

impl House {
    pub(super) fn new(toml: &str) -> Self {
        Self::over(Log::inline(START), toml)
    }

    pub(super) fn over(log: Log, toml: &str) -> Self {
        let config = Config::parse("test.toml", toml, &[], &Env::fixed()).expect("a configuration");
        let metrics = Arc::new(Metrics::default());
        let broker = Broker::new(&config, log.clone(), Arc::clone(&metrics)).expect("a broker");
        broker.poll(START, Waker::noop());
        Self { log, metrics, broker }
    }

    /// The broker ends without a word and another one opens the same log.
    pub(super) fn crash(self, toml: &str) -> Self {
        Self::over(self.log, toml)
    }

    /// A connection that has said nothing yet.
    pub(super) fn dial(&self) -> Wire {
        self.dial_where(true)
    }

    pub(super) fn dial_where(&self, allow_anonymous: bool) -> Wire {
        static SEED: AtomicUsize = AtomicUsize::new(1);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1883));
        let listener = Listener {
            protocol: Protocol::Mqtt,
            address,
            allow_anonymous,
            psk_file: None,
        };
        let peer = Peer {
            address,
            local: address,
        };
        let wakes = Arc::new(Wakes::default());
        let seed = SEED.fetch_add(1, Ordering::Relaxed) as u64;
        let waker = Waker::from(Arc::clone(&wakes));
        let session = self.broker.session(peer, &listener, waker, seed, START);
        Wire { session, wakes }
    }

    /// A connection after CONNECT with these bytes.
    pub(super) fn connected(&self, connect: &[u8]) -> Wire {
        let mut wire = self.dial();
        let answer = wire.send(connect);
        assert_eq!(
            answer.first(),
            Some(&0x20),
            "no CONNACK: {answer:02x?} {:?}",
            wire.end()
        );
        wire
    }

    /// Lets the hub deliver.
    pub(super) fn deliver(&self, now: Now) {
        self.broker.poll(now, Waker::noop());
    }

    /// Every record of a topic, partition after partition.
    pub(super) fn records(&self, topic: &str) -> Vec<Record> {
        let Some(info) = self.log.topic(topic) else {
            return Vec::new();
        };
        let mut records = Vec::new();
        for partition in (0..info.partitions).map(Partition) {
            let request = ReadRequest {
                topic: info.name.clone(),
                partition,
                from: Offset(0),
                bytes_max: usize::MAX,
            };
            let read = self.log.read(request, Waker::noop()).wait().expect("a read");
            for batch in read.batches.into_iter().flat_map(Batch::split) {
                let batch = batch.expect("a batch");
                records.extend(batch.records(1 << 20).expect("records").into_iter().map(|(_, r)| r));
            }
        }
        records
    }

    pub(super) fn values(&self, topic: &str) -> Vec<String> {
        let text = |r: Record| String::from_utf8(r.value.unwrap_or_default().to_vec()).expect("text");
        self.records(topic).into_iter().map(text).collect()
    }
}

#[derive(Default)]
pub(super) struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The client's end of a connection.
pub(super) struct Wire {
    pub(super) session: Box<dyn Session>,
    pub(super) wakes: Arc<Wakes>,
}

impl Wire {
    /// Sends bytes and returns what comes back.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.send_at(bytes, START)
    }

    pub(super) fn send_at(&mut self, bytes: &[u8], now: Now) -> Vec<u8> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let used = self.session.input(rest, now);
            if used == 0 {
                break;
            }
            rest = &rest[used..];
        }
        self.receive_at(now)
    }

    /// What came without being asked.
    pub(super) fn receive(&mut self) -> Vec<u8> {
        self.receive_at(START)
    }

    pub(super) fn receive_at(&mut self, now: Now) -> Vec<u8> {
        self.session.poll(now);
        self.session.output().take()
    }

    pub(super) fn wakes(&self) -> usize {
        self.wakes.0.load(Ordering::Relaxed)
    }

    pub(super) fn end(&self) -> Option<&End> {
        self.session.end()
    }

    pub(super) fn is_blamed(&self) -> bool {
        matches!(self.end(), Some(End::Peer(_)))
    }

    /// The connection breaks.
    pub(super) fn cut(mut self, now: Now) {
        self.session.gone(now);
    }
}
