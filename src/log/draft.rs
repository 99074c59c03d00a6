//! A commit in the making: what each submission would change, laid over what is durable. A submission is first looked at whole
//! (`plan`, which changes nothing) and then, if nothing speaks against it, entered whole (`enter`, which cannot fail), so that of a
//! refused one nothing stays, not even a gap in the offsets.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::config::{Limits, TopicDefaults, TopicEntry};
use crate::model::batch::{Batch, HEADER_BYTES, Packer};
use crate::model::name::partition_of_key;
use crate::model::{Code, Now, Offset, Partition, Record, Topic};

use super::commit::SEGMENT_BYTES;
use super::desk::Desk;
use super::layout::PartitionKey;
use super::producers::{self, Producer, Producers, Verdict};
use super::quota::Pressure;
use super::shared::Shared;
use super::state::{State, TopicState};
use super::store::Map;
use super::topic::{self, TopicRow};
use super::{Append, Appended, Committed, Expect, Refused, StateChange, Submission, Table, TopicInfo, TopicSpec};

/// Longest key of a state table.
const KEY_BYTES_MAX: usize = 1024;

/// What the writer is told once.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) defaults: TopicDefaults,
    pub(super) limits: Limits,
    pub(super) entries: Vec<TopicEntry>,
    pub(super) store_id: [u8; 16],
    pub(super) generation: u32,
}

impl Rules {
    pub(super) fn entry(&self, name: &str) -> Option<&TopicEntry> {
        self.entries.iter().find(|entry| entry.name.as_str() == name)
    }

    /// Unique for every creation: the store's id with the topic key mixed into its end.
    pub(super) fn topic_id(&self, key: u32) -> [u8; 16] {
        let mut id = self.store_id;
        for (byte, with) in id.iter_mut().rev().zip(key.to_le_bytes()) {
            *byte ^= with;
        }
        id
    }
}

/// What a partition gains.
#[derive(Debug)]
pub(super) struct Growth {
    pub(super) topic: Arc<TopicInfo>,
    pub(super) offset_next: u64,
    pub(super) leader_epoch: i32,
    pub(super) log_start: u64,
    pub(super) runs: Vec<Run>,
}

/// What becomes one stored batch.
#[derive(Debug)]
pub(super) enum Run {
    /// Records, packed as they come: while the disk is busy with the commit before there is time for it.
    Records(u64, Packer),
    /// A producer's batch.
    Batch(u64, Batch),
}

/// The commit in the making.
pub(super) struct Draft<'a> {
    shared: &'a Shared,
    known: &'a Producers,
    ahead: &'a Ahead,
    rules: &'a Rules,
    now: Now,
    sticky: u64,
    pressure: Pressure,
    changes: Changes,
}

/// What a commit changes.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) topic_key_next: u32,
    pub(super) topics: BTreeMap<Topic, TopicState>,
    pub(super) growth: BTreeMap<PartitionKey, Growth>,
    pub(super) producers: HashMap<(PartitionKey, i64), Producer>,
    pub(super) values: BTreeMap<Place, Option<Vec<u8>>>,
}

impl Changes {
    /// Nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.topics.is_empty() && self.growth.is_empty() && self.producers.is_empty() && self.values.is_empty()
    }
}

enum Planned {
    Record(PartitionKey, Record),
    Batch(PartitionKey, Batch),
    Duplicate(PartitionKey, Batch),
}

/// Why a submission cannot be looked at: the store does not answer. The whole commit is off.
pub(super) enum Trouble {
    Refused(Refused),
    Store(super::store::StoreError),
}

impl From<Refused> for Trouble {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

/// What the commit before brings. It may be on its way to the disk still, and is not in the state then.
#[derive(Default)]
pub(super) struct Ahead {
    pub(super) offsets: HashMap<PartitionKey, u64>,
    pub(super) values: BTreeMap<Place, Option<Vec<u8>>>,
}

impl Ahead {
    fn offset_next(&self, key: PartitionKey) -> u64 {
        self.offsets.get(&key).copied().unwrap_or(0)
    }
}

/// A value of the rooms above: table and key.
pub(super) type Place = (Table, Vec<u8>);

#[derive(Default)]
struct Plan {
    topics: Vec<TopicState>,
    appends: Vec<Planned>,
    values: Vec<(Place, Option<Vec<u8>>)>,
    producers: HashMap<(PartitionKey, i64), Producer>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(desk: &'a Desk, now: Now) -> Self {
        // Records without a key go to one partition a commit, another one each time: they pack well and spread.
        let sticky = desk.prepared.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        let changes = Changes {
            topic_key_next: desk.topic_key_next,
            ..Changes::default()
        };
        Self {
            shared: &desk.shared,
            known: &desk.producers,
            ahead: &desk.ahead,
            rules: &desk.rules,
            now,
            sticky,
            pressure: desk.keep.pressure(),
            changes,
        }
    }

    /// What it changes.
    pub(super) fn into_changes(self) -> Changes {
        self.changes
    }

    /// Enters a submission, or says why not.
    pub(super) fn submit(&mut self, submission: Submission) -> Result<Committed, Trouble> {
        // Taken for each submission: the commit before may become durable, and visible, between two.
        let shared = self.shared;
        let state = &shared.read_state();
        let mut plan = Plan::default();
        for change in submission.state {
            self.plan_state(change, &mut plan)?;
        }
        for append in submission.appends {
            let planned = match append {
                Append::Record { topic, record } => self.plan_record(state, topic, record, &mut plan)?,
                Append::Batch {
                    topic,
                    partition,
                    batch,
                } => self.plan_batch(state, &topic, partition, batch, &mut plan)?,
            };
            plan.appends.push(planned);
        }
        Ok(self.enter(state, plan))
    }

    /// Enters a topic to be made.
    pub(super) fn create_topic(&mut self, spec: &TopicSpec) -> Result<Arc<TopicInfo>, Refused> {
        let shared = self.shared;
        let state = &shared.read_state();
        let plan = Plan::default();
        let topic = self.plan_topic(state, spec, &plan)?;
        let info = Arc::clone(&topic.info);
        let topics = vec![topic];
        self.enter(state, Plan { topics, ..plan });
        Ok(info)
    }

    fn plan_state(&self, change: StateChange, plan: &mut Plan) -> Result<(), Trouble> {
        if change.key.len() > KEY_BYTES_MAX {
            let why = format!("a key of {} bytes is too long", change.key.len());
            return Err(Refused::new(Code::InvalidRequest, why).into());
        }
        let place = (change.table, change.key);
        let holds = match &change.expect {
            Expect::Any => true,
            Expect::Absent => self.value(&place, plan)?.is_none(),
            Expect::Value(wanted) => self.value(&place, plan)?.as_ref() == Some(wanted),
        };
        if !holds {
            let why = "the state this builds on was changed by somebody else";
            return Err(Refused::new(Code::Conflict, why).into());
        }
        plan.values.push((place, change.value));
        Ok(())
    }

    fn value(&self, place: &(Table, Vec<u8>), plan: &Plan) -> Result<Option<Vec<u8>>, Trouble> {
        if let Some((_, value)) = plan.values.iter().rev().find(|(planned, _)| planned == place) {
            return Ok(value.clone());
        }
        if let Some(value) = self.changes.values.get(place) {
            return Ok(value.clone());
        }
        if let Some(value) = self.ahead.values.get(place) {
            return Ok(value.clone());
        }
        let read = self
            .shared
            .keeper
            .with(|store| store.point(Map::State(place.0), &place.1));
        read.map_err(Trouble::Store)
    }

    fn plan_record(&self, state: &State, topic: Topic, record: Record, plan: &mut Plan) -> Result<Planned, Refused> {
        if self.find(state, &topic, plan).is_none() {
            let added = self.plan_first_use(state, &topic, plan)?;
            plan.topics.push(added);
        }
        let Some(found) = self.find(state, &topic, plan) else {
            return Err(unknown(&topic));
        };
        let (bytes, bytes_max) = (record.size_bytes() + HEADER_BYTES, found.info.settings.batch_bytes_max);
        if bytes > bytes_max {
            let why =
                format!("a record of {bytes} bytes is too large for topic {topic}: max.message.bytes is {bytes_max}");
            return Err(Refused::new(Code::TooLarge, why));
        }
        if record.key.is_none() && found.info.settings.is_compacted() {
            let why = format!(
                "a record without a key is not taken into topic {topic}, which is compacted. Try: a key, or cleanup.policy=delete"
            );
            return Err(Refused::new(Code::InvalidRecord, why));
        }
        self.pressure.check(topic.as_str(), &found.info.settings)?;
        let partitions = found.info.partitions;
        let partition = match &record.key {
            Some(key) => partition_of_key(key, partitions).0,
            None => (self.sticky % u64::from(partitions)) as u32,
        };
        let topic = found.key;
        Ok(Planned::Record(PartitionKey { topic, partition }, record))
    }

    fn plan_batch(
        &self,
        state: &State,
        topic: &Topic,
        partition: Partition,
        batch: Batch,
        plan: &mut Plan,
    ) -> Result<Planned, Refused> {
        let Some(found) = self
            .find(state, topic, plan)
            .filter(|found| partition.0 < found.info.partitions)
        else {
            return Err(unknown(topic));
        };
        let (bytes, bytes_max) = (batch.bytes().len(), found.info.settings.batch_bytes_max);
        if bytes > bytes_max {
            let why =
                format!("a batch of {bytes} bytes is too large for topic {topic}: max.message.bytes is {bytes_max}");
            return Err(Refused::new(Code::TooLarge, why));
        }
        let header = *batch.header();
        if header.last_offset_delta < 0 {
            let why = format!("a batch for topic {topic} holds no offsets");
            return Err(Refused::new(Code::InvalidRecord, why));
        }
        let key = PartitionKey {
            topic: found.key,
            partition: partition.0,
        };
        let takes = || self.pressure.check(topic.as_str(), &found.info.settings);
        if header.producer_id < 0 {
            takes()?;
            return Ok(Planned::Batch(key, batch));
        }
        let place = (key, header.producer_id);
        let known = plan.producers.get(&place).or_else(|| self.producer(&place));
        match producers::check(known, &header)? {
            Verdict::Duplicate(_) => Ok(Planned::Duplicate(key, batch)),
            Verdict::Next => {
                takes()?;
                // Only sequences count in a plan; the offset comes when it is entered.
                let after = Producer::after(known, &header, 0, self.now.wall_ms);
                plan.producers.insert(place, after);
                Ok(Planned::Batch(key, batch))
            }
        }
    }

    fn plan_first_use(&self, state: &State, topic: &Topic, plan: &Plan) -> Result<TopicState, Refused> {
        if !self.rules.defaults.auto_create {
            return Err(unknown(topic));
        }
        let spec = TopicSpec {
            name: topic.clone(),
            partitions: None,
            settings: Vec::new(),
        };
        self.plan_topic(state, &spec, plan)
    }

    fn plan_topic(&self, state: &State, spec: &TopicSpec, plan: &Plan) -> Result<TopicState, Refused> {
        let row = self.check_topic(state, spec, plan)?;
        let key = self.changes.topic_key_next + plan.topics.len() as u32;
        let entry = self.rules.entry(spec.name.as_str());
        let row = TopicRow {
            id: self.rules.topic_id(key),
            generation: self.rules.generation,
            ..row
        };
        let info = row.info(spec.name.clone(), &self.rules.defaults, entry)?;
        Ok(TopicState::new(key, Arc::new(info), row))
    }

    fn check_topic(&self, state: &State, spec: &TopicSpec, plan: &Plan) -> Result<TopicRow, Refused> {
        let planned = || plan.topics.iter().chain(self.changes.topics.values());
        let topics = state.topics.len() + planned().count();
        let added: usize = planned().map(|topic| topic.partitions.len()).sum();
        let there = self.find(state, &spec.name, plan).is_some();
        check_spec(spec, self.rules, topics, state.partitions + added, there)
    }

    fn find<'b>(&'b self, state: &'b State, name: &Topic, plan: &'b Plan) -> Option<&'b TopicState> {
        let planned = || plan.topics.iter().find(|topic| topic.info.name == *name);
        let existing = state.topics.get(name);
        existing.or_else(|| self.changes.topics.get(name)).or_else(planned)
    }

    fn producer(&self, place: &(PartitionKey, i64)) -> Option<&Producer> {
        self.changes.producers.get(place).or_else(|| self.known.get(place))
    }

    fn enter(&mut self, state: &State, plan: Plan) -> Committed {
        for topic in plan.topics {
            self.changes.topic_key_next = topic.key + 1;
            self.changes.topics.insert(topic.info.name.clone(), topic);
        }
        self.changes.values.extend(plan.values);
        let appended = plan
            .appends
            .into_iter()
            .map(|append| self.append(state, append))
            .collect();
        Committed { appended }
    }

    fn append(&mut self, state: &State, planned: Planned) -> Appended {
        let (key, duplicate) = match &planned {
            Planned::Record(key, _) | Planned::Batch(key, _) => (*key, None),
            Planned::Duplicate(key, batch) => {
                let known = self.producer(&(*key, batch.header().producer_id));
                match producers::check(known, batch.header()) {
                    Ok(Verdict::Duplicate(base_offset)) => (*key, Some(base_offset)),
                    _ => unreachable!("a batch that was planned as a resend is one"),
                }
            }
        };
        let now_ms = self.now.wall_ms;
        let (partition, log_start, append_time_ms);
        let base_offset = if let Some(base_offset) = duplicate {
            let bounds = state.partition(key);
            partition = Partition(key.partition);
            log_start = bounds.map_or(0, |bounds| bounds.log_start);
            append_time_ms = None;
            base_offset
        } else {
            let known = match &planned {
                Planned::Batch(_, batch) if batch.header().producer_id >= 0 => {
                    self.producer(&(key, batch.header().producer_id)).cloned()
                }
                _ => None,
            };
            let growth = self.growth(state, key);
            let base_offset = growth.offset_next;
            partition = Partition(key.partition);
            log_start = growth.log_start;
            append_time_ms = growth.topic.settings.log_append_time.then_some(now_ms);
            match planned {
                Planned::Record(_, record) => growth.add_record(record),
                Planned::Batch(_, batch) => {
                    let header = *batch.header();
                    growth.offset_next += header.last_offset_delta as u64 + 1;
                    growth.runs.push(Run::Batch(base_offset, batch));
                    if header.producer_id >= 0 {
                        let after = Producer::after(known.as_ref(), &header, base_offset, now_ms);
                        self.changes.producers.insert((key, header.producer_id), after);
                    }
                }
                Planned::Duplicate(..) => unreachable!("handled above"),
            }
            base_offset
        };
        Appended {
            partition,
            base_offset: Offset(base_offset),
            append_time_ms,
            log_start: Offset(log_start),
            duplicate: duplicate.is_some(),
        }
    }

    fn growth(&mut self, state: &State, key: PartitionKey) -> &mut Growth {
        self.changes.growth.entry(key).or_insert_with(|| {
            let existing = state.names.get(&key.topic).and_then(|name| state.topics.get(name));
            let added = || self.changes.topics.values().find(|topic| topic.key == key.topic);
            let topic = existing
                .or_else(added)
                .expect("its topic was found when it was planned");
            let partition = &topic.partitions[key.partition as usize];
            Growth {
                topic: Arc::clone(&topic.info),
                offset_next: self.ahead.offset_next(key).max(partition.offset_next),
                leader_epoch: partition.leader_epoch,
                log_start: partition.log_start,
                runs: Vec::new(),
            }
        })
    }
}

impl Growth {
    fn add_record(&mut self, record: Record) {
        let bytes_max = self.topic.settings.batch_bytes_max;
        let base_offset = self.offset_next;
        let size = record.size_bytes();
        self.offset_next += 1;
        // A large record stays alone: it gets a row of its own in the store.
        let large = |records: u32, bytes: usize| records == 1 && bytes >= SEGMENT_BYTES;
        if let Some(Run::Records(_, packer)) = self.runs.last_mut()
            && packer.bytes() + size <= bytes_max
            && !large(1, size)
            && !large(packer.records(), packer.bytes())
        {
            packer.push(&record);
            return;
        }
        let mut packer = Packer::behind(Vec::new());
        packer.push(&record);
        self.runs.push(Run::Records(base_offset, packer));
    }
}

/// Checks a topic to be made against the rules, with so many topics and partitions there.
pub(super) fn check_spec(
    spec: &TopicSpec,
    rules: &Rules,
    topics: usize,
    partitions: usize,
    there: bool,
) -> Result<TopicRow, Refused> {
    let name = &spec.name;
    if there {
        return Err(Refused::new(Code::TopicExists, format!("topic {name} already exists")));
    }
    if name.is_internal() {
        let why = format!("{name}: names that begin with __ are headwater's own. Try: another name");
        return Err(Refused::new(Code::InvalidTopic, why));
    }
    let limits = &rules.limits;
    let row = topic::row(spec, &rules.defaults, rules.entry(name.as_str()), limits.partitions)?;
    if topics >= limits.topics {
        let why = format!("topic {name} would be one too many: limits.topics is {}", limits.topics);
        return Err(Refused::new(Code::TooManyTopics, why));
    }
    check_partitions(name, row.partitions, 0, partitions, limits)?;
    Ok(row)
}

/// Checks that a topic can have so many partitions, of which it has some, with so many there over all topics.
pub(super) fn check_partitions(
    name: &Topic,
    wanted: u32,
    has: u32,
    partitions: usize,
    limits: &Limits,
) -> Result<(), Refused> {
    topic::check_partitions(name, wanted, limits.partitions)?;
    let (left, added) = (limits.partitions.saturating_sub(partitions), wanted.saturating_sub(has));
    if added as usize <= left {
        return Ok(());
    }
    let hint = match left {
        0 => "a higher limit".to_owned(),
        left => format!("{} to {}", has + 1, has as usize + left),
    };
    let why = format!(
        "topic {name} cannot have {wanted} partitions: limits.partitions is {}, and {left} are left. Try: {hint}",
        limits.partitions
    );
    Err(Refused::new(Code::TooManyTopics, why))
}

fn unknown(topic: &Topic) -> Refused {
    Refused::new(Code::UnknownTopic, format!("no such topic or partition: {topic}"))
}
