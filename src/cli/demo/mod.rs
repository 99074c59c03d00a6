//! `headwater demo`: the main job on this machine's own readings, told in plain words. Starts a broker of its own, feeds it, kills
//! it in the middle, starts it again, and counts: what was acknowledged against what is read back. With a real Apache Kafka it
//! also cuts the link there and shows that everything arrives afterwards.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;

use super::Failure;
use super::output::printable;
use super::sensors;
use crate::log;
use account::{Account, Arrival, Stored, Tally};
use centre::{Bound, Centre};
use child::Broker;
use feed::Feeders;

mod account;
mod centre;
mod child;
mod feed;
mod link;
mod readback;

/// Where readings without a route go.
const TOPIC: &str = "telemetry";
/// How long the broker stays dead.
const DEAD: Duration = Duration::from_millis(700);
/// Bounds of what should take a moment.
const LAST_ACKS: Duration = Duration::from_secs(8);
const LAST_ARRIVALS: Duration = Duration::from_secs(10);

/// `headwater demo`
#[derive(Args)]
pub(super) struct Demo {
    /// Seconds for which readings are fed
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(2..=30))]
    seconds: u32,
    /// Also forward to this real Apache Kafka, over a link that is cut for a while
    #[arg(long, value_name = "HOST:PORT")]
    upstream: Option<String>,
    /// Port of the link, for a Kafka listener that tells clients to connect there; without it, a free one
    #[arg(long, value_name = "PORT", requires = "upstream", default_value_t = 0)]
    link_port: u16,
}

impl Demo {
    pub(super) fn run(self) -> Result<(), Failure> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [
            signal_hook::consts::SIGINT,
            signal_hook::consts::SIGTERM,
            signal_hook::consts::SIGHUP,
        ] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted))
                .map_err(|error| Failure::failed(format!("signals cannot be watched: {error}")))?;
        }
        let centre = match &self.upstream {
            Some(address) => Some(Centre::new(address, self.link_port, TOPIC)?),
            None => None,
        };
        let config = centre.as_ref().map(|centre| centre.config(TOPIC));
        let broker = Broker::new(config.as_deref())
            .map_err(|error| Failure::failed(format!("the demo cannot have a directory and ports: {error}")))?;
        let mut story = Story {
            span: Duration::from_secs(self.seconds.into()),
            interrupted,
            centre,
            feeders: None,
            broker,
            step: 0,
        };
        let ended = story.tell();
        if ended.is_err() && !story.interrupted.load(Ordering::Acquire) {
            let kept = story.broker.keep();
            eprintln!("headwater: the broker's data and log are kept in {}", kept.display());
        }
        ended
    }
}

/// The demo as it goes on. The feeders end before the broker does.
struct Story {
    /// How long readings are fed.
    span: Duration,
    interrupted: Arc<AtomicBool>,
    centre: Option<Centre>,
    feeders: Option<Feeders>,
    broker: Broker,
    step: u32,
}

impl Story {
    fn tell(&mut self) -> Result<(), Failure> {
        say("headwater demo: this machine's own readings go in over MQTT and the compact protocol and come out")?;
        say("over the Kafka protocol. In the middle the broker is killed with -9. Then everything is counted.")?;
        self.start()?;
        self.feed()?;
        if self.centre.is_some() {
            self.cut()?;
        }
        self.kill()?;
        self.restart()?;
        if self.centre.is_some() {
            self.mend()?;
        }
        let stored = self.settle()?;
        let account = self.count(&stored)?;
        let arrival = self.compare(&stored)?;
        self.close()?;
        verdict(&account, arrival.as_ref())
    }

    fn start(&mut self) -> Result<(), Failure> {
        self.headline("A broker starts, on the embedded default configuration and an empty directory")?;
        let taken = self.broker.at.taken.clone();
        if !taken.is_empty() {
            let ports: Vec<String> = taken.iter().map(u16::to_string).collect();
            say(&format!(
                "   in use by somebody else on this machine: port {}; it takes free ones there",
                ports.join(", ")
            ))?;
        }
        let took = self.broker.start()?;
        let at = &self.broker.at;
        say(&format!(
            "   ready after {} ms: process {}, data in {}",
            took.as_millis(),
            self.broker.pid(),
            self.broker.data_dir().display()
        ))?;
        say(&format!(
            "   MQTT {}   Kafka {}   compact {}   HTTP {}",
            at.mqtt, at.kafka, at.compact, at.http
        ))?;
        if let Some(centre) = &self.centre {
            say(&format!(
                "   it forwards to the real Apache Kafka behind {}, topic {}",
                centre.link().address(),
                centre.topic()
            ))?;
        }
        Ok(())
    }

    fn feed(&mut self) -> Result<(), Failure> {
        self.headline("Readings flow")?;
        let readings = sensors::read().len();
        let a_second = 1.0 / feed::ROUND.as_secs_f64();
        say(&format!(
            "   {readings} readings of this machine, {a_second} times a second, each over MQTT QoS 1, MQTT QoS 2 and the compact protocol"
        ))?;
        self.feeders = Some(Feeders::start(&self.broker.at));
        self.pause(self.span.mul_f64(if self.centre.is_some() { 0.25 } else { 0.5 }))?;
        let (sent, acked) = self.progress();
        say(&format!(
            "   so far {sent} were sent and {acked} acknowledged; acknowledged means: synced to disk"
        ))?;
        say("   read back through the Kafka protocol, the newest of each partition:")?;
        let newest = readback::newest(&self.broker.at.kafka, TOPIC)
            .map_err(|error| Failure::failed(format!("reading {TOPIC} back: {error}")))?;
        for record in newest {
            say(&format!(
                "     {TOPIC} {}:{}  {} = {}",
                record.partition,
                record.offset,
                printable(&record.key),
                printable(&record.value)
            ))?;
        }
        if let Some(centre) = &self.centre {
            say(&format!("   {} of them are in Apache Kafka already", centre.count()?))?;
        }
        Ok(())
    }

    fn cut(&mut self) -> Result<(), Failure> {
        self.headline("The link to Apache Kafka is cut")?;
        let Some(centre) = &self.centre else { return Ok(()) };
        if !centre.is_behind_link() {
            say(
                "   this Kafka names its own address to clients, past the link: the outage begins when the broker is killed",
            )?;
        }
        centre.link().cut();
        let before = self.progress().1;
        self.pause(self.span.mul_f64(0.25))?;
        let acked = self.progress().1.saturating_sub(before);
        let behind = centre::status(&self.broker.at.http)?.lag_records;
        say(&format!(
            "   {acked} more were acknowledged meanwhile: nothing waits for the link; Apache Kafka is {behind} records behind"
        ))
    }

    fn kill(&mut self) -> Result<(), Failure> {
        let pid = self.broker.pid();
        self.headline(&format!("kill -9 {pid}, while readings flow"))?;
        self.broker.alive()?;
        // The worst moment is the one that shows something: when readings have no answer yet.
        let bound = Bound::new(feed::ROUND * 2);
        while self.progress().0 == self.progress().1 && !bound.is_past() {
            std::thread::sleep(Duration::from_micros(50));
        }
        self.broker
            .kill()
            .map_err(|error| Failure::failed(format!("the broker cannot be killed: {error}")))?;
        let (sent, acked) = self.progress();
        say(&format!(
            "   {acked} were acknowledged until then, {} were on their way",
            sent - acked
        ))?;
        self.pause(DEAD)?;
        let waiting = self.progress();
        say(&format!("   the sensors go on: {} wait now", waiting.0 - waiting.1))
    }

    fn restart(&mut self) -> Result<(), Failure> {
        self.headline("The broker starts again, on the same directory")?;
        let took = self.broker.start()?;
        say(&format!(
            "   ready after {} ms: process {}",
            took.as_millis(),
            self.broker.pid()
        ))?;
        let before = self.progress().1;
        self.pause(self.span.mul_f64(if self.centre.is_some() { 0.25 } else { 0.5 }))?;
        let acked = self.progress().1.saturating_sub(before);
        say(&format!(
            "   what had no acknowledgement was sent again; {acked} more are acknowledged"
        ))
    }

    fn mend(&mut self) -> Result<(), Failure> {
        self.headline("The link to Apache Kafka is back")?;
        let Some(centre) = &self.centre else { return Ok(()) };
        let behind = centre::status(&self.broker.at.http)?.lag_records;
        centre.link().mend();
        let bound = Bound::new(LAST_ARRIVALS);
        // Readings go on: it has caught up when only the newest are missing.
        while centre::status(&self.broker.at.http)?.lag_records > behind / 10 {
            if bound.is_past() {
                return Err(self.late()?);
            }
            self.pause(Duration::from_millis(20))?;
        }
        say(&format!(
            "   it was {behind} records behind and has caught up after {:.1} s",
            bound.seconds()
        ))?;
        self.pause(self.span.mul_f64(0.25))
    }

    /// Lets the feeders finish and reads everything back.
    fn settle(&mut self) -> Result<Vec<Stored>, Failure> {
        self.headline("The sensors stop, and everything is read back")?;
        if let Some(feeders) = &self.feeders {
            feeders.finish();
        }
        let bound = Bound::new(LAST_ACKS);
        while !self.ended()? {
            if bound.is_past() {
                say("   not everything was acknowledged in time")?;
                break;
            }
            self.watch()?;
            std::thread::sleep(Duration::from_millis(5));
        }
        let stored = readback::read(&self.broker.at.kafka, TOPIC)
            .map_err(|error| Failure::failed(format!("reading {TOPIC} back: {error}")))?;
        say(&format!(
            "   {} records of topic {TOPIC}, through the Kafka protocol",
            stored.len()
        ))?;
        Ok(stored)
    }

    fn count(&self, stored: &[Stored]) -> Result<Account, Failure> {
        let ledgers = self.feeders.as_ref().map(Feeders::ledgers).unwrap_or_default();
        let account = Account::of(&ledgers, stored);
        say("")?;
        say(&row(
            "",
            ["sent", "acked", "stored", "lost", "duplicated"].map(str::to_owned),
        ))?;
        for t in &account.tallies {
            let counts = [t.sent, t.acked, t.stored, t.lost, t.duplicated()];
            say(&row(t.way.label(), counts.map(|n| n.to_string())))?;
        }
        let of: [fn(&Tally) -> usize; 5] = [|t| t.sent, |t| t.acked, |t| t.stored, |t| t.lost, Tally::duplicated];
        say(&row("together", of.map(|of| account.total(of).to_string())))?;
        let repeated = account.total(Tally::repeated);
        if repeated > 0 {
            say(&format!(
                "   QoS 1 means at least once: {repeated} were stored again, because the kill cut off their acknowledgement"
            ))?;
        }
        for text in account.altered.iter().chain(&account.disorder).take(10) {
            say(&format!("   WRONG: {text}"))?;
        }
        Ok(account)
    }

    fn compare(&mut self, stored: &[Stored]) -> Result<Option<Arrival>, Failure> {
        if self.centre.is_none() {
            return Ok(None);
        }
        let bound = Bound::new(LAST_ARRIVALS);
        while centre::status(&self.broker.at.http)?.lag_records > 0 {
            if bound.is_past() {
                return Err(self.late()?);
            }
            self.pause(Duration::from_millis(20))?;
        }
        let Some(centre) = &self.centre else {
            return Ok(None);
        };
        let arrival = centre.compare(stored)?;
        say("")?;
        say(&row(
            "",
            ["here", "arrived", "missing", "out of order"].map(str::to_owned),
        ))?;
        let counts = [stored.len(), arrival.arrived, arrival.missing, arrival.disordered];
        say(&row("Apache Kafka", counts.map(|n| n.to_string())))?;
        if arrival.repeated > 0 {
            say(&format!(
                "   forwarding is at least once today: after the kill {} went again",
                arrival.repeated
            ))?;
        }
        Ok(Some(arrival))
    }

    /// The records do not reach the centre in time: no loss, they are here.
    fn late(&self) -> Result<Failure, Failure> {
        let status = centre::status(&self.broker.at.http)?;
        let why = status.last_error.unwrap_or_else(|| "it gives no reason".to_owned());
        let text = format!("Apache Kafka is still {} records behind: {why}", status.lag_records);
        Ok(Failure::failed(text))
    }

    /// Ends the broker as it wants to be ended, and has its directory verified.
    fn close(&mut self) -> Result<(), Failure> {
        self.feeders = None;
        self.broker.stop()?;
        let report = log::check(&self.broker.data_dir()).map_err(|error| Failure::failed(error.to_string()))?;
        if !report.sound() {
            return Err(Failure::damaged(
                "the data directory is damaged. Try: headwater check on it",
            ));
        }
        say("")?;
        say(&format!(
            "   headwater check of the directory: {} records in {} batches are as they were written",
            report.records(),
            report.batches()
        ))
    }

    fn headline(&mut self, text: &str) -> Result<(), Failure> {
        self.step += 1;
        say(&format!("\n{}. {text}", self.step))
    }

    /// Sent and acknowledged so far.
    fn progress(&self) -> (usize, usize) {
        self.feeders.as_ref().map_or((0, 0), Feeders::progress)
    }

    fn ended(&mut self) -> Result<bool, Failure> {
        self.feeders.as_mut().map_or(Ok(true), Feeders::ended)
    }

    /// An error when somebody wants the demo to end, or when the broker has ended by itself.
    fn watch(&mut self) -> Result<(), Failure> {
        self.broker.alive()?;
        match self.interrupted.load(Ordering::Acquire) {
            true => Err(Failure::failed(
                "interrupted; the broker of the demo is gone, its data too",
            )),
            false => Ok(()),
        }
    }

    /// Lets time pass; what the demo shows takes place meanwhile.
    fn pause(&mut self, time: Duration) -> Result<(), Failure> {
        const LOOK: Duration = Duration::from_millis(20);
        let until = Instant::now() + time;
        loop {
            self.watch()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(LOOK));
        }
    }
}

/// The last word, and with it the exit code.
fn verdict(account: &Account, arrival: Option<&Arrival>) -> Result<(), Failure> {
    let (acked, sent) = (account.total(|t| t.acked), account.total(|t| t.sent));
    if account.lost() > 0 || !account.altered.is_empty() {
        return Err(Failure::damaged(format!(
            "{} acknowledged readings are lost, {} records are not what was sent",
            account.lost(),
            account.altered.len()
        )));
    }
    if let Some(arrival) = arrival.filter(|a| a.missing > 0) {
        return Err(Failure::damaged(format!(
            "{} records did not arrive in Apache Kafka",
            arrival.missing
        )));
    }
    let disordered = account.disorder.len() + arrival.map_or(0, |a| a.disordered);
    if account.duplicated() > 0 || disordered > 0 {
        let text = format!(
            "{} readings are stored twice, {disordered} out of order",
            account.duplicated()
        );
        return Err(Failure::failed(text));
    }
    if acked < sent || acked == 0 {
        return Err(Failure::failed(format!(
            "only {acked} of {sent} readings were acknowledged"
        )));
    }
    say("   Nothing that was acknowledged is lost, and nothing is stored twice.")?;
    if arrival.is_some() {
        say("   Everything arrived in Apache Kafka, in order.")?;
    }
    Ok(())
}

/// A line of the summary.
fn row<const N: usize>(name: &str, cells: [String; N]) -> String {
    let cells: String = cells.iter().map(|cell| format!("{cell:>13}")).collect();
    format!("   {name:<14}{cells}")
}

/// A line that is seen at once.
fn say(line: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|e| Failure::output(&e))
}
