//! A store in memory that fails when it is told to: for tests, here and in the rooms above.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::depot::{Depot, Identity};
use super::memory::MemoryDepot;
use super::store::{Begun, Each, Map, Op, Store, StoreError};
use super::usage::Usage;
use super::{Log, OpenOptions, Opening, inline};
use crate::model::Now;

/// Its depot, and the hand on it; clones are of the same.
#[derive(Clone, Default)]
pub(crate) struct Faulty {
    pub(super) inner: Arc<MemoryDepot>,
    faults: Arc<Faults>,
}

#[derive(Default)]
struct Faults {
    fails_once: Mutex<Option<StoreError>>,
    fails: Mutex<Option<StoreError>>,
    fails_behind: Mutex<Option<StoreError>>,
    gone: AtomicBool,
    panics: AtomicBool,
    commits: AtomicUsize,
    gate: Mutex<Option<Gate>>,
    two: Mutex<Option<SyncSender<Asked>>>,
}

/// A commit at the disk that asks what becomes of it.
pub(super) type Asked = SyncSender<Result<(), StoreError>>;

/// Says the number of a commit that begins, and waits for what becomes of it.
type Gate = (SyncSender<usize>, Receiver<Fate>);

/// What becomes of a commit at the gate.
pub(super) enum Fate {
    /// It goes on.
    Pass,
    /// It goes on, and those behind it without being asked.
    PassAll,
    /// It fails, and those behind it go on without being asked.
    Fail(StoreError),
}

struct FaultyStore {
    store: Box<dyn Store>,
    faults: Arc<Faults>,
}

impl Faulty {
    /// A log over it.
    pub(crate) fn open(&self, options: OpenOptions) -> Opening {
        Log::open_in(Box::new(self.clone()), options).expect("memory is there")
    }

    /// A log over it that commits on its caller's thread.
    pub(crate) fn inline(&self, now: Now) -> Log {
        inline::open_in(Box::new(self.clone()), inline::options(now)).expect("memory is there")
    }

    /// As `inline`, with nothing kept in memory: every read is one of the store.
    pub(crate) fn inline_cold(&self, now: Now) -> Log {
        let mut options = inline::options(now);
        options.storage.tail_bytes = 0;
        inline::open_in(Box::new(self.clone()), options).expect("memory is there")
    }

    /// A log over it whose writer runs when the test says so.
    pub(crate) fn held(&self, now: Now) -> Opening {
        self.open(inline::options(now))
    }

    /// The next commit fails.
    pub(super) fn fail_once(&self, error: StoreError) {
        *lock(&self.faults.fails_once) = Some(error);
    }

    /// The next commit is stored and fails all the same, as when only its sync does.
    pub(super) fn fail_behind(&self, error: StoreError) {
        *lock(&self.faults.fails_behind) = Some(error);
    }

    /// Whether every commit fails.
    pub(super) fn set_failing(&self, error: Option<StoreError>) {
        *lock(&self.faults.fails) = error;
    }

    /// Whether every commit is refused, as by a full disk.
    pub(crate) fn set_full(&self, full: bool) {
        self.set_failing(full.then(|| StoreError::Io("no space left".into())));
    }

    /// Whether it cannot be opened again once it failed.
    pub(crate) fn set_gone(&self, gone: bool) {
        self.faults.gone.store(gone, Ordering::Relaxed);
    }

    /// The next commit that holds records panics.
    pub(crate) fn panic_on_records(&self) {
        self.faults.panics.store(true, Ordering::Relaxed);
    }

    /// Commits that were let through.
    pub(super) fn commits(&self) -> usize {
        self.faults.commits.load(Ordering::Relaxed)
    }

    /// Two commits may be at the disk; each asks there what becomes of it.
    pub(super) fn take_two(&self, asked: SyncSender<Asked>) {
        *lock(&self.faults.two) = Some(asked);
    }

    pub(super) fn set_gate(&self, begun: SyncSender<usize>, fate: Receiver<Fate>) {
        *lock(&self.faults.gate) = Some((begun, fate));
    }
}

impl Depot for Faulty {
    fn open(&self, verify: bool) -> Result<(Box<dyn Store>, Identity), StoreError> {
        if self.faults.gone.load(Ordering::Relaxed) {
            return Err(StoreError::Io("no disk".into()));
        }
        let (store, identity) = self.inner.open(verify)?;
        let faults = Arc::clone(&self.faults);
        Ok((Box::new(FaultyStore { store, faults }), identity))
    }

    fn set_aside(&self) -> Result<String, StoreError> {
        self.inner.set_aside()
    }

    fn usage(&self) -> Result<Usage, StoreError> {
        self.inner.usage()
    }
}

impl Store for FaultyStore {
    fn commit(&self, ops: &[Op]) -> Result<(), StoreError> {
        let faults = &self.faults;
        if let Some(error) = lock(&faults.fails_once).take() {
            return Err(error);
        }
        if let Some(error) = lock(&faults.fails).clone() {
            return Err(error);
        }
        let records = ops.iter().any(|op| op.map == Map::Journal);
        assert!(!(records && faults.panics.load(Ordering::Relaxed)), "a planted panic");
        let number = faults.commits.fetch_add(1, Ordering::Relaxed);
        let gate = lock(&faults.gate).take();
        if let Some((begun, fate)) = gate {
            begun.send(number).expect("the test listens");
            match fate.recv().expect("the test decides") {
                Fate::Pass => *lock(&faults.gate) = Some((begun, fate)),
                Fate::PassAll => {}
                Fate::Fail(error) => return Err(error),
            }
        }
        self.store.commit(ops)?;
        lock(&faults.fails_behind).take().map_or(Ok(()), Err)
    }

    fn takes_two(&self) -> bool {
        lock(&self.faults.two).is_some()
    }

    fn begin(&self, _: &[Op]) -> Result<Option<Begun>, StoreError> {
        Ok(self.takes_two().then(Begun::default))
    }

    fn write(&self, _: &Begun) -> Result<(), StoreError> {
        let (fate_in, fate) = sync_channel(1);
        let asked = lock(&self.faults.two).clone().ok_or(StoreError::Closed)?;
        asked.send(fate_in).expect("the test listens");
        fate.recv().expect("the test decides")
    }

    fn settle(&self, _: Begun, ops: &[Op]) -> Result<(), StoreError> {
        self.store.commit(ops)
    }

    fn point(&self, map: Map, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.point(map, key)
    }

    fn body(&self, map: Map, key: &[u8], range: Range<usize>) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.body(map, key, range)
    }

    fn each_gone(&self, each: &mut dyn FnMut(Map, &[u8])) -> Result<(), StoreError> {
        self.store.each_gone(each)
    }

    fn scan(&self, map: Map, from: &[u8], until: Option<&[u8]>, each: &mut Each<'_>) -> Result<(), StoreError> {
        self.store.scan(map, from, until, each)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A planted panic leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
