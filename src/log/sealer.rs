//! What sealing has to do with the state of the log: which journal rows may be laid together, how, and where their batches are then.

use std::collections::{BTreeMap, HashSet};
use std::sync::{PoisonError, Weak};

use crate::model::compression::Codec;

use super::layout::PartitionKey;
use super::load::{Garbage, segment};
use super::moving::Mover;
use super::partition::{Home, Indexed};
use super::seal::{SealRule, SealedRow, seal};
use super::shared::Shared;
use super::state::{Row, State};
use super::store::{LongRow, Sealer, Sealing, StoreError};

/// Lays together what the journal of a log holds.
pub(super) struct LogSealer {
    pub(super) shared: Weak<Shared>,
}

impl Sealer for LogSealer {
    fn seal(&self, rows: &[(u64, LongRow)], all: bool) -> Result<Sealing, StoreError> {
        let Some(shared) = self.shared.upgrade() else {
            let (consumed, rows) = (Vec::new(), Vec::new());
            return Ok(Sealing { consumed, rows });
        };
        if !shared.moving.begin(Mover::Seal) {
            let (consumed, rows) = (Vec::new(), Vec::new());
            return Ok(Sealing { consumed, rows });
        }
        let (known, rules, clean) = {
            let state = shared.read_state();
            // One that memory has not learned of yet, or does not need any more, stays.
            let known = rows.iter().filter(|(number, _)| state.row(*number).is_some()).cloned();
            (known.collect::<Vec<_>>(), rules(&state), state.clean_until())
        };
        let sealed = seal(
            &known,
            |partition| rules.get(&partition.topic).copied(),
            // Compaction has put others in its place.
            |entry| {
                clean
                    .get(&entry.partition)
                    .is_some_and(|until| entry.base_offset < *until)
            },
            all,
        )?;
        let consumed = known.into_iter().map(|(number, _)| number).collect();
        Ok(Sealing { consumed, rows: sealed })
    }

    fn sealed(&self, sealing: Sealing, seen: &mut dyn FnMut()) {
        let Some(shared) = self.shared.upgrade() else {
            return seen();
        };
        let mut state = shared.write_state();
        let past = state.resettle(&sealing.consumed, &sealing.rows);
        seen();
        drop(state);
        shared.moving.end(Mover::Seal);
        let bytes = sealing.rows.iter().flat_map(|row| &row.entries);
        shared
            .metrics
            .log
            .sealed(bytes.map(|entry| u64::from(entry.bytes)).sum());
        shared.past.lock().unwrap_or_else(PoisonError::into_inner).extend(past);
    }
}

/// By topic key.
fn rules(state: &State) -> BTreeMap<u32, SealRule> {
    let rule = |topic: &super::state::TopicState| {
        let settings = &topic.info.settings;
        let rule = SealRule {
            whole: settings.is_compacted(),
            codec: settings.packed_codec.unwrap_or(Codec::Lz4),
            batch_bytes_max: settings.batch_bytes_max,
        };
        (topic.key, rule)
    };
    state.topics.values().map(rule).collect()
}

impl State {
    /// How far partitions are clean that compaction has seen.
    fn clean_until(&self) -> BTreeMap<PartitionKey, u64> {
        let mut clean = BTreeMap::new();
        for topic in self.topics.values() {
            for (partition, log) in (0..).zip(&topic.partitions) {
                if log.clean_until > 0 {
                    let topic = topic.key;
                    clean.insert(PartitionKey { topic, partition }, log.clean_until);
                }
            }
        }
        clean
    }

    /// A journal row that is needed.
    fn row(&self, number: u64) -> Option<usize> {
        self.rows.binary_search_by_key(&number, |row| row.number).ok()
    }

    /// The batches of the consumed journal rows are in these rows now. Gives those of them that nothing needs any more.
    fn resettle(&mut self, consumed: &[u64], rows: &[SealedRow]) -> Vec<Garbage> {
        let mut garbage = Vec::new();
        let mut moved: BTreeMap<PartitionKey, Vec<Indexed>> = BTreeMap::new();
        let gone: HashSet<u64> = consumed.iter().copied().collect();
        self.rows.retain(|row| !gone.contains(&row.number));
        for row in rows {
            let placed = match row.journal {
                None => segment(&row.entries),
                Some(number) => {
                    let mut at = 0;
                    let entries = row.entries.iter().map(|entry| {
                        let begins = at;
                        at += entry.bytes;
                        (*entry, Home::Journal(number), begins)
                    });
                    entries.collect()
                }
            };
            let mut live = 0;
            for (entry, home, at) in placed {
                let partition = self.partition(entry.partition);
                if partition.is_some_and(|partition| entry.offset_next() > partition.log_start) {
                    live += 1;
                    let moved = moved.entry(entry.partition).or_default();
                    moved.push(Indexed::new(&entry, home, at));
                } else if let Home::Segment {
                    base_offset,
                    last: true,
                } = home
                {
                    garbage.push(Garbage::Segment(entry.partition, base_offset));
                }
            }
            match row.journal {
                Some(number) if live > 0 => {
                    let at = self.rows.partition_point(|row| row.number < number);
                    self.rows.insert(at, Row { number, live });
                }
                Some(number) => garbage.push(Garbage::Row(number)),
                None => {}
            }
        }
        for (key, moved) in moved {
            if let Some(partition) = self.partition_mut(key) {
                partition.resettle(&gone, moved);
            }
        }
        garbage
    }
}
