//! `headwater bench mqtt`: many MQTT 3.1.1 publishers at QoS 1, each with a full window, played by one thread that writes as many
//! messages at once as acknowledgements came: the broker is to be the limit. It measures any MQTT broker.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use clap::Args;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::{Async, LocalExecutor, Timer};

use super::super::Failure;
use super::super::client::mqtt::{Level, MqttOptions};
use super::super::client::mqtt_packet::{self as packet, Packet};
use super::cpu::{Watched, per_million};
use super::table::{Acks, Table, percentiles};

/// Before the measurement begins.
const WARM_UP: Duration = Duration::from_secs(1);
/// Bound of connecting, and of the last acknowledgements.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Arguments of `bench mqtt`.
#[derive(Args)]
pub(in crate::cli) struct BenchMqtt {
    /// The broker's MQTT listener
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:1883")]
    mqtt: String,
    /// Process id of the broker
    #[arg(long)]
    pid: Option<u32>,
    /// Name of the broker in the table
    #[arg(long, default_value = "headwater")]
    label: String,
    /// Publishers
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    connections: u16,
    /// Messages that each has unacknowledged
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    inflight: u16,
    /// Bytes of a message
    #[arg(long, default_value_t = 100)]
    bytes: usize,
    /// Seconds of the measurement
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// One JSON object instead of a table
    #[arg(long)]
    json: bool,
}

/// What all publishers see and add to. One thread, so no locks.
#[derive(Default)]
struct Run {
    /// Acknowledgements are counted.
    counting: Cell<bool>,
    /// Nothing new is sent.
    ending: Cell<bool>,
    latencies_us: RefCell<Vec<u64>>,
}

impl BenchMqtt {
    pub(super) fn run(self) -> Result<(), Failure> {
        let watched = Watched::new(self.pid)?;
        let absent = |error: io::Error| {
            Failure::absent(format!(
                "cannot reach an MQTT broker at {}: {error}. Try: --mqtt HOST:PORT",
                self.mqtt
            ))
        };
        let mut addresses = self.mqtt.to_socket_addrs().map_err(absent)?;
        let address = addresses.next().ok_or_else(|| absent(io::ErrorKind::NotFound.into()))?;
        // Told before a hundred fail in the same way.
        TcpStream::connect_timeout(&address, TIMEOUT).map_err(absent)?;
        let acks = self
            .measure(address, watched)
            .map_err(|error| Failure::failed(format!("the bench could not be run: {error}")))?;
        Table::new(&Acks::HEADINGS, self.json)?.row(&acks.cells(), &acks)
    }

    fn measure(&self, address: SocketAddr, watched: Watched) -> io::Result<Acks> {
        let run = Run::default();
        let executor = LocalExecutor::new();
        let (time, cpu) = smol::block_on(executor.run(async {
            let publisher = |number| executor.spawn(publish(address, number, self.inflight, self.bytes, &run));
            let mut publishers: Vec<_> = (0..self.connections).map(publisher).collect();
            Timer::after(WARM_UP).await;
            run.counting.set(true);
            let (began, cpu_before) = (Instant::now(), watched.seconds());
            Timer::after(Duration::from_secs(self.seconds.max(1))).await;
            run.counting.set(false);
            let (time, cpu_after) = (began.elapsed(), watched.seconds());
            run.ending.set(true);
            let all = async {
                for publisher in publishers.drain(..) {
                    publisher.await?;
                }
                Ok(())
            };
            smol::future::or(all, late()).await?;
            io::Result::Ok((time, (cpu_before, cpu_after)))
        }))?;
        drop(executor);
        let mut latencies = run.latencies_us.into_inner();
        let (ack_p50_us, ack_p99_us) = percentiles(&mut latencies);
        Ok(Acks {
            broker: self.label.clone(),
            connections: self.connections.into(),
            record_bytes: self.bytes,
            acks_per_second: latencies.len() as f64 / time.as_secs_f64(),
            ack_p50_us,
            ack_p99_us,
            cpu_seconds_per_million: per_million(cpu.0, cpu.1, latencies.len()),
        })
    }
}

async fn late() -> io::Result<()> {
    Timer::after(TIMEOUT).await;
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        "the last acknowledgements did not come",
    ))
}

/// One publisher, until the run ends and everything is acknowledged.
async fn publish(address: SocketAddr, number: u16, inflight: u16, bytes: usize, run: &Run) -> io::Result<()> {
    let mut stream = Async::<TcpStream>::connect(address).await?;
    stream.get_ref().set_nodelay(true)?;
    let mut answers = Answers::default();
    let options = MqttOptions::new(address.to_string(), format!("bench-{number}"), Level::V311);
    stream.write_all(&packet::connect(&options, true)).await?;
    match answers.next(&mut stream).await? {
        Packet::ConnAck { code: 0, .. } => {}
        other => return Err(unexpected(&other)),
    }
    let payload: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(bytes).collect();
    let topic = format!("bench/{number}");
    let mut sent_at: Vec<Option<Instant>> = vec![None; usize::from(inflight)];
    let mut out = Vec::new();
    loop {
        if !run.ending.get() {
            let now = Instant::now();
            for (id, sent) in (1..).zip(&mut sent_at).filter(|(_, sent)| sent.is_none()) {
                out.extend(packet::publish(Level::V311, &topic, &payload, 1, id, false));
                *sent = Some(now);
            }
            stream.write_all(&out).await?;
            out.clear();
        }
        if sent_at.iter().all(Option::is_none) {
            return Ok(());
        }
        // One has to come; what came with it is taken as well.
        let mut answer = Some(answers.next(&mut stream).await?);
        let now = Instant::now();
        while let Some(ack) = answer {
            let Packet::PubAck { id, code: 0 } = ack else {
                return Err(unexpected(&ack));
            };
            let place = usize::from(id).checked_sub(1).and_then(|at| sent_at.get_mut(at));
            let since = place.and_then(Option::take).ok_or_else(|| unexpected(&ack))?;
            if run.counting.get() {
                run.latencies_us
                    .borrow_mut()
                    .push(now.duration_since(since).as_micros() as u64);
            }
            answer = answers.there()?;
        }
    }
}

fn unexpected(packet: &Packet) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the broker sent {packet:?}"))
}

/// What was read and not yet taken.
#[derive(Default)]
struct Answers {
    input: Vec<u8>,
    at: usize,
}

impl Answers {
    /// The next packet, waiting for it.
    async fn next(&mut self, stream: &mut Async<TcpStream>) -> io::Result<Packet> {
        loop {
            if let Some(packet) = self.there()? {
                return Ok(packet);
            }
            self.input.drain(..self.at);
            self.at = 0;
            let mut piece = [0; 4096];
            let count = stream.read(&mut piece).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.input.extend(piece.iter().take(count));
        }
    }

    /// The next packet, if it was read already.
    fn there(&mut self) -> io::Result<Option<Packet>> {
        let rest = self.input.get(self.at..).unwrap_or_default();
        let decoded = packet::decode(rest);
        let found = decoded.map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))?;
        Ok(found.map(|(packet, used)| {
            self.at += used;
            packet
        }))
    }
}
