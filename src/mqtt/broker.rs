//! What the sessions share: who is connected, who subscribed, which sessions are stored and when they expire.
//!
//! Lock order: `hub`, then `shared`, then an outbox. State changes of sessions are submitted under `shared`, so that they reach
//! the writer in the order in which they happened.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use super::hub::Hub;
use super::outbox::Outbox;
use super::packet::reason;
use super::row::{self, Row};
use super::session::MqttSession;
use super::subscriptions::{Subscription, Tree};
use crate::config::{Config, Limits, Listener};
use crate::log::{Append, Committed, Expect, Log, StateChange, Submission, Table, Ticket};
use crate::metrics::{Metrics, MqttMetrics};
use crate::model::{Now, Peer, Record, Session, Topic};
use crate::route::Router;

/// The MQTT side of the process; sessions hold it.
pub struct Broker {
    pub(super) router: Router,
    pub(super) log: Log,
    pub(super) limits: Limits,
    metrics: Arc<Metrics>,
    pub(super) shared: Mutex<Shared>,
    pub(super) hub: Mutex<Hub>,
}

#[derive(Default)]
pub(super) struct Shared {
    pub(super) tree: Tree,
    pub(super) live: HashMap<u64, Arc<Outbox>>,
    /// Whether the hub follows the log: only while somebody subscribes.
    pub(super) hub_active: bool,
    /// Who has a client id now.
    clients: HashMap<String, u64>,
    stored: HashMap<String, Stored>,
    /// When absent sessions expire: monotonic µs and client id.
    expiries: BTreeSet<(u64, String)>,
    number_next: u64,
    /// Wills on their way into the log: not more than its queue holds.
    wills: Vec<Ticket<Committed>>,
    /// Calls `poll`.
    pub(super) waker: Option<Waker>,
    /// Whether the rows read at start have deadlines: that needs a clock, which comes with the first call.
    settled: bool,
}

struct Stored {
    row: Row,
    expires_us: Option<u64>,
}

/// What CONNECT asks `open` for.
pub(super) struct Opening<'a> {
    pub(super) client_id: &'a str,
    pub(super) clean_start: bool,
    pub(super) expiry_s: u32,
    pub(super) outbox: &'a Arc<Outbox>,
    /// Number of a new session, not guessable by being random.
    pub(super) incarnation: u64,
}

/// What it gets.
pub(super) struct Opened {
    pub(super) number: u64,
    pub(super) session_present: bool,
    pub(super) incarnation: u64,
    /// QoS 2 ids whose messages are stored and not released.
    pub(super) incoming: Vec<u16>,
    pub(super) subscriptions: Vec<(String, Subscription)>,
}

impl Broker {
    /// Compiles the routes and reads the stored sessions.
    pub fn new(config: &Config, log: Log, metrics: Arc<Metrics>) -> Result<Arc<Self>, String> {
        let router = Router::compile(&config.routes).map_err(|e| e.to_string())?;
        let rows = log
            .state_scan(Table::MqttSessions, b"", usize::MAX)
            .map_err(|refused| format!("MQTT sessions cannot be read: {}", refused.why))?;
        let mut shared = Shared::default();
        for (key, value) in rows {
            if let (Ok(client_id), Some(row)) = (String::from_utf8(key), Row::decode(&value)) {
                shared.stored.insert(client_id, Stored { row, expires_us: None });
            }
        }
        metrics
            .mqtt
            .sessions_stored
            .set(i64::try_from(shared.stored.len()).unwrap_or(i64::MAX));
        Ok(Arc::new(Self {
            router,
            log,
            limits: config.limits.clone(),
            metrics,
            shared: Mutex::new(shared),
            hub: Mutex::default(),
        }))
    }

    /// A session for a new connection. `seed` is random, for ids that the broker assigns.
    pub fn session(
        self: &Arc<Self>,
        peer: Peer,
        listener: &Listener,
        waker: Waker,
        seed: u64,
        now: Now,
    ) -> Box<dyn Session> {
        let session = MqttSession::new(Arc::clone(self), peer, listener.allow_anonymous, waker, seed, now);
        Box::new(session)
    }

    /// Hands what was committed to those who subscribed, counts wills, and ends expired sessions. To be called once at start and whenever
    /// `waker` fires; returns the monotonic microseconds at which it must be called at the latest.
    pub fn poll(&self, now: Now, waker: &Waker) -> Option<u64> {
        lock(&self.shared).waker = Some(waker.clone());
        let mut hub = lock(&self.hub);
        hub.poll(self, waker);
        drop(hub);
        let mut shared = lock(&self.shared);
        self.settle_wills(&mut shared);
        self.expire(&mut shared, now);
        shared.expiries.first().map(|(at, _)| *at)
    }

    pub(super) fn metrics(&self) -> &MqttMetrics {
        &self.metrics.mqtt
    }

    pub(super) fn shared(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }

    /// Makes or resumes a session and takes it over from whoever has it. The error is a reason code.
    pub(super) fn open(&self, opening: &Opening<'_>, now: Now) -> Result<Opened, u8> {
        let client_id = opening.client_id;
        let mut shared = lock(&self.shared);
        self.expire(&mut shared, now);
        if opening.clean_start && shared.stored.contains_key(client_id) {
            self.discard(&mut shared, client_id);
        }
        let session_present = shared.stored.contains_key(client_id);
        if !session_present && opening.expiry_s > 0 && shared.stored.len() >= self.limits.mqtt_sessions {
            return Err(reason::QUOTA);
        }
        let mut row = match shared.stored.get(client_id) {
            Some(stored) => stored.row.clone(),
            None => Row {
                incarnation: opening.incarnation,
                ..Row::default()
            },
        };
        let incoming = if session_present {
            let prefix = row::qos2_prefix(client_id, row.incarnation);
            let rows = self.log.state_scan(Table::MqttQos2, &prefix, usize::from(u16::MAX));
            let rows = rows.map_err(|_| reason::UNAVAILABLE)?;
            rows.iter().filter_map(|(key, _)| row::qos2_id(key)).collect()
        } else {
            Vec::new()
        };
        if let Some(old) = shared.clients.get(client_id)
            && let Some(outbox) = shared.live.get(old)
        {
            outbox.take_over();
        }
        let number = shared.number_next;
        shared.number_next = number.wrapping_add(1);
        shared.clients.insert(client_id.to_owned(), number);
        shared.live.insert(number, Arc::clone(opening.outbox));
        if let Some(at) = shared.stored.get(client_id).and_then(|s| s.expires_us) {
            shared.expiries.remove(&(at, client_id.to_owned()));
        }
        let opened = Opened {
            number,
            session_present,
            incarnation: row.incarnation,
            incoming,
            subscriptions: row.subscriptions.clone(),
        };
        if opening.expiry_s > 0 {
            row.expiry_s = opening.expiry_s;
            row.gone_ms = 0;
            drop(self.write_row(client_id, &row, Waker::noop()));
            let stored = Stored { row, expires_us: None };
            shared.stored.insert(client_id.to_owned(), stored);
        } else if session_present {
            // It ends with this connection: what it has is kept in memory from here on.
            self.discard(&mut shared, client_id);
        }
        for (filter, subscription) in &opened.subscriptions {
            if shared.tree.insert(filter, number, subscription.clone()) {
                self.metrics().subscriptions.inc();
            }
        }
        self.count_stored(&shared);
        let subscribed = shared.tree.len() > 0 && !shared.hub_active;
        drop(shared);
        if subscribed {
            self.activate();
        }
        self.metrics().clients.inc();
        Ok(opened)
    }

    /// Adds subscriptions; the ticket tells when they are stored, if they are to be.
    pub(super) fn subscribe(
        &self,
        number: u64,
        client_id: &str,
        added: &[(String, Subscription)],
        waker: &Waker,
    ) -> Option<Ticket<Committed>> {
        let mut shared = lock(&self.shared);
        for (filter, subscription) in added {
            if shared.tree.insert(filter, number, subscription.clone()) {
                self.metrics().subscriptions.inc();
            }
        }
        let ticket = self.change_row(&mut shared, number, client_id, waker, |row| {
            for (filter, subscription) in added {
                row.subscriptions.retain(|(f, _)| f != filter);
                row.subscriptions.push((filter.clone(), subscription.clone()));
            }
        });
        let sleeping = !shared.hub_active && shared.tree.len() > 0;
        drop(shared);
        if sleeping {
            self.activate();
        }
        ticket
    }

    /// Removes subscriptions, as `subscribe` adds them.
    pub(super) fn unsubscribe(
        &self,
        number: u64,
        client_id: &str,
        removed: &[String],
        waker: &Waker,
    ) -> Option<Ticket<Committed>> {
        let mut shared = lock(&self.shared);
        self.remove_from_tree(&mut shared, number, removed.iter());
        self.change_row(&mut shared, number, client_id, waker, |row| {
            row.subscriptions.retain(|(f, _)| !removed.contains(f));
        })
    }

    /// A connection is gone: its session waits for the next one, or ends.
    pub(super) fn close<'a>(
        &self,
        number: u64,
        client_id: &str,
        expiry_s: u32,
        filters: impl Iterator<Item = &'a String>,
        now: Now,
    ) {
        let mut shared = lock(&self.shared);
        self.remove_from_tree(&mut shared, number, filters);
        shared.live.remove(&number);
        self.metrics().clients.dec();
        if shared.clients.get(client_id) != Some(&number) {
            // Taken over: the session is another connection's now.
            return;
        }
        shared.clients.remove(client_id);
        if expiry_s == 0 {
            if shared.stored.contains_key(client_id) {
                self.discard(&mut shared, client_id);
            }
        } else if let Some(stored) = shared.stored.get_mut(client_id) {
            let at = now.after_ms(u64::from(expiry_s).saturating_mul(1000));
            stored.row.expiry_s = expiry_s;
            stored.row.gone_ms = now.wall_ms;
            stored.expires_us = Some(at);
            drop(self.write_row(client_id, &stored.row, Waker::noop()));
            shared.expiries.insert((at, client_id.to_owned()));
        }
        self.count_stored(&shared);
    }

    /// Publishes the will of a client that is gone.
    pub(super) fn publish_will(&self, topic: Topic, record: Record) {
        let submission = Submission {
            appends: vec![Append::Record { topic, record }],
            state: Vec::new(),
        };
        let waker = lock(&self.shared).waker.clone();
        let ticket = self.log.submit(submission, waker.as_ref().unwrap_or(Waker::noop()));
        let mut shared = lock(&self.shared);
        shared.wills.push(ticket);
        // It may be there already: then whoever was woken has found nothing.
        self.settle_wills(&mut shared);
    }

    /// Counts wills whose fate is known.
    fn settle_wills(&self, shared: &mut Shared) {
        let metrics = self.metrics();
        shared.wills.retain_mut(|ticket| {
            match ticket.take() {
                None => return true,
                Some(Ok(_)) => metrics.wills.inc(),
                Some(Err(_)) => metrics.wills_refused.inc(),
            };
            false
        });
    }

    fn activate(&self) {
        lock(&self.hub).activate(self);
    }

    fn remove_from_tree<'a>(&self, shared: &mut Shared, number: u64, filters: impl Iterator<Item = &'a String>) {
        for filter in filters {
            if shared.tree.remove(filter, number) {
                self.metrics().subscriptions.dec();
            }
        }
    }

    fn change_row(
        &self,
        shared: &mut Shared,
        number: u64,
        client_id: &str,
        waker: &Waker,
        change: impl FnOnce(&mut Row),
    ) -> Option<Ticket<Committed>> {
        if shared.clients.get(client_id) != Some(&number) {
            return None;
        }
        let stored = shared.stored.get_mut(client_id)?;
        change(&mut stored.row);
        Some(self.write_row(client_id, &stored.row, waker))
    }

    fn write_row(&self, client_id: &str, row: &Row, waker: &Waker) -> Ticket<Committed> {
        let change = StateChange {
            table: Table::MqttSessions,
            key: client_id.as_bytes().to_vec(),
            expect: Expect::Any,
            value: Some(row.encode()),
        };
        let submission = Submission {
            appends: Vec::new(),
            state: vec![change],
        };
        self.log.submit(submission, waker)
    }

    /// Removes a stored session and its QoS 2 ids. Ids still on their way into the log stay behind under an incarnation that
    /// nobody asks for again; the next `discard` of this client takes them along.
    fn discard(&self, shared: &mut Shared, client_id: &str) {
        if let Some(stored) = shared.stored.remove(client_id)
            && let Some(at) = stored.expires_us
        {
            shared.expiries.remove(&(at, client_id.to_owned()));
        }
        let remove = |table, key| StateChange {
            table,
            key,
            expect: Expect::Any,
            value: None,
        };
        let mut state = vec![remove(Table::MqttSessions, client_id.as_bytes().to_vec())];
        let prefix = row::qos2_client_prefix(client_id);
        if let Ok(rows) = self.log.state_scan(Table::MqttQos2, &prefix, usize::MAX) {
            state.extend(rows.into_iter().map(|(key, _)| remove(Table::MqttQos2, key)));
        }
        let submission = Submission {
            appends: Vec::new(),
            state,
        };
        drop(self.log.submit(submission, Waker::noop()));
        self.count_stored(shared);
    }

    fn expire(&self, shared: &mut Shared, now: Now) {
        if !shared.settled {
            shared.settled = true;
            let Shared { stored, expiries, .. } = shared;
            for (client_id, stored) in stored {
                // Still connected when the broker ended: it is gone since now. A clock that went back costs no session.
                let gone_ms = match stored.row.gone_ms {
                    0 => now.wall_ms,
                    gone => self.log.corrected(gone).min(now.wall_ms),
                };
                let away_ms = u64::try_from(now.wall_ms.saturating_sub(gone_ms)).unwrap_or(0);
                let left_ms = u64::from(stored.row.expiry_s)
                    .saturating_mul(1000)
                    .saturating_sub(away_ms);
                let at = now.after_ms(left_ms);
                stored.expires_us = Some(at);
                expiries.insert((at, client_id.clone()));
            }
        }
        while let Some((at, client_id)) = shared.expiries.first().cloned()
            && at <= now.mono_us
        {
            shared.expiries.pop_first();
            self.metrics().sessions_expired.inc();
            self.discard(shared, &client_id);
        }
    }

    fn count_stored(&self, shared: &Shared) {
        let count = i64::try_from(shared.stored.len()).unwrap_or(i64::MAX);
        self.metrics().sessions_stored.set(count);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A session that panicked is ended alone; the maps it shared are whole between statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
