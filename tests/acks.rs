//! An answer is a fact: with a writer that has not run yet no session says that anything is stored, and once it has run they
//! all do, in order. The writer runs on this thread, between the steps, so that nothing depends on timing.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use headwater::compact;
use headwater::config::{Config, Env, Listener, Protocol};
use headwater::kafka;
use headwater::kafka_wire::messages::produce_request::{PartitionProduceData, TopicProduceData};
use headwater::kafka_wire::messages::{ProduceRequest, TopicName};
use headwater::kafka_wire::{LENGTH_BYTES, StrBytes, decode_response, encode_request};
use headwater::log::{Log, OpenOptions, Opening, Writer};
use headwater::metrics::Metrics;
use headwater::model::batch::pack;
use headwater::model::{Now, Peer, Record, Session};
use headwater::mqtt::Broker;
use headwater_wire::{Hello, Message, Publish, encode};

const NOW: Now = Now {
    mono_us: 1_000_000,
    wall_ms: 1_700_000_000_000,
};

/// A data directory that is gone with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("acks-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    fn open(&self, config: &Config) -> (Log, Writer) {
        let options = OpenOptions {
            data_dir: self.0.clone(),
            storage: config.storage.clone(),
            topic_defaults: config.topic_defaults.clone(),
            limits: config.limits.clone(),
            topics: config.topics.clone(),
            carriers: Vec::new(),
            metrics: Arc::new(Metrics::default()),
            now: NOW,
            store_id: [7; 16],
            ring_seed: [8; 16],
        };
        let Opening { log, writer, .. } = Log::open(options).expect("a log");
        (log, writer)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// CONNECT, 3.1.1, clean session 0.
const CONNECT4: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x00\x00\x01a";
/// CONNECT, 5.0.
const CONNECT5: &[u8] = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01a";

/// A session after CONNECT.
fn connected(broker: &Arc<Broker>, connect: &[u8], seed: u64) -> Box<dyn Session> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 1883));
    let listener = Listener {
        protocol: Protocol::Mqtt,
        address,
        allow_anonymous: true,
        psk_file: None,
    };
    let peer = Peer {
        address,
        local: address,
    };
    let mut session = broker.session(peer, &listener, Waker::noop().clone(), seed, NOW);
    session.input(connect, NOW);
    assert_eq!(session.output().take().first(), Some(&0x20));
    session
}

fn send(session: &mut Box<dyn Session>, bytes: &[u8]) -> Vec<u8> {
    assert_eq!(session.input(bytes, NOW), bytes.len());
    session.poll(NOW);
    session.output().take()
}

const PUBLISH1: &[u8] = b"\x32\x08\x00\x01t\x00\x01one";
const PUBLISH2: &[u8] = b"\x34\x08\x00\x01t\x00\x02two";
const PUBREL2: &[u8] = b"\x62\x02\x00\x02";

#[test]
fn puback_waits_for_commit() {
    let directory = Directory::new("puback");
    let config = Config::parse("acks.toml", "", &[], &Env::fixed()).expect("a configuration");
    let (log, writer) = directory.open(&config);
    let broker = Broker::new(&config, log.clone(), Arc::new(Metrics::default())).expect("a broker");
    let mut session = connected(&broker, CONNECT4, 1);
    assert_eq!(send(&mut session, PUBLISH1), b"", "no PUBACK before the commit");
    assert_eq!(send(&mut session, PUBLISH2), b"", "no PUBREC before the commit");
    assert_eq!(send(&mut session, b"\xc0\x00"), b"\xd0\x00", "but it lives");
    log.stop();
    writer.run(|| NOW);
    session.poll(NOW);
    assert_eq!(session.output().take(), b"\x40\x02\x00\x01\x50\x02\x00\x02");
}

#[test]
fn pubcomp_waits_until_the_id_is_gone_and_a_resend_after_a_crash_is_stored_once() {
    let directory = Directory::new("pubcomp");
    let config = Config::parse("acks.toml", "", &[], &Env::fixed()).expect("a configuration");
    let metrics = || Arc::new(Metrics::default());
    // The message is committed, and the broker ends before it could say so.
    let (log, writer) = directory.open(&config);
    let broker = Broker::new(&config, log.clone(), metrics()).expect("a broker");
    let mut session = connected(&broker, CONNECT4, 1);
    assert_eq!(send(&mut session, PUBLISH2), b"");
    log.stop();
    writer.run(|| NOW);
    drop((session, broker, log, writer));
    // The client sends it again: answered from what is stored, and the release waits for its commit.
    let (log, writer) = directory.open(&config);
    let broker = Broker::new(&config, log.clone(), metrics()).expect("a broker");
    let mut session = connected(&broker, CONNECT4, 2);
    let mut resend = PUBLISH2.to_vec();
    resend[0] |= 8;
    assert_eq!(send(&mut session, &resend), b"\x50\x02\x00\x02");
    assert_eq!(send(&mut session, PUBREL2), b"", "no PUBCOMP before the id is gone");
    log.stop();
    writer.run(|| NOW);
    session.poll(NOW);
    assert_eq!(session.output().take(), b"\x70\x02\x00\x02");
    assert_eq!(records(&log), 1);
}

/// A frame of the compact protocol.
fn frame(message: &Message<'_>) -> Vec<u8> {
    let mut out = vec![0; 512];
    let bytes = encode(message, &mut out).expect("room");
    out.truncate(bytes);
    out
}

/// A session of the compact protocol, and what it says to Hello: device `a` in epoch 5 has sequences from 1 on.
fn greeted(broker: &Arc<compact::Broker>) -> (Box<dyn Session>, Vec<u8>) {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 7420));
    let listener = Listener {
        protocol: Protocol::Compact,
        address,
        allow_anonymous: true,
        psk_file: None,
    };
    let peer = Peer {
        address,
        local: address,
    };
    let mut session = broker.session(peer, &listener, Waker::noop().clone(), 1, NOW);
    let hello = frame(&Message::Hello(Hello {
        version: 1,
        device: "a",
        epoch: 5,
        next: 1,
        frame_bytes_max: 256,
        proof: None,
    }));
    let said = send(&mut session, &hello);
    (session, said)
}

fn hello_ack(config: &Config, last: u64) -> Vec<u8> {
    frame(&Message::HelloAck(headwater_wire::HelloAck {
        time_ms: NOW.wall_ms,
        last,
        window: 8192,
        frame_bytes_max: config.limits.compact_frame_bytes.try_into().expect("a frame"),
        idle_ms: 90_000,
    }))
}

fn reading(sequence: u64) -> Vec<u8> {
    frame(&Message::Publish(Publish {
        sequence,
        time: None,
        channel: "t",
        payload: b"one",
    }))
}

#[test]
fn a_compact_ack_waits_for_its_commit_and_a_crash_between_the_two_stores_nothing_twice() {
    let directory = Directory::new("compact");
    let config = Config::parse("acks.toml", "", &[], &Env::fixed()).expect("a configuration");
    let metrics = || Arc::new(Metrics::default());
    let (log, writer) = directory.open(&config);
    let broker = compact::Broker::new(&config, log.clone(), metrics()).expect("a broker");
    let (mut session, said) = greeted(&broker);
    assert_eq!(said, hello_ack(&config, 0));
    assert_eq!(send(&mut session, &reading(1)), b"", "no Ack before the commit");
    assert_eq!(send(&mut session, &reading(2)), b"", "nor for the next");
    let ping = frame(&Message::Ping(9));
    assert_eq!(send(&mut session, &ping), frame(&Message::Pong(9)), "but it lives");
    log.stop();
    writer.run(|| NOW);
    session.poll(NOW);
    assert_eq!(session.output().take(), frame(&Message::Ack(2)));
    // The device never heard it, and the broker is a new one: Hello says what is stored, a resend is stored no more.
    drop((session, broker, log, writer));
    let (log, writer) = directory.open(&config);
    let broker = compact::Broker::new(&config, log.clone(), metrics()).expect("a broker");
    let (mut session, said) = greeted(&broker);
    assert_eq!(said, hello_ack(&config, 2));
    assert_eq!(send(&mut session, &reading(2)), frame(&Message::Ack(2)));
    assert_eq!(send(&mut session, &reading(3)), b"", "no Ack before the commit");
    log.stop();
    writer.run(|| NOW);
    session.poll(NOW);
    assert_eq!(session.output().take(), frame(&Message::Ack(3)));
    assert_eq!(records(&log), 3);
}

/// What is stored, over all topics.
fn records(log: &Log) -> u64 {
    let topics = log.topics();
    let partitions = topics
        .iter()
        .flat_map(|t| (0..t.partitions).map(|p| (&t.name, headwater::model::Partition(p))));
    let bounds = partitions.filter_map(|(name, p)| log.bounds(name.as_str(), p));
    bounds.map(|b| b.high_watermark.0).sum()
}

#[test]
fn a_produce_response_waits_for_its_commit() {
    const PRODUCE: i16 = 8;
    let directory = Directory::new("produce");
    let text = "[[topic]]\nname = \"t\"\npartitions = 1\n";
    let config = Config::parse("acks.toml", text, &[], &Env::fixed()).expect("a configuration");
    let (log, writer) = directory.open(&config);
    let broker = kafka::Broker::new(&config, log.clone(), Arc::new(Metrics::default()), 1).expect("a broker");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 9092));
    let peer = Peer {
        address,
        local: address,
    };
    let mut waiting = Vec::new();
    for acks in [1, -1] {
        let mut session = broker.session(peer, Waker::noop().clone(), NOW);
        assert_eq!(
            send(&mut session, &produce(PRODUCE, acks)),
            b"",
            "acks={acks}: no response before the commit"
        );
        waiting.push((acks, session));
    }
    log.stop();
    writer.run(|| NOW);
    for (offset, (acks, mut session)) in (0..).zip(waiting) {
        session.poll(NOW);
        let said = Bytes::from(session.output().take());
        let (_, response) = decode_response::<ProduceRequest>(PRODUCE, said.slice(LENGTH_BYTES..)).expect("a response");
        let part = &response.responses[0].partition_responses[0];
        assert_eq!((part.error_code, part.base_offset), (0, offset), "acks={acks}");
    }
    assert_eq!(records(&log), 2);
}

fn produce(version: i16, acks: i16) -> Vec<u8> {
    let record = Record {
        value: Some(Bytes::from_static(b"one")),
        timestamp_ms: NOW.wall_ms,
        ..Record::default()
    };
    let data = PartitionProduceData::default()
        .with_index(0)
        .with_records(Some(Bytes::from(pack(&[record]))));
    let topic = TopicProduceData::default()
        .with_name(TopicName(StrBytes::from_static_str("t")))
        .with_partition_data(vec![data]);
    let request = ProduceRequest::default()
        .with_transactional_id(None)
        .with_acks(acks)
        .with_timeout_ms(1000)
        .with_topic_data(vec![topic]);
    encode_request(version, 1, "acks", &request)
        .expect("a request")
        .to_vec()
}

/// Input that stands still while the writer does, and goes on after it: how much of `flood` was taken, and every answer.
fn flooded(name: &str, toml: &str, connect: &[u8], flood: &[u8]) -> (usize, Vec<u8>) {
    let directory = Directory::new(name);
    let config = Config::parse("acks.toml", toml, &[], &Env::fixed()).expect("a configuration");
    let (log, writer) = directory.open(&config);
    let broker = Broker::new(&config, log.clone(), Arc::new(Metrics::default())).expect("a broker");
    let mut session = connected(&broker, connect, 1);
    let mut used = 0;
    while used < flood.len() && session.wants_input() {
        used += session.input(&flood[used..], NOW);
    }
    assert!(!session.wants_input(), "the socket is not read");
    assert_eq!(session.end(), None, "but the connection lives");
    assert_eq!(session.input(&flood[used..], NOW), 0);
    log.stop();
    writer.run(|| NOW);
    session.poll(NOW);
    assert!(session.wants_input(), "it goes on");
    assert_eq!(session.end(), None);
    (used, session.output().take())
}

#[test]
fn what_is_beyond_receive_maximum_waits_in_the_socket() {
    let toml = "[limits]\nmqtt_inflight = 3\n";
    let publish = |v5: bool, id: u8| {
        [
            &[0x32, 5 + u8::from(v5), 0, 1, b't', 0, id][..],
            if v5 { &[0] } else { &[] },
        ]
        .concat()
    };
    for v5 in [false, true] {
        let flood: Vec<u8> = (1..=5).flat_map(|id| publish(v5, id)).collect();
        let connect = if v5 { CONNECT5 } else { CONNECT4 };
        let (used, answers) = flooded("inflight", toml, connect, &flood);
        assert_eq!(used, flood.len() / 5 * 3);
        assert_eq!(answers, b"\x40\x02\x00\x01\x40\x02\x00\x02\x40\x02\x00\x03");
    }
}

#[test]
fn answers_that_wait_for_their_turn_are_bounded() {
    // One message that is not committed, and PUBREL after PUBREL behind it: each of them is an answer that has to wait.
    let flood: Vec<u8> = [PUBLISH1, &PUBREL2.repeat(100_000)].concat();
    let (used, answers) = flooded("answers", "", CONNECT4, &flood);
    assert!((10_000..40_000).contains(&used), "{used}");
    assert_eq!(answers.len(), 4 + (used - PUBLISH1.len()));
    assert!(answers.ends_with(b"\x70\x02\x00\x02"));
}
