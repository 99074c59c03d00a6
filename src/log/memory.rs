//! The store in memory: for tests of the rooms above, and the model that the real one is checked against.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::depot::{Depot, Identity};
use super::store::{Change, Each, Map, Op, Store, StoreError};
use super::usage::Usage;

type Entries = BTreeMap<Vec<u8>, Long>;
/// A value and its body.
type Long = (Vec<u8>, Vec<u8>);

/// The depot of a store in memory. Opened again it gives the same store, as a disk would.
#[derive(Debug, Default)]
pub struct MemoryDepot {
    place: Mutex<(Arc<MemoryStore>, u32)>,
}

#[cfg(test)]
impl MemoryDepot {
    /// Loses what is in it, as a disk does that lied.
    pub fn forget(&self) {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).0 = Arc::default();
    }
}

impl Depot for MemoryDepot {
    fn open(&self, _verify: bool) -> Result<(Box<dyn Store>, Identity), StoreError> {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = Identity {
            format: super::layout::FORMAT,
            store_id: *b"headwater-memory",
            generation: place.1,
        };
        Ok((Box::new(Arc::clone(&place.0)), identity))
    }

    fn set_aside(&self) -> Result<String, StoreError> {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        *place = (Arc::default(), place.1 + 1);
        Ok("nothing".into())
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        Ok(Usage::default())
    }
}

/// A store that lives as long as the process.
#[derive(Debug, Default)]
pub struct MemoryStore {
    maps: RwLock<BTreeMap<Map, Entries>>,
}

impl Store for Arc<MemoryStore> {
    fn commit(&self, ops: &[Op]) -> Result<(), StoreError> {
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        for op in ops {
            let map = maps.entry(op.map).or_default();
            match &op.change {
                Change::Put(slices) => {
                    map.insert(op.key.clone(), (slices.concat(), Vec::new()));
                }
                Change::PutLong { head, body } => {
                    map.insert(op.key.clone(), (head.to_vec(), body.concat()));
                }
                Change::Delete => {
                    map.remove(&op.key);
                }
                Change::DeleteUntil(until) => {
                    let keys: Vec<_> = between(map, &op.key, Some(until)).map(|(key, _)| key.clone()).collect();
                    for key in keys {
                        map.remove(&key);
                    }
                }
            }
        }
        Ok(())
    }

    fn body(&self, map: Map, key: &[u8], range: Range<usize>) -> Result<Option<Vec<u8>>, StoreError> {
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        let found = maps.get(&map).and_then(|map| map.get(key));
        Ok(found.and_then(|(_, body)| body.get(range)).map(<[u8]>::to_vec))
    }

    fn point(&self, map: Map, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        Ok(maps
            .get(&map)
            .and_then(|map| map.get(key))
            .map(|(value, _)| value.clone()))
    }

    fn scan(&self, map: Map, from: &[u8], until: Option<&[u8]>, each: &mut Each<'_>) -> Result<(), StoreError> {
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        let Some(map) = maps.get(&map) else { return Ok(()) };
        for (key, (value, _)) in between(map, from, until) {
            if !each(key, value)? {
                break;
            }
        }
        Ok(())
    }
}

fn between<'a>(
    map: &'a Entries,
    from: &[u8],
    until: Option<&[u8]>,
) -> Box<dyn Iterator<Item = (&'a Vec<u8>, &'a Long)> + 'a> {
    if until.is_some_and(|until| until <= from) {
        return Box::new(std::iter::empty());
    }
    let until = until.map_or(Bound::Unbounded, Bound::Excluded);
    Box::new(map.range::<[u8], _>((Bound::Included(from), until)))
}
