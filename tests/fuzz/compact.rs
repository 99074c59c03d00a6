//! The compact protocol: both frame receivers, every message in both directions, and a whole session of the broker over a log in
//! memory. Each input is read as it is, as the content of a well-formed frame (so that mutations get past the CRC), and as what
//! a broker says to a device. Whatever was stored then is in order and without a double.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::Waker;

use headwater::compact::{Broker, Row, device_key};
use headwater::config::{Config, Env, Listener, Protocol};
use headwater::log::{Log, Table};
use headwater::metrics::Metrics;
use headwater::model::{Now, Partition, Peer, Session};
use headwater_device::{Client, RamQueue};
use headwater_wire::{BatchWriter, Entry, Hello, HelloAck, Message, Nack, Publish, Receiver, Time, encode};

use super::engine;

const NOW: Now = Now {
    mono_us: 1_000_000,
    wall_ms: 1_700_000_000_000,
};
const DEVICE: &str = "fuzz";
/// Connections served by one log before a new one is made.
const CONNECTIONS_MAX: u32 = 2000;

fn wire(message: &Message<'_>) -> Vec<u8> {
    let mut out = vec![0; 4096];
    let len = encode(message, &mut out).expect("a frame");
    out.truncate(len);
    out
}

/// The bytes as the content of a frame: right CRC, right stuffing.
fn framed(message: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(message);
    let decoded = [message, &crc.sum().to_le_bytes()].concat();
    let mut out = Vec::new();
    for run in decoded.split(|b| *b == 0) {
        let mut pieces = run.chunks(254).peekable();
        if pieces.peek().is_none() {
            out.push(1);
        }
        while let Some(piece) = pieces.next() {
            out.push(piece.len() as u8 + 1);
            out.extend_from_slice(piece);
            if piece.len() == 254 && pieces.peek().is_none() {
                // A zero follows a full run: it needs a code of its own.
                out.push(1);
            }
        }
    }
    out.push(0);
    out
}

fn hello(epoch: u32, next: u64) -> Message<'static> {
    Message::Hello(Hello {
        version: 1,
        device: DEVICE,
        epoch,
        next,
        frame_bytes_max: 300,
        proof: None,
    })
}

fn publish<'a>(sequence: u64, channel: &'a str, payload: &'a [u8]) -> Message<'a> {
    Message::Publish(Publish {
        sequence,
        time: Some(-5),
        channel,
        payload,
    })
}

fn batch() -> Vec<u8> {
    let mut out = vec![0; 400];
    let mut batch = BatchWriter::new(&mut out, 1, 300).expect("a batch");
    for payload in [&b"one"[..], b"", &[0; 9]] {
        let channel = if payload == b"one" { "t" } else { "" };
        assert!(batch.push(&Entry {
            time: None,
            channel,
            payload
        }));
    }
    let len = batch.finish().expect("a frame");
    out.truncate(len);
    out
}

fn seeds() -> Vec<Vec<u8>> {
    let messages = [
        hello(1, 1),
        hello(2, 9),
        publish(1, "t", b"x"),
        publish(3, "a/+/b", &[7; 300]),
        Message::Skip(7),
        Message::Ping(1),
        Message::Pong(2),
        Message::TimeRequest(3),
        Message::CommandAck(4),
        Message::Bye(64),
        Message::Challenge([9; 16]),
        Message::HelloAck(HelloAck {
            time_ms: NOW.wall_ms,
            last: 1,
            window: 8,
            frame_bytes_max: 300,
            idle_ms: 1000,
        }),
        Message::Ack(2),
        Message::Nack(Nack {
            sequence: 2,
            code: 1,
            retry_after_ms: 9,
        }),
        Message::Time(Time { token: 3, time_ms: -1 }),
        Message::Command(headwater_wire::Command {
            id: 8,
            name: "valve",
            payload: b"open",
        }),
    ];
    let mut seeds: Vec<_> = messages.iter().map(wire).collect();
    seeds.push(batch());
    seeds.push([wire(&hello(1, 1)), batch(), wire(&publish(4, "u", b"4"))].concat());
    // As contents of a frame.
    let scratch = &mut [0; 4096];
    for at in 0..seeds.len() {
        let (stuffed, used) = headwater_wire::split(&seeds[at]).expect("a frame");
        let message = headwater_wire::open(stuffed, scratch).expect("a message").to_vec();
        assert_eq!(
            framed(&message),
            seeds[at][..used],
            "a frame is the same, whoever made it"
        );
        seeds.push(message);
    }
    seeds
}

struct House {
    broker: Arc<Broker>,
    log: Log,
    connections: u32,
}

impl House {
    fn new() -> Self {
        let config = Config::parse("fuzz.toml", "", &[], &Env::fixed()).expect("a configuration");
        let log = Log::inline(NOW);
        let broker = Broker::new(&config, log.clone(), Arc::new(Metrics::default())).expect("a broker");
        Self {
            broker,
            log,
            connections: 0,
        }
    }

    fn session(&self) -> Box<dyn Session> {
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
        let seed = u64::from(self.connections);
        self.broker.session(peer, &rules, Waker::noop().clone(), seed, NOW)
    }

    /// One connection; every record that the device's row counts is in the log once.
    fn serve(&mut self, greeting: &[u8], input: &[u8]) {
        self.connections += 1;
        let (row, records) = (self.row(), self.records());
        let mut session = self.session();
        let greeted = session.input(greeting, NOW);
        assert_eq!(greeted, greeting.len());
        let at = input.first().map_or(0, |first| usize::from(*first) % input.len());
        let mut offered = 0;
        for until in [at, input.len()] {
            while offered < until && session.end().is_none() {
                let used = session.input(&input[offered..until], NOW);
                assert!(used <= until - offered, "it used more than there was");
                session.poll(NOW);
                if used == 0 {
                    break;
                }
                offered += used;
            }
        }
        let mut answers = &session.output().take()[..];
        while let Some((stuffed, used)) = headwater_wire::split(answers) {
            let message = headwater_wire::open(stuffed, &mut [0; 512]).map(<[u8]>::len);
            message.expect("what a broker says is well-formed");
            answers = &answers[used..];
        }
        session.gone(NOW);
        let (now, stored) = (self.row(), self.records() - records);
        if now.epoch == row.epoch && now.last >= row.last {
            let skipped = (now.lost - row.lost) + (now.refused - row.refused);
            // Another device's records may come on top, when the input says Hello for it.
            assert!(
                stored + skipped >= now.last - row.last,
                "{row:?} became {now:?} with {stored} records"
            );
        }
    }

    fn row(&self) -> Row {
        let row = self.log.state(Table::Devices, &device_key(DEVICE)).expect("a log");
        row.map_or_else(Row::default, |row| Row::decode(&row).expect("a row"))
    }

    fn records(&self) -> u64 {
        let topics = self.log.topics();
        let partitions = topics
            .iter()
            .flat_map(|t| (0..t.partitions).map(|p| (&t.name, Partition(p))));
        let bounds = partitions.filter_map(|(name, p)| self.log.bounds(name.as_str(), p));
        bounds.map(|b| b.high_watermark.0).sum()
    }
}

/// What a broker may say, to a device that has something to send.
fn device(input: &[u8]) {
    let mut client = Client::<_, 256>::new(DEVICE, 1, RamQueue::<300>::new());
    client.connected(0);
    for payload in [b"1", b"2", b"3"] {
        client.push(Some(0), "t", payload).expect("room");
    }
    let opened = wire(&Message::HelloAck(HelloAck {
        time_ms: NOW.wall_ms,
        last: 0,
        window: 8,
        frame_bytes_max: 300,
        idle_ms: 1000,
    }));
    for (now, bytes) in [(0, &opened[..]), (1, input), (6000, input)] {
        let mut at = 0;
        while at < bytes.len() {
            let (used, _) = client.receive(&bytes[at..], now);
            assert!(used > 0, "it makes no progress");
            at += used;
            let _ = (client.command(), client.broker_time(now));
        }
        for _ in 0..20 {
            let out = client.transmit(now).len();
            client.sent(out);
        }
        let queue: &dyn headwater_device::Queue = client.queue();
        assert!(queue.first() <= queue.next() && client.acked() < queue.next());
    }
}

fn receive(input: &[u8]) {
    let mut receiver = Receiver::<300>::new();
    let (mut at, mut found) = (0, Vec::new());
    while at < input.len() {
        let (used, result) = receiver.feed(&input[at..]);
        at += used;
        found.extend(result.map(|r| r.map(|m| m.number()).map_err(|e| e.to_string())));
    }
    // Byte by byte it finds the same.
    let mut receiver = Receiver::<300>::new();
    let mut again = Vec::new();
    for byte in input {
        let (_, result) = receiver.feed(&[*byte]);
        again.extend(result.map(|r| r.map(|m| m.number()).map_err(|e| e.to_string())));
    }
    let kind = |r: &Result<u8, String>| r.clone().ok();
    assert_eq!(
        found.iter().map(kind).collect::<Vec<_>>(),
        again.iter().map(kind).collect::<Vec<_>>()
    );
    // Whatever decodes is written again as a frame that means the same.
    let mut scratch = vec![0; 1 << 17];
    let mut rest = input;
    while let Some((_, used)) = headwater_wire::split(rest) {
        if let Ok(Some((frame, _))) = headwater_wire::decode(rest, &mut scratch) {
            let mut out = vec![0; headwater_wire::encoded_bytes_max(rest.len() + 64) + 600];
            let len = encode(&frame.message, &mut out).expect("room");
            let mut scratch = vec![0; 1 << 17];
            let (again, used) = headwater_wire::decode(&out[..len], &mut scratch)
                .expect("a frame")
                .expect("whole");
            assert_eq!((again.message, used), (frame.message, len));
            if let Message::PublishBatch(batch) = again.message {
                assert!(batch.entries.into_iter().count() <= batch.entries.0.len());
            }
        }
        rest = &rest[used..];
    }
}

#[test]
fn compact() {
    let mut house = House::new();
    let greeting = wire(&hello(1, 1));
    engine::run("compact", &seeds(), |input| {
        if house.connections > CONNECTIONS_MAX {
            house = House::new();
        }
        let frame = framed(input);
        for bytes in [input, &frame] {
            receive(bytes);
            device(bytes);
            house.serve(&[], bytes);
            house.serve(&greeting, bytes);
        }
    });
}
