//! The rim: sockets, threads, clocks, signals. Everything below is sans-io and is driven from here.
//!
//! Threads: the caller's runs the executor with every connection, the MQTT hub and the forwarders; two `log-writer` take turns,
//! one at the disk while the other prepares the next commit; `log-reader` does the reads that the tail cache does not hold;
//! `log-checkpoint` works off the ring; `log-cleaner` compacts. Name lookups of upstreams use smol's own pool.
//!
//! Lock order: a session takes at most one lock of its room's broker at a time (hub, registry), and calls into `log` with none
//! held; `log` wakes wakers with none of its locks held. No lock is held across an `.await`.

use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use smol::future::FutureExt;
use smol::stream::StreamExt;
use smol::{Async, LocalExecutor, Timer};

use crate::config::{Config, Listener, Protocol};
use crate::log::{Log, OpenError, OpenOptions, Opening};
use crate::metrics::{Metrics, NetMetrics, ProtocolLabel};
use crate::model::{End, Peer, Session};

pub mod clock;
pub mod connection;
mod http;
mod listen;
mod stop;
#[cfg(test)]
mod tests;
pub mod upstream;

use clock::Clock;
use connection::{Env, Outcome};
use listen::{Open, Place};
use stop::Stopping;

/// Sessions that are not done by then are cut; with the writer's last commit a stop stays within 5 s.
const STOP_SECONDS: u64 = 3;
/// A connection without a byte for so long is closed, as Kafka's `connections.max.idle.ms`; MQTT's keep-alive ends it earlier.
const IDLE_MS: u64 = 10 * 60 * 1000;
/// After a panic of the hub.
const HUB_PAUSE: Duration = Duration::from_secs(1);

/// Why `serve` did not start, or ended other than by a signal.
#[derive(Debug)]
pub enum ServeError {
    /// The data directory cannot be used.
    Log(OpenError),
    /// An address cannot be listened on.
    Bind(Protocol, SocketAddr, std::io::Error),
    /// A setting that only its room can check.
    Config(String),
    /// The operating system refused something that the process needs.
    System(&'static str, std::io::Error),
}

impl std::fmt::Display for ServeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Log(error) => write!(f, "{error}"),
            Self::Bind(protocol, address, error) => write!(
                f,
                "cannot listen for {protocol} on {address}: {error}. Try: another port, for example --set listen.{protocol}={}:0",
                address.ip()
            ),
            Self::Config(why) => f.write_str(why),
            Self::System(what, error) => write!(f, "cannot {what}: {error}"),
        }
    }
}

impl std::error::Error for ServeError {}

impl ServeError {
    /// The exit code of the process: 1 it failed, 2 wrong configuration.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => 2,
            Self::Log(_) | Self::Bind(..) | Self::System(..) => 1,
        }
    }
}

/// What serving takes beside the configuration.
#[derive(Clone, Copy)]
pub struct ServeOptions {
    /// Reads what `/metrics` says of the process itself.
    pub process: fn() -> crate::http::ProcessFacts,
}

/// Runs the broker until SIGTERM or SIGINT, then stops it gracefully.
pub fn serve(config: Config, options: ServeOptions) -> Result<(), ServeError> {
    let clock = Clock::new();
    let metrics = Arc::new(Metrics::default());
    raise_open_files();
    let opening = Log::open(OpenOptions {
        data_dir: config.node.data_dir.clone(),
        storage: config.storage.clone(),
        topic_defaults: config.topic_defaults.clone(),
        limits: config.limits.clone(),
        topics: config.topics.clone(),
        carriers: crate::upstream::carriers(&config.upstreams, &config.node.name),
        metrics: Arc::clone(&metrics),
        now: clock.now(),
        store_id: fastrand::u128(..).to_le_bytes(),
        ring_seed: fastrand::u128(..).to_le_bytes(),
    })
    .map_err(ServeError::Log)?;
    serve_over(opening, config, metrics, clock, options)
}

/// Serves a log that is open.
pub(crate) fn serve_over(
    opening: Opening,
    config: Config,
    metrics: Arc<Metrics>,
    clock: Clock,
    options: ServeOptions,
) -> Result<(), ServeError> {
    let Opening {
        log,
        writer,
        reader,
        checkpointer,
        cleaner,
    } = opening;
    // The first that the log is told: before anything is stamped or stored.
    let watcher = clock::Watcher::begin(&clock, config.clock, &log, &metrics);
    let rooms = Rooms::open(config, log.clone(), metrics, clock.clone())?;
    let sockets = bind_all(&rooms.config)?;
    let writer = Arc::new(writer);
    let write = || {
        let (writer, clock) = (Arc::clone(&writer), clock.clone());
        move || writer.run(move || clock.now())
    };
    let threads = [
        spawn("log-writer", write())?,
        spawn("log-writer", write())?,
        spawn("log-reader", || reader.run())?,
        spawn("log-checkpoint", || checkpointer.run())?,
        spawn("log-cleaner", || cleaner.run())?,
    ];
    let executor = Rc::new(LocalExecutor::new());
    let served = smol::block_on(executor.run(run(&executor, rooms, sockets, watcher, options)));
    // Every session is gone: what they submitted is committed before the process ends.
    log.stop();
    for thread in threads {
        // A panic there has ended the process already.
        let _ = thread.join();
    }
    tracing::info!("stopped");
    served
}

impl From<Protocol> for ProtocolLabel {
    fn from(protocol: Protocol) -> Self {
        let protocol = protocol.name();
        Self { protocol }
    }
}

/// The brokers of each protocol, over one log.
struct Rooms {
    config: Config,
    env: Rc<Env>,
    mqtt: Arc<crate::mqtt::Broker>,
    kafka: Arc<crate::kafka::Broker>,
    compact: Arc<crate::compact::Broker>,
}

impl Rooms {
    fn open(config: Config, log: Log, metrics: Arc<Metrics>, clock: Clock) -> Result<Self, ServeError> {
        let mqtt = crate::mqtt::Broker::new(&config, log.clone(), Arc::clone(&metrics)).map_err(ServeError::Config)?;
        let kafka = crate::kafka::Broker::new(&config, log.clone(), Arc::clone(&metrics), fastrand::u64(..))
            .map_err(ServeError::Config)?;
        let compact =
            crate::compact::Broker::new(&config, log.clone(), Arc::clone(&metrics)).map_err(ServeError::Config)?;
        let env = Rc::new(Env {
            log,
            metrics,
            clock,
            stopping: Rc::new(Stopping::default()),
            handshake_ms: config.limits.handshake_ms,
            idle_ms: IDLE_MS,
        });
        Ok(Self {
            config,
            env,
            mqtt,
            kafka,
            compact,
        })
    }
}

fn bind_all(config: &Config) -> Result<Vec<(Listener, TcpListener)>, ServeError> {
    let mut sockets = Vec::new();
    for rules in &config.listeners {
        let bound = listen::bind(rules.address).map_err(|e| ServeError::Bind(rules.protocol, rules.address, e))?;
        let address = bound
            .local_addr()
            .map_err(|e| ServeError::System("read a listener's address", e))?;
        tracing::info!(protocol = ?rules.protocol, %address, "listening");
        sockets.push((rules.clone(), bound));
    }
    Ok(sockets)
}

async fn run(
    executor: &Rc<LocalExecutor<'static>>,
    rooms: Rooms,
    sockets: Vec<(Listener, TcpListener)>,
    watcher: clock::Watcher,
    options: ServeOptions,
) -> Result<(), ServeError> {
    let mut signals = async_signal::Signals::new([
        async_signal::Signal::Term,
        async_signal::Signal::Int,
        async_signal::Signal::Hup,
    ])
    .map_err(|e| ServeError::System("listen for signals", e))?;
    let env = Rc::clone(&rooms.env);
    let rooms = Rc::new(rooms);
    let statuses = start_upstreams(executor, &rooms);
    start_listeners(executor, &rooms, sockets, statuses, options)?;
    executor.spawn(run_hub(Rc::clone(&rooms))).detach();
    executor.spawn(watch_clock(watcher)).detach();
    let log = env.log.clone();
    executor.spawn(async move { log.carry_wakes().await }).detach();
    env.metrics.health.set_ready(true);
    tracing::info!(node = %rooms.config.node.name, data_dir = %rooms.config.node.data_dir.display(), "ready");
    notify(&[sd_notify::NotifyState::Ready]);
    while let Some(signal) = signals.next().await {
        match signal.map_err(|e| ServeError::System("listen for signals", e))? {
            async_signal::Signal::Hup => {
                tracing::warn!("SIGHUP: the configuration is read at start only for now. Try: restart the broker");
            }
            signal => {
                tracing::info!(?signal, "stopping");
                break;
            }
        }
    }
    env.metrics.health.set_ready(false);
    notify(&[sd_notify::NotifyState::Stopping]);
    env.stopping.set();
    let done = async {
        env.stopping.all_gone().await;
        true
    };
    let late = async {
        Timer::after(Duration::from_secs(STOP_SECONDS)).await;
        false
    };
    if !done.or(late).await {
        tracing::warn!(
            connections = env.stopping.tasks(),
            "cut what was not done in time; none of it was acknowledged"
        );
    }
    Ok(())
}

fn start_listeners(
    executor: &Rc<LocalExecutor<'static>>,
    rooms: &Rc<Rooms>,
    sockets: Vec<(Listener, TcpListener)>,
    statuses: upstream::Statuses,
    options: ServeOptions,
) -> Result<(), ServeError> {
    let open = Rc::new(Open::default());
    let app = Rc::new(crate::http::App::new(
        &rooms.config,
        rooms.env.log.clone(),
        Arc::clone(&rooms.env.metrics),
        statuses,
        options.process,
    ));
    for (rules, socket) in sockets {
        let socket = Async::new(socket).map_err(|e| ServeError::Bind(rules.protocol, rules.address, e))?;
        let (rooms, rules) = (Rc::clone(rooms), Rc::new(rules));
        let (env, most, app) = (Rc::clone(&rooms.env), rooms.config.limits.connections, Rc::clone(&app));
        let start = {
            let rules = Rc::clone(&rules);
            move |stream: Async<std::net::TcpStream>, address: SocketAddr, place: Place| {
                let (rooms, app, rules) = (Rc::clone(&rooms), Rc::clone(&app), Rc::clone(&rules));
                async move {
                    if rules.protocol == Protocol::Http {
                        http::serve(stream, address, app, Rc::clone(&rooms.env)).await;
                    } else {
                        serve_session(stream, address, &rooms, &rules).await;
                    }
                    drop(place);
                }
            }
        };
        let accepting = listen::accept(
            socket,
            (*rules).clone(),
            env,
            Rc::clone(&open),
            most,
            Rc::clone(executor),
            start,
        );
        executor.spawn(accepting).detach();
    }
    Ok(())
}

/// One connection of a protocol with sessions, from its first byte to its line in the log.
async fn serve_session(
    stream: Async<std::net::TcpStream>,
    address: SocketAddr,
    rooms: &Rc<Rooms>,
    rules: &Rc<Listener>,
) {
    let Ok(local) = stream.get_ref().local_addr() else {
        return;
    };
    let peer = Peer { address, local };
    let outcome = connection::drive(stream, Rc::clone(&rooms.env), |waker, now| -> Box<dyn Session> {
        match rules.protocol {
            Protocol::Mqtt => rooms.mqtt.session(peer, rules, waker, fastrand::u64(..), now),
            Protocol::Kafka => rooms.kafka.session(peer, waker, now),
            Protocol::Compact => rooms.compact.session(peer, rules, waker, fastrand::u64(..), now),
            Protocol::Http => unreachable!("HTTP has no session of this shape"),
        }
    })
    .await;
    conclude(outcome, rules.protocol, address, &rooms.env.metrics.net);
}

/// A connection is over: its line in the log, and the counters.
fn conclude(outcome: Outcome, protocol: Protocol, address: SocketAddr, net: &NetMetrics) {
    let label = protocol.into();
    match outcome {
        Outcome::PeerGone | Outcome::Session(End::Finished) => {
            tracing::debug!(?protocol, peer = %address, "connection ended");
        }
        Outcome::Session(End::Peer(why)) => {
            net.peer_errors.get_or_create(&label).inc();
            tracing::warn!(?protocol, peer = %address, %why, "connection closed for the peer's error");
        }
        Outcome::Session(End::Broker(why)) => {
            net.broker_errors.get_or_create(&label).inc();
            tracing::error!(?protocol, peer = %address, %why, "connection closed for our failure");
        }
        Outcome::TimedOut(why) => {
            net.timeouts.get_or_create(&label).inc();
            tracing::info!(?protocol, peer = %address, why, "connection closed");
        }
        Outcome::Panicked(why) => {
            net.panics.get_or_create(&label).inc();
            tracing::error!(?protocol, peer = %address, %why, "a session panicked: this connection ends, the others go on");
        }
    }
}

/// Hands committed records to MQTT subscribers.
async fn run_hub(rooms: Rc<Rooms>) {
    let mut timer = Timer::never();
    let deliver = std::future::poll_fn(|cx| {
        let now = rooms.env.clock.now();
        match catch_unwind(AssertUnwindSafe(|| rooms.mqtt.poll(now, cx.waker()))) {
            Ok(deadline_us) => match deadline_us.and_then(|us| rooms.env.clock.instant(us)) {
                Some(at) => timer.set_at(at),
                None => timer = Timer::never(),
            },
            Err(panic) => {
                rooms.env.metrics.net.panics.get_or_create(&Protocol::Mqtt.into()).inc();
                let why = connection::panic_text(&*panic);
                tracing::error!(%why, "delivery to MQTT subscribers panicked; it is tried again");
                timer = Timer::after(HUB_PAUSE);
            }
        }
        if std::future::Future::poll(std::pin::Pin::new(&mut timer), cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        std::task::Poll::<()>::Pending
    });
    deliver.or(rooms.env.stopping.stopped()).await;
}

/// Looks at the machine's clock, for as long as the broker runs.
async fn watch_clock(mut watcher: clock::Watcher) {
    loop {
        Timer::after(clock::LOOK).await;
        watcher.look();
    }
}

fn start_upstreams(executor: &Rc<LocalExecutor<'static>>, rooms: &Rc<Rooms>) -> upstream::Statuses {
    let statuses = upstream::Statuses::default();
    for configured in &rooms.config.upstreams {
        let node = rooms.config.node.name.clone();
        let task = upstream::run(configured.clone(), node, Rc::clone(&rooms.env), statuses.clone());
        executor.spawn(task).detach();
    }
    statuses
}

type Thread = std::thread::JoinHandle<()>;

/// A thread of the log that ends when the log stops. Without one of them nothing can be acknowledged: its panic is the end of the
/// process.
fn spawn(name: &'static str, run: impl FnOnce() + Send + 'static) -> Result<Thread, ServeError> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
                let why = format!("it panicked: {}", connection::panic_text(&*panic));
                // Held until the process is gone: no line of another thread comes after this one.
                let _last = std::io::stderr().lock();
                tracing::error!(thread = name, %why, "a thread of the log failed and the process ends; what was acknowledged is on the disk");
                std::process::exit(1);
            }
        })
        .map_err(|e| ServeError::System("start a thread of the log", e))
}

/// Every connection is a file; the soft limit is often 1024 while the hard one is far above.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit on open files");
    }
}

fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}
