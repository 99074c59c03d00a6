//! Over a log in a directory, whose writer runs when the test says so: what a full queue means. (That an Ack waits for its commit
//! is in `tests/acks.rs`.)

use std::path::PathBuf;
use std::task::Wake;
use std::thread::Thread;

use super::*;
use crate::log::{OpenOptions, Opening, Writer};

struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("headwater-compact-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn open(&self, config: &Config) -> (Bench, Writer) {
        let options = OpenOptions {
            data_dir: self.0.clone(),
            storage: config.storage.clone(),
            topic_defaults: config.topic_defaults.clone(),
            limits: config.limits.clone(),
            topics: Vec::new(),
            carriers: Vec::new(),
            metrics: Arc::default(),
            now: START,
            store_id: [7; 16],
            ring_seed: [8; 16],
        };
        let Opening { log, writer, .. } = Log::open(options).unwrap();
        let metrics = Arc::new(Metrics::default());
        let broker = Broker::new(config, log.clone(), Arc::clone(&metrics)).unwrap();
        (Bench { log, metrics, broker }, writer)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn stored(bench: &Bench) -> u64 {
    let bounds = (0..4).filter_map(|p| bench.log.bounds("telemetry", Partition(p)));
    bounds.map(|bounds| bounds.high_watermark.0).sum()
}

/// Wakes a thread that is parked.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[test]
fn a_full_queue_is_a_nack_with_a_time_and_the_resend_is_stored_once() {
    const RECORDS: u64 = 12;
    let directory = Directory::new("busy");
    let mut config = default_config();
    config.storage.queue_bytes = 64 << 10;
    let (bench, writer) = directory.open(&config);
    let address = "127.0.0.1:1".parse().unwrap();
    let peer = Peer {
        address,
        local: address,
    };
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut line = Line {
        session: bench.broker.session(peer, &listener(), waker, 7, START),
        input: Vec::new(),
    };
    line.hello(5, 1);
    let send = |line: &mut Line, first: u64| {
        for sequence in first..=RECORDS {
            let mut frame = vec![0; 16 << 10];
            let n = encode(&publish(sequence, "t", &[sequence as u8; 15_000]), &mut frame).unwrap();
            line.bytes(&frame[..n], START);
        }
    };
    send(&mut line, 1);
    assert_eq!(line.said(), [], "nothing is committed yet");
    let writer = std::thread::spawn(move || writer.run(|| START));
    let hear = |line: &mut Line| loop {
        line.session.poll(START);
        let said = line.said();
        if !said.is_empty() {
            return said;
        }
        std::thread::park();
    };
    let (mut acked, mut busy) = (0, 0);
    while acked < RECORDS {
        for said in hear(&mut line) {
            match said {
                Said::Ack(sequence) => acked = sequence,
                Said::Nack(sequence, Code::BUSY, 250) => {
                    busy += 1;
                    assert!(sequence > acked);
                    send(&mut line, sequence);
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(busy > 0, "the queue was never full");
    bench.log.stop();
    writer.join().unwrap();
    assert_eq!(stored(&bench), RECORDS);
    assert_eq!(bench.row("pump-7").last, RECORDS);
}
