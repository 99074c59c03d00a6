//! What the sessions share: the log, the routes, the keys, and which session a device has now. One lock, held for a look-up.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use super::psk::Keys;
use super::session::CompactSession;
use crate::config::{Config, Listener, Protocol};
use crate::log::{Log, Table};
use crate::metrics::{CompactMetrics, Metrics};
use crate::model::{Now, Peer, Session};
use crate::route::Router;

/// The compact protocol's side of the process; sessions hold it.
pub struct Broker {
    pub(super) log: Log,
    pub(super) router: Router,
    pub(super) frame_bytes_max: usize,
    pub(super) handshake_ms: u64,
    devices_max: usize,
    metrics: Arc<Metrics>,
    keys: HashMap<PathBuf, Arc<Keys>>,
    nonces: RandomState,
    nonce_next: AtomicU64,
    shared: Mutex<Shared>,
}

#[derive(Default)]
struct Shared {
    live: HashMap<Arc<str>, Claim>,
    /// Devices with a row; read from the log when the first new device comes.
    rows: Option<usize>,
    /// Counted among the rows, and gone before it was known whether theirs is written.
    unsure: HashSet<Arc<str>>,
    claim_next: u64,
}

struct Claim {
    number: u64,
    taken: Arc<AtomicBool>,
    waker: Waker,
}

/// A session's hold on its device id.
pub(super) struct Held {
    number: u64,
    taken: Arc<AtomicBool>,
}

impl Held {
    /// Whether a newer session has the device.
    pub(super) fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Acquire)
    }
}

impl Broker {
    /// Compiles the routes and reads the key files of the compact listeners.
    pub fn new(config: &Config, log: Log, metrics: Arc<Metrics>) -> Result<Arc<Self>, String> {
        let router = Router::compile(&config.routes).map_err(|e| e.to_string())?;
        let mut keys = HashMap::new();
        for listener in &config.listeners {
            if let (Protocol::Compact, Some(path)) = (listener.protocol, &listener.psk_file) {
                keys.insert(path.clone(), Arc::new(Keys::read(path)?));
            }
        }
        Ok(Arc::new(Self {
            log,
            router,
            frame_bytes_max: config
                .limits
                .compact_frame_bytes
                .clamp(headwater_wire::FRAME_BYTES_MIN, headwater_wire::FRAME_BYTES_MAX),
            handshake_ms: config.limits.handshake_ms,
            devices_max: config.limits.compact_devices,
            metrics,
            keys,
            nonces: RandomState::new(),
            nonce_next: AtomicU64::new(0),
            shared: Mutex::default(),
        }))
    }

    /// A session for a new connection. A listener with a key file wants a proof from every device. `seed` is random.
    pub fn session(
        self: &Arc<Self>,
        peer: Peer,
        listener: &Listener,
        waker: Waker,
        seed: u64,
        now: Now,
    ) -> Box<dyn Session> {
        let keys = match &listener.psk_file {
            // A listener that came without its keys lets nobody in.
            Some(path) => Some(self.keys.get(path).cloned().unwrap_or_else(|| Arc::new(Keys::none()))),
            None if listener.allow_anonymous => None,
            None => Some(Arc::new(Keys::none())),
        };
        Box::new(CompactSession::new(Arc::clone(self), peer, keys, waker, seed, now))
    }

    pub(super) fn metrics(&self) -> &CompactMetrics {
        &self.metrics.compact
    }

    /// A number that nobody can foresee and that does not come twice: a keyed hash, whose key is the process's own secret, over
    /// a count and the seed.
    pub(super) fn nonce(&self, seed: u64) -> [u8; headwater_wire::NONCE_BYTES] {
        let count = self.nonce_next.fetch_add(1, Ordering::Relaxed);
        let high = self.nonces.hash_one((count, seed, 0u8));
        let low = self.nonces.hash_one((count, seed, 1u8));
        ((u128::from(high) << 64) | u128::from(low)).to_le_bytes()
    }

    /// Makes a session the one that has the device; whoever had it learns by its waker. `has_row`: the log has one.
    pub(super) fn claim(&self, device: &Arc<str>, has_row: bool, waker: &Waker) -> Held {
        let taken = Arc::new(AtomicBool::new(false));
        let mut shared = self.shared();
        let number = shared.claim_next;
        shared.claim_next = number.wrapping_add(1);
        let claim = Claim {
            number,
            taken: Arc::clone(&taken),
            waker: waker.clone(),
        };
        let old = shared.live.insert(Arc::clone(device), claim);
        if has_row {
            shared.unsure.remove(device);
        }
        drop(shared);
        match old {
            Some(old) => {
                old.taken.store(true, Ordering::Release);
                self.metrics().takeovers.inc();
                old.waker.wake();
            }
            None => {
                self.metrics().devices.inc();
            }
        }
        Held { number, taken }
    }

    /// Gives the device up, unless a newer session has it.
    pub(super) fn release(&self, device: &str, held: &Held) {
        let mut shared = self.shared();
        if shared.live.get(device).is_some_and(|claim| claim.number == held.number) {
            shared.live.remove(device);
            self.metrics().devices.dec();
        }
    }

    /// Whether a device without a row may have one; it is counted from then on.
    pub(super) fn reserve_row(&self, device: &str) -> bool {
        let mut shared = self.shared();
        if shared.unsure.remove(device) {
            return true;
        }
        let rows = match shared.rows {
            Some(rows) => rows,
            None => match self.log.state_scan(Table::Devices, b"d", self.devices_max) {
                Ok(rows) => rows.len(),
                Err(_) => return false,
            },
        };
        let free = rows < self.devices_max;
        shared.rows = Some(if free { rows.saturating_add(1) } else { rows });
        free
    }

    /// A session ends whose reserved row is not known to be written: it was never submitted, or is on its way.
    pub(super) fn return_row(&self, device: &Arc<str>, on_its_way: bool) {
        let mut shared = self.shared();
        if on_its_way {
            shared.unsure.insert(Arc::clone(device));
        } else {
            shared.rows = shared.rows.map(|rows| rows.saturating_sub(1));
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        // Single inserts and removes: whole even after a panic.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
