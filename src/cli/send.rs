//! `headwater send`: a device on the compact protocol, built on the device crate. Records come from standard input, a line a
//! record, or from this machine's own sensors; it reconnects and resends until every record is acknowledged, then says what
//! became of them.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;
use headwater_device::{Client, Event, Full};

use super::{Failure, sensors};
use crate::compact::Keys;
use link::Link;
use queue::HostQueue;

pub(super) mod link;
pub(super) mod queue;

/// Room for frames of 16 KiB.
const FRAME: usize = 16_640;
/// Records taken in between two looks at the link.
const BURST: usize = 4096;

/// Arguments of `headwater send`.
#[derive(Args, Debug)]
pub struct SendArgs {
    /// Device id
    #[arg(long, value_name = "ID")]
    pub device: String,
    /// Compact listener of the broker
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7420")]
    pub broker: String,
    /// Channel of the lines from standard input
    #[arg(long, value_name = "NAME", default_value = "line")]
    pub channel: String,
    /// Send this machine's own readings instead of standard input
    #[arg(long)]
    pub sensors: bool,
    /// Seconds between two rounds of readings
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    pub interval: f64,
    /// End after so many lines or rounds of readings
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// File with a line device-id:hex-key, for listeners that ask for a proof
    #[arg(long, value_name = "FILE")]
    pub psk_file: Option<PathBuf>,
    /// Queue epoch; random when not given
    #[arg(long, value_name = "N", conflicts_with = "state")]
    pub epoch: Option<u32>,
    /// Keep the queue in this file, with its epoch, across runs
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Give up after so many seconds without progress
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub timeout: u64,
    /// One JSON object instead of a sentence
    #[arg(long)]
    pub json: bool,
}

/// What became of the records.
#[derive(Debug, Default)]
struct Summary {
    queued: u64,
    acked: u64,
    resent: u64,
    refused: u64,
    dropped: u64,
    connects: u64,
    commands: u64,
    /// The newest that was refused: word of it comes again after a crash.
    refused_last: u64,
}

/// Runs the command.
pub fn run(args: SendArgs) -> ExitCode {
    match send(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.exit(),
    }
}

fn send(args: &SendArgs) -> Result<(), Failure> {
    check(args)?;
    let keys = args
        .psk_file
        .as_deref()
        .map(Keys::read)
        .transpose()
        .map_err(Failure::usage)?;
    let key = match &keys {
        Some(keys) => Some(keys.key(&args.device).ok_or_else(|| {
            Failure::usage(format!(
                "the key file has no line for device {:?}. Try: device-id:hex-key",
                args.device
            ))
        })?),
        None => None,
    };
    let queue = open_queue(args)?;
    let (epoch, waiting_before) = (queue.epoch(), queue.len() as u64);
    let mut client = Client::<_, FRAME>::new(&args.device, epoch, queue);
    if let Some(key) = key {
        client = client.with_key(key);
    }
    let mut run = Run {
        args,
        client: Box::new(client),
        clock: Clock::new(),
        source: Source::open(args),
        link: None,
        backoff: Duration::ZERO,
        retry_at: Instant::now(),
        progress_at: Instant::now(),
        summary: Summary::default(),
        waiting_before,
        last_error: String::new(),
    };
    let outcome = run.until_done();
    run.report()?;
    outcome
}

fn check(args: &SendArgs) -> Result<(), Failure> {
    if !(1..=64).contains(&args.device.len()) || args.device.chars().any(char::is_control) {
        return Err(Failure::usage(
            "--device must have 1 to 64 bytes. Try: a short name without control characters",
        ));
    }
    if !(1..=255).contains(&args.channel.len()) {
        return Err(Failure::usage(
            "--channel must have 1 to 255 bytes. Try: a name like plant/line-1",
        ));
    }
    if !(0.0..=1e6).contains(&args.interval) {
        return Err(Failure::usage(
            "--interval must be between 0 and 1000000 seconds. Try: 1",
        ));
    }
    Ok(())
}

fn open_queue(args: &SendArgs) -> Result<HostQueue, Failure> {
    let epoch = args.epoch.unwrap_or_else(|| fastrand::u32(1..));
    match &args.state {
        Some(path) => open_state(path, epoch),
        None => Ok(HostQueue::volatile(epoch)),
    }
}

fn open_state(path: &Path, epoch: u32) -> Result<HostQueue, Failure> {
    HostQueue::open(path, epoch).map_err(|e| {
        Failure::failed(format!(
            "{}: {e}. Try: a file that only this device uses",
            path.display()
        ))
    })
}

/// The device's clock: the wall clock at start, moved on by the monotonic one, so that it never goes back and that times in a
/// state file still mean something in the next run.
struct Clock {
    start: Instant,
    start_ms: i64,
}

impl Clock {
    fn new() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            start: Instant::now(),
            start_ms: i64::try_from(since.as_millis()).unwrap_or(0),
        }
    }

    fn now_ms(&self) -> i64 {
        self.start_ms + i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX / 2)
    }
}

/// Where records come from.
enum Source {
    Lines {
        lines: Receiver<Vec<u8>>,
        left: u64,
        held: Option<Vec<u8>>,
    },
    Sensors {
        next: Instant,
        left: u64,
        held: Vec<sensors::Reading>,
    },
    Done,
}

impl Source {
    fn open(args: &SendArgs) -> Self {
        let left = args.count.unwrap_or(u64::MAX);
        if args.sensors {
            return Self::Sensors {
                next: Instant::now(),
                left,
                held: Vec::new(),
            };
        }
        // Bounded: when it is full, standard input waits.
        let (sender, lines) = sync_channel(BURST);
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().split(b'\n') {
                let Ok(mut line) = line else { return };
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self::Lines {
            lines,
            left,
            held: None,
        }
    }

    fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }
}

struct Run<'a> {
    args: &'a SendArgs,
    client: Box<Client<'a, HostQueue, FRAME>>,
    clock: Clock,
    source: Source,
    link: Option<Link>,
    backoff: Duration,
    retry_at: Instant,
    progress_at: Instant,
    summary: Summary,
    /// Records that a run before left in the state file.
    waiting_before: u64,
    last_error: String,
}

impl Run<'_> {
    fn until_done(&mut self) -> Result<(), Failure> {
        loop {
            self.take_in();
            let synced = self.client.queue_mut().sync();
            synced.map_err(|e| Failure::failed(format!("the state file cannot be written: {e}. Try: free space")))?;
            if self.source.is_done() && self.client.queue().len() == 0 {
                return Ok(());
            }
            if self.client.queue().len() == 0 {
                self.progress_at = Instant::now();
            }
            if self.progress_at.elapsed() > Duration::from_secs(self.args.timeout) {
                return Err(self.give_up());
            }
            self.step()?;
        }
    }

    fn give_up(&self) -> Failure {
        let why = match self.last_error.as_str() {
            "" => "no acknowledgement came",
            why => why,
        };
        let hint = match self.args.state {
            Some(_) => "the same --state once the broker is back; it keeps them",
            None => "--state FILE, which keeps them for the next run",
        };
        let text = format!(
            "{}: {why} for {} s; {} records wait. Try: {hint}",
            self.args.broker,
            self.args.timeout,
            self.client.queue().len()
        );
        match self.summary.connects {
            0 => Failure::absent(text),
            _ => Failure::failed(text),
        }
    }

    /// Moves records from the source to the queue, as many as it has room for.
    fn take_in(&mut self) {
        let now_ms = self.clock.now_ms();
        let (client, summary) = (&mut self.client, &mut self.summary);
        let mut done = false;
        match &mut self.source {
            Source::Done => {}
            Source::Lines { lines, left, held } => {
                for _ in 0..BURST {
                    if *left == 0 {
                        done = true;
                        break;
                    }
                    let line = match held.take().map_or_else(|| lines.try_recv(), Ok) {
                        Ok(line) => line,
                        Err(TryRecvError::Empty) => break,
                        Err(TryRecvError::Disconnected) => {
                            done = true;
                            break;
                        }
                    };
                    if client.push(Some(now_ms), &self.args.channel, &line) == Err(Full) {
                        *held = Some(line);
                        break;
                    }
                    summary.queued += 1;
                    *left -= 1;
                }
            }
            Source::Sensors { next, left, held } => {
                if held.is_empty() && *left > 0 && Instant::now() >= *next {
                    *next = Instant::now() + Duration::from_secs_f64(self.args.interval);
                    *left -= 1;
                    *held = sensors::read();
                    held.reverse();
                }
                while let Some(reading) = held.last() {
                    if client.push(Some(now_ms), &reading.name, reading.json().as_bytes()) == Err(Full) {
                        break;
                    }
                    summary.queued += 1;
                    held.pop();
                }
                done = *left == 0 && held.is_empty();
            }
        }
        if done {
            self.source = Source::Done;
        }
    }

    /// One look at the link: connects, writes, reads.
    fn step(&mut self) -> Result<(), Failure> {
        let Some(link) = &mut self.link else {
            return self.connect();
        };
        // Quick while something waits for an answer; else just often enough for the next line.
        let wait = if self.client.queue().len() > 0 { 5 } else { 20 };
        let polled = link
            .wait(Duration::from_millis(wait))
            .map_err(link::LinkError)
            .and_then(|()| self.client.poll(link, self.clock.now_ms()));
        match polled {
            Ok(Some(event)) => self.event(event),
            Ok(None) => Ok(()),
            Err(error) => {
                self.lose(error.to_string());
                Ok(())
            }
        }
    }

    fn connect(&mut self) -> Result<(), Failure> {
        if Instant::now() < self.retry_at {
            // Input goes on meanwhile; the wait is short.
            std::thread::sleep(Duration::from_millis(10));
            return Ok(());
        }
        match Link::connect(&self.args.broker) {
            Ok(link) => {
                self.link = Some(link);
                self.client.connected(self.clock.now_ms());
            }
            Err(error) => self.lose(error.to_string()),
        }
        Ok(())
    }

    fn lose(&mut self, why: String) {
        self.link = None;
        self.last_error = why;
        self.backoff = (self.backoff * 2).clamp(Duration::from_millis(100), Duration::from_secs(5));
        // Many devices must not come back in the same moment.
        self.retry_at = Instant::now() + self.backoff.mul_f64(0.5 + fastrand::f64() / 2.0);
    }

    fn event(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Open(_) => {
                self.summary.connects += 1;
                self.backoff = Duration::ZERO;
                self.progress_at = Instant::now();
            }
            Event::Acked(_) => self.progress_at = Instant::now(),
            Event::Refused(sequence, _) if sequence <= self.summary.refused_last => {}
            Event::Refused(sequence, code) => {
                self.summary.refused += 1;
                self.summary.refused_last = sequence;
                eprintln!("headwater: record {sequence} is refused for good: {}", code.name());
            }
            Event::GoBack(_, code, _) => self.last_error = format!("the broker says {}", code.name()),
            Event::Command(id) => self.command(id)?,
            Event::Time => {}
            Event::EpochUsed => {
                let epoch = fastrand::u32(1..);
                eprintln!("headwater: the broker knows later records of this epoch; going on in epoch {epoch}");
                self.summary.refused_last = 0;
                self.client.queue_mut().set_epoch(epoch);
                self.client.renew(epoch, self.clock.now_ms());
            }
            Event::Ended(code) => {
                let why = format!("the broker ended the session: {}", code.name());
                // Trying again changes nothing about these.
                if [65, 66].contains(&code.0) {
                    return Err(Failure::failed(format!(
                        "{why}. Try: --psk-file with the key of this device"
                    )));
                }
                self.lose(why);
            }
            Event::HungUp => self.lose("the broker closed the connection".to_owned()),
            Event::Silent => self.lose("the broker is silent".to_owned()),
        }
        Ok(())
    }

    /// A command is shown, which is all that this device can do about it.
    fn command(&mut self, id: u64) -> Result<(), Failure> {
        self.summary.commands += 1;
        if let Some(command) = self.client.command() {
            let payload = String::from_utf8_lossy(command.payload);
            let line = serde_json::json!({"command": command.name, "id": id, "payload": payload});
            let mut out = std::io::stdout().lock();
            writeln!(out, "{line}").map_err(|e| Failure::output(&e))?;
        }
        self.client.command_done(id);
        Ok(())
    }

    fn report(&mut self) -> Result<(), Failure> {
        let waiting = self.client.queue().len() as u64;
        let summary = &mut self.summary;
        summary.resent = self.client.resent();
        summary.dropped = self.client.dropped();
        // The Ack covers these as well, but they are not stored.
        let unstored = summary.refused + summary.dropped;
        summary.acked = (self.waiting_before + summary.queued).saturating_sub(waiting + unstored);
        let (s, mut out) = (&*summary, std::io::stdout().lock());
        let result = if self.args.json {
            let line = serde_json::json!({"device": self.args.device, "queued": s.queued, "acked": s.acked,
                "waiting": waiting, "resent": s.resent, "refused": s.refused, "too_large": s.dropped,
                "connects": s.connects, "commands": s.commands});
            writeln!(out, "{line}")
        } else {
            writeln!(
                out,
                "{} records taken in, {} acknowledged, {waiting} waiting; {} sent again, {} refused, {} too large, {} connections, {} commands",
                s.queued, s.acked, s.resent, s.refused, s.dropped, s.connects, s.commands
            )
        };
        result.map_err(|e| Failure::output(&e))
    }
}
