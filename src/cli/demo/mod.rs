//! `headwater demo`: the main job on this machine's own readings, told in plain words. Starts a broker of its own, feeds it, kills
//! it in the middle, starts it again, and counts: what was acknowledged against what is read back. With a real Apache Kafka it
//! also cuts the link there and shows that everything arrives afterwards.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;

use super::Failure;
use account::{Account, Arrival};
use centre::Centre;
use child::Broker;
use story::Story;

mod account;
mod centre;
mod child;
mod feed;
mod link;
mod readback;
mod story;

/// Where readings without a route go.
const TOPIC: &str = "telemetry";

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

/// What the count means, and with it the exit code: data that are not what was promised are worse than a demo that failed.
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
        return Err(Failure::damaged(format!(
            "{} readings are stored twice, {disordered} out of order",
            account.duplicated()
        )));
    }
    if acked < sent || acked == 0 {
        return Err(Failure::failed(format!(
            "only {acked} of {sent} readings were acknowledged"
        )));
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

#[cfg(test)]
mod tests {
    use super::*;
    use account::{Tally, Way};

    /// Everything was acknowledged and is there once, but for what `change` changes.
    fn code(change: impl FnOnce(&mut Account, &mut Arrival)) -> u8 {
        let tally = |way| Tally {
            way,
            sent: 5,
            acked: 5,
            stored: 5,
            lost: 0,
            copies: 0,
        };
        let mut account = Account {
            tallies: Way::ALL.map(tally).to_vec(),
            ..Account::default()
        };
        let mut arrival = Arrival {
            arrived: 15,
            missing: 0,
            repeated: 0,
            disordered: 0,
        };
        change(&mut account, &mut arrival);
        verdict(&account, Some(&arrival)).map_or_else(|failure| failure.code, |()| 0)
    }

    #[test]
    fn data_that_are_not_what_was_promised_are_exit_code_4() {
        assert_eq!(code(|_, _| {}), 0);
        assert_eq!(code(|account, _| account.tallies[0].lost = 1), 4);
        assert_eq!(code(|account, _| account.altered.push("another".into())), 4);
        assert_eq!(code(|account, _| account.tallies[1].copies = 1), 4);
        assert_eq!(code(|account, _| account.tallies[2].copies = 1), 4);
        assert_eq!(code(|account, _| account.disorder.push("1 after 2".into())), 4);
        assert_eq!(code(|_, arrival| arrival.missing = 1), 4);
        assert_eq!(code(|_, arrival| arrival.disordered = 1), 4);
    }

    #[test]
    fn what_the_ways_in_allow_is_no_failure() {
        assert_eq!(code(|account, _| account.tallies[0].copies = 2), 0);
        assert_eq!(code(|_, arrival| arrival.repeated = 3), 0);
    }

    #[test]
    fn readings_that_nobody_acknowledged_fail_the_demo_and_are_no_loss() {
        assert_eq!(code(|account, _| account.tallies[2].acked = 4), 1);
        assert_eq!(code(|account, _| account.tallies.clear()), 1);
        let lost_and_unacknowledged = |account: &mut Account, _: &mut Arrival| {
            account.tallies[1].acked = 4;
            account.tallies[1].lost = 1;
        };
        assert_eq!(code(lost_and_unacknowledged), 4);
    }
}
