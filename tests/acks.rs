//! An answer is a fact: with a writer that has not run yet no session says that anything is stored, and once it has run they
//! all do, in order. The writer runs on this thread, between the steps, so that nothing depends on timing.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::task::Waker;

use headwater::config::{Config, Env, Listener, Protocol};
use headwater::log::{Log, OpenOptions, Opening, Writer};
use headwater::metrics::Metrics;
use headwater::model::{Now, Peer, Session};
use headwater::mqtt::Broker;

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
            metrics: Arc::new(Metrics::default()),
            now: NOW,
            store_id: [7; 16],
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

/// A session after CONNECT (3.1.1, clean session 0).
fn connected(broker: &Arc<Broker>, seed: u64) -> Box<dyn Session> {
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
    session.input(b"\x10\x0d\x00\x04MQTT\x04\x00\x00\x00\x00\x01a", NOW);
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
    let mut session = connected(&broker, 1);
    assert_eq!(send(&mut session, PUBLISH1), b"", "no PUBACK before the commit");
    assert_eq!(send(&mut session, PUBLISH2), b"", "no PUBREC before the commit");
    assert_eq!(send(&mut session, b"\xc0\x00"), b"\xd0\x00", "but it lives");
    log.stop();
    writer.run(|| NOW).expect("commits");
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
    let mut session = connected(&broker, 1);
    assert_eq!(send(&mut session, PUBLISH2), b"");
    log.stop();
    writer.run(|| NOW).expect("commits");
    drop((session, broker, log));
    // The client sends it again: answered from what is stored, and the release waits for its commit.
    let (log, writer) = directory.open(&config);
    let broker = Broker::new(&config, log.clone(), metrics()).expect("a broker");
    let mut session = connected(&broker, 2);
    let mut resend = PUBLISH2.to_vec();
    resend[0] |= 8;
    assert_eq!(send(&mut session, &resend), b"\x50\x02\x00\x02");
    assert_eq!(send(&mut session, PUBREL2), b"", "no PUBCOMP before the id is gone");
    log.stop();
    writer.run(|| NOW).expect("commits");
    session.poll(NOW);
    assert_eq!(session.output().take(), b"\x70\x02\x00\x02");
    let records: u64 = log
        .topics()
        .iter()
        .flat_map(|t| (0..t.partitions).filter_map(|p| log.bounds(t.name.as_str(), headwater::model::Partition(p))))
        .map(|b| b.high_watermark.0)
        .sum();
    assert_eq!(records, 1);
}
