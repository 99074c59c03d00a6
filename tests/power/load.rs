//! A mixed load on the whole log, out of a seed: records, producers' batches with sequences and resends, values with
//! what they build on, topics made, changed and deleted, records deleted, retention, a quota, large commits that go
//! past the ring, flushes.

use std::collections::BTreeMap;
use std::task::Waker;

use bytes::Bytes;

use super::depot::Machine;
use super::disks::{Disks, Event};
use super::model::{Effect, Model, TABLES, Turn};
use crate::config::Quota;
use crate::log::ticket::{Ticket, Wakes};
use crate::log::{
    Append, Committed, Cut, Expect, Log, OpenError, Opening, SettingChange, StateChange, Submission, Table,
    TopicChange, TopicSpec, Writer, inline,
};
use crate::model::batch::{self, Batch};
use crate::model::{Code, Now, Offset, Partition, Record, RecordHeader, Topic};

const TOPICS: [&str; 4] = ["a", "b", "c", "d"];
const PRODUCERS: i64 = 3;
/// Near what a store of this load takes, so that it sheds now and then; the steps of a quota are of at least 1 MiB.
const QUOTA: u64 = 6 << 20;

/// A log that runs, and whoever writes to it.
pub struct Load {
    pub machine: Machine,
    pub log: Log,
    writer: Writer,
    /// What was told.
    pub model: Model,
    pub turns: Vec<Turn>,
    rng: fastrand::Rng,
    now_ms: i64,
    counter: u64,
}

/// What was sent: effects if it is taken.
struct Sent {
    submission: Submission,
    values: Vec<Effect>,
    /// Topic, records, and the batch if it is one, of each append.
    appends: Vec<(String, Vec<Record>, Option<Batch>)>,
}

/// Opens the log of a machine.
pub fn open(machine: &Machine, now_ms: i64, quota: bool) -> Result<Opening, OpenError> {
    let mut options = inline::options(now(now_ms));
    options.storage.tail_bytes = 20_000;
    options.topic_defaults.partitions = 2;
    options.storage.quota = if quota { Quota::Bytes(QUOTA) } else { Quota::Share(100) };
    Log::open_in(Box::new(machine.clone()), options)
}

fn now(ms: i64) -> Now {
    Now {
        mono_us: ms as u64 * 1000,
        wall_ms: ms,
    }
}

fn topic(name: &str) -> Topic {
    Topic::parse(name).expect("a name of ours")
}

impl Load {
    /// Opens the log and goes on with what was told before.
    pub fn new(disks: Disks, model: Model, now_ms: i64, seed: u64) -> Result<Self, String> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let machine = Machine::new(disks);
        let opening = open(&machine, now_ms, rng.u8(..4) == 0).map_err(|error| format!("it does not open: {error}"))?;
        Ok(Self {
            machine,
            log: opening.log,
            writer: opening.writer,
            model,
            turns: Vec::new(),
            now_ms,
            counter: seed << 20,
            rng,
        })
    }

    pub fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// One turn of the writer, and what is beside it.
    pub fn step(&mut self) {
        // Now and then so long that what is past is looked for.
        self.now_ms += if self.rng.u8(..6) == 0 {
            1_100
        } else {
            self.rng.i64(1..40)
        };
        let number = self.turns.len();
        self.machine.disks.mark(Event::Begins(number));
        let effects = match self.rng.u8(..100) {
            0..70 => self.group(),
            70..75 => self.create(),
            75..78 => self.delete(),
            78..84 => self.alter(),
            84..90 => self.delete_records(),
            _ => self.tick(),
        };
        let mut turn = Turn {
            effects,
            starts: Vec::new(),
        };
        for info in self.log.topics() {
            for partition in 0..info.partitions {
                let bounds = self
                    .log
                    .bounds(info.name.as_str(), Partition(partition))
                    .expect("it is listed");
                turn.starts.push((info.name.to_string(), partition, bounds.log_start.0));
            }
        }
        self.machine.disks.mark(Event::Told(number));
        self.model.apply(&turn);
        self.turns.push(turn);
        let due = self
            .log
            .shared
            .keeper
            .with(|store| Ok(store.checkpoint_due()))
            .expect("it is open");
        if due || self.rng.u8(..20) == 0 {
            self.checkpoint();
        }
    }

    /// As the thread beside the writer does it.
    fn checkpoint(&self) {
        let flush = self.log.shared.flush_begins();
        self.log
            .shared
            .lend(|store| store.checkpoint())
            .expect("nothing is wrong with the disks");
        self.log.shared.measure_usage(flush);
    }

    /// Commits what waits.
    fn commit(&self) {
        let shared = &self.log.shared;
        let mut wakes = Wakes::default();
        loop {
            let gathered = shared.queue.gather(usize::MAX);
            if gathered.items.is_empty() {
                return;
            }
            drop(
                self.writer
                    .turn(self.writer.desk(), gathered.items, now(self.now_ms), &mut wakes),
            );
        }
    }

    fn done<T>(&self, mut ticket: Ticket<T>) -> Option<T> {
        self.commit();
        match ticket.take().expect("it was committed") {
            Ok(told) => Some(told),
            Err(refused) => {
                let fair = [Code::TopicExists, Code::UnknownTopic, Code::Quota, Code::Conflict];
                assert!(fair.contains(&refused.code), "{refused}");
                None
            }
        }
    }

    /// Time passes: what is due is looked at, and garbage goes.
    fn tick(&mut self) -> Vec<Effect> {
        self.now_ms += 1_500;
        let mut wakes = Wakes::default();
        for _ in 0..self.rng.u8(1..4) {
            drop(
                self.writer
                    .turn(self.writer.desk(), Vec::new(), now(self.now_ms), &mut wakes),
            );
        }
        Vec::new()
    }

    fn create(&mut self) -> Vec<Effect> {
        let mut settings: Vec<(String, String)> = Vec::new();
        let mut set = |name: &str, value: &str| settings.push((name.into(), value.into()));
        match self.rng.u8(..5) {
            0 => set("retention.bytes", "60000"),
            1 => set("message.timestamp.type", "LogAppendTime"),
            2 => set("priority", "1"),
            _ => {}
        }
        let spec = TopicSpec {
            name: topic(TOPICS[self.rng.usize(..TOPICS.len())]),
            partitions: Some(self.rng.u32(1..4)),
            settings,
        };
        let made = self.done(self.log.create_topic(spec, Waker::noop()));
        made.map(|info| topic_effect(&info)).into_iter().collect()
    }

    fn some_topic(&mut self) -> Option<String> {
        let names: Vec<&String> = self.model.topics.keys().collect();
        (!names.is_empty()).then(|| names[self.rng.usize(..names.len())].clone())
    }

    fn delete(&mut self) -> Vec<Effect> {
        let Some(name) = self.some_topic() else {
            return Vec::new();
        };
        let gone = self.done(self.log.delete_topic(&topic(&name), Waker::noop()));
        gone.map(|()| Effect::TopicGone(name)).into_iter().collect()
    }

    fn alter(&mut self) -> Vec<Effect> {
        let Some(name) = self.some_topic() else {
            return Vec::new();
        };
        let change = match self.rng.bool() {
            true => SettingChange::Set(self.rng.u32(30_000..90_000).to_string()),
            false => SettingChange::Unset,
        };
        let change = TopicChange {
            name: topic(&name),
            settings: vec![("retention.bytes".into(), change)],
            replaces_all: false,
        };
        let altered = self.done(self.log.alter_topic(change, Waker::noop()));
        altered.map(|info| topic_effect(&info)).into_iter().collect()
    }

    fn delete_records(&mut self) -> Vec<Effect> {
        let Some(name) = self.some_topic() else {
            return Vec::new();
        };
        let parts = &self.model.topics[&name].partitions;
        let mut cuts = Vec::new();
        for (partition, part) in (0..).zip(parts) {
            let start = part.start_max;
            let to = Some(Offset(self.rng.u64(start..=part.next))).filter(|_| self.rng.u8(..4) > 0);
            cuts.push(Cut {
                topic: topic(&name),
                partition: Partition(partition),
                to,
            });
        }
        let Some(answers) = self.done(self.log.delete_records(cuts, Waker::noop())) else {
            return Vec::new();
        };
        let told = (0..).zip(answers).map(|(partition, start)| Effect::Start {
            topic: name.clone(),
            partition,
            start: start.expect("an offset that is there").0,
        });
        told.collect()
    }

    /// Several submissions in one commit.
    fn group(&mut self) -> Vec<Effect> {
        let mut planned = Planned {
            values: self.model.values.clone(),
            ..Planned::default()
        };
        let many = self.rng.usize(1..8);
        let sent: Vec<Sent> = (0..many).map(|_| self.submission(&mut planned)).collect();
        let waiting: Vec<_> = sent
            .into_iter()
            .map(|sent| {
                let Sent {
                    submission,
                    values,
                    appends,
                } = sent;
                (self.log.submit(submission, Waker::noop()), values, appends)
            })
            .collect();
        self.commit();
        let mut effects = Vec::new();
        for info in self.log.topics() {
            if !self.model.topics.contains_key(info.name.as_str()) {
                effects.push(topic_effect(&info));
            }
        }
        for (mut ticket, values, appends) in waiting {
            match ticket.take().expect("it was committed") {
                Ok(committed) => {
                    effects.extend(values);
                    self.appended(&committed, appends, &mut effects);
                }
                Err(refused) => {
                    let fair = [
                        Code::Conflict,
                        Code::UnknownTopic,
                        Code::Quota,
                        Code::OutOfOrderSequence,
                    ];
                    assert!(fair.contains(&refused.code), "{refused}");
                }
            }
        }
        effects
    }

    fn appended(
        &self,
        committed: &Committed,
        appends: Vec<(String, Vec<Record>, Option<Batch>)>,
        effects: &mut Vec<Effect>,
    ) {
        assert_eq!(committed.appended.len(), appends.len());
        for (told, (topic, mut records, batch)) in committed.appended.iter().zip(appends) {
            if told.duplicate {
                let part = &self.model.topics[&topic].partitions[told.partition.0 as usize];
                let id = batch.expect("only batches are known again").header().producer_id;
                let newest = part.producers[&id].batches.back().expect("it was stored");
                assert_eq!(newest.2, told.base_offset.0, "a resend was told another offset");
                continue;
            }
            if let Some(time_ms) = told.append_time_ms {
                records.iter_mut().for_each(|record| record.timestamp_ms = time_ms);
            }
            effects.push(Effect::Records {
                topic,
                partition: told.partition.0,
                base: told.base_offset.0,
                records,
                batch,
            });
        }
    }

    fn submission(&mut self, planned: &mut Planned) -> Sent {
        let mut sent = Sent {
            submission: Submission::default(),
            values: Vec::new(),
            appends: Vec::new(),
        };
        // Of both kinds at least one, mostly.
        for _ in 0..self.rng.usize(..3) {
            self.value(planned, &mut sent);
        }
        for _ in 0..self.rng.usize(..4) {
            match self.rng.u8(..10) {
                0..6 => self.record_append(&mut sent),
                _ => self.batch_append(planned, &mut sent),
            }
        }
        sent
    }

    fn value(&mut self, planned: &mut Planned, sent: &mut Sent) {
        let table = TABLES[self.rng.usize(..TABLES.len())];
        let key = vec![b'k', self.rng.u8(..5)];
        let current = planned.values.get(&(table, key.clone())).cloned();
        let expect = match (self.rng.u8(..12), current) {
            (0, _) => Expect::Value(b"never".to_vec()),
            (1..4, _) => Expect::Any,
            (_, Some(value)) => Expect::Value(value),
            (_, None) => Expect::Absent,
        };
        self.counter += 1;
        let filler = vec![self.rng.u8(..); self.rng.usize(..300)];
        let value = (self.rng.u8(..5) > 0).then(|| [&self.counter.to_be_bytes()[..], &filler].concat());
        match &value {
            Some(value) => drop(planned.values.insert((table, key.clone()), value.clone())),
            None => drop(planned.values.remove(&(table, key.clone()))),
        }
        sent.values.push(Effect::Value {
            table,
            key: key.clone(),
            value: value.clone(),
        });
        sent.submission.state.push(StateChange {
            table,
            key,
            expect,
            value,
        });
    }

    fn record(&mut self, bytes: usize) -> Record {
        self.counter += 1;
        let text = |text: String| Bytes::from(text);
        Record {
            key: (self.rng.u8(..4) > 0).then(|| text(format!("key {}", self.rng.u8(..20)))),
            value: (self.rng.u8(..20) > 0).then(|| text(format!("{} {}", self.counter, "x".repeat(bytes)))),
            headers: match self.rng.u8(..4) {
                0 => vec![RecordHeader {
                    name: "n".into(),
                    value: Some(text(self.counter.to_string())),
                }],
                _ => Vec::new(),
            },
            timestamp_ms: self.now_ms + self.rng.i64(-50..50),
        }
    }

    /// Mostly a reading; at times what fills pages, or has a row of its own.
    fn size(&mut self) -> usize {
        match self.rng.u8(..40) {
            0 => self.rng.usize(16_000..20_000),
            1..6 => self.rng.usize(1_000..6_000),
            _ => self.rng.usize(..120),
        }
    }

    fn record_append(&mut self, sent: &mut Sent) {
        let name = TOPICS[self.rng.usize(..TOPICS.len())];
        let bytes = self.size();
        let record = self.record(bytes);
        sent.appends.push((name.into(), vec![record.clone()], None));
        sent.submission.appends.push(Append::Record {
            topic: topic(name),
            record,
        });
    }

    fn batch_append(&mut self, planned: &mut Planned, sent: &mut Sent) {
        let Some(name) = self.some_topic() else { return };
        let parts = &self.model.topics[&name].partitions;
        let partition = self.rng.usize(..parts.len());
        let id = self.rng.i64(-1..PRODUCERS);
        let known = parts[partition].producers.get(&id).cloned();
        // Now and then one that goes past the ring.
        let large = self.rng.u8(..12) == 0;
        let records: Vec<Record> = (0..self.rng.usize(1..6))
            .map(|_| {
                let bytes = if large { 30_000 } else { self.size() };
                self.record(bytes)
            })
            .collect();
        let place = (name.clone(), partition as u32, id);
        let (batch, records) = match (planned.sequences.get(&place), known) {
            // Its answer did not reach the producer.
            (None, Some(known)) if self.rng.u8(..6) == 0 => (known.newest.clone(), Vec::new()),
            (next, known) => {
                let stored = known.map(|known| (known.epoch, known.batches.back().map_or(0, |batch| batch.1 + 1)));
                let (mut epoch, mut first) = next.copied().or(stored).unwrap_or((0, 0));
                if self.rng.u8(..20) == 0 {
                    (epoch, first) = (epoch + 1, 0);
                }
                let mut bytes = batch::pack(&records);
                if id >= 0 {
                    batch::stamp_producer(&mut bytes, id, epoch, first, false);
                    planned.sequences.insert(place, (epoch, first + records.len() as i32));
                }
                (Batch::parse(bytes.into()).expect("it was packed"), records)
            }
        };
        sent.appends.push((name.clone(), records, Some(batch.clone())));
        let (topic, partition) = (topic(&name), Partition(partition as u32));
        sent.submission.appends.push(Append::Batch {
            topic,
            partition,
            batch,
        });
    }
}

/// What holds if all that was sent so far in this turn is taken.
#[derive(Default)]
struct Planned {
    values: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
    /// Epoch and next sequence by topic, partition and producer.
    sequences: BTreeMap<(String, u32, i64), (i16, i32)>,
}

fn topic_effect(info: &crate::log::TopicInfo) -> Effect {
    Effect::Topic {
        name: info.name.to_string(),
        id: info.id,
        partitions: info.partitions,
        settings: info.settings.clone(),
    }
}
