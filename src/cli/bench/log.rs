//! `headwater bench log`: how fast this machine makes records durable through the log, beside what its disk does with the same
//! bytes in the same groups. The ratio travels between machines, the figures do not.

use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clap::Args;
use smol::LocalExecutor;

use crate::log::{Append, Log, OpenOptions as LogOptions, Opening, Refused, Submission};
use crate::metrics::Metrics;
use crate::model::{Now, Record, Topic};

use super::super::{ConfigArgs, Failure, configuration};
use super::ring::{RING_BYTES, Ring, Scratch, turns};
use super::table::{Table, percentiles};

/// Arguments of `bench log`.
#[derive(Args)]
pub(in crate::cli) struct BenchLog {
    /// Directory on the disk to be measured; a new one is made in it and removed
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// How many producers, each with one record outstanding; measured one after the other
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "1,16,256", value_parser = clap::value_parser!(u32).range(1..))]
    producers: Vec<u32>,
    /// Bytes of a record's value
    #[arg(long, default_value_t = 1024)]
    bytes: usize,
    /// Seconds of each measurement, and of the raw one beside it
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Partitions of the topic
    #[arg(long, default_value_t = 4)]
    partitions: u32,
    #[command(flatten)]
    config: ConfigArgs,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// What was measured.
#[derive(Debug, serde::Serialize)]
struct Figures {
    producers: usize,
    record_bytes: usize,
    records_per_second: f64,
    commits_per_second: f64,
    records_per_commit: f64,
    log_mb_per_second: f64,
    ack_p50_us: u64,
    ack_p99_us: u64,
    group_bytes: usize,
    raw_syncs_per_second: f64,
    raw_mb_per_second: f64,
    raw_p50_us: u64,
    ratio: f64,
    /// Device bytes for a byte of a value, as the store counts what it writes.
    written_for_one: f64,
}

impl BenchLog {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut table = Table::new(&Figures::HEADINGS, self.json)?;
        for producers in &self.producers {
            let scratch = Scratch::new(&self.dir)?;
            let measured = self.measure(&scratch.path().join("log"), *producers as usize);
            let figures = measured.map_err(|error| Failure::failed(format!("the bench could not be run: {error}")))?;
            table.row(&figures.cells(), &figures)?;
        }
        Ok(())
    }

    /// The log and the disk in turns, the disk with groups of the log's mean size so far.
    fn measure(&self, dir: &Path, producers: usize) -> Result<Figures, Box<dyn std::error::Error>> {
        let (count, turn) = turns(self.seconds);
        let mut log = LogBench::open(self, dir, producers)?;
        let ring = Ring::new(&dir.with_file_name("ring"))?;
        // The first writes find everything cold.
        log.run(Duration::from_millis(300))?;
        log.forget();
        let (mut raw_latencies, mut raw_time, mut raw_bytes) = (Vec::new(), Duration::ZERO, 0);
        for _ in 0..count {
            log.run(turn)?;
            let (group_bytes, before) = (log.group_bytes(self.bytes), raw_latencies.len());
            raw_time += ring.run(group_bytes, turn, &mut raw_latencies)?;
            raw_bytes += group_bytes * (raw_latencies.len() - before);
        }
        let (records, commits, time) = (log.latencies.len() as f64, log.commits as f64, log.time.as_secs_f64());
        let raw_syncs = raw_latencies.len() as f64 / raw_time.as_secs_f64();
        let log_mb = records * self.bytes as f64 / time / 1e6;
        let raw_mb = raw_bytes as f64 / raw_time.as_secs_f64() / 1e6;
        let (ack_p50_us, ack_p99_us) = percentiles(&mut log.latencies);
        let (raw_p50_us, _) = percentiles(&mut raw_latencies);
        let written = log.written_bytes();
        log.close()?;
        Ok(Figures {
            producers,
            record_bytes: self.bytes,
            records_per_second: records / time,
            commits_per_second: commits / time,
            records_per_commit: records / commits.max(1.0),
            log_mb_per_second: log_mb,
            ack_p50_us,
            ack_p99_us,
            group_bytes: raw_bytes / raw_latencies.len().max(1),
            raw_syncs_per_second: raw_syncs,
            raw_mb_per_second: raw_mb,
            raw_p50_us,
            ratio: log_mb / raw_mb,
            written_for_one: written as f64 / (records * self.bytes as f64).max(1.0),
        })
    }
}

impl Figures {
    const HEADINGS: [&str; 10] = [
        "producers",
        "records/s",
        "commits/s",
        "records each",
        "ack p50 us",
        "ack p99 us",
        "raw syncs/s",
        "raw p50 us",
        "ratio to raw",
        "written for one",
    ];

    fn cells(&self) -> [String; 10] {
        [
            self.producers.to_string(),
            format!("{:.0}", self.records_per_second),
            format!("{:.0}", self.commits_per_second),
            format!("{:.1}", self.records_per_commit),
            self.ack_p50_us.to_string(),
            self.ack_p99_us.to_string(),
            format!("{:.0}", self.raw_syncs_per_second),
            self.raw_p50_us.to_string(),
            format!("{:.2}", self.ratio),
            format!("{:.2}", self.written_for_one),
        ]
    }
}

/// The log with its threads and what was measured of it.
struct LogBench {
    log: Log,
    metrics: Arc<Metrics>,
    threads: Vec<thread::JoinHandle<()>>,
    topic: Topic,
    value: Bytes,
    producers: usize,
    latencies: Vec<u64>,
    commits: u64,
    time: Duration,
    /// What the store had written when the measurement began.
    written_before: u64,
}

impl LogBench {
    fn open(bench: &BenchLog, dir: &Path, producers: usize) -> Result<Self, Box<dyn std::error::Error>> {
        let config = configuration::load(&bench.config).map_err(|failure| failure.text)?;
        let metrics = Arc::new(Metrics::default());
        let start = Instant::now();
        let clock = move || Now {
            mono_us: start.elapsed().as_micros() as u64,
            wall_ms: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_millis() as i64),
        };
        let mut topic_defaults = config.topic_defaults;
        topic_defaults.partitions = bench.partitions;
        let Opening {
            log,
            writer,
            reader,
            checkpointer,
            cleaner: _,
        } = Log::open(LogOptions {
            data_dir: dir.to_path_buf(),
            storage: config.storage,
            topic_defaults,
            limits: config.limits,
            topics: Vec::new(),
            carriers: Vec::new(),
            metrics: Arc::clone(&metrics),
            now: clock(),
            store_id: fastrand::u128(..).to_be_bytes(),
            ring_seed: fastrand::u128(..).to_be_bytes(),
        })?;
        let writer = Arc::new(writer);
        let write = || {
            let writer = Arc::clone(&writer);
            move || writer.run(clock)
        };
        let threads = vec![
            spawn("log-writer", write())?,
            spawn("log-writer", write())?,
            spawn("log-reader", move || reader.run())?,
            spawn("log-checkpoint", move || checkpointer.run())?,
        ];
        let value: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(bench.bytes).collect();
        Ok(Self {
            log,
            metrics,
            threads,
            topic: Topic::parse("bench").map_err(|error| error.to_string())?,
            value: value.into(),
            producers,
            latencies: Vec::new(),
            commits: 0,
            time: Duration::ZERO,
            written_before: 0,
        })
    }

    /// One thread plays all producers, as the broker's executor does.
    fn run(&mut self, duration: Duration) -> Result<(), Box<dyn std::error::Error>> {
        let commits_before = self.metrics.log.commits.get();
        let start = Instant::now();
        let executor = LocalExecutor::new();
        let carrying = executor.spawn(self.log.carry_wakes());
        let producers: Vec<_> = (0..self.producers)
            .map(|id| executor.spawn(self.produce(id, start + duration)))
            .collect();
        let mut latencies = Vec::new();
        smol::block_on(executor.run(async {
            for producer in producers {
                latencies.extend(producer.await?);
            }
            Ok::<_, Refused>(())
        }))?;
        drop((carrying, executor));
        self.latencies.extend(latencies);
        self.time += start.elapsed();
        self.commits += self.metrics.log.commits.get() - commits_before;
        Ok(())
    }

    /// One record after the other until then; gives how long each took, in microseconds.
    async fn produce(&self, id: usize, until: Instant) -> Result<Vec<u64>, Refused> {
        let key = Bytes::from(format!("producer-{id}"));
        let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
        let mut latencies = Vec::new();
        let mut since = Instant::now();
        while since < until {
            let record = Record {
                key: Some(key.clone()),
                value: Some(self.value.clone()),
                ..Record::default()
            };
            let topic = self.topic.clone();
            let submission = Submission {
                appends: vec![Append::Record { topic, record }],
                state: Vec::new(),
            };
            let mut ticket = self.log.submit(submission, &waker);
            poll_fn(|_| ticket.take().map_or(Poll::Pending, Poll::Ready)).await?;
            let now = Instant::now();
            latencies.push((now - since).as_micros() as u64);
            since = now;
        }
        Ok(latencies)
    }

    fn forget(&mut self) {
        self.latencies.clear();
        self.commits = 0;
        self.time = Duration::ZERO;
        self.written_before += self.written_bytes();
    }

    /// What the store wrote since then.
    fn written_bytes(&self) -> u64 {
        self.log.measure();
        self.metrics.wear.store_bytes.get() - self.written_before
    }

    fn group_bytes(&self, bytes: usize) -> usize {
        (self.latencies.len() * bytes / (self.commits.max(1) as usize)).clamp(1, RING_BYTES)
    }

    fn close(mut self) -> Result<(), Box<dyn std::error::Error>> {
        self.log.stop();
        for thread in self.threads.drain(..) {
            thread.join().map_err(|_| "a thread of the log panicked")?;
        }
        Ok(())
    }
}

/// A thread with the name it has in the broker, for profiles.
fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name.into()).spawn(run)
}
