//! The one storage trait: a few ordered maps from bytes to bytes with one atomic, durable commit over all of them.
//!
//! It knows nothing of topics or batches. What a store must keep: after `commit` returned `Ok` every operation of it survives
//! a power cut; after it returned an error or the process died in it, all of them are there or none. After an error the handle
//! is not trusted again: `keeper` drops it and opens the store anew.

use std::io::ErrorKind;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::Table;
use super::bodies::Run;
use super::ring::{Place, Record};

/// The maps of a store. Their keys and values are laid out in `src/manual/format.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Map {
    /// Format version, store id, generation, next topic key.
    Meta,
    /// Topics by topic key.
    Topics,
    /// Log start offsets that retention moved.
    Partitions,
    /// Small appends: one row a commit, its directory as the head and the batches as the body.
    Journal,
    /// Large appends: what is known of the batch as the head, its bytes as the body.
    Segments,
    /// The data files, by number: what keeps bodies in files counts them here.
    Files,
    /// Idempotent producers by topic key, partition and producer id.
    Producers,
    /// Offsets that were given up before their time.
    Losses,
    /// Boots of the machine, and what is known of their clocks.
    Boots,
    /// Offsets that were appended before the clock was trusted.
    Untrusted,
    /// State that the rooms above own.
    State(Table),
}

impl Map {
    /// Every map. Its place here is its number in the ring: new ones go to the end.
    pub const ALL: [Self; 15] = [
        Self::Meta,
        Self::Topics,
        Self::Partitions,
        Self::Journal,
        Self::Segments,
        Self::Files,
        Self::Producers,
        Self::State(Table::Kafka),
        Self::State(Table::MqttSessions),
        Self::State(Table::MqttQos2),
        Self::State(Table::Devices),
        Self::State(Table::Forward),
        Self::Losses,
        Self::Boots,
        Self::Untrusted,
    ];

    /// Its number in the ring.
    pub fn number(self) -> u8 {
        Self::ALL
            .iter()
            .position(|map| *map == self)
            .map_or(u8::MAX, |at| at as u8)
    }

    /// The map of a number.
    pub fn of_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Whether its values are put by `PutLong`, and only so. A key of the journal is never put twice.
    pub fn has_bodies(self) -> bool {
        matches!(self, Self::Journal | Self::Segments)
    }

    /// Its name in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Topics => "topics",
            Self::Partitions => "partitions",
            Self::Journal => "journal",
            Self::Segments => "segments",
            Self::Files => "files",
            Self::Producers => "producers",
            Self::Losses => "losses",
            Self::Boots => "boots",
            Self::Untrusted => "untrusted",
            Self::State(Table::Kafka) => "kafka",
            Self::State(Table::MqttSessions) => "mqtt_sessions",
            Self::State(Table::MqttQos2) => "mqtt_qos2",
            Self::State(Table::Devices) => "devices",
            Self::State(Table::Forward) => "forward",
        }
    }
}

/// One operation of a commit.
#[derive(Clone, Debug)]
pub struct Op {
    /// Where.
    pub map: Map,
    /// Which key; the first one of a range.
    pub key: Vec<u8>,
    /// What becomes of it.
    pub change: Change,
}

/// What becomes of a key.
#[derive(Clone, Debug)]
pub enum Change {
    /// The value, in slices that are stored one behind the other: a row is put together without a copy of its own.
    Put(Vec<Bytes>),
    /// The value, which is all that points and scans give, and a body, which only `body` reads.
    PutLong {
        /// The value.
        head: Bytes,
        /// The body, in slices one behind the other.
        body: Vec<Bytes>,
    },
    /// Nothing is there any more.
    Delete,
    /// Nothing is there from `Op::key` up to this key, which stays.
    DeleteUntil(Vec<u8>),
}

impl Op {
    /// A put of one slice.
    pub fn put(map: Map, key: impl Into<Vec<u8>>, value: impl Into<Bytes>) -> Self {
        let (key, change) = (key.into(), Change::Put(vec![value.into()]));
        Self { map, key, change }
    }

    /// A put with a body.
    pub fn put_long(map: Map, key: impl Into<Vec<u8>>, head: impl Into<Bytes>, body: Vec<Bytes>) -> Self {
        let head = head.into();
        let (key, change) = (key.into(), Change::PutLong { head, body });
        Self { map, key, change }
    }

    /// A removal.
    pub fn delete(map: Map, key: impl Into<Vec<u8>>) -> Self {
        let (key, change) = (key.into(), Change::Delete);
        Self { map, key, change }
    }
}

/// Why a store did not do it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The disk refused: full, unreadable, gone. The same store may work after it was opened anew.
    Io(String),
    /// The disk has no room. As `Io`, and there may be room once something is removed.
    Full(String),
    /// The disk reports a fault of its own (EIO). What was read or written last is not believed; the rest may be whole.
    Fault(String),
    /// One body cannot be read, now; the store is not concerned.
    Unreadable(String),
    /// What was read cannot be right: mend the store, or set it aside.
    Damaged(String),
    /// Made by another headwater.
    Format {
        /// Its format.
        found: u32,
        /// The one known here.
        known: u32,
    },
    /// No store is open at the moment.
    Closed,
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(why) | Self::Full(why) => write!(f, "the disk refused: {why}"),
            Self::Fault(why) => write!(f, "the disk has a fault: {why}"),
            Self::Unreadable(why) => write!(f, "the disk does not give it: {why}"),
            Self::Damaged(why) => write!(f, "the store is damaged: {why}"),
            Self::Format { found, known } if found > known => write!(
                f,
                "the data has format {found}, this headwater knows formats up to {known}. Try: the newer headwater that wrote it"
            ),
            Self::Format { found, known } => write!(
                f,
                "the data has format {found}, which no release wrote; this headwater knows format {known}. Try: another node.data_dir"
            ),
            Self::Closed => write!(f, "the store is not open"),
        }
    }
}

impl std::error::Error for StoreError {}

/// Of several errors, damage is the one to be told: it asks for more to be done.
pub(super) fn keep_worst(slot: &mut Option<StoreError>, error: StoreError) {
    let damage = |error: &StoreError| matches!(error, StoreError::Damaged(_));
    if slot.as_ref().is_none_or(|kept| damage(&error) && !damage(kept)) {
        *slot = Some(error);
    }
}

/// Which I/O errors mean that what is on the disk is lost, and which that it may work again: a full disk is no damage, and neither
/// is one that fails for a while.
pub fn of_io(error: &std::io::Error) -> StoreError {
    const EIO: i32 = 5;
    let why = error.to_string();
    match error.kind() {
        ErrorKind::InvalidData | ErrorKind::UnexpectedEof | ErrorKind::InvalidInput => StoreError::Damaged(why),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreError::Full(why),
        _ if error.raw_os_error() == Some(EIO) => StoreError::Fault(why),
        _ => StoreError::Io(why),
    }
}

/// A commit that has begun: its record of the ring, and the place that it goes to; and its bodies, if these go elsewhere.
#[derive(Debug, Default)]
pub struct Begun {
    pub(super) record: Record,
    pub(super) place: Place,
    pub(super) bodies: Option<Run>,
}

/// A row with a body.
#[derive(Clone, Debug)]
pub struct LongRow {
    /// Where.
    pub map: Map,
    /// Its key.
    pub key: Vec<u8>,
    /// Its value, in slices.
    pub head: Vec<Bytes>,
    /// Its body, in slices.
    pub body: Vec<Bytes>,
}

/// Rows that take the place of others.
pub struct Sealing {
    /// The journal rows that they take the place of.
    pub(super) consumed: Vec<u64>,
    /// They.
    pub(super) rows: Vec<super::seal::SealedRow>,
}

/// Lays journal rows together, on their way from memory to the disk or later.
pub trait Sealer: Send + Sync {
    /// What is to be stored in the place of these journal rows, which come by number; with `all`, nothing of them in the journal.
    /// Rows that it does not consume stay as they are.
    fn seal(&self, rows: &[(u64, LongRow)], all: bool) -> Result<Sealing, StoreError>;

    /// It is durable. `seen` makes readers of the store find the new rows and no old ones; it is called at once with whatever makes
    /// readers look for the new ones.
    fn sealed(&self, sealing: Sealing, seen: &mut dyn FnMut());
}

/// Called for every entry of a scan, in key order; `false` ends it.
pub type Each<'a> = dyn FnMut(&[u8], &[u8]) -> Result<bool, StoreError> + 'a;

/// A store. Reads see what is committed and hold nothing open once they return.
pub trait Store: Send + Sync {
    /// Does all of it, durably, or nothing. Operations apply in order.
    fn commit(&self, ops: &[Op]) -> Result<(), StoreError>;

    /// Whether a commit may begin while the one before is on its way: by `begin`, `write` and `settle`.
    fn takes_two(&self) -> bool {
        false
    }

    /// Begins a commit. Commits are made in the order in which they begin. `None` for one that the store only makes alone, by `commit`.
    fn begin(&self, _ops: &[Op]) -> Result<Option<Begun>, StoreError> {
        Ok(None)
    }

    /// Brings one that began to the disk; two may be at it. It is durable once the one before is, too.
    fn write(&self, _begun: &Begun) -> Result<(), StoreError> {
        Err(StoreError::Closed)
    }

    /// Makes one that is written seen by readers. In order, and only behind those that were durable: after an error there is no next one.
    fn settle(&self, _begun: Begun, _ops: &[Op]) -> Result<(), StoreError> {
        Err(StoreError::Closed)
    }

    /// The value of a key.
    fn point(&self, map: Map, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// A part of the body of a key; `None` where there is no such key, or its body is shorter or gone: whoever reads bodies
    /// checks them, and one that is lost is no reason to give up the store. `StoreError::Unreadable` when the disk does not give it now.
    fn body(&self, map: Map, key: &[u8], range: Range<usize>) -> Result<Option<Vec<u8>>, StoreError>;

    /// Calls `each` with every key whose body is known to be gone.
    fn each_gone(&self, _each: &mut dyn FnMut(Map, &[u8])) -> Result<(), StoreError> {
        Ok(())
    }

    /// Entries in key order from `from` on and before `until`.
    fn scan(&self, map: Map, from: &[u8], until: Option<&[u8]>, each: &mut Each<'_>) -> Result<(), StoreError>;

    /// Whether `checkpoint` is wanted.
    fn checkpoint_due(&self) -> bool {
        false
    }

    /// Work on the disk that need not wait for a commit and that no commit need wait for. Runs on another thread.
    fn checkpoint(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Who lays journal rows together from now on; nobody with `None`.
    fn seal_with(&self, _sealer: Option<Arc<dyn Sealer>>) {}
}

/// The first key after all that begin with `prefix`; `None` when there is no such key.
pub fn prefix_until(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut until = prefix.to_vec();
    while let Some(last) = until.pop() {
        if last < u8::MAX {
            until.push(last + 1);
            return Some(until);
        }
    }
    None
}
