//! The broker side over an in-memory log: with frames made here, and against the device crate over a bad line.
#![allow(clippy::arithmetic_side_effects, clippy::panic)]

use std::sync::Arc;
use std::task::Waker;

use headwater_wire::{Code, Hello, Message, Publish, decode, encode};

use super::{Broker, Row, device_key};
use crate::config::{Config, Listener, Protocol};
use crate::log::{Log, ReadRequest, Table};
use crate::metrics::Metrics;
use crate::model::{Now, Offset, Partition, Peer, Record, Session};

mod commands;
mod commit;
mod device;
mod intake;
mod refuse;
mod session;

const START: Now = Now {
    mono_us: 1_000_000,
    wall_ms: 1_700_000_000_000,
};

fn later(ms: u64) -> Now {
    Now {
        mono_us: START.after_ms(ms),
        wall_ms: START.wall_ms + ms as i64,
    }
}

struct Bench {
    log: Log,
    metrics: Arc<Metrics>,
    broker: Arc<Broker>,
}

fn default_config() -> Config {
    Config::parse("test", "", &[], &crate::config::Env::fixed()).expect("the default configuration")
}

fn listener() -> Listener {
    Listener {
        protocol: Protocol::Compact,
        address: "127.0.0.1:7420".parse().unwrap(),
        allow_anonymous: true,
        psk_file: None,
    }
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = default_config();
        change(&mut config);
        Self::over(Log::inline(START), &config)
    }

    fn over(log: Log, config: &Config) -> Self {
        let metrics = Arc::new(Metrics::default());
        let broker = Broker::new(config, log.clone(), Arc::clone(&metrics)).unwrap();
        Self { log, metrics, broker }
    }

    /// Another broker over the same log, as after a crash; this one goes on and knows nothing of it.
    fn again(&self) -> Self {
        Self {
            log: self.log.clone(),
            metrics: Arc::clone(&self.metrics),
            broker: Broker::new(&default_config(), self.log.clone(), Arc::clone(&self.metrics)).unwrap(),
        }
    }

    fn session(&self) -> Line {
        let address = "127.0.0.1:1".parse().unwrap();
        let peer = Peer {
            address,
            local: address,
        };
        Line {
            session: self.broker.session(peer, &listener(), Waker::noop().clone(), 7, START),
            input: Vec::new(),
        }
    }

    fn row(&self, device: &str) -> Row {
        let value = self.log.state(Table::Devices, &device_key(device)).unwrap();
        Row::decode(&value.expect("a row")).unwrap()
    }

    /// Every record of a topic in the order of its partitions and offsets.
    fn records(&self, topic: &str) -> Vec<Record> {
        let Some(info) = self.log.topic(topic) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for partition in 0..info.partitions {
            let mut from = Offset(0);
            loop {
                let request = ReadRequest {
                    topic: info.name.clone(),
                    partition: Partition(partition),
                    from,
                    bytes_max: 1 << 20,
                };
                let read = self.log.read(request, Waker::noop()).take().unwrap().unwrap();
                if read.offset_next == from {
                    break;
                }
                for piece in read.batches {
                    for record in super::commands::records(&piece) {
                        found.push(record.1);
                    }
                }
                from = read.offset_next;
            }
        }
        found
    }

    fn values(&self) -> Vec<Vec<u8>> {
        let records = self.records("telemetry");
        records.into_iter().map(|r| r.value.unwrap().to_vec()).collect()
    }
}

/// A connection as a driver would have it.
struct Line {
    session: Box<dyn Session>,
    input: Vec<u8>,
}

/// What a broker says, without borrowing.
#[derive(Debug, PartialEq)]
enum Said {
    Challenge([u8; 16]),
    Hello { last: u64 },
    Ack(u64),
    Nack(u64, Code, u32),
    Command(u64, String, Vec<u8>),
    Bye(Code),
    Other(u8),
}

impl Line {
    fn send(&mut self, message: &Message<'_>, now: Now) {
        let mut buf = vec![0; 4096];
        let n = encode(message, &mut buf).unwrap();
        self.bytes(&buf[..n], now);
    }

    fn bytes(&mut self, bytes: &[u8], now: Now) {
        self.input.extend_from_slice(bytes);
        let used = self.session.input(&self.input, now);
        self.input.drain(..used);
        self.session.poll(now);
    }

    fn said(&mut self) -> Vec<Said> {
        let out = self.session.output().take();
        let (mut at, mut said, mut scratch) = (0, Vec::new(), vec![0; 1 << 20]);
        while let Some((frame, used)) = decode(&out[at..], &mut scratch).unwrap() {
            at += used;
            said.push(match frame.message {
                Message::Challenge(nonce) => Said::Challenge(nonce),
                Message::HelloAck(ack) => Said::Hello { last: ack.last },
                Message::Ack(sequence) => Said::Ack(sequence),
                Message::Nack(nack) => Said::Nack(nack.sequence, nack.code(), nack.retry_after_ms),
                Message::Command(c) => Said::Command(c.id, c.name.to_owned(), c.payload.to_vec()),
                Message::Bye(code) => Said::Bye(Code(code)),
                other => Said::Other(other.number()),
            });
        }
        assert_eq!(at, out.len());
        said
    }

    fn hello(&mut self, epoch: u32, next: u64) -> Vec<Said> {
        self.send(&hello(epoch, next, None), START);
        self.said()
    }

    fn publish(&mut self, sequence: u64) -> Vec<Said> {
        let payload = sequence.to_string();
        self.send(&publish(sequence, "t", payload.as_bytes()), START);
        self.said()
    }
}

fn hello(epoch: u32, next: u64, proof: Option<[u8; 32]>) -> Message<'static> {
    Message::Hello(Hello {
        version: 1,
        device: "pump-7",
        epoch,
        next,
        frame_bytes_max: 200,
        proof,
    })
}

fn publish<'a>(sequence: u64, channel: &'a str, payload: &'a [u8]) -> Message<'a> {
    Message::Publish(Publish {
        sequence,
        time: None,
        channel,
        payload,
    })
}

fn numbers(values: impl IntoIterator<Item = u64>) -> Vec<Vec<u8>> {
    values.into_iter().map(|n| n.to_string().into_bytes()).collect()
}
