//! What was sent and acknowledged, held against what is read back: lost, duplicated, altered, out of order. Knows no broker;
//! its tests plant each fault and see it reported.

use std::collections::HashMap;

use bytes::Bytes;
use serde::Deserialize;

use super::super::sensors::Reading;

/// How a reading comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Way {
    /// MQTT, at least once.
    Qos1,
    /// MQTT, exactly once.
    Qos2,
    /// The compact protocol, exactly once.
    Compact,
}

impl Way {
    pub(super) const ALL: [Self; 3] = [Self::Qos1, Self::Qos2, Self::Compact];

    /// In a reading, a client id and a topic.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Qos1 => "qos1",
            Self::Qos2 => "qos2",
            Self::Compact => "compact",
        }
    }

    /// For people.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Qos1 => "MQTT QoS 1",
            Self::Qos2 => "MQTT QoS 2",
            Self::Compact => "compact",
        }
    }

    /// Whether a reading that is sent again must not be stored again. QoS 1 says at least once: where the ack was cut off the
    /// sender cannot know, and the broker must not guess.
    fn once(self) -> bool {
        self != Self::Qos1
    }
}

/// One reading on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outgoing {
    /// Its number on this way in, from 0.
    pub(super) number: usize,
    /// Of what.
    pub(super) name: String,
    /// As a record's value.
    pub(super) value: String,
}

/// The sender's side of the story, of one way in.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    way: Way,
    /// By number: the value, and whether it was acknowledged.
    sent: Vec<(String, bool)>,
    acked: usize,
}

impl Ledger {
    pub(super) fn new(way: Way) -> Self {
        Self {
            way,
            sent: Vec::new(),
            acked: 0,
        }
    }

    /// Numbers a reading and remembers what is sent.
    pub(super) fn enter(&mut self, reading: &Reading) -> Outgoing {
        let number = self.sent.len();
        let value = format!(
            r#"{{"from":"{}","n":{number},"value":{},"unit":"{}"}}"#,
            self.way.name(),
            reading.value,
            reading.unit
        );
        self.sent.push((value.clone(), false));
        Outgoing {
            number,
            name: reading.name.clone(),
            value,
        }
    }

    /// The broker has acknowledged it.
    pub(super) fn ack(&mut self, number: usize) {
        if let Some((_, acked)) = self.sent.get_mut(number)
            && !*acked
        {
            *acked = true;
            self.acked += 1;
        }
    }

    pub(super) fn sent(&self) -> usize {
        self.sent.len()
    }

    pub(super) fn acked(&self) -> usize {
        self.acked
    }
}

/// A record as it was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) partition: u32,
    pub(super) offset: u64,
    pub(super) key: Bytes,
    pub(super) value: Bytes,
}

impl Stored {
    /// Who sent it, and its number there.
    pub(super) fn identity(&self) -> Option<(Way, usize)> {
        #[derive(Deserialize)]
        struct Identity {
            from: Way,
            n: usize,
        }
        let Identity { from, n } = serde_json::from_slice(&self.value).ok()?;
        Some((from, n))
    }
}

/// The count of one way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) way: Way,
    pub(super) sent: usize,
    pub(super) acked: usize,
    /// Readings that are there, each counted once.
    pub(super) stored: usize,
    /// Acknowledged and not there.
    pub(super) lost: usize,
    /// Further copies.
    pub(super) copies: usize,
}

impl Tally {
    /// Copies that must not be.
    pub(super) fn duplicated(&self) -> usize {
        if self.way.once() { self.copies } else { 0 }
    }

    /// Copies that the way in allows.
    pub(super) fn repeated(&self) -> usize {
        self.copies - self.duplicated()
    }
}

/// The whole count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) tallies: Vec<Tally>,
    /// Records that are not what was sent, in words.
    pub(super) altered: Vec<String>,
    /// First copies that stand before an earlier reading of the same sensor, in words.
    pub(super) disorder: Vec<String>,
}

impl Account {
    /// Compares. `stored` has every partition in offset order.
    pub(super) fn of(ledgers: &[Ledger], stored: &[Stored]) -> Self {
        let mut account = Self::default();
        let mut copies: HashMap<(Way, usize), usize> = HashMap::new();
        let mut newest: HashMap<(u32, Bytes), usize> = HashMap::new();
        for record in stored {
            let place = format!("partition {} offset {}", record.partition, record.offset);
            let known = record.identity().filter(|(way, number)| {
                let ledger = ledgers.iter().find(|ledger| ledger.way == *way);
                let sent = ledger.and_then(|ledger| ledger.sent.get(*number));
                sent.is_some_and(|(value, _)| value.as_bytes() == record.value)
            });
            let Some(identity) = known else {
                account
                    .altered
                    .push(format!("{place}: {:?} was not sent", record.value));
                continue;
            };
            let copy = copies.entry(identity).or_default();
            *copy += 1;
            if *copy > 1 {
                continue;
            }
            // A sensor has one key, a key one partition: its readings keep their order.
            match newest.insert((record.partition, record.key.clone()), identity.1) {
                Some(before) if before > identity.1 => {
                    let text = format!("{place}: {} {} after {before}", identity.0.name(), identity.1);
                    account.disorder.push(text);
                }
                _ => {}
            }
        }
        account.tallies = ledgers.iter().map(|ledger| tally(ledger, &copies)).collect();
        account
    }

    pub(super) fn total(&self, of: impl Fn(&Tally) -> usize) -> usize {
        self.tallies.iter().map(of).sum()
    }

    pub(super) fn lost(&self) -> usize {
        self.total(|t| t.lost)
    }

    pub(super) fn duplicated(&self) -> usize {
        self.total(Tally::duplicated)
    }
}

fn tally(ledger: &Ledger, copies: &HashMap<(Way, usize), usize>) -> Tally {
    let mut tally = Tally {
        way: ledger.way,
        sent: ledger.sent(),
        acked: ledger.acked,
        stored: 0,
        lost: 0,
        copies: 0,
    };
    for (number, (_, acked)) in ledger.sent.iter().enumerate() {
        match copies.get(&(ledger.way, number)).copied().unwrap_or(0) {
            0 => tally.lost += usize::from(*acked),
            count => {
                tally.stored += 1;
                tally.copies += count - 1;
            }
        }
    }
    tally
}

/// What is in the centre, held against what is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    /// Records here that are there.
    pub(super) arrived: usize,
    /// Records here that are not there.
    pub(super) missing: usize,
    /// Copies there beyond those here: after a crash of the gateway what was on its way goes again.
    pub(super) repeated: usize,
    /// Partitions whose first copies are in another order than here.
    pub(super) disordered: usize,
}

impl Arrival {
    /// Compares partition by partition: key, value, order. Both have every partition in offset order.
    pub(super) fn of(here: &[Stored], there: &[Stored]) -> Self {
        let mut arrival = Self {
            arrived: 0,
            missing: 0,
            repeated: 0,
            disordered: 0,
        };
        let (here, there) = (by_partition(here), by_partition(there));
        for (partition, wanted) in &here {
            let found = there.get(partition).map_or(&[][..], Vec::as_slice);
            // How often each record may be taken: as often as it is here.
            let mut open: HashMap<Content<'_>, usize> = HashMap::new();
            wanted.iter().for_each(|record| *open.entry(*record).or_default() += 1);
            let mut first_copies = Vec::new();
            for record in found {
                match open.get_mut(record) {
                    Some(left) if *left > 0 => {
                        *left -= 1;
                        first_copies.push(*record);
                    }
                    _ => arrival.repeated += 1,
                }
            }
            let missing: usize = open.values().sum();
            arrival.missing += missing;
            arrival.arrived += first_copies.len();
            if missing == 0 && first_copies != *wanted {
                arrival.disordered += 1;
            }
        }
        let elsewhere = there.iter().filter(|(partition, _)| !here.contains_key(partition));
        arrival.repeated += elsewhere.map(|(_, records)| records.len()).sum::<usize>();
        arrival
    }
}

/// Key and value.
type Content<'a> = (&'a [u8], &'a [u8]);

fn by_partition(records: &[Stored]) -> HashMap<u32, Vec<Content<'_>>> {
    let mut partitions: HashMap<u32, Vec<_>> = HashMap::new();
    for record in records {
        let content = (record.key.as_ref(), record.value.as_ref());
        partitions.entry(record.partition).or_default().push(content);
    }
    partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Five acknowledged readings of each way in, and the records that they became.
    fn sent() -> (Vec<Ledger>, Vec<Stored>) {
        let (mut ledgers, mut stored) = (Vec::new(), Vec::new());
        for (partition, way) in (0..).zip(Way::ALL) {
            let mut ledger = Ledger::new(way);
            for number in 0..5_u32 {
                let reading = Reading {
                    name: "load/1m".to_owned(),
                    value: f64::from(number) / 4.0,
                    unit: "1",
                };
                let outgoing = ledger.enter(&reading);
                ledger.ack(outgoing.number);
                stored.push(Stored {
                    partition,
                    offset: number.into(),
                    key: Bytes::from(format!("{}/{}", way.name(), outgoing.name)),
                    value: outgoing.value.into(),
                });
            }
            ledgers.push(ledger);
        }
        (ledgers, stored)
    }

    fn counts(account: &Account) -> Vec<(usize, usize, usize)> {
        let count = |t: &Tally| (t.lost, t.duplicated(), t.repeated());
        account.tallies.iter().map(count).collect()
    }

    #[test]
    fn what_is_all_there_once_is_good() {
        let (ledgers, stored) = sent();
        let account = Account::of(&ledgers, &stored);
        assert_eq!(counts(&account), [(0, 0, 0); 3]);
        assert_eq!((account.lost(), account.duplicated()), (0, 0));
        assert_eq!((account.total(|t| t.acked), account.total(|t| t.stored)), (15, 15));
        assert!(account.altered.is_empty() && account.disorder.is_empty());
    }

    #[test]
    fn an_acknowledged_reading_that_is_gone_is_lost_and_one_without_an_ack_is_not() {
        let (mut ledgers, mut stored) = sent();
        stored.retain(|record| record.identity() != Some((Way::Qos2, 3)));
        ledgers[2].enter(&Reading {
            name: "load/1m".to_owned(),
            value: 1.0,
            unit: "1",
        });
        let account = Account::of(&ledgers, &stored);
        assert_eq!(counts(&account), [(0, 0, 0), (1, 0, 0), (0, 0, 0)]);
        assert_eq!((account.tallies[2].sent, account.tallies[2].acked), (6, 5));
    }

    #[test]
    fn a_second_copy_is_a_duplicate_but_for_qos_1() {
        let (ledgers, mut stored) = sent();
        for again in [0, 6, 12, 12] {
            let copy = stored[again].clone();
            stored.push(copy);
        }
        let account = Account::of(&ledgers, &stored);
        assert_eq!(counts(&account), [(0, 0, 1), (0, 1, 0), (0, 2, 0)]);
        assert!(
            account.disorder.is_empty(),
            "copies have no order: {:?}",
            account.disorder
        );
    }

    #[test]
    fn another_content_is_altered_and_its_reading_lost() {
        let (ledgers, mut stored) = sent();
        stored[1].value = Bytes::from_static(br#"{"from":"qos1","n":1,"value":7,"unit":"1"}"#);
        stored[2].value = Bytes::from_static(b"\xff");
        let account = Account::of(&ledgers, &stored);
        assert_eq!((account.lost(), account.altered.len()), (2, 2), "{:?}", account.altered);
    }

    #[test]
    fn readings_of_a_sensor_that_changed_places_are_told() {
        let (ledgers, mut stored) = sent();
        stored.swap(11, 13);
        assert_eq!(Account::of(&ledgers, &stored).disorder.len(), 2);
    }

    #[test]
    fn the_centre_is_compared_record_for_record() {
        let (_, here) = sent();
        let arrival = |there: &[Stored]| {
            let a = Arrival::of(&here, there);
            (a.arrived, a.missing, a.repeated, a.disordered)
        };
        assert_eq!(arrival(&here), (15, 0, 0, 0));
        assert_eq!(arrival(&[]), (0, 15, 0, 0));
        let mut there = here.clone();
        there.remove(7);
        assert_eq!(arrival(&there), (14, 1, 0, 0));
        // A run that went again after a crash, behind what had gone already.
        let mut there = here.clone();
        there.splice(4..4, here[2..4].to_vec());
        assert_eq!(arrival(&there), (15, 0, 2, 0));
        let mut there = here.clone();
        there.swap(0, 1);
        assert_eq!(arrival(&there), (15, 0, 0, 1));
        let mut there = here.clone();
        there[14].partition = 3;
        assert_eq!(arrival(&there), (14, 1, 1, 0));
    }
}
