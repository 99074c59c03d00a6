//! Golden vectors of the compact protocol: `tests/golden/compact.txt`, read by the wire crate in both directions, by the device
//! crate and the broker as the two sides of one session, and by a decoder in Python that knows the specification alone.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::task::Waker;

use headwater::compact::{Broker, Row, device_key};
use headwater::config::{Config, Env, Listener, Protocol};
use headwater::log::{Append, Log, Submission, Table};
use headwater::metrics::Metrics;
use headwater::model::{Now, Peer, Record, RecordHeader, Session, Topic};
use headwater_device::{Client, Event, RamQueue};
use headwater_wire::{BatchWriter, Entry, Hello, HelloAck, Message, Nack, Publish, Receiver, Time, WireError};
use serde_json::{Value, json};

const NOW: Now = Now {
    mono_us: 1_000_000,
    wall_ms: 1_700_000_000_000,
};

struct Vector {
    kind: String,
    name: String,
    data: String,
    rest: String,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn vectors() -> Vec<Vector> {
    let text = std::fs::read_to_string(folder().join("compact.txt")).expect("the vectors");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let vector = |line: &str| {
        let mut words = line.splitn(4, ' ').map(str::to_owned);
        let mut word = || words.next().unwrap_or_else(|| panic!("four words: {line}"));
        Vector {
            kind: word(),
            name: word(),
            data: word(),
            rest: word(),
        }
    };
    lines.map(vector).collect()
}

fn of_kind(kind: &str) -> Vec<Vector> {
    let found: Vec<_> = vectors().into_iter().filter(|v| v.kind == kind).collect();
    assert!(!found.is_empty(), "no vector of kind {kind}");
    found
}

fn bytes(hex: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(hex.get(at..at + 2).expect("two digits"), 16).expect("hex");
    (0..hex.len()).step_by(2).map(byte).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A message as the vectors write it.
fn told(message: &Message<'_>) -> Value {
    match message {
        Message::Hello(h) => {
            json!({"Hello": {"version": h.version, "device": h.device, "epoch": h.epoch, "next": h.next,
            "frame_bytes_max": h.frame_bytes_max, "proof": h.proof.map(|p| hex(&p))}})
        }
        Message::Challenge(nonce) => json!({"Challenge": hex(nonce)}),
        Message::HelloAck(a) => json!({"HelloAck": {"time_ms": a.time_ms, "last": a.last, "window": a.window,
            "frame_bytes_max": a.frame_bytes_max, "idle_ms": a.idle_ms}}),
        Message::Publish(p) => json!({"Publish": {"sequence": p.sequence, "time": p.time, "channel": p.channel,
            "payload": hex(p.payload)}}),
        Message::PublishBatch(b) => {
            let entry = |e: Entry<'_>| json!({"time": e.time, "channel": e.channel, "payload": hex(e.payload)});
            let entries: Vec<_> = b.entries.into_iter().map(|e| entry(e.expect("an entry"))).collect();
            json!({"PublishBatch": {"sequence": b.sequence, "entries": entries}})
        }
        Message::Skip(next) => json!({"Skip": next}),
        Message::Ack(sequence) => json!({"Ack": sequence}),
        Message::Nack(n) => {
            json!({"Nack": {"sequence": n.sequence, "code": n.code, "retry_after_ms": n.retry_after_ms}})
        }
        Message::Ping(token) => json!({"Ping": token}),
        Message::Pong(token) => json!({"Pong": token}),
        Message::TimeRequest(token) => json!({"TimeRequest": token}),
        Message::Time(t) => json!({"Time": {"token": t.token, "time_ms": t.time_ms}}),
        Message::Command(c) => json!({"Command": {"id": c.id, "name": c.name, "payload": hex(c.payload)}}),
        Message::CommandAck(id) => json!({"CommandAck": id}),
        Message::Bye(code) => json!({"Bye": code}),
    }
}

/// The frame of what a vector tells, made from that alone.
fn made(told: &Value) -> Vec<u8> {
    let (kind, fields) = told.as_object().and_then(|m| m.iter().next()).expect("one message");
    let unsigned = |value: &Value| value.as_u64().expect("a number");
    let number = |name: &str| unsigned(&fields[name]);
    let short = |name: &str| u32::try_from(number(name)).expect("32 bits");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let raw = |value: &Value| bytes(value.as_str().expect("hex"));
    let mut out = vec![0; 2000];
    if kind == "PublishBatch" {
        let mut batch = BatchWriter::new(&mut out, number("sequence"), 2000).expect("a batch");
        let mut before = String::new();
        for entry in fields["entries"].as_array().expect("entries") {
            let (channel, payload) = (text(&entry["channel"]), raw(&entry["payload"]));
            assert!(batch.push(&Entry {
                time: entry["time"].as_i64(),
                channel: if channel == before { "" } else { &channel },
                payload: &payload,
            }));
            before = channel;
        }
        let len = batch.finish().expect("a frame");
        out.truncate(len);
        return out;
    }
    let token = || u32::try_from(unsigned(fields)).expect("32 bits");
    let (one, two): (String, Vec<u8>);
    let message = match kind.as_str() {
        "Hello" => {
            one = text(&fields["device"]);
            let proof = &fields["proof"];
            Message::Hello(Hello {
                version: u8::try_from(number("version")).expect("8 bits"),
                device: &one,
                epoch: short("epoch"),
                next: number("next"),
                frame_bytes_max: short("frame_bytes_max"),
                proof: (!proof.is_null()).then(|| raw(proof).try_into().expect("32 bytes")),
            })
        }
        "Challenge" => Message::Challenge(raw(fields).try_into().expect("16 bytes")),
        "HelloAck" => Message::HelloAck(HelloAck {
            time_ms: fields["time_ms"].as_i64().expect("a time"),
            last: number("last"),
            window: short("window"),
            frame_bytes_max: short("frame_bytes_max"),
            idle_ms: short("idle_ms"),
        }),
        "Publish" => {
            (one, two) = (text(&fields["channel"]), raw(&fields["payload"]));
            Message::Publish(Publish {
                sequence: number("sequence"),
                time: fields["time"].as_i64(),
                channel: &one,
                payload: &two,
            })
        }
        "Skip" => Message::Skip(unsigned(fields)),
        "Ack" => Message::Ack(unsigned(fields)),
        "Nack" => Message::Nack(Nack {
            sequence: number("sequence"),
            code: u8::try_from(number("code")).expect("8 bits"),
            retry_after_ms: short("retry_after_ms"),
        }),
        "Ping" => Message::Ping(token()),
        "Pong" => Message::Pong(token()),
        "TimeRequest" => Message::TimeRequest(token()),
        "Time" => Message::Time(Time {
            token: short("token"),
            time_ms: fields["time_ms"].as_i64().expect("a time"),
        }),
        "Command" => {
            (one, two) = (text(&fields["name"]), raw(&fields["payload"]));
            Message::Command(headwater_wire::Command {
                id: number("id"),
                name: &one,
                payload: &two,
            })
        }
        "CommandAck" => Message::CommandAck(unsigned(fields)),
        "Bye" => Message::Bye(u8::try_from(unsigned(fields)).expect("8 bits")),
        other => panic!("what is {other}?"),
    };
    let len = headwater_wire::encode(&message, &mut out).expect("a frame");
    out.truncate(len);
    out
}

#[test]
fn every_message_is_written_and_read_as_the_vectors_say() {
    let mut kinds = std::collections::HashSet::new();
    for vector in of_kind("frame") {
        let (wire, meant): (_, Value) = (bytes(&vector.data), serde_json::from_str(&vector.rest).expect("JSON"));
        assert_eq!(hex(&made(&meant)), vector.data, "{}: written", vector.name);
        let mut scratch = [0; 2000];
        let (frame, used) = headwater_wire::decode(&wire, &mut scratch)
            .unwrap_or_else(|e| panic!("{}: {e}", vector.name))
            .expect("a whole frame");
        assert_eq!(
            (told(&frame.message), used),
            (meant, wire.len()),
            "{}: read",
            vector.name
        );
        kinds.insert(frame.message.number());
        // As a device takes it in, byte by byte.
        let mut receiver = Receiver::<2000>::new();
        let (last, before) = wire.split_last().expect("an end");
        assert!(
            before.iter().all(|b| receiver.feed(&[*b]) == (1, None)),
            "{}",
            vector.name
        );
        assert_eq!(receiver.feed(&[*last]), (1, Some(Ok(frame.message))), "{}", vector.name);
    }
    assert_eq!(kinds.len(), 15, "a vector for every message: {kinds:?}");
}

/// Decodes the message and, of a batch, every entry.
fn read(wire: &[u8]) -> Result<(), WireError> {
    let mut scratch = [0; 2000];
    let (frame, _) = headwater_wire::decode(wire, &mut scratch)?.expect("a whole frame");
    match frame.message {
        Message::PublishBatch(batch) => batch.entries.into_iter().try_for_each(|entry| entry.map(drop)),
        _ => Ok(()),
    }
}

#[test]
fn what_must_be_refused_is_refused_for_the_reason_given() {
    for vector in of_kind("bad") {
        let error = read(&bytes(&vector.data)).expect_err(&vector.name);
        let why = match &error {
            WireError::Version(_) => "version",
            error if error.is_damage() => "damage",
            _ => "protocol",
        };
        assert_eq!(why, vector.rest, "{}: {error}", vector.name);
    }
}

#[test]
fn proofs_are_what_the_vectors_say() {
    for vector in of_kind("proof") {
        let of: Value = serde_json::from_str(&vector.rest).expect("JSON");
        let text = |name: &str| of[name].as_str().expect("a text");
        let nonce = bytes(text("nonce")).try_into().expect("16 bytes");
        let epoch = u32::try_from(of["epoch"].as_u64().expect("a number")).expect("32 bits");
        let next = of["next"].as_u64().expect("a number");
        let proof = headwater_wire::proof(&bytes(text("key")), &nonce, text("device"), epoch, next);
        assert_eq!(hex(&proof), vector.data, "{}", vector.name);
    }
}

type Device = Client<'static, RamQueue<1024>, 256>;

/// Both sides and what the vectors say that passes between them.
struct Meeting {
    said: HashMap<String, (String, String)>,
    log: Log,
    broker: Arc<Broker>,
    session: Box<dyn Session>,
    device: Device,
    now_ms: i64,
}

fn session(broker: &Arc<Broker>) -> Box<dyn Session> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 7420));
    let rules = Listener {
        protocol: Protocol::Compact,
        address,
        allow_anonymous: true,
        psk_file: None,
    };
    let peer = Peer {
        address,
        local: address,
    };
    broker.session(peer, &rules, Waker::noop().clone(), 1, NOW)
}

impl Meeting {
    fn new() -> Self {
        let config = Config::parse("golden.toml", "", &[], &Env::fixed()).expect("a configuration");
        let log = Log::inline(NOW);
        let broker = Broker::new(&config, log.clone(), Arc::new(Metrics::default())).expect("a broker");
        let said = of_kind("say").into_iter().map(|v| (v.name, (v.data, v.rest)));
        let mut meeting = Self {
            said: said.collect(),
            session: session(&broker),
            log,
            broker,
            device: Device::new("pump-7", 5, RamQueue::new()),
            now_ms: NOW.wall_ms,
        };
        meeting.device.connected(NOW.wall_ms);
        meeting
    }

    fn said(&mut self, name: &str, direction: &str) -> String {
        let (found, hex) = self.said.remove(name).unwrap_or_else(|| panic!("no vector {name}"));
        assert_eq!(found, direction, "{name}");
        hex
    }

    /// The device says this, and the broker takes it in.
    fn device_says(&mut self, name: &str) {
        let mut out = Vec::new();
        loop {
            let piece = self.device.transmit(self.now_ms).to_vec();
            if piece.is_empty() {
                break;
            }
            self.device.sent(piece.len());
            out.extend(piece);
        }
        assert_eq!(hex(&out), self.said(name, ">"), "{name}: the device");
        assert_eq!(self.session.input(&out, NOW), out.len(), "{name}");
    }

    /// The broker says this, and the device takes it in.
    fn broker_says(&mut self, name: &str) -> Vec<Event> {
        self.session.poll(NOW);
        let out = self.session.output().take();
        assert_eq!(hex(&out), self.said(name, "<"), "{name}: the broker");
        let (mut at, mut events) = (0, Vec::new());
        while at < out.len() {
            let (used, event) = self.device.receive(&out[at..], self.now_ms);
            at += used;
            events.extend(event);
        }
        events
    }

    fn push(&mut self, ago_ms: Option<i64>, channel: &str, payload: &[u8]) {
        let taken_ms = ago_ms.map(|ago| NOW.wall_ms - ago);
        self.device.push(taken_ms, channel, payload).expect("room");
    }
}

#[test]
fn device_and_broker_say_to_each_other_what_the_vectors_say() {
    let mut meeting = Meeting::new();
    let m = &mut meeting;
    m.device_says("hello");
    assert_eq!(m.broker_says("hello-ack"), [Event::Open(0)]);
    m.push(Some(1500), "oil/temperature", b"71.5");
    m.push(Some(500), "oil/temperature", b"71.6");
    m.push(None, "rpm", b"1480");
    m.device_says("readings");
    assert_eq!(m.broker_says("stored"), [Event::Acked(3)]);
    m.device.ask_time();
    m.device_says("clock");
    assert_eq!(m.broker_says("clock-read"), [Event::Time]);
    m.push(Some(10), "rpm", b"1485");
    m.push(Some(0), "rpm", b"1490");
    headwater_device::Queue::release(m.device.queue_mut(), 4);
    m.device_says("hole");
    assert_eq!(m.broker_says("hole-known"), [Event::Acked(5)]);
    m.push(Some(0), "a/+/b", b"x");
    m.push(Some(0), "rpm", b"1500");
    m.device_says("bad-channel");
    let code = headwater_wire::Code::INVALID_CHANNEL;
    assert_eq!(m.broker_says("settled"), [Event::Refused(6, code), Event::Acked(7)]);
    let record = Record {
        key: Some("pump-7".into()),
        value: Some("open".into()),
        headers: vec![RecordHeader {
            name: "name".into(),
            value: Some("valve".into()),
        }],
        timestamp_ms: NOW.wall_ms,
    };
    let topic = Topic::parse("commands").expect("a name");
    let submission = Submission {
        appends: vec![Append::Record { topic, record }],
        state: Vec::new(),
    };
    let ticket = m.log.submit(submission, Waker::noop()).take();
    ticket.expect("an answer").expect("stored");
    // A topic that was not there is looked for every ten seconds.
    m.session.poll(Now {
        mono_us: NOW.after_ms(10_000),
        ..NOW
    });
    let [Event::Command(id)] = m.broker_says("command")[..] else {
        panic!("a command")
    };
    m.device.command_done(id);
    m.device_says("command-done");
    m.now_ms += 20_000;
    m.device_says("still-here");
    assert_eq!(m.broker_says("here-too"), []);
    m.session.stop(NOW);
    let code = headwater_wire::Code::STOPPING;
    assert_eq!(m.broker_says("stopping"), [Event::Ended(code)]);
    m.session.gone(NOW);
    m.session = session(&m.broker);
    m.device.connected(m.now_ms);
    m.device_says("hello-again");
    assert_eq!(m.broker_says("where-it-was"), [Event::Open(7)]);
    assert!(meeting.said.is_empty(), "nobody said {:?}", meeting.said.keys());

    for vector in of_kind("row") {
        let meant: Value = serde_json::from_str(&vector.rest).expect("JSON");
        let key = device_key(meant["device"].as_str().expect("a device"));
        let stored = meeting.log.state(Table::Devices, &key).expect("a log").expect("a row");
        assert_eq!(hex(&stored), vector.data, "{}", vector.name);
        let row = Row::decode(&stored).expect("a row");
        let found = json!({"device": "pump-7", "epoch": row.epoch, "last": row.last, "lost": row.lost,
            "refused": row.refused, "seen_ms": row.seen_ms});
        assert_eq!(found, meant, "{}", vector.name);
    }
}

fn decode_in_python(vectors: &Path) -> Output {
    let python = std::env::var("HEADWATER_PYTHON").unwrap_or_else(|_| "python3".into());
    Command::new(&python)
        .arg("-B")
        .arg(folder().join("decode.py"))
        .arg(vectors)
        .output()
        .unwrap_or_else(|e| panic!("{python}: {e}. Try: apt-get install python3, or HEADWATER_PYTHON"))
}

#[test]
fn a_decoder_written_from_the_specification_agrees() {
    let output = decode_in_python(&folder().join("compact.txt"));
    let (said, wrong) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{said}{wrong}");
    assert_eq!(said.trim(), format!("{} vectors agree", vectors().len()));
}

#[test]
fn that_decoder_notices_a_changed_byte_in_every_kind_of_vector() {
    let text = std::fs::read_to_string(folder().join("compact.txt")).expect("the vectors");
    for name in [
        "hello",
        "publish-batch",
        "unknown-number",
        "short",
        "readings",
        "after-the-session",
    ] {
        let (before, line) = text.split_once(&format!(" {name} ")).expect(name);
        let at = line.find(|c: char| c.is_ascii_hexdigit()).expect("hex") + 8;
        let mut line = line.to_owned();
        let other = if &line[at..=at] == "4" { "5" } else { "4" };
        line.replace_range(at..=at, other);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("golden-{name}-{}", std::process::id()));
        std::fs::write(&path, format!("{before} {name} {line}")).expect("a file");
        let output = decode_in_python(&path);
        std::fs::remove_file(&path).expect("it was there");
        assert!(!output.status.success(), "{name}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(name), "{name}");
    }
}
