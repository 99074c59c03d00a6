//! A store to look at that may be damaged: what cannot be read of it is told and left out, and everything else is given.
//!
//! A page of the database that makes no sense ends a scan, and the handle with it. The scan goes on behind that page then: the first
//! key from which it can go on is found by doubling the distance and halving it again, with a new handle behind each failure.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::depot::{self, Files, Looked};
use super::store::{Each, Map, Op, Store, StoreError};

/// What the database may keep in memory meanwhile.
const CACHE_BYTES: usize = 16 << 20;

/// A store that is read as far as it can be.
#[derive(Debug)]
pub(super) struct Salvage {
    files: Files,
    store: Mutex<Looked>,
    unread: Mutex<Vec<String>>,
}

impl Salvage {
    /// Opens it. Fails where the database itself cannot be opened.
    pub(super) fn open(files: &Files) -> Result<Self, StoreError> {
        let (store, unread) = depot::look(files, CACHE_BYTES)?;
        Ok(Self {
            files: files.clone(),
            store: Mutex::new(store),
            unread: Mutex::new(unread),
        })
    }

    /// Checks every page of its database, which reading does not.
    pub(super) fn verify(&self) -> Result<(), StoreError> {
        depot::verify(&self.files, CACHE_BYTES)
    }

    /// What could not be read since the last call, and why.
    pub(super) fn take_unread(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.unread))
    }

    fn note(&self, why: String) {
        lock(&self.unread).push(why);
    }

    /// The handle is dead after an error.
    fn renew(&self, store: &mut Looked) -> Result<(), StoreError> {
        *store = depot::look(&self.files, CACHE_BYTES)?.0;
        Ok(())
    }

    /// The first key from `from` on at which a scan can begin; `None` where there is none.
    fn behind(
        &self,
        store: &mut Looked,
        map: Map,
        from: &[u8],
        until: Option<&[u8]>,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let from = number(from, key_bytes(map));
        let mut readable = |far: u128| {
            let Some(key) = from.checked_add(far).and_then(|at| key(at, key_bytes(map))) else {
                return Ok::<_, StoreError>(None);
            };
            let read = store.scan(map, &key, until, &mut |_, _| Ok(false));
            if read.is_err() {
                self.renew(store)?;
            }
            Ok(Some((read.is_ok(), key)))
        };
        let (mut dark, mut far) = (0, 1);
        let mut found = loop {
            match readable(far)? {
                None => return Ok(None),
                Some((true, key)) => break key,
                Some((false, _)) => (dark, far) = (far, far.saturating_mul(2)),
            }
        };
        while far - dark > 1 {
            let middle = dark + (far - dark) / 2;
            match readable(middle)? {
                Some((true, key)) => (far, found) = (middle, key),
                _ => dark = middle,
            }
        }
        Ok(Some(found))
    }
}

impl Store for Salvage {
    fn commit(&self, _: &[Op]) -> Result<(), StoreError> {
        Err(StoreError::Io("it is only looked at".into()))
    }

    fn point(&self, map: Map, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let mut store = lock(&self.store);
        let read = store.point(map, key);
        if read.is_err() {
            self.renew(&mut store)?;
        }
        read
    }

    fn body(&self, map: Map, key: &[u8], range: Range<usize>) -> Result<Option<Vec<u8>>, StoreError> {
        let mut store = lock(&self.store);
        let read = store.body(map, key, range);
        if read.is_err() {
            self.renew(&mut store)?;
        }
        read
    }

    /// Every row that can be read; of the others it is noted that there are some. A row that `each` refuses is one of those.
    fn scan(&self, map: Map, from: &[u8], until: Option<&[u8]>, each: &mut Each<'_>) -> Result<(), StoreError> {
        let mut store = lock(&self.store);
        let mut from = from.to_vec();
        loop {
            let (mut last, mut ended) = (None, false);
            let read = store.scan(map, &from, until, &mut |key, value| {
                last = Some(key.to_vec());
                match each(key, value) {
                    Ok(more) => ended = !more,
                    Err(error) => self.note(format!("a row of table {}: {error}", map.name())),
                }
                Ok(!ended)
            });
            let Err(error) = read else { return Ok(()) };
            self.renew(&mut store)?;
            if ended {
                return Ok(());
            }
            self.note(format!("a part of table {}: {error}", map.name()));
            match self.behind(&mut store, map, &last.unwrap_or(from), until)? {
                Some(next) => from = next,
                None => return Ok(()),
            }
        }
    }
}

/// Bytes of a map's keys, as far as they tell one from the next.
fn key_bytes(map: Map) -> usize {
    match map {
        Map::Topics | Map::Files | Map::Boots => 4,
        Map::Partitions | Map::Journal => 8,
        Map::Meta | Map::Segments | Map::Producers | Map::Losses | Map::Untrusted | Map::State(_) => 16,
    }
}

/// The first bytes of a key as a number that sorts as the key does.
fn number(key: &[u8], bytes: usize) -> u128 {
    (0..bytes).fold(0, |number, at| {
        number << 8 | u128::from(key.get(at).copied().unwrap_or(0))
    })
}

/// The key of a number; `None` where it has no place in so many bytes.
fn key(number: u128, bytes: usize) -> Option<Vec<u8>> {
    let key = number.to_be_bytes();
    let (beyond, key) = key.split_at(key.len() - bytes);
    beyond.iter().all(|byte| *byte == 0).then(|| key.to_vec())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
