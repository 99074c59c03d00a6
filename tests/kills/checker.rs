//! The verdict: what was read back, held against what clients know. Knows no broker; `planted` proves that it sees.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use crate::ledger::{Kind, Ledger};

/// A topic's partition.
pub type Key = (String, i32);

/// One record as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub offset: u64,
    /// Of key, value, headers and timestamp.
    pub digest: u64,
    /// Client and counter; `None` for a value that no client of this test wrote.
    pub from: Option<(String, u64)>,
}

/// One read of the whole log.
#[derive(Clone, Debug, Default)]
pub struct ReadBack {
    /// Log start and records, in order of offset.
    pub partitions: BTreeMap<Key, (u64, Vec<Seen>)>,
}

/// The digest of each offset as it was first read.
#[derive(Debug, Default)]
pub struct FirstRead {
    digests: BTreeMap<Key, BTreeMap<u64, u64>>,
}

/// What is wrong, in words, and what is only counted.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub missing: Vec<String>,
    pub changed: Vec<String>,
    pub duplicates: Vec<String>,
    pub disorder: Vec<String>,
    pub foreign: Vec<String>,
    /// Copies beyond the first of kinds that allow them.
    pub copies_allowed: u64,
    pub records: u64,
    /// Acked records that retention has taken.
    pub retired: u64,
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        [&self.missing, &self.changed, &self.duplicates, &self.disorder, &self.foreign]
            .iter()
            .all(|list| list.is_empty())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, list) in [
            ("missing", &self.missing),
            ("changed", &self.changed),
            ("duplicates", &self.duplicates),
            ("disorder", &self.disorder),
            ("foreign", &self.foreign),
        ] {
            if !list.is_empty() {
                writeln!(f, "{} {what}: {}", list.len(), list[..list.len().min(10)].join("; "))?;
            }
        }
        Ok(())
    }
}

impl FirstRead {
    /// Compares with every earlier read, then remembers what is new. Gives what has changed, holes included.
    pub fn compare(&mut self, read: &ReadBack) -> Vec<String> {
        let mut changed = Vec::new();
        for (key, (log_start, records)) in &read.partitions {
            let known = self.digests.entry(key.clone()).or_default();
            let place = |offset: u64| format!("{}/{} at {offset}", key.0, key.1);
            let mut expected = *log_start;
            for seen in records {
                // An offset without a record is a record that went: nothing here is compacted.
                (expected..seen.offset).for_each(|hole| changed.push(format!("{} is a hole", place(hole))));
                expected = seen.offset + 1;
                match known.insert(seen.offset, seen.digest) {
                    Some(before) if before != seen.digest => {
                        known.insert(seen.offset, before);
                        changed.push(format!("{} has other content", place(seen.offset)));
                    }
                    _ => {}
                }
            }
            let gone = known.range(expected.max(*log_start)..).map(|(offset, _)| *offset);
            changed.extend(gone.map(|offset| format!("{} was there before", place(offset))));
        }
        let absent = self.digests.iter().filter(|(key, known)| !known.is_empty() && !read.partitions.contains_key(*key));
        changed.extend(absent.map(|((topic, partition), _)| format!("{topic}/{partition} is gone")));
        changed
    }
}

/// Holds the last read against the ledgers. `changed` comes from all the reads before.
pub fn verdict(ledgers: &[Ledger], first: &mut FirstRead, read: &ReadBack) -> Verdict {
    let mut verdict = Verdict {
        changed: first.compare(read),
        ..Verdict::default()
    };
    let by_name: HashMap<&str, usize> = ledgers.iter().enumerate().map(|(i, l)| (l.name.as_str(), i)).collect();
    let mut copies: Vec<Vec<u32>> = ledgers.iter().map(|l| vec![0; l.sent() as usize]).collect();
    let mut retired_below: Vec<u64> = vec![0; ledgers.len()];
    for (key, (log_start, records)) in &read.partitions {
        // The newest record of each client so far: first copies must come in the order in which they were sent.
        let mut newest: HashMap<usize, u64> = HashMap::new();
        for seen in records {
            verdict.records += 1;
            let place = format!("{}/{} at {}", key.0, key.1, seen.offset);
            let known = seen.from.as_ref().and_then(|(name, n)| Some((*by_name.get(name.as_str())?, *n)));
            let Some((client, n)) = known.filter(|(client, n)| *n < ledgers[*client].sent()) else {
                verdict.foreign.push(format!("{place}: {:?}", seen.from));
                continue;
            };
            let ledger = &ledgers[client];
            copies[client][n as usize] += 1;
            if copies[client][n as usize] > 1 {
                match ledger.kind.once() {
                    true => verdict.duplicates.push(format!("{} {n} again in {place}", ledger.name)),
                    false => verdict.copies_allowed += 1,
                }
                continue;
            }
            match newest.insert(client, n) {
                Some(before) if before > n => {
                    verdict.disorder.push(format!("{} {n} behind {before} in {place}", ledger.name));
                    newest.insert(client, before);
                }
                // Each client writes to one partition: what retention took is a head of its counters.
                None if *log_start > 0 => retired_below[client] = n,
                _ => {}
            }
        }
    }
    for (client, ledger) in ledgers.iter().enumerate() {
        for n in ledger.acked().filter(|n| copies[client][*n as usize] == 0) {
            match n < retired_below[client] {
                true => verdict.retired += 1,
                false => verdict.missing.push(format!("{} {n}", ledger.name)),
            }
        }
        verdict.missing.extend(misplaced(ledger, read));
    }
    verdict
}

/// Acked records that are not where the ack said.
fn misplaced(ledger: &Ledger, read: &ReadBack) -> Vec<String> {
    let mut wrong = Vec::new();
    for place in &ledger.placed {
        let Some((log_start, records)) = read.partitions.get(&(place.topic.clone(), place.partition)) else {
            wrong.push(format!("{} {}: no partition", ledger.name, place.counter));
            continue;
        };
        if place.offset < *log_start {
            continue;
        }
        let there = records.binary_search_by_key(&place.offset, |seen| seen.offset).ok();
        let from = there.and_then(|at| records[at].from.as_ref());
        if from.is_none_or(|(name, n)| *name != ledger.name || *n != place.counter) {
            wrong.push(format!(
                "{} {} was acked at {} of {}/{}, where {from:?} is",
                ledger.name, place.counter, place.offset, place.topic, place.partition
            ));
        }
    }
    wrong
}

/// Records of every client, in counts by kind, for the closing line.
pub fn acked_by_kind(ledgers: &[Ledger]) -> String {
    let counts = Kind::ALL.map(|kind| {
        let acked: usize = ledgers.iter().filter(|l| l.kind == kind).map(|l| l.acked().count()).sum();
        format!("{} {acked}", kind.name())
    });
    counts.join(", ")
}
