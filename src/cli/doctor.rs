//! `headwater doctor`: what is wrong with a running broker and what to try, from what it says of itself.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Value, json};

use super::Failure;
use super::broker::HttpArgs;
use super::output::Out;

/// A disk that lasts no longer at its pace is worth a word, days.
const LIFE_DAYS: f64 = 730.0;
/// A quota of which so much is taken is near.
const NEAR: f64 = 0.9;

/// `headwater doctor`
#[derive(Args)]
pub(super) struct Doctor {
    #[command(flatten)]
    http: HttpArgs,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Good,
    /// It works, and somebody should know.
    Note,
    /// Something does not work as it should, now.
    Wrong,
}

/// One thing that was looked at.
#[derive(Debug)]
struct Finding {
    part: String,
    state: State,
    says: String,
}

impl Doctor {
    pub(super) fn run(self) -> Result<(), Failure> {
        let [health, metrics, losses, upstreams] =
            ["/healthz", "/metrics", "/api/v1/losses", "/api/v1/upstreams"].map(|path| self.http.page(path));
        let list = |page: String| {
            serde_json::from_str::<Vec<Value>>(&page)
                .map_err(|e| Failure::failed(format!("the broker's answer is not what was expected: {e}")))
        };
        let mut findings = degraded(&health?);
        findings.extend(measured(&samples(&metrics?)));
        findings.push(lost(&list(losses?)?));
        findings.extend(list(upstreams?)?.iter().map(forwarded));
        let mut out = Out::new();
        for Finding { part, state, says } in &findings {
            let state = state.name();
            match self.json {
                true => out.json(&json!({"part": part, "state": state, "says": says}))?,
                false => out.line(&format!("{state:<5}  {part:<10}  {says}"))?,
            }
        }
        out.flush()?;
        match findings.iter().filter(|finding| finding.state == State::Wrong).count() {
            0 => Ok(()),
            wrong => Err(Failure::failed(format!("{wrong} found wrong"))),
        }
    }
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Note => "note",
            Self::Wrong => "wrong",
        }
    }
}

fn finding(part: &str, state: State, says: impl Into<String>) -> Finding {
    let (part, says) = (part.to_owned(), says.into());
    Finding { part, state, says }
}

/// What the broker says does not work, a line a part, each with what to try.
fn degraded(health: &str) -> Vec<Finding> {
    let parts: Vec<Finding> = health
        .lines()
        .skip(1)
        .map(|line| {
            let (part, why) = line.split_once(": ").unwrap_or(("broker", line));
            finding(part, State::Wrong, why)
        })
        .collect();
    match parts.is_empty() {
        true => vec![finding("broker", State::Good, "it runs, and nothing is degraded")],
        false => parts,
    }
}

/// Every sample by its name with labels. Source: the OpenMetrics text format.
fn samples(metrics: &str) -> BTreeMap<String, f64> {
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    let parsed = lines.filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    });
    parsed.collect()
}

fn measured(samples: &BTreeMap<String, f64>) -> Vec<Finding> {
    let value = |name: &str| samples.get(&format!("headwater_{name}")).copied().unwrap_or(0.0);
    vec![
        quota(value("log_used_bytes"), value("log_quota_bytes")),
        waits(value("log_give_back_seconds_count"), value("log_give_back_seconds_sum")),
        wear(value("wear_pace_bytes"), value("wear_life_days")),
        clock(value("clock_trusted") > 0.0),
        store(
            value("log_stores_lost_total"),
            value("log_stores_mended_total"),
            value("log_unreadable_batches_total"),
        ),
    ]
}

fn quota(used: f64, quota: f64) -> Finding {
    let share = if quota > 0.0 { used / quota } else { 0.0 };
    let mib = f64::from(1 << 20);
    let says = format!("{:.0} % of {:.0} MiB may be in use", share * 100.0, quota / mib);
    match share > NEAR {
        true => finding(
            "quota",
            State::Note,
            format!(
                "{says}: the oldest records of the lowest priority go. Try: a larger storage.quota, or a shorter retention"
            ),
        ),
        false => finding("quota", State::Good, says),
    }
}

fn waits(count: f64, seconds: f64) -> Finding {
    match count > 0.0 {
        true => finding(
            "disk",
            State::Note,
            format!(
                "commits waited {count:.0} times since the start, {seconds:.1} s in all, until space was given back below the quota. \
                 Try: a larger storage.quota, or fewer records a second"
            ),
        ),
        false => finding("disk", State::Good, "no commit waited for space to be given back"),
    }
}

fn wear(bytes_per_day: f64, days: f64) -> Finding {
    let pace = format!("{:.1} GB a day are written", bytes_per_day / 1e9);
    match days {
        days if !days.is_finite() || days <= 0.0 => finding(
            "wear",
            State::Good,
            format!("{pace}; there is no forecast of the disk's life"),
        ),
        days if days < LIFE_DAYS => finding(
            "wear",
            State::Note,
            format!(
                "{pace}: the disk lasts {days:.0} days at this pace. Try: storage.wear_budget, or storage.write_cycles as its maker tells them"
            ),
        ),
        days => finding(
            "wear",
            State::Good,
            format!("{pace}: the disk lasts {:.0} years", days / 365.0),
        ),
    }
}

fn clock(trusted: bool) -> Finding {
    match trusted {
        true => finding("clock", State::Good, "it is trusted"),
        false => finding(
            "clock",
            State::Note,
            "it is not trusted yet: retention by time waits. Try: a time server, a clock with a battery, or clock.trust",
        ),
    }
}

fn store(lost: f64, mended: f64, unreadable: f64) -> Finding {
    match lost + mended + unreadable > 0.0 {
        true => finding(
            "store",
            State::Note,
            format!(
                "since the start {lost:.0} stores were set aside as damaged, {mended:.0} mended, {unreadable:.0} batches found unreadable. \
                 Try: headwater check, a look at the disk, headwater backup"
            ),
        ),
        false => finding("store", State::Good, "no damage was met since the start"),
    }
}

/// What went before its time, by its markers.
fn lost(losses: &[Value]) -> Finding {
    let mut records = BTreeMap::<&str, u64>::new();
    for loss in losses {
        let offset = |field: &str| loss[field].as_u64().unwrap_or(0);
        let reason = loss["reason"].as_str().unwrap_or("unknown");
        *records.entry(reason).or_default() += (offset("offset_last") + 1).saturating_sub(offset("offset_first"));
    }
    if records.is_empty() {
        return finding("losses", State::Good, "nothing went before its retention was over");
    }
    let parts: Vec<String> = records
        .iter()
        .map(|(reason, count)| format!("{count} offsets for {reason}"))
        .collect();
    let says = format!("{} (GET /api/v1/losses)", parts.join(", "));
    finding("losses", State::Note, says)
}

fn forwarded(upstream: &Value) -> Finding {
    let name = upstream["name"].as_str().unwrap_or("upstream");
    let behind = upstream["lag_records"].as_u64().unwrap_or(0);
    match (upstream["connected"].as_bool(), upstream["last_error"].as_str()) {
        (Some(true), _) => finding(name, State::Good, format!("connected, {behind} records behind")),
        (_, error) => {
            let error = error.map_or(String::new(), |error| format!(": {error}"));
            let says = format!(
                "not connected, {behind} records behind{error}. They wait in the log. Try: headwater upstream status {name}"
            );
            finding(name, State::Note, says)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_degraded_is_wrong_and_says_what_to_try() {
        let [finding] = &degraded("degraded\nquota: it is reached. Try: a larger one\n")[..] else {
            panic!("one line, one finding");
        };
        assert_eq!((finding.part.as_str(), finding.state), ("quota", State::Wrong));
        assert_eq!(finding.says, "it is reached. Try: a larger one");
        assert_eq!(degraded("ok\n")[0].state, State::Good);
    }

    #[test]
    fn samples_are_looked_at_one_by_one() {
        let of = |text: &str| measured(&samples(text));
        let good = "# TYPE x gauge\nheadwater_log_used_bytes 10\nheadwater_log_quota_bytes 100\nheadwater_clock_trusted 1\n\
                    headwater_wear_pace_bytes 1000000000\nheadwater_wear_life_days +Inf\n# EOF\n";
        assert!(
            of(good).iter().all(|finding| finding.state == State::Good),
            "{:?}",
            of(good)
        );
        for (line, part) in [
            ("headwater_log_used_bytes 95", "quota"),
            ("headwater_log_give_back_seconds_count 1", "disk"),
            ("headwater_wear_life_days 100.5", "wear"),
            ("headwater_clock_trusted 0", "clock"),
            ("headwater_log_stores_mended_total 1", "store"),
        ] {
            let found = of(&format!("{good}{line}\n"));
            let noted: Vec<_> = found.iter().filter(|finding| finding.state == State::Note).collect();
            assert!(
                matches!(&noted[..], [finding] if finding.part == part),
                "{line}: {found:?}"
            );
        }
    }

    #[test]
    fn losses_are_counted_by_reason() {
        let loss =
            |first: u64, last: u64, reason: &str| json!({"offset_first": first, "offset_last": last, "reason": reason});
        let finding = lost(&[loss(0, 9, "quota"), loss(5, 5, "damage"), loss(20, 29, "quota")]);
        assert_eq!(finding.state, State::Note);
        assert!(
            finding.says.starts_with("1 offsets for damage, 20 offsets for quota"),
            "{}",
            finding.says
        );
    }
}
