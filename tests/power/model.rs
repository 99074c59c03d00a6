//! What the log was told to hold, and whether it holds it: topics, offsets, records byte by byte, producers'
//! sequences, values.

use std::collections::{BTreeMap, VecDeque};
use std::task::Waker;

use bytes::Bytes;

use crate::log::layout::PartitionKey;
use crate::log::producers::Producer;
use crate::log::store::Map;
use crate::log::{Log, LossReason, ReadBatches, ReadRequest, Table, TopicSettings};
use crate::model::batch::Batch;
use crate::model::{Offset, Partition, Record, Topic};

pub const TABLES: [Table; 5] = [
    Table::Kafka,
    Table::MqttSessions,
    Table::MqttQos2,
    Table::Devices,
    Table::Forward,
];

/// Bytes of a batch that the broker may change: base offset, length and leader epoch stand before them.
const BATCH_FIXED: usize = 16;

/// Everything that was told.
#[derive(Clone, Default)]
pub struct Model {
    pub topics: BTreeMap<String, TopicModel>,
    pub values: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
}

#[derive(Clone)]
pub struct TopicModel {
    pub id: [u8; 16],
    pub settings: TopicSettings,
    /// Retention was set once: what is gone needs no marker.
    pub retains: bool,
    pub partitions: Vec<PartitionModel>,
}

#[derive(Clone, Default)]
pub struct PartitionModel {
    /// Told to be gone, or found to be gone: nothing before it comes back.
    pub start: u64,
    /// What retention or the quota may have removed.
    pub start_max: u64,
    pub next: u64,
    pub records: BTreeMap<u64, Record>,
    /// Producers' batches by base offset, as they were sent.
    pub batches: BTreeMap<u64, Bytes>,
    pub producers: BTreeMap<i64, ProducerModel>,
}

#[derive(Clone, Debug)]
pub struct ProducerModel {
    pub epoch: i16,
    /// First and last sequence and offset of the last five.
    pub batches: VecDeque<(i32, i32, u64)>,
    /// The newest one.
    pub newest: Batch,
}

/// What a turn of the writer did.
#[derive(Debug)]
pub enum Effect {
    /// A topic is there, or has other settings.
    Topic {
        name: String,
        id: [u8; 16],
        partitions: u32,
        settings: TopicSettings,
    },
    TopicGone(String),
    Start {
        topic: String,
        partition: u32,
        start: u64,
    },
    Records {
        topic: String,
        partition: u32,
        base: u64,
        records: Vec<Record>,
        batch: Option<Batch>,
    },
    Value {
        table: Table,
        key: Vec<u8>,
        value: Option<Vec<u8>>,
    },
}

/// A turn: everything of it is durable at once.
#[derive(Debug, Default)]
pub struct Turn {
    pub effects: Vec<Effect>,
    /// Where partitions began in memory after it: topic, partition, log start.
    pub starts: Vec<(String, u32, u64)>,
}

impl Model {
    /// What holds after a turn.
    pub fn apply(&mut self, turn: &Turn) {
        for effect in &turn.effects {
            self.enter(effect);
        }
        for (topic, partition, start) in &turn.starts {
            if let Some(part) = self.partition_mut(topic, *partition) {
                part.start_max = part.start_max.max(*start);
            }
        }
    }

    fn enter(&mut self, effect: &Effect) {
        match effect {
            Effect::Topic {
                name,
                id,
                partitions,
                settings,
            } => {
                let made = || TopicModel {
                    id: *id,
                    settings: settings.clone(),
                    retains: false,
                    partitions: vec![PartitionModel::default(); *partitions as usize],
                };
                let topic = self.topics.entry(name.clone()).or_insert_with(made);
                topic.settings = settings.clone();
                topic.retains |= settings.retention_bytes.is_some();
            }
            Effect::TopicGone(name) => drop(self.topics.remove(name)),
            Effect::Start {
                topic,
                partition,
                start,
            } => {
                let part = self.partition_mut(topic, *partition).expect("a cut topic is there");
                part.begin(*start);
            }
            Effect::Records {
                topic,
                partition,
                base,
                records,
                batch,
            } => {
                let stamped = self.topics[topic].settings.log_append_time;
                let part = self
                    .partition_mut(topic, *partition)
                    .expect("a topic with records is there");
                assert_eq!(
                    *base, part.next,
                    "{topic} {partition}: an offset was left out or given twice"
                );
                part.next += records.len() as u64;
                part.records.extend((*base..).zip(records.iter().cloned()));
                if let Some(batch) = batch {
                    part.sequence(*base, batch);
                    // The broker's time goes into it, and into its CRC.
                    if !stamped {
                        part.batches.insert(*base, batch.bytes().clone());
                    }
                }
            }
            Effect::Value { table, key, value } => {
                let place = (*table, key.clone());
                match value {
                    Some(value) => drop(self.values.insert(place, value.clone())),
                    None => drop(self.values.remove(&place)),
                }
            }
        }
    }

    pub fn partition_mut(&mut self, topic: &str, partition: u32) -> Option<&mut PartitionModel> {
        self.topics.get_mut(topic)?.partitions.get_mut(partition as usize)
    }

    /// Takes over where partitions were found to begin: a reader has seen it.
    pub fn adopt(&mut self, log: &Log) {
        for (name, topic) in &mut self.topics {
            for (number, part) in (0..).zip(&mut topic.partitions) {
                let bounds = log.bounds(name, Partition(number)).expect("it was compared");
                part.begin(bounds.log_start.0);
                part.start_max = part.start;
            }
        }
    }

    /// Whether a log holds this and nothing else: all but the records themselves.
    pub fn compare(&self, log: &Log) -> Result<(), String> {
        let found = log.topics();
        let names: Vec<&str> = found.iter().map(|info| info.name.as_str()).collect();
        same(
            "topics",
            &self.topics.keys().map(String::as_str).collect::<Vec<_>>(),
            &names,
        )?;
        for (info, (name, topic)) in found.iter().zip(&self.topics) {
            same(&format!("id of {name}"), &topic.id, &info.id)?;
            same(&format!("settings of {name}"), &topic.settings, &info.settings)?;
            same(
                &format!("partitions of {name}"),
                &topic.partitions.len(),
                &(info.partitions as usize),
            )?;
            for (number, part) in (0..).zip(&topic.partitions) {
                let bounds = log.bounds(name, Partition(number)).ok_or("no bounds")?;
                same(&format!("end of {name} {number}"), &part.next, &bounds.high_watermark.0)?;
                let start = bounds.log_start.0;
                if !(part.start..=part.start_max).contains(&start) {
                    let (first, last) = (part.start, part.start_max);
                    return Err(format!(
                        "{name} {number} begins at {start}, which is not in {first}..={last}"
                    ));
                }
                let losses = log
                    .losses()
                    .into_iter()
                    .filter(|loss| loss.topic == *name && loss.partition == number);
                let mut covered = part.start;
                for found in losses {
                    if found.loss.reason == LossReason::Damage {
                        return Err(format!("{name} {number} is damaged: {:?}", found.loss));
                    }
                    if found.loss.offset_last >= start {
                        return Err(format!("{name} {number} has {start} and a marker that it is lost"));
                    }
                    if found.loss.offset_first <= covered {
                        covered = covered.max(found.loss.offset_last + 1);
                    }
                }
                if covered < start && !topic.retains {
                    return Err(format!(
                        "{name} {number}: {covered} to {start} are gone without a marker"
                    ));
                }
            }
        }
        for table in TABLES {
            let found = log
                .state_scan(table, &[], usize::MAX)
                .map_err(|refused| refused.to_string())?;
            let told = self.values.iter().filter(|((of, _), _)| *of == table);
            let told: Vec<_> = told.map(|((_, key), value)| (key.clone(), value.clone())).collect();
            same(&format!("values of {table:?}"), &told, &found)?;
        }
        self.compare_producers(log)
    }

    fn compare_producers(&self, log: &Log) -> Result<(), String> {
        let mut found = BTreeMap::new();
        let names = log.shared.read_state().names.clone();
        let scanned = log.shared.keeper.with(|store| {
            store.scan(Map::Producers, &[], None, &mut |key, value| {
                let partition = PartitionKey::parse(key)?;
                let id = i64::from_be_bytes(key[8..16].try_into().expect("eight bytes"));
                // Those of a topic that is gone go later.
                if let Some(name) = names.get(&partition.topic) {
                    let producer = Producer::decode(value)?;
                    let batches = producer
                        .batches
                        .iter()
                        .map(|batch| (batch.first, batch.last, batch.base_offset));
                    let place = (name.to_string(), partition.partition, id);
                    found.insert(place, (producer.epoch, batches.collect::<Vec<_>>()));
                }
                Ok(true)
            })
        });
        scanned.map_err(|error| error.to_string())?;
        let mut told = BTreeMap::new();
        for (name, topic) in &self.topics {
            for (number, part) in (0..).zip(&topic.partitions) {
                for (id, producer) in &part.producers {
                    let batches = producer.batches.iter().copied().collect::<Vec<_>>();
                    told.insert((name.clone(), number, *id), (producer.epoch, batches));
                }
            }
        }
        same("producers", &told, &found)
    }

    /// Whether every record is there as it was told, byte by byte; gives how many.
    pub fn compare_records(&self, log: &Log) -> Result<u64, String> {
        let mut count = 0;
        for (name, topic) in &self.topics {
            for (number, part) in (0..).zip(&topic.partitions) {
                let bounds = log.bounds(name, Partition(number)).ok_or("no bounds")?;
                let mut next = bounds.log_start.0;
                while next < part.next {
                    let read =
                        read(log, name, number, next).map_err(|why| format!("{name} {number} at {next}: {why}"))?;
                    if read.offset_next.0 <= next {
                        return Err(format!("{name} {number} at {next}: nothing is there"));
                    }
                    for bytes in read.batches {
                        count += part
                            .compare_batch(bytes, bounds.log_start.0)
                            .map_err(|why| format!("{name} {number}: {why}"))?;
                    }
                    next = read.offset_next.0;
                }
            }
        }
        Ok(count)
    }
}

impl PartitionModel {
    fn begin(&mut self, start: u64) {
        self.start = self.start.max(start);
        self.start_max = self.start_max.max(start);
        self.records = self.records.split_off(&self.start);
        self.batches = self.batches.split_off(&self.start);
    }

    fn sequence(&mut self, base: u64, batch: &Batch) {
        let header = *batch.header();
        if header.producer_id < 0 {
            return;
        }
        let (first, last) = (header.base_sequence, header.base_sequence + header.last_offset_delta);
        let new = || ProducerModel {
            epoch: header.producer_epoch,
            batches: VecDeque::new(),
            newest: batch.clone(),
        };
        let producer = self.producers.entry(header.producer_id).or_insert_with(new);
        if producer.epoch != header.producer_epoch {
            *producer = new();
        }
        if producer.batches.len() == 5 {
            producer.batches.pop_front();
        }
        producer.batches.push_back((first, last, base));
        producer.newest = batch.clone();
    }

    /// Compares a stored batch with what was told of its offsets.
    fn compare_batch(&self, bytes: Bytes, log_start: u64) -> Result<u64, String> {
        let batch = Batch::parse(bytes.clone()).map_err(|error| error.to_string())?;
        if let Some(sent) = self.batches.get(&batch.base_offset().0)
            && sent[BATCH_FIXED..] != bytes[BATCH_FIXED..]
        {
            return Err(format!(
                "the batch at {} is not the one that was sent",
                batch.base_offset()
            ));
        }
        let records = batch.records(4 << 20).map_err(|error| error.to_string())?;
        let mut count = 0;
        for (Offset(offset), record) in records {
            // Before the log start a batch may hold what was told to be gone.
            if offset >= log_start {
                if self.records.get(&offset) != Some(&record) {
                    return Err(format!("the record at {offset} is not the one that was told"));
                }
                count += 1;
            }
        }
        Ok(count)
    }
}

/// A read on this thread.
pub fn read(log: &Log, topic: &str, partition: u32, from: u64) -> Result<ReadBatches, String> {
    let request = ReadRequest {
        topic: Topic::parse(topic).expect("a name of ours"),
        partition: Partition(partition),
        from: Offset(from),
        bytes_max: 1 << 20,
    };
    let read = log.shared.reader.read(&log.shared, request, Waker::noop(), true).wait();
    read.map_err(|refused| refused.to_string())
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, told: &T, found: &T) -> Result<(), String> {
    match told == found {
        true => Ok(()),
        false => Err(format!("{what}: told {}, found {}", brief(told), brief(found))),
    }
}

/// As text, of bounded length.
fn brief(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    let end = text.char_indices().nth(600).map_or(text.len(), |(at, _)| at);
    text[..end].to_owned()
}
