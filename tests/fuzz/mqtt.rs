//! MQTT: guard, codec and a whole session, over a log in memory. Each input is sent as the first bytes of a connection, and
//! after a CONNECT and a SUBSCRIBE of either version, whole and in two pieces; another session subscribes to everything, so
//! that what is taken in is also delivered.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::Waker;

use headwater::config::{Config, Env, Listener, Protocol};
use headwater::log::Log;
use headwater::metrics::Metrics;
use headwater::model::{Now, Peer, Session};
use headwater::mqtt::Broker;

use super::engine;

const NOW: Now = Now {
    mono_us: 1_000_000,
    wall_ms: 1_700_000_000_000,
};

const CONNECT4: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x0a\x00\x01f";
const CONNECT5: &[u8] = b"\x10\x13\x00\x04MQTT\x05\x02\x00\x0a\x05\x11\0\0\0\x3c\x00\x01g";
const SUBSCRIBE4: &[u8] = b"\x82\x06\x00\x01\x00\x01#\x01";
const SUBSCRIBE5: &[u8] = b"\x82\x09\x00\x01\x02\x0b\x05\x00\x01#\x05";

/// Connections served by one log before a new one is made.
const CONNECTIONS_MAX: u32 = 2000;

struct House {
    broker: Arc<Broker>,
    watcher: Box<dyn Session>,
    connections: u32,
}

impl House {
    fn new() -> Self {
        let text = "[[route]]\nmatch = \"+a/+b/#c\"\ntopic = \"{a}-{b}\"\nkey = \"{c}\"\nheaders = { of = \"{client}{user}\" }\n";
        let config = Config::parse("fuzz.toml", text, &[], &Env::fixed()).expect("a configuration");
        let broker = Broker::new(&config, Log::inline(NOW), Arc::new(Metrics::default())).expect("a broker");
        let mut house = Self {
            watcher: session(&broker, 0),
            broker,
            connections: 0,
        };
        house
            .watcher
            .input(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01w", NOW);
        house.watcher.input(SUBSCRIBE4, NOW);
        house
    }

    fn serve(&mut self, greeting: &[&[u8]], input: &[u8]) {
        self.connections += 1;
        let mut session = session(&self.broker, u64::from(self.connections));
        for bytes in greeting {
            session.input(bytes, NOW);
        }
        let at = input.first().map_or(0, |first| usize::from(*first) % input.len());
        let mut offered = 0;
        for until in [at, input.len()] {
            while offered < until && session.end().is_none() {
                let used = session.input(&input[offered..until], NOW);
                assert!(used <= until - offered, "it used more than there was");
                assert!(
                    session.frame_bytes_wanted() <= 1 << 20,
                    "it waits for more than the limit"
                );
                if used == 0 {
                    break;
                }
                offered += used;
            }
        }
        self.broker.poll(NOW, Waker::noop());
        session.poll(NOW);
        session.output().take();
        session.gone(NOW);
        self.watcher.poll(NOW);
        self.watcher.output().take();
    }
}

fn session(broker: &Arc<Broker>, seed: u64) -> Box<dyn Session> {
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
    broker.session(peer, &listener, Waker::noop().clone(), seed, NOW)
}

#[test]
fn mqtt() {
    let seeds: Vec<Vec<u8>> = [
        CONNECT4,
        CONNECT5,
        SUBSCRIBE4,
        SUBSCRIBE5,
        b"\x10\x2a\x00\x04MQTT\x05\xee\x00\x0a\x00\x00\x01f\x08\x02\0\0\0\x01\x01\x01\x01\x00\x00\x03w/t\x00\x01p\x00\x01u\x00\x02\xff\x00",
        b"\x32\x09\x00\x03a/b\x00\x07x!",
        b"\x34\x07\x00\x03a/b\x00\x08\x62\x02\x00\x08",
        b"\x3d\x16\x00\x03a/b\x00\x09\x0c\x02\0\0\0\x09\x26\x00\x01k\x00\x01vxy",
        b"\x32\x12\x00\x05a/b/c\x00\x07\x08\x23\x00\x01\x03\x00\x02t/\x01x",
        b"\xa2\x05\x00\x02\x00\x01#",
        b"\xa2\x06\x00\x02\x00\x00\x01#",
        b"\x40\x02\x00\x01\xc0\x00\xe0\x00",
        b"\x40\x04\x00\x01\x10\x00\x62\x03\x00\x08\x92",
        b"\xe0\x07\x04\x05\x11\x00\x00\x00\x01",
    ]
    .iter()
    .map(|seed| seed.to_vec())
    .collect();
    let mut house = House::new();
    engine::run("mqtt", &seeds, |input| {
        if house.connections > CONNECTIONS_MAX {
            house = House::new();
        }
        house.serve(&[], input);
        house.serve(&[CONNECT4, SUBSCRIBE4], input);
        house.serve(&[CONNECT5, SUBSCRIBE5], input);
    });
}
