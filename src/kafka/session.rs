//! One connection: frames in, answers out in the order of the requests.
//!
//! Requests are begun when they are first in the queue, as Kafka does it, but for Produce: its batches go to the log at once
//! while nothing but Produce is before it, so that a pipelining producer's batches share a commit. The log takes them in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;

use super::broker::{Broker, Lease};
use super::call::{Call, Context, Step, advertised, begin};
use super::versions;
use crate::kafka_wire::{Api, LENGTH_BYTES, Request, decode_header, decode_request, frame_bytes};
use crate::model::{End, Now, Output, Peer, Session};

/// Requests that may wait on one connection; more are not read.
const WAITING_MAX: usize = 64;
/// Unsent bytes beyond which no further answer is made: the peer has to read first.
const UNSENT_BYTES_MAX: usize = 1 << 20;

pub(super) struct KafkaSession {
    broker: Arc<Broker>,
    peer: Peer,
    waker: Waker,
    waiting: VecDeque<Waiting>,
    /// Bytes of the frames that wait.
    waiting_bytes: usize,
    output: Output,
    /// For what is in the output.
    leases: Vec<Lease>,
    frame_bytes_wanted: usize,
    stopping: bool,
    end: Option<End>,
}

struct Waiting {
    api: Api,
    version: i16,
    correlation: i32,
    bytes: usize,
    state: State,
}

enum State {
    Decoded(Box<Request>),
    Begun(Box<dyn Call>),
    /// Between the two.
    Taken,
}

impl KafkaSession {
    pub(super) fn new(broker: Arc<Broker>, peer: Peer, waker: Waker) -> Self {
        broker.metrics().clients.inc();
        Self {
            broker,
            peer,
            waker,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            output: Output::default(),
            leases: Vec::new(),
            frame_bytes_wanted: 0,
            stopping: false,
            end: None,
        }
    }

    /// Takes one whole frame, without its length prefix.
    fn frame(&mut self, mut frame: Bytes) -> Result<(), String> {
        let bytes = frame.len();
        let header = decode_header(&mut frame).map_err(|e| e.to_string())?;
        let api = Api::from_key(header.key)
            .ok_or_else(|| format!("API key {} version {} is not served", header.key, header.version))?;
        self.broker.metrics().request(api.name());
        let (min, max) = api.versions();
        let state = if (min..=max).contains(&header.version) {
            let request = decode_request(api, header.version, frame)
                .map_err(|e| format!("{} version {}: {e}", api.name(), header.version))?;
            State::Decoded(Box::new(request))
        } else if api == Api::ApiVersions {
            // The one API whose unknown version is answered, so that a client learns what to speak.
            State::Begun(versions::unknown())
        } else {
            let (min, max) = advertised(api);
            let (name, version) = (api.name(), header.version);
            return Err(format!(
                "{name} version {version} is not served. Try: a client that speaks a version from {min} to {max}"
            ));
        };
        self.waiting_bytes = self.waiting_bytes.saturating_add(bytes);
        self.waiting.push_back(Waiting {
            api,
            version: header.version,
            correlation: header.correlation,
            bytes,
            state,
        });
        Ok(())
    }

    /// Begins what may begin and answers what is done.
    fn run(&mut self, now: Now) {
        if self.output.is_empty() {
            self.leases.clear();
        }
        while self.end.is_none() {
            self.begin_produces(now);
            if self.output.len() > UNSENT_BYTES_MAX {
                return;
            }
            let Some(first) = self.waiting.front_mut() else {
                break;
            };
            let cx = context(&self.broker, &self.peer, &self.waker, now, self.stopping, first);
            first.state.begin(&cx);
            let State::Begun(call) = &mut first.state else {
                return;
            };
            match call.poll(&cx, &mut self.output) {
                Step::Waiting => return,
                Step::Done(lease) => {
                    self.leases.extend(lease);
                    self.waiting_bytes = self.waiting_bytes.saturating_sub(first.bytes);
                    self.waiting.pop_front();
                }
                Step::Close(why) => self.finish(End::Peer(why)),
            }
        }
        if self.waiting.is_empty() {
            // A connection at rest holds no buffer.
            self.waiting = VecDeque::new();
            if self.stopping && self.end.is_none() {
                self.finish(End::Finished);
            }
        }
    }

    /// Every Produce that nothing else stands before.
    fn begin_produces(&mut self, now: Now) {
        for waiting in &mut self.waiting {
            if waiting.api != Api::Produce {
                return;
            }
            let cx = context(&self.broker, &self.peer, &self.waker, now, self.stopping, waiting);
            waiting.state.begin(&cx);
        }
    }

    fn finish(&mut self, end: End) {
        if let End::Peer(_) = end {
            self.broker.metrics().closed.inc();
        }
        self.end = Some(end);
        self.waiting.clear();
    }
}

fn context<'a>(
    broker: &'a Arc<Broker>,
    peer: &'a Peer,
    waker: &'a Waker,
    now: Now,
    stopping: bool,
    waiting: &Waiting,
) -> Context<'a> {
    Context {
        broker,
        peer,
        waker,
        now,
        stopping,
        version: waiting.version,
        correlation: waiting.correlation,
    }
}

impl State {
    fn begin(&mut self, cx: &Context<'_>) {
        *self = match std::mem::replace(self, Self::Taken) {
            Self::Decoded(request) => Self::Begun(begin(*request, cx)),
            other => other,
        };
    }
}

impl Session for KafkaSession {
    fn input(&mut self, bytes: &[u8], now: Now) -> usize {
        if self.end.is_some() || !self.wants_input() {
            return 0;
        }
        let wanted = match frame_bytes(bytes, self.broker.config.limits.kafka_request_bytes) {
            Ok(wanted) => wanted.unwrap_or(0),
            Err(e) => {
                self.finish(End::Peer(e.to_string()));
                return 0;
            }
        };
        let frame = match bytes.get(LENGTH_BYTES..wanted) {
            // The one copy of what a producer sends: the log keeps slices of it.
            Some(frame) => Bytes::copy_from_slice(frame),
            None => {
                self.frame_bytes_wanted = wanted;
                return 0;
            }
        };
        self.frame_bytes_wanted = 0;
        match self.frame(frame) {
            Ok(()) => self.run(now),
            Err(why) => {
                // What came before the bad request is still answered if it can be.
                self.run(now);
                if self.end.is_none() {
                    self.finish(End::Peer(why));
                }
            }
        }
        wanted
    }

    fn frame_bytes_wanted(&self) -> usize {
        self.frame_bytes_wanted
    }

    fn poll(&mut self, now: Now) {
        self.run(now);
    }

    fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    fn wants_input(&self) -> bool {
        self.end.is_none()
            && !self.stopping
            && self.waiting.len() < WAITING_MAX
            && self.waiting_bytes < self.broker.config.limits.kafka_request_bytes
            && self.output.len() <= UNSENT_BYTES_MAX
    }

    fn deadline_us(&self) -> Option<u64> {
        match self.waiting.front().map(|w| &w.state) {
            Some(State::Begun(call)) => call.deadline_us(),
            _ => None,
        }
    }

    fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    fn stop(&mut self, now: Now) {
        self.stopping = true;
        self.run(now);
    }

    fn gone(&mut self, _now: Now) {
        self.broker.metrics().clients.dec();
        self.waiting.clear();
        self.leases.clear();
    }
}
