//! The broker under test: the built binary on free ports, started again and again on the same directory.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest time from start to ready.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Where it listens; the same for its whole life.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub mqtt: SocketAddr,
    pub kafka: SocketAddr,
    pub compact: SocketAddr,
    pub http: SocketAddr,
}

/// A broker, running or killed. Its directory goes when it is dropped, unless the test failed.
pub struct Broker {
    binary: PathBuf,
    home: PathBuf,
    sets: Vec<String>,
    pub addresses: Addresses,
    child: Option<Child>,
}

impl Broker {
    /// Makes a new directory and takes free ports; starts nothing. `sets` are further `--set`.
    pub fn new(name: &str, sets: &[&str]) -> Self {
        let binary = std::env::var_os("HEADWATER_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_headwater").into());
        let home = std::env::temp_dir().join(format!("headwater-kills-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&home);
        fs::create_dir_all(&home).expect("a directory for the broker");
        // All held at once, so that no two are the same.
        let held: Vec<TcpListener> = (0..4)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"))
            .collect();
        let address = |n: usize| held[n].local_addr().expect("an address");
        let addresses = Addresses {
            mqtt: address(0),
            kafka: address(1),
            compact: address(2),
            http: address(3),
        };
        Self {
            binary: binary.into(),
            home,
            sets: sets.iter().map(|s| (*s).to_owned()).collect(),
            addresses,
            child: None,
        }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.home.join("data")
    }

    fn log(&self) -> PathBuf {
        self.home.join("broker.log")
    }

    /// Starts the process without waiting for it.
    pub fn launch(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let stderr = OpenOptions::new().create(true).append(true).open(self.log()).expect("a log file");
        let mut command = Command::new(&self.binary);
        command.arg("serve").arg("--data-dir").arg(self.data_dir());
        let Addresses { mqtt, kafka, compact, http } = self.addresses;
        for (name, address) in [("mqtt", mqtt), ("kafka", kafka), ("compact", compact), ("http", http)] {
            command.arg("--set").arg(format!("listen.{name}={address}"));
        }
        for set in &self.sets {
            command.arg("--set").arg(set);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        self.child = Some(command.spawn().expect("the built broker starts"));
    }

    /// Waits for `/readyz`. Gives the time from now on.
    pub fn ready(&mut self) -> Duration {
        let began = Instant::now();
        while !is_ready(self.addresses.http) {
            let child = self.child.as_mut().expect("a launched broker");
            if let Some(status) = child.try_wait().expect("a child to wait for") {
                panic!("the broker ended by itself with {status}:\n{}", self.last_lines());
            }
            assert!(began.elapsed() < READY_WITHIN, "the broker is not ready:\n{}", self.last_lines());
            pause(Duration::from_millis(2));
        }
        began.elapsed()
    }

    /// SIGKILL. That it still ran until then is part of the promise.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("a launched broker");
        if let Some(status) = child.try_wait().expect("a child to wait for") {
            panic!("the broker ended by itself with {status}:\n{}", self.last_lines());
        }
        child.kill().expect("a process to kill");
        child.wait().expect("a killed child");
    }

    /// SIGTERM; gives whether it ended in time and well.
    pub fn stop(&mut self) -> bool {
        let mut child = self.child.take().expect("a launched broker");
        let pid = child.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status().is_ok_and(|s| s.success());
        let began = Instant::now();
        while asked && began.elapsed() < Duration::from_secs(10) {
            if let Some(status) = child.try_wait().expect("a child to wait for") {
                return status.success();
            }
            pause(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
        false
    }

    /// `headwater check` on the directory: exit code and what it said.
    pub fn check(&self) -> (i32, String) {
        let output = Command::new(&self.binary).arg("check").arg(self.data_dir()).output();
        let output = output.expect("the built broker's check starts");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
    }

    /// The end of its log.
    pub fn last_lines(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Lines of its log with this level.
    pub fn log_lines(&self, level: &str) -> Vec<String> {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        text.lines().filter(|line| line.contains(level)).map(str::to_owned).collect()
    }

    /// Bytes of its directory.
    pub fn data_bytes(&self) -> u64 {
        fn bytes(dir: &Path) -> u64 {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries
                .map(|entry| match entry.metadata() {
                    Ok(meta) if meta.is_dir() => bytes(&entry.path()),
                    Ok(meta) => meta.len(),
                    Err(_) => 0,
                })
                .sum()
        }
        bytes(&self.data_dir())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("kept for a look: {}", self.home.display());
        } else {
            let _ = fs::remove_dir_all(&self.home);
        }
    }
}

fn is_ready(address: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: kills\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(&head == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

/// Real time passes: the load and the kills of this test are about it.
pub fn pause(time: Duration) {
    std::thread::park_timeout(time);
}
