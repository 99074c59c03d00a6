//! `headwater bench compact`: one device of the device crate whose queue never ends, so that its frames are full and its window is.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use clap::Args;
use headwater_device::{Client, Event, Full, Queue, Stored};

use super::super::Failure;
use super::super::send::link::{Link, LinkError};
use super::cpu::{Watched, per_million};
use super::table::{Acks, Table, percentiles};

/// Room for frames of 16 KiB: what the broker takes by default.
const FRAME: usize = 16_640;
const EPOCH: u32 = 1;
const CHANNEL: &str = "bench";
/// Before the measurement begins.
const WARM_UP: Duration = Duration::from_secs(1);
/// Longest wait of one look at the link.
const WAIT: Duration = Duration::from_millis(5);
/// Without an acknowledgement for this long it is over.
const SILENCE: Duration = Duration::from_secs(10);

/// Arguments of `bench compact`.
#[derive(Args)]
pub(in crate::cli) struct BenchCompact {
    /// The broker's compact listener
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7420")]
    compact: String,
    /// Process id of the broker
    #[arg(long)]
    pid: Option<u32>,
    /// Bytes of a reading
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=8192))]
    bytes: u32,
    /// Seconds of the measurement
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

impl BenchCompact {
    pub(super) fn run(self) -> Result<(), Failure> {
        let watched = Watched::new(self.pid)?;
        let mut link = Link::connect(&self.compact).map_err(|error| {
            Failure::absent(format!(
                "cannot reach a broker at {}: {error}. Try: --compact HOST:PORT",
                self.compact
            ))
        })?;
        let failed = |error: &dyn std::fmt::Display| Failure::failed(format!("the bench could not be run: {error}"));
        link.wait(WAIT).map_err(|error| failed(&error))?;
        // A new one each time: the broker keeps what it knows of a device.
        let name = format!("bench-{:08x}", fastrand::u32(..));
        let mut device = Box::new(Client::<_, FRAME>::new(&name, EPOCH, Endless::new(self.bytes as usize)));
        let start = Instant::now();
        let now_ms = || i64::try_from(start.elapsed().as_millis()).unwrap_or(i64::MAX);
        device.connected(now_ms());
        let (mut latencies, mut heard) = (Vec::new(), Instant::now());
        let mut counting: Option<(Instant, Option<f64>)> = None;
        let until = WARM_UP + Duration::from_secs(self.seconds.max(1));
        while start.elapsed() < until {
            if counting.is_none() && start.elapsed() >= WARM_UP {
                counting = Some((Instant::now(), watched.seconds()));
                device.queue_mut().latencies_us.clear();
            }
            match device
                .poll(&mut link, now_ms())
                .map_err(|error: LinkError| failed(&error))?
            {
                Some(Event::Open(_) | Event::Acked(_) | Event::Time) => heard = Instant::now(),
                Some(event) => return Err(failed(&format!("the broker answered {event:?}"))),
                None if heard.elapsed() > SILENCE => return Err(failed(&"no acknowledgement came")),
                None => {}
            }
        }
        let (began, cpu_before) = counting.unwrap_or((start, None));
        let (time, cpu_after) = (began.elapsed(), watched.seconds());
        latencies.append(&mut device.queue_mut().latencies_us);
        let (ack_p50_us, ack_p99_us) = percentiles(&mut latencies);
        let acks = Acks {
            broker: "headwater".to_owned(),
            connections: 1,
            record_bytes: self.bytes as usize,
            acks_per_second: latencies.len() as f64 / time.as_secs_f64(),
            ack_p50_us,
            ack_p99_us,
            cpu_seconds_per_million: per_million(cpu_before, cpu_after, latencies.len()),
        };
        Table::new(&Acks::HEADINGS, self.json)?.row(&acks.cells(), &acks)
    }
}

/// A queue that always has one more reading. It notes when a reading was put into a frame and when it was released.
struct Endless {
    payload: Vec<u8>,
    first: u64,
    /// When each reading from `first` on was last put into a frame.
    framed_at: VecDeque<Instant>,
    latencies_us: Vec<u64>,
}

impl Endless {
    fn new(bytes: usize) -> Self {
        Self {
            payload: std::iter::repeat_with(|| fastrand::u8(..)).take(bytes).collect(),
            first: 1,
            framed_at: VecDeque::new(),
            latencies_us: Vec::new(),
        }
    }
}

impl Queue for Endless {
    fn first(&self) -> u64 {
        self.first
    }

    fn next(&self) -> u64 {
        u64::MAX
    }

    fn push(&mut self, _: Stored<'_>) -> Result<u64, Full> {
        Err(Full)
    }

    fn read(&mut self, sequence: u64) -> Option<Stored<'_>> {
        let at = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        let now = Instant::now();
        match self.framed_at.get_mut(at) {
            Some(framed) => *framed = now,
            None => self.framed_at.push_back(now),
        }
        Some(Stored {
            taken_ms: None,
            channel: CHANNEL,
            payload: &self.payload,
        })
    }

    fn release(&mut self, last: u64) {
        let now = Instant::now();
        while self.first <= last
            && let Some(framed) = self.framed_at.pop_front()
        {
            self.latencies_us.push(now.duration_since(framed).as_micros() as u64);
            self.first += 1;
        }
    }

    fn renumber(&mut self) {
        self.first = 1;
        self.framed_at.clear();
    }
}
