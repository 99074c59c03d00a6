//! What is changed of a topic that is there: where its partitions begin, how many there are, and its settings. It is worked off by itself, with nothing
//! on its way to the disk, and answered once it is durable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Waker;

use crate::model::{Code, Offset, Partition, Topic};

use super::backup::{Backup, Turn};
use super::boots::BootClock;
use super::desk::{Desk, storage};
use super::draft::{Rules, check_partitions};
use super::layout::{Mark, PartitionKey};
use super::load::topic_op;
use super::state::{State, TopicState};
use super::store::{Op, StoreError};
use super::swap::{Swap, Swapped};
use super::ticket::{Promise, Wakes};
use super::topic::{TopicRow, altered};
use super::{Refused, TopicInfo};

/// Records before an offset are to go.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Topic.
    pub topic: Topic,
    /// Partition.
    pub partition: Partition,
    /// First offset to stay; `None` is the high watermark: all that is there goes.
    pub to: Option<Offset>,
}

/// Settings of a topic to be changed.
#[derive(Clone, Debug)]
pub struct TopicChange {
    /// Name.
    pub name: Topic,
    /// What happens to which setting, by Kafka name.
    pub settings: Vec<(String, SettingChange)>,
    /// Settings that are not named here go back to their default.
    pub replaces_all: bool,
}

/// What happens to a setting.
#[derive(Clone, Debug)]
pub enum SettingChange {
    /// It gets this value.
    Set(String),
    /// Back to the default.
    Unset,
    /// This is added to a list.
    Append(String),
    /// This is taken out of a list.
    Subtract(String),
}

/// Where each partition begins now, or why it was left as it was.
pub type CutAnswers = Vec<Result<Offset, Refused>>;

/// For the writer.
pub(super) enum Admin {
    DeleteRecords(Vec<Cut>, Promise<CutAnswers>),
    AlterTopic(TopicChange, Promise<Arc<TopicInfo>>),
    /// Shared, so that it can come again.
    Swap(Arc<Swap>, Promise<Swapped>),
    /// What the clock is; nobody waits for it.
    Clock(BootClock),
    AddPartitions(Topic, u32, Promise<Arc<TopicInfo>>),
    Backup(Turn, Promise<Backup>),
}

/// What one costs in the queue, and each part of it.
const ITEM_BYTES: usize = 1024;
const PART_BYTES: usize = 512;

impl Admin {
    /// What it holds while it waits.
    pub(super) fn bytes(&self) -> usize {
        let parts = match self {
            Self::DeleteRecords(cuts, _) => cuts.len(),
            Self::AlterTopic(change, _) => change.settings.len(),
            Self::Swap(swap, _) => return swap.bytes(),
            // It is always taken: what comes behind it is stamped by it.
            Self::Clock(_) => return 0,
            Self::AddPartitions(..) => 0,
            Self::Backup(..) => 0,
        };
        ITEM_BYTES.saturating_add(parts.saturating_mul(PART_BYTES))
    }

    /// Nothing of it is done.
    pub(super) fn refuse(self, refused: Refused) -> Option<Waker> {
        match self {
            Self::DeleteRecords(_, promise) => promise.keep(Err(refused)),
            Self::AlterTopic(_, promise) | Self::AddPartitions(_, _, promise) => promise.keep(Err(refused)),
            Self::Swap(_, promise) => promise.keep(Err(refused)),
            Self::Clock(_) => None,
            Self::Backup(_, promise) => promise.keep(Err(refused)),
        }
    }
}

/// The row and the info of a topic after a change.
pub(super) fn after(change: &TopicChange, state: &State, rules: &Rules) -> Result<(u32, TopicRow, TopicInfo), Refused> {
    let TopicState { key, info, row, .. } = found(&change.name, state)?;
    for (name, _) in &change.settings {
        if let Some(line) = info.pinned(name) {
            let why = format!(
                "{name} of topic {} is fixed by line {line} of the configuration file. Try: change it there",
                change.name
            );
            return Err(Refused::new(Code::InvalidConfig, why));
        }
    }
    let mut row = row.clone();
    if change.replaces_all {
        row.settings.clear();
    }
    for (name, what) in &change.settings {
        altered(&mut row.settings, name, what)?;
    }
    let info = row.info(change.name.clone(), &rules.defaults, rules.entry(change.name.as_str()))?;
    Ok((*key, row, info))
}

/// The row and the info of a topic with more partitions.
pub(super) fn grown(
    name: &Topic,
    partitions: u32,
    state: &State,
    rules: &Rules,
) -> Result<(u32, TopicRow, TopicInfo), Refused> {
    let topic = found(name, state)?;
    let (there, entry) = (topic.row.partitions, rules.entry(name.as_str()));
    let refuse = |why| Err(Refused::new(Code::InvalidPartitions, why));
    if let Some(line) = topic.info.pinned("partitions") {
        return refuse(format!(
            "the partitions of topic {name} are fixed by line {line} of the configuration file. Try: change them there"
        ));
    }
    if partitions <= there {
        return refuse(format!(
            "topic {name} has {there} partitions, and a topic cannot have fewer than before. Try: more than {there}"
        ));
    }
    check_partitions(name, partitions, there, state.partitions, &rules.limits)?;
    let row = TopicRow {
        partitions,
        ..topic.row.clone()
    };
    let info = row.info(name.clone(), &rules.defaults, entry)?;
    Ok((topic.key, row, info))
}

fn found<'a>(name: &Topic, state: &'a State) -> Result<&'a TopicState, Refused> {
    let unknown = || Refused::new(Code::UnknownTopic, format!("no such topic: {name}"));
    state.topics.get(name).ok_or_else(unknown)
}

impl Desk {
    /// Works one off and answers it.
    pub(super) fn administer(&mut self, admin: Admin, wakes: &mut Wakes) {
        let waker = match admin {
            Admin::DeleteRecords(cuts, promise) => promise.keep(self.delete_records(&cuts, wakes)),
            Admin::AlterTopic(change, promise) => promise.keep(self.alter_topic(&change, wakes)),
            Admin::Swap(swap, promise) => promise.keep(self.swap(&swap, wakes)),
            // It was turned before; its rows go with the commit of this turn.
            Admin::Clock(_) => None,
            Admin::AddPartitions(name, partitions, promise) => {
                promise.keep(self.add_partitions(&name, partitions, wakes))
            }
            Admin::Backup(turn, promise) => promise.keep(self.backup(turn)),
        };
        wakes.add(waker);
    }

    /// Moves log starts, all in one commit; rows and segments go afterwards, a bite with each commit.
    fn delete_records(&mut self, cuts: &[Cut], wakes: &mut Wakes) -> Result<CutAnswers, Refused> {
        let mut starts: BTreeMap<PartitionKey, u64> = BTreeMap::new();
        let mut places = Vec::with_capacity(cuts.len());
        {
            let state = self.shared.read_state();
            for cut in cuts {
                let place = place(cut, &state);
                if let Ok((key, start)) = place {
                    let moved = starts.entry(key).or_insert(start);
                    *moved = start.max(*moved);
                }
                places.push(place);
            }
            starts.retain(|key, start| state.partition(*key).is_some_and(|log| log.log_start < *start));
        }
        if !starts.is_empty() {
            let put = |(key, start): (&PartitionKey, &u64)| Mark::LogStart(*key, *start).op();
            let ops: Vec<Op> = starts.iter().map(put).collect();
            if let Err(error) = self.shared.store(&ops, 0, 0) {
                // It may have reached the disk all the same. What is there then is taken over as it is.
                self.recover(&error, self.shared.now(), wakes);
                return Err(storage(&error));
            }
        }
        let mut state = self.shared.write_state();
        for (key, start) in starts {
            self.due.pass(&mut state, key, start);
            self.due.was_cut(key);
        }
        let start_now = |(key, start)| Offset(state.partition(key).map_or(start, |log| log.log_start));
        Ok(places.into_iter().map(|place| place.map(start_now)).collect())
    }

    /// Changes the settings of a topic; they are in force for the next look at what is due, which comes at once.
    fn alter_topic(&mut self, change: &TopicChange, wakes: &mut Wakes) -> Result<Arc<TopicInfo>, Refused> {
        let (key, row, info) = {
            let state = self.shared.read_state();
            let (key, row, info) = after(change, &state, &self.rules)?;
            match state.topics.get(&change.name) {
                Some(topic) if topic.row == row => return Ok(Arc::clone(&topic.info)),
                _ => (key, row, info),
            }
        };
        if let Err(error) = self.shared.store(&[topic_op(key, &row)], 0, 0) {
            self.recover(&error, self.shared.now(), wakes);
            return Err(storage(&error));
        }
        let info = Arc::new(info);
        let mut state = self.shared.write_state();
        if let Some(topic) = state.topics.get_mut(&change.name) {
            topic.info = Arc::clone(&info);
            topic.row = row;
        }
        drop(state);
        self.due.look_now();
        Ok(info)
    }
}

impl Desk {
    /// Gives a topic more partitions.
    fn add_partitions(&mut self, name: &Topic, partitions: u32, wakes: &mut Wakes) -> Result<Arc<TopicInfo>, Refused> {
        let (key, row, info) = grown(name, partitions, &self.shared.read_state(), &self.rules)?;
        let grown = self.grow(key, row, info, wakes);
        grown.map_err(|error| {
            // It may have reached the disk all the same. What is there then is taken over as it is.
            self.recover(&error, self.shared.now(), wakes);
            storage(&error)
        })
    }

    /// Stores the row of a topic that has more partitions than before, then has them.
    pub(super) fn grow(
        &mut self,
        key: u32,
        row: TopicRow,
        info: TopicInfo,
        wakes: &mut Wakes,
    ) -> Result<Arc<TopicInfo>, StoreError> {
        self.shared.store(&[topic_op(key, &row)], 0, 0)?;
        let mut grown = TopicState::new(key, Arc::new(info), row);
        let info = Arc::clone(&grown.info);
        let mut state = self.shared.write_state();
        if let Some(topic) = state.topics.get_mut(&info.name) {
            let added = grown.partitions.split_off(topic.partitions.len());
            let count = added.len();
            topic.partitions.extend(added);
            topic.info = grown.info;
            topic.row = grown.row;
            state.partitions += count;
        }
        state.commit_number += 1;
        let number = state.commit_number;
        drop(state);
        self.shared.watches.committed(number, wakes);
        Ok(info)
    }
}

/// The partition of a cut, and where it is to begin.
fn place(cut: &Cut, state: &State) -> Result<(PartitionKey, u64), Refused> {
    let partition = cut.partition.0;
    let topic = state.topics.get(&cut.topic);
    let found = topic.and_then(|topic| Some((topic.key, topic.partitions.get(partition as usize)?)));
    let Some((topic, log)) = found else {
        let why = format!("no such topic or partition: {} {partition}", cut.topic);
        return Err(Refused::new(Code::UnknownTopic, why));
    };
    let start = cut.to.map_or(log.offset_next, |to| to.0);
    if start > log.offset_next {
        let why = format!(
            "{} {partition} ends at offset {}. Try: an offset from {} to that",
            cut.topic, log.offset_next, log.log_start
        );
        return Err(Refused::new(Code::OffsetOutOfRange, why));
    }
    Ok((PartitionKey { topic, partition }, start))
}
