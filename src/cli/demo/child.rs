//! The broker of the demo: a child process of the same binary on a new directory, started, killed and started again on the same
//! ports. Whatever happens to the demo, the child and the directory go with it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::super::Failure;
use super::super::broker::get;

/// Longest time from start to ready, and from SIGTERM to the end.
const READY_WITHIN: Duration = Duration::from_secs(15);
const END_WITHIN: Duration = Duration::from_secs(10);

/// Protocols and the ports of the default configuration.
const LISTENERS: [(&str, u16); 4] = [("mqtt", 1883), ("kafka", 9092), ("compact", 7420), ("http", 7480)];

/// Where it listens; the same over its restarts.
#[derive(Clone, Debug)]
pub(super) struct Addresses {
    pub(super) mqtt: String,
    pub(super) kafka: String,
    pub(super) compact: String,
    pub(super) http: String,
    /// Default ports that somebody else has.
    pub(super) taken: Vec<u16>,
}

impl Addresses {
    /// The default ports where they are free.
    fn find() -> io::Result<Self> {
        let (mut held, mut taken) = (Vec::new(), Vec::new());
        // All held at once, so that no two are the same.
        for (_, port) in LISTENERS {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).or_else(|_| {
                taken.push(port);
                TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            })?;
            held.push(listener);
        }
        let addresses: io::Result<Vec<SocketAddr>> = held.iter().map(TcpListener::local_addr).collect();
        let mut addresses = addresses?.into_iter().map(|address| address.to_string());
        let mut next = || addresses.next().unwrap_or_default();
        Ok(Self {
            mqtt: next(),
            kafka: next(),
            compact: next(),
            http: next(),
            taken,
        })
    }

    fn all(&self) -> [&str; 4] {
        [&self.mqtt, &self.kafka, &self.compact, &self.http]
    }
}

/// The broker, running or not.
pub(super) struct Broker {
    home: PathBuf,
    /// What the embedded default lacks; none without an upstream.
    config: Option<PathBuf>,
    child: Option<Child>,
    /// The directory stays, for a look at what went wrong.
    keep: bool,
    pub(super) at: Addresses,
}

impl Broker {
    /// A new directory and free ports; nothing is started. `config` is a whole configuration, if not the embedded one.
    pub(super) fn new(config: Option<&str>) -> io::Result<Self> {
        let name = format!("headwater-demo-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let home = std::env::temp_dir().join(name);
        fs::create_dir(&home)?;
        let mut broker = Self {
            config: None,
            child: None,
            keep: false,
            at: Addresses::find()?,
            home,
        };
        if let Some(text) = config {
            let path = broker.home.join("headwater.toml");
            fs::write(&path, text)?;
            broker.config = Some(path);
        }
        Ok(broker)
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        self.home.join("data")
    }

    /// The directory stays when the demo ends.
    pub(super) fn keep(&mut self) -> &Path {
        self.keep = true;
        &self.home
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Starts it and waits until it is ready; how long that took.
    pub(super) fn start(&mut self) -> Result<Duration, Failure> {
        let failed = |error: io::Error| Failure::failed(format!("the broker cannot be started: {error}"));
        let log = self.log_file().map_err(failed)?;
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command
            .args(["serve", "--end-with-parent", "--data-dir"])
            .arg(self.data_dir());
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        for ((protocol, _), address) in LISTENERS.iter().zip(self.at.all()) {
            command.args(["--set", &format!("listen.{protocol}={address}")]);
        }
        // A group of its own: Ctrl-C reaches the demo alone, which then ends it.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0);
        let began = Instant::now();
        self.child = Some(command.spawn().map_err(failed)?);
        while !self.is_ready() {
            self.alive()?;
            if began.elapsed() > READY_WITHIN {
                return Err(Failure::failed(format!(
                    "the broker is not ready:\n{}",
                    self.last_lines()
                )));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(began.elapsed())
    }

    /// An error if it ended by itself.
    pub(super) fn alive(&mut self) -> Result<(), Failure> {
        match self.child.as_mut().map(Child::try_wait) {
            Some(Ok(Some(status))) => {
                self.child = None;
                let text = format!("the broker ended by itself ({status}):\n{}", self.last_lines());
                Err(Failure::failed(text))
            }
            Some(Err(error)) => Err(Failure::failed(format!("the broker cannot be watched: {error}"))),
            Some(Ok(None)) | None => Ok(()),
        }
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) -> io::Result<()> {
        match self.child.take() {
            Some(mut child) => child.kill().and_then(|()| child.wait()).map(|_| ()),
            None => Ok(()),
        }
    }

    /// SIGTERM; an error if it does not end well and in time.
    pub(super) fn stop(&mut self) -> Result<(), Failure> {
        self.alive()?;
        let Some(child) = self.child.as_mut() else {
            return Ok(());
        };
        let failed = |error: io::Error| Failure::failed(format!("the broker cannot be stopped: {error}"));
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).map_err(|e| failed(e.into()))?;
        let began = Instant::now();
        while began.elapsed() < END_WITHIN {
            if let Some(status) = child.try_wait().map_err(failed)? {
                self.child = None;
                return match status.success() {
                    true => Ok(()),
                    false => Err(Failure::failed(format!(
                        "the broker ended with {status}:\n{}",
                        self.last_lines()
                    ))),
                };
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(Failure::failed("the broker does not end on SIGTERM"))
    }

    fn is_ready(&self) -> bool {
        get(&self.at.http, "/readyz", Duration::from_secs(1)).is_ok_and(|(status, _)| status == 200)
    }

    fn log_file(&self) -> io::Result<File> {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.home.join("broker.log"))
    }

    /// The end of its log.
    fn last_lines(&self) -> String {
        let text = fs::read_to_string(self.home.join("broker.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(10);
        lines.get(from..).unwrap_or_default().join("\n")
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Nothing can be told any more, and nothing be done about it.
        let _ = self.kill();
        if !self.keep {
            let _ = fs::remove_dir_all(&self.home);
        }
    }
}
