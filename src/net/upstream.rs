//! Drives one forwarder: looks names up, opens and closes connections, moves bytes, turns the timer. One task does it all: the
//! log, the sockets, the timer and the broker's stop wake the same waker, and then everything that can be done is done.
//!
//! A link that is open but silent ends in two ways: the forwarder's request time-out, and `TCP_USER_TIMEOUT`, by which the
//! kernel gives up a connection whose peer confirms nothing.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use smol::future::{Future, FutureExt, poll_fn};
use smol::{Async, Timer};
use socket2::{SockRef, TcpKeepalive};

use super::connection::{Env, panic_text};
use crate::config;
use crate::metrics::UpstreamLabel;
use crate::model::{Now, Output};
use crate::upstream::{Command, Forwarder, LinkId, health_part};

pub use crate::upstream::Statuses;

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;
/// Reads of one link in one turn.
const READS_A_TURN: usize = 16;
/// Segments in one vectored write.
const SEGMENTS_A_WRITE: usize = 64;
/// One address of several gets this long.
const DIAL_SECONDS: u64 = 10;
/// The status is renewed this often while something happens.
const STATUS_MS: u64 = 500;
/// After a panic of the forwarder.
const RESTART_SECONDS: u64 = 5;

/// Forwards to one upstream until the broker stops, and stores its progress before it ends. A panic of the forwarder is logged
/// and counted; a new one goes on from the stored progress.
pub async fn run(configured: config::Upstream, node: String, env: Rc<Env>, statuses: Statuses) {
    let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    let registration = env.stopping.register(waker.clone());
    while !env.stopping.is_set() {
        let mut driver = Driver::new(
            configured.clone(),
            &node,
            Rc::clone(&env),
            statuses.clone(),
            waker.clone(),
        );
        let Err(panic) = AssertUnwindSafe(poll_fn(|cx| driver.turn(cx))).catch_unwind().await else {
            break;
        };
        let why = panic_text(&*panic);
        let label = UpstreamLabel {
            upstream: configured.name.clone(),
        };
        env.metrics.upstream.panics.get_or_create(&label).inc();
        tracing::error!(upstream = %configured.name, %why, "the forwarder panicked: a new one goes on from the stored progress");
        env.metrics
            .health
            .degrade(health_part(&configured.name), format!("the forwarder panicked: {why}"));
        drop(driver);
        let pause = async {
            Timer::after(Duration::from_secs(RESTART_SECONDS)).await;
        };
        pause.or(env.stopping.stopped()).await;
    }
    drop(registration);
}

type Dialing = Pin<Box<dyn Future<Output = io::Result<Async<TcpStream>>>>>;

enum Link {
    Dialing(Dialing),
    Open { stream: Async<TcpStream>, output: Output },
}

struct Driver {
    forwarder: Forwarder,
    links: BTreeMap<LinkId, Link>,
    timer: Timer,
    timer_at_us: Option<u64>,
    buffer: Vec<u8>,
    env: Rc<Env>,
    statuses: Statuses,
    /// When the status is to be shown; `None` when it was since anything happened.
    status_due_us: Option<u64>,
    status_shown_us: Option<u64>,
    user_timeout: Duration,
}

impl Driver {
    fn new(configured: config::Upstream, node: &str, env: Rc<Env>, statuses: Statuses, waker: Waker) -> Self {
        let user_timeout = Duration::from_millis(configured.request_timeout_ms);
        let (log, metrics, now) = (env.log.clone(), Arc::clone(&env.metrics), env.clock.now());
        Self {
            forwarder: Forwarder::new(configured, node, log, metrics, waker, fastrand::u64(..), now),
            links: BTreeMap::new(),
            timer: Timer::never(),
            timer_at_us: None,
            buffer: vec![0; READ_BYTES],
            env,
            statuses,
            status_due_us: None,
            status_shown_us: None,
            user_timeout,
        }
    }

    /// Does all that can be done now. `Ready` once the broker stops and progress is stored.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.status_due_us.is_none() {
            let not_before = self.status_shown_us.map_or(0, |at| at.saturating_add(STATUS_MS * 1000));
            self.status_due_us = Some(not_before.max(self.env.clock.now().mono_us));
        }
        loop {
            let now = self.env.clock.now();
            if self.env.stopping.is_set() {
                self.forwarder.stop(now);
            }
            self.forwarder.poll(now);
            let mut moved = self.obey();
            let ids: Vec<LinkId> = self.links.keys().copied().collect();
            for id in ids {
                moved |= self.turn_link(id, cx);
            }
            if self.forwarder.is_stopped(now) {
                self.statuses.set(self.forwarder.status());
                return Poll::Ready(());
            }
            if !moved {
                return self.rest(cx, now);
            }
        }
    }

    /// Does what the forwarder says.
    fn obey(&mut self) -> bool {
        let mut moved = false;
        while let Some(command) = self.forwarder.poll_command() {
            moved = true;
            match command {
                Command::Connect { link, host, port } => {
                    let dialing = Box::pin(dial(host, port, self.user_timeout));
                    self.links.insert(link, Link::Dialing(dialing));
                }
                Command::Send { link, segments } => {
                    if let Some(Link::Open { output, .. }) = self.links.get_mut(&link) {
                        segments.into_iter().for_each(|segment| output.put_bytes(segment));
                    }
                }
                Command::Close { link } => drop(self.links.remove(&link)),
            }
        }
        moved
    }

    /// Moves one link on. True when the forwarder was told something.
    fn turn_link(&mut self, id: LinkId, cx: &mut Context<'_>) -> bool {
        let Some(link) = self.links.get_mut(&id) else {
            return false;
        };
        if let Link::Dialing(dialing) = link {
            let Poll::Ready(dialed) = dialing.as_mut().poll(cx) else {
                return false;
            };
            match dialed {
                Ok(stream) => {
                    *link = Link::Open {
                        stream,
                        output: Output::default(),
                    };
                    self.forwarder.connected(id, self.env.clock.now());
                }
                Err(error) => self.lose(id, &error),
            }
            return true;
        }
        match self.write(id, cx).and_then(|wrote| Ok(self.read(id, cx)? | wrote)) {
            Ok(moved) => moved,
            Err(error) => {
                self.lose(id, &error);
                true
            }
        }
    }

    fn lose(&mut self, id: LinkId, error: &io::Error) {
        self.links.remove(&id);
        self.forwarder.lost(id, &error.to_string(), self.env.clock.now());
    }

    fn write(&mut self, id: LinkId, cx: &mut Context<'_>) -> io::Result<bool> {
        let Some(Link::Open { stream, output }) = self.links.get_mut(&id) else {
            return Ok(false);
        };
        let mut wrote = false;
        while !output.is_empty() {
            let segments = output.segments().iter().take(SEGMENTS_A_WRITE);
            let slices: Vec<IoSlice<'_>> = segments.map(|s| IoSlice::new(s)).collect();
            match stream.get_ref().write_vectored(&slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(sent) => {
                    output.advance(sent);
                    wrote = true;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => match stream.poll_writable(cx) {
                    Poll::Ready(ready) => ready?,
                    Poll::Pending => break,
                },
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if wrote {
            self.forwarder.wrote(id, self.env.clock.now());
        }
        // Nothing that the forwarder would act on: it need not be polled for it.
        Ok(false)
    }

    fn read(&mut self, id: LinkId, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut moved = false;
        for _ in 0..READS_A_TURN {
            // The forwarder may have closed it meanwhile.
            let Some(Link::Open { stream, .. }) = self.links.get_mut(&id) else {
                return Ok(moved);
            };
            match stream.get_ref().read(&mut self.buffer) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed by the other side")),
                Ok(n) => {
                    let received = self.buffer.get(..n).unwrap_or_default();
                    self.forwarder.input(id, received, self.env.clock.now());
                    moved = true;
                    self.obey();
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => match stream.poll_readable(cx) {
                    Poll::Ready(ready) => ready?,
                    Poll::Pending => return Ok(moved),
                },
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        cx.waker().wake_by_ref();
        Ok(moved)
    }

    /// Shows the status when it is due, and sets the timer to the earliest deadline.
    fn rest(&mut self, cx: &mut Context<'_>, now: Now) -> Poll<()> {
        if self.status_due_us.is_some_and(|at| at <= now.mono_us) {
            self.statuses.set(self.forwarder.status());
            self.status_due_us = None;
            self.status_shown_us = Some(now.mono_us);
        }
        let deadline = self.forwarder.deadline_us().into_iter().chain(self.status_due_us).min();
        if deadline != self.timer_at_us {
            self.timer_at_us = deadline;
            match deadline.and_then(|at| self.env.clock.instant(at)) {
                Some(at) => self.timer.set_at(at),
                None => self.timer = Timer::never(),
            }
        }
        if Pin::new(&mut self.timer).poll(cx).is_ready() {
            self.timer_at_us = None;
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// Looks the name up and tries its addresses in turn. The forwarder's time-out ends it from outside.
async fn dial(host: Arc<str>, port: u16, user_timeout: Duration) -> io::Result<Async<TcpStream>> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in smol::net::resolve((&*host, port)).await? {
        let late = async {
            Timer::after(Duration::from_secs(DIAL_SECONDS)).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        match Async::<TcpStream>::connect(address).or(late).await {
            Ok(stream) => {
                set_options(&stream, user_timeout)?;
                return Ok(stream);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn set_options(stream: &Async<TcpStream>, user_timeout: Duration) -> io::Result<()> {
    let socket = SockRef::from(stream.get_ref());
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(user_timeout))?;
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10));
    socket.set_tcp_keepalive(&keepalive)
}
