//! Sessions on frames, over an inline log.
#![allow(clippy::arithmetic_side_effects, clippy::panic)]

mod admin;
mod fetch;
mod order;
mod produce;
mod refuse;
mod topics;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};

use bytes::Bytes;

use super::Broker;
use crate::config::{Config, Env};
use crate::kafka_wire::messages::*;
use crate::kafka_wire::{LENGTH_BYTES, RequestType, StrBytes, decode_response, encode_request, frame_bytes};
use crate::log::{Log, TopicSpec};
use crate::metrics::Metrics;
use crate::model::batch::{pack, stamp_producer};
use crate::model::{End, Now, Peer, Record, Session, Topic};

pub(super) const START: Now = Now {
    mono_us: 1_000_000,
    wall_ms: 1_700_000_000_000,
};

pub(super) fn at_ms(ms: u64) -> Now {
    Now {
        mono_us: START.mono_us + ms * 1000,
        wall_ms: START.wall_ms + ms as i64,
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
        Self::over(Log::inline(START), toml, 1)
    }

    pub(super) fn over(log: Log, toml: &str, seed: u64) -> Self {
        let config = Config::parse("test.toml", toml, &[], &Env::fixed()).expect("a configuration");
        let metrics = Arc::new(Metrics::default());
        let broker = Broker::new(&config, log.clone(), Arc::clone(&metrics), seed).expect("a broker");
        Self { log, metrics, broker }
    }

    /// With a topic of one partition.
    pub(super) fn with_topic(name: &str) -> Self {
        let house = Self::new("");
        house.make(name, 1, &[]);
        house
    }

    pub(super) fn make(&self, name: &str, partitions: u32, settings: &[(&str, &str)]) {
        let spec = TopicSpec {
            name: Topic::parse(name).unwrap(),
            partitions: Some(partitions),
            settings: settings.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        };
        self.log.create_topic(spec, Waker::noop()).wait().expect("a topic");
    }

    pub(super) fn dial(&self) -> Wire {
        let peer = Peer {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 50_000)),
            local: SocketAddr::from((Ipv4Addr::new(192, 0, 2, 7), 9092)),
        };
        let wakes = Arc::new(Wakes::default());
        let session = self.broker.session(peer, Waker::from(Arc::clone(&wakes)), START);
        Wire {
            session,
            wakes,
            received: Vec::new(),
            correlation: 0,
        }
    }

    /// As `/metrics` shows it; 0 when it was never counted.
    pub(super) fn counter(&self, line: &str) -> u64 {
        let mut registry = prometheus_client::registry::Registry::default();
        self.metrics.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let found = text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or(0)
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
    wakes: Arc<Wakes>,
    received: Vec<u8>,
    correlation: i32,
}

impl Wire {
    /// Sends a request and gives its correlation id.
    pub(super) fn send<R: RequestType>(&mut self, version: i16, request: &R) -> i32 {
        self.correlation += 1;
        let frame = encode_request(version, self.correlation, "test", request).unwrap();
        self.send_bytes(&frame);
        self.correlation
    }

    pub(super) fn send_bytes(&mut self, bytes: &[u8]) -> usize {
        self.session.input(bytes, START)
    }

    /// The next answer's frame, without its length, if there is one.
    pub(super) fn receive_frame(&mut self, now: Now) -> Option<Bytes> {
        self.session.poll(now);
        self.received.extend(self.session.output().take());
        self.session.poll(now);
        let bytes = frame_bytes(&self.received, 1 << 30).unwrap()?;
        assert!(bytes <= self.received.len(), "output holds whole frames");
        let frame: Vec<u8> = self.received.drain(..bytes).collect();
        Some(Bytes::from(frame).slice(LENGTH_BYTES..))
    }

    pub(super) fn receive<R: RequestType>(&mut self, version: i16, now: Now) -> Option<(i32, R::Response)> {
        let frame = self.receive_frame(now)?;
        Some(decode_response::<R>(version, frame).unwrap())
    }

    /// A request that is answered at once.
    pub(super) fn ask<R: RequestType>(&mut self, version: i16, request: &R) -> R::Response {
        let correlation = self.send(version, request);
        let answer = self.receive::<R>(version, START);
        let (answered, body) = answer.unwrap_or_else(|| panic!("no answer, {:?}", self.session.end()));
        assert_eq!(answered, correlation);
        body
    }

    pub(super) fn wakes(&self) -> usize {
        self.wakes.0.load(Ordering::Relaxed)
    }

    /// What the peer is told it did wrong.
    pub(super) fn blamed(&self) -> &str {
        match self.session.end() {
            Some(End::Peer(why)) => why,
            other => panic!("{other:?}"),
        }
    }
}

pub(super) fn name(text: &str) -> TopicName {
    TopicName(StrBytes::from_string(text.into()))
}

pub(super) fn record(value: &str, timestamp_ms: i64) -> Record {
    Record {
        value: Some(Bytes::from(value.to_owned())),
        timestamp_ms,
        ..Record::default()
    }
}

/// A batch of these values, a millisecond apart.
pub(super) fn batch(values: &[&str]) -> Vec<u8> {
    let records: Vec<_> = (0..).zip(values).map(|(i, v)| record(v, START.wall_ms + i)).collect();
    pack(&records)
}

/// The same of an idempotent producer.
pub(super) fn batch_of(producer: i64, epoch: i16, sequence: i32, values: &[&str]) -> Vec<u8> {
    let mut bytes = batch(values);
    stamp_producer(&mut bytes, producer, epoch, sequence, false);
    bytes
}

pub(super) fn produce(topic: &str, partition: i32, acks: i16, batch: Vec<u8>) -> ProduceRequest {
    let data = produce_request::PartitionProduceData::default()
        .with_index(partition)
        .with_records(Some(batch.into()));
    let topic = produce_request::TopicProduceData::default()
        .with_name(name(topic))
        .with_partition_data(vec![data]);
    ProduceRequest::default()
        .with_acks(acks)
        .with_timeout_ms(1000)
        .with_topic_data(vec![topic])
}

/// Error code and base offset of the one partition of an answer.
pub(super) fn produced(response: &ProduceResponse) -> (i16, i64) {
    let partition = &response.responses[0].partition_responses[0];
    (partition.error_code, partition.base_offset)
}
