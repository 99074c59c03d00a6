//! Keeps the store: one handle that everybody reads through, and that is dropped and opened anew when it fails.

use std::sync::{Arc, PoisonError, RwLock};

use super::depot::{Depot, Identity};
use super::draft::Rules;
use super::load::{Loaded, load};
use super::media::Media;
use super::store::{Op, Sealer, Store, StoreError};
use super::tally::Written;
use super::usage::Usage;

/// Mendings between two openings at most.
const MENDS_MAX: usize = 2;

/// Holder of the store's handle.
pub(super) struct Keeper {
    store: RwLock<Option<Box<dyn Store>>>,
    depot: Box<dyn Depot>,
}

/// A store that was opened.
pub(super) struct Opened {
    pub(super) loaded: Loaded,
    pub(super) identity: Identity,
    /// Something was damaged.
    pub(super) lost: Option<Lost>,
}

/// Damage that was met.
pub(super) struct Lost {
    pub(super) error: StoreError,
    /// Where what was damaged is now.
    pub(super) aside: String,
    /// What was intact is still in use: the hole has markers. Else everything begins anew.
    pub(super) mended: bool,
}

impl Keeper {
    /// Of a depot that is not open yet.
    pub(super) fn new(depot: Box<dyn Depot>) -> Self {
        let store = RwLock::new(None);
        Self { store, depot }
    }

    /// Lends the store. It cannot be dropped meanwhile, so be short.
    pub(super) fn with<R>(&self, f: impl FnOnce(&dyn Store) -> Result<R, StoreError>) -> Result<R, StoreError> {
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
        match store.as_deref() {
            Some(store) => f(store),
            None => Err(StoreError::Closed),
        }
    }

    /// Drops the handle and opens the store anew, checking every page of it if `verify` says so. `sound` looks at what was found and says what is wrong with it. A damaged store
    /// is mended; where that cannot be it is set aside, and a new one takes its place. What the disk does not give is taken for damaged if `gives_up` says so.
    pub(super) fn open(
        &self,
        rules: &Rules,
        verify: bool,
        gives_up: bool,
        sound: impl Fn(&Loaded) -> Result<(), StoreError>,
    ) -> Result<Opened, StoreError> {
        let mut place = self.store.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = place.as_deref() {
            store.seal_with(None);
        }
        *place = None;
        let attempt = |verify| {
            self.open_once(rules, verify)
                .and_then(|found| sound(&found.1).map(|()| found))
        };
        let mut opened = attempt(verify);
        let mut lost: Option<Lost> = None;
        // The ring and the database may both be damaged.
        for _ in 0..MENDS_MAX {
            let error = match &opened {
                Err(error @ StoreError::Damaged(_)) => error.clone(),
                Err(error @ StoreError::Fault(_)) if gives_up => error.clone(),
                _ => break,
            };
            let Some(aside) = self.depot.mend(&error)? else {
                break;
            };
            tracing::warn!(%error, aside, "damage was found, and mended as far as that goes");
            let error = lost.take().map_or(error, |before| before.error);
            let mended = true;
            lost = Some(Lost { error, aside, mended });
            opened = attempt(false);
        }
        if let Err(error @ StoreError::Damaged(_)) = opened {
            let aside = self.depot.set_aside()?;
            let mended = false;
            lost = Some(Lost { error, aside, mended });
            opened = self.open_once(rules, false);
        }
        let (store, loaded, identity) = opened?;
        *place = Some(store);
        Ok(Opened { loaded, identity, lost })
    }

    /// Who lays the journal of the open store together.
    pub(super) fn seal_with(&self, sealer: Arc<dyn Sealer>) {
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = store.as_deref() {
            store.seal_with(Some(sealer));
        }
    }

    /// Gives back the space that is kept for a full disk; whether there was any.
    pub(super) fn give_reserve(&self) -> bool {
        self.depot.give_reserve()
    }

    /// Keeps some space for when the disk is full. `StoreError::Full` where there is none to be kept.
    pub(super) fn take_reserve(&self) -> Result<(), StoreError> {
        self.depot.take_reserve()
    }

    /// What the store takes of the disk.
    pub(super) fn usage(&self) -> Result<Usage, StoreError> {
        self.depot.usage()
    }

    /// What was written to the disk since the depot was opened.
    pub(super) fn written(&self) -> Written {
        self.depot.written()
    }

    /// What the store lies on.
    pub(super) fn media(&self) -> Option<&Media> {
        self.depot.media()
    }

    /// Whether the store takes commits, down to its last file: this one is made.
    pub(super) fn prove(&self, op: Op) -> Result<(), StoreError> {
        self.with(|store| {
            store.commit(&[op])?;
            store.checkpoint()
        })
    }

    fn open_once(&self, rules: &Rules, verify: bool) -> Result<(Box<dyn Store>, Loaded, Identity), StoreError> {
        let (store, identity) = self.depot.open(verify)?;
        let rules = Rules {
            store_id: identity.store_id,
            generation: identity.generation,
            ..rules.clone()
        };
        let loaded = load(store.as_ref(), &rules)?;
        Ok((store, loaded, identity))
    }
}
