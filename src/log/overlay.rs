//! What is durable in the ring and not yet in the database: changes by map and key, in memory, laid over what the database says.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};

use bytes::Bytes;

use super::bodies::Extent;
use super::store::{Change, LongRow, Map, Op};

/// What was put.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Value {
    /// The value.
    pub(super) head: Vec<Bytes>,
    /// Its body.
    pub(super) body: Vec<Bytes>,
    /// Where its body lies already, if it is not in memory.
    pub(super) place: Option<Extent>,
}

impl Value {
    fn bytes(&self) -> usize {
        self.head.iter().chain(&self.body).map(Bytes::len).sum()
    }
}

/// Changes of several commits; of two of the same key the newer one is kept.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    maps: BTreeMap<Map, Layer>,
    /// Bytes of keys and values, roughly.
    bytes: usize,
    /// Bytes of bodies that lie in data files already.
    placed_bytes: u64,
    /// Where bodies lie that were written and are not needed any more: no row will ever name them.
    dropped: Vec<Extent>,
}

/// Changes of one map.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer {
    /// The value of a key; `None` when it is gone.
    pub(super) entries: BTreeMap<Vec<u8>, Option<Value>>,
    /// Ranges in which nothing is there but `entries`, which are newer; they do not overlap.
    pub(super) gone: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What an overlay says of a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Says<'a> {
    Value(&'a Value),
    Gone,
    Nothing,
}

impl Overlay {
    pub(super) fn is_empty(&self) -> bool {
        self.maps.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn placed_bytes(&self) -> u64 {
        self.placed_bytes
    }

    /// Places in the data files that hold nothing any more, though the database never named them.
    pub(super) fn dropped(&self) -> &[Extent] {
        &self.dropped
    }

    /// Adds a newer change; with the place of its body, if that is written already.
    pub(super) fn apply(&mut self, op: &Op, place: Option<Extent>) {
        let layer = self.maps.entry(op.map).or_default();
        self.bytes += op.key.len();
        let mut before = Vec::new();
        match &op.change {
            Change::Put(slices) => {
                let head = slices.clone();
                let value = Value {
                    head,
                    ..Value::default()
                };
                self.bytes += value.bytes();
                before.extend(layer.entries.insert(op.key.clone(), Some(value)));
            }
            Change::PutLong { head, body } => {
                // What can be read is not kept in memory.
                let body = if place.is_some() { Vec::new() } else { body.clone() };
                let head = vec![head.clone()];
                let value = Value { head, body, place };
                self.bytes += value.bytes();
                self.placed_bytes += place.map_or(0, |extent| extent.bytes.into());
                before.extend(layer.entries.insert(op.key.clone(), Some(value)));
            }
            Change::Delete => before.extend(layer.entries.insert(op.key.clone(), None)),
            Change::DeleteUntil(until) => before = layer.clear(&op.key, until),
        }
        self.dropped
            .extend(before.into_iter().flatten().filter_map(|value| value.place));
    }

    /// What it says of a key.
    pub(super) fn says(&self, map: Map, key: &[u8]) -> Says<'_> {
        self.maps.get(&map).map_or(Says::Nothing, |layer| layer.says(key))
    }

    /// Adds what it says of the keys of a range to what older ones say.
    pub(super) fn lay_over(&self, older: &mut Layer, map: Map, from: &[u8], until: Option<&[u8]>) {
        let Some(layer) = self.maps.get(&map) else { return };
        for (from, until) in &layer.gone {
            older.clear(from, until);
        }
        let bounds = (Bound::Included(from), until.map_or(Bound::Unbounded, Bound::Excluded));
        for (key, value) in layer.entries.range::<[u8], _>(bounds) {
            older.entries.insert(key.clone(), value.clone());
        }
    }

    /// The journal rows that it puts and whose bodies are yet to be brought to a data file, by number.
    pub(super) fn journal(&self) -> Vec<(u64, LongRow)> {
        let rows = self
            .maps
            .get(&Map::Journal)
            .into_iter()
            .flat_map(|layer| &layer.entries);
        let long = rows.filter_map(|(key, value)| {
            let number = u64::from_be_bytes(key.as_slice().try_into().ok()?);
            let Value { head, body, .. } = value.clone().filter(|value| value.place.is_none())?;
            let (map, key) = (Map::Journal, key.clone());
            Some((number, LongRow { map, key, head, body }))
        });
        long.collect()
    }

    /// What it changes, map by map.
    pub(super) fn layers(&self) -> impl Iterator<Item = (Map, &Layer)> {
        self.maps.iter().map(|(map, layer)| (*map, layer))
    }
}

impl Layer {
    pub(super) fn says(&self, key: &[u8]) -> Says<'_> {
        match self.entries.get(key) {
            Some(Some(value)) => Says::Value(value),
            Some(None) => Says::Gone,
            None => {
                let mut before = self.gone.range::<[u8], _>((Bound::Unbounded, Bound::Included(key)));
                match before.next_back() {
                    Some((_, until)) if until.as_slice() > key => Says::Gone,
                    _ => Says::Nothing,
                }
            }
        }
    }

    /// Keys of the range with their values, in order; those that are gone as `None`.
    pub(super) fn into_entries(self) -> (impl Iterator<Item = (Vec<u8>, Option<Value>)>, Gone) {
        (self.entries.into_iter(), Gone(self.gone))
    }

    /// Nothing is there any more from one key up to another, which stays; gives what was.
    fn clear(&mut self, from: &[u8], until: &[u8]) -> Vec<Option<Value>> {
        if until <= from {
            return Vec::new();
        }
        let range = (Bound::Included(from), Bound::Excluded(until));
        let keys: Vec<Vec<u8>> = self
            .entries
            .range::<[u8], _>(range)
            .map(|(key, _)| key.clone())
            .collect();
        let cleared = keys.iter().filter_map(|key| self.entries.remove(key)).collect();
        let (mut from, mut until) = (from.to_vec(), until.to_vec());
        // Ranges that touch it become one with it.
        let touching = (Bound::Unbounded, Bound::Included(until.as_slice()));
        let hit: Vec<Vec<u8>> = self
            .gone
            .range::<[u8], _>(touching)
            .rev()
            .map_while(|(begins, ends)| (*ends >= from).then(|| begins.clone()))
            .collect();
        for begins in hit {
            if let Some(ends) = self.gone.remove(&begins) {
                from = from.min(begins);
                until = until.max(ends);
            }
        }
        self.gone.insert(from, until);
        cleared
    }
}

/// Ranges in which the database's keys do not count.
pub(super) struct Gone(BTreeMap<Vec<u8>, Vec<u8>>);

impl Gone {
    pub(super) fn covers(&self, key: &[u8]) -> bool {
        let mut before = self.0.range::<[u8], _>((Bound::Unbounded, Bound::Included(key)));
        before.next_back().is_some_and(|(_, until)| until.as_slice() > key)
    }
}

/// A part of slices that lie one behind the other.
pub(super) fn part(slices: &[Bytes], range: Range<usize>) -> Option<Vec<u8>> {
    let total = slices.iter().map(Bytes::len).sum();
    if range.start > range.end || range.end > total {
        return None;
    }
    let mut out = Vec::with_capacity(range.len());
    let mut begins = 0;
    for slice in slices {
        let from = range.start.saturating_sub(begins).min(slice.len());
        let until = range.end.saturating_sub(begins).min(slice.len());
        out.extend_from_slice(&slice[from..until]);
        begins += slice.len();
    }
    Some(out)
}
