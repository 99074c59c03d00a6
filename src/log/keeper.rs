//! Keeps the store: one handle that everybody reads through, and that is dropped and opened anew when it fails.

use std::sync::{Arc, PoisonError, RwLock};

use super::depot::{Depot, Identity};
use super::draft::Rules;
use super::load::{Loaded, load};
use super::media::Media;
use super::store::{Op, Sealer, Store, StoreError};
use super::tally::Written;
use super::usage::Usage;

/// Holder of the store's handle.
pub(super) struct Keeper {
    store: RwLock<Option<Box<dyn Store>>>,
    depot: Box<dyn Depot>,
}

/// A store that was opened.
pub(super) struct Opened {
    pub(super) loaded: Loaded,
    pub(super) identity: Identity,
    /// The one before was damaged: why, and where it is now.
    pub(super) lost: Option<(StoreError, String)>,
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
    /// is set aside, and a new one takes its place.
    pub(super) fn open(
        &self,
        rules: &Rules,
        verify: bool,
        sound: impl Fn(&Loaded) -> Result<(), StoreError>,
    ) -> Result<Opened, StoreError> {
        let mut place = self.store.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = place.as_deref() {
            store.seal_with(None);
        }
        *place = None;
        let error = match self
            .open_once(rules, verify)
            .and_then(|found| sound(&found.1).map(|()| found))
        {
            Ok((store, loaded, identity)) => {
                *place = Some(store);
                let lost = None;
                return Ok(Opened { loaded, identity, lost });
            }
            Err(error @ StoreError::Damaged(_)) => error,
            Err(error) => return Err(error),
        };
        let aside = self.depot.set_aside()?;
        let (store, loaded, identity) = self.open_once(rules, false)?;
        *place = Some(store);
        let lost = Some((error, aside));
        Ok(Opened { loaded, identity, lost })
    }

    /// Who lays the journal of the open store together.
    pub(super) fn seal_with(&self, sealer: Arc<dyn Sealer>) {
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = store.as_deref() {
            store.seal_with(Some(sealer));
        }
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
