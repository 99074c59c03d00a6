//! What the demo does, step by step, and what it says about it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::super::output::printable;
use super::super::{Failure, sensors};
use super::account::{Account, Arrival, Stored, Tally};
use super::centre::{self, Centre};
use super::child::Broker;
use super::feed::{self, Feeders};
use super::{TOPIC, readback, row, say, verdict};
use crate::log;

/// How long the broker stays dead.
const DEAD: Duration = Duration::from_millis(700);
/// Bounds of what should take a moment.
const LAST_ACKS: Duration = Duration::from_secs(8);
const LAST_ARRIVALS: Duration = Duration::from_secs(10);

/// The demo as it goes on. The feeders end before the broker does.
pub(super) struct Story {
    /// How long readings are fed.
    pub(super) span: Duration,
    pub(super) interrupted: Arc<AtomicBool>,
    pub(super) centre: Option<Centre>,
    pub(super) feeders: Option<Feeders>,
    pub(super) broker: Broker,
    pub(super) step: u32,
}

impl Story {
    /// From beginning to end; an error is the exit code.
    pub(super) fn tell(&mut self) -> Result<(), Failure> {
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
        verdict(&account, arrival.as_ref())?;
        say("   Nothing that was acknowledged is lost, and nothing is stored twice.")?;
        if arrival.is_some() {
            say("   Everything arrived in Apache Kafka, in order.")?;
        }
        Ok(())
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

/// Time that has passed and the bound of it.
struct Bound {
    began: Instant,
    limit: Duration,
}

impl Bound {
    fn new(limit: Duration) -> Self {
        Self {
            began: Instant::now(),
            limit,
        }
    }

    fn is_past(&self) -> bool {
        self.began.elapsed() > self.limit
    }

    fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }
}
