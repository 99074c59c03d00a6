//! The load: clients that send for as long as they are asked to, and that connect again and resend whenever the broker is gone.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use headwater::cli::client::mqtt::Level;

use crate::broker::{Addresses, pause};
use crate::device::DeviceLoad;
use crate::kafka::KafkaLoad;
use crate::ledger::{Kind, Ledger, wrong};
use crate::mqtt::MqttLoad;

/// Longest wait for an answer of a broker that runs.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// What all clients see.
#[derive(Debug, Default)]
pub struct Shared {
    /// Send nothing new; end once everything is acked.
    ending: AtomicBool,
    failures: Mutex<Vec<String>>,
}

impl Shared {
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    /// What clients saw that must not be.
    pub fn failures(&self) -> Vec<String> {
        self.failures.lock().expect("no panic holds it").clone()
    }
}

/// One client. It keeps its state over sessions.
pub trait Client: Send {
    /// One connection, until it breaks (`Err`) or everything is acked and no more is wanted (`Ok`). An error of the kind
    /// `InvalidData` is the broker's fault.
    fn session(&mut self, shared: &Shared, rng: &mut fastrand::Rng) -> io::Result<()>;

    fn ledger(&self) -> &Ledger;
}

/// Running clients.
pub struct Load {
    pub shared: Arc<Shared>,
    threads: Vec<JoinHandle<Ledger>>,
}

impl Load {
    /// Starts the mixed load; the broker need not be there yet.
    pub fn start(at: Addresses, rng: &mut fastrand::Rng) -> Self {
        let mut clients: Vec<Box<dyn Client>> = Vec::new();
        let (mqtt, kafka) = (at.mqtt.to_string(), at.kafka.to_string());
        for (number, level) in [Level::V311, Level::V5, Level::V311, Level::V5].into_iter().enumerate() {
            clients.push(Box::new(MqttLoad::new(Kind::Qos1, number, level, &mqtt)));
            clients.push(Box::new(MqttLoad::new(Kind::Qos2, number, level, &mqtt)));
        }
        for number in 0..2 {
            clients.push(Box::new(DeviceLoad::new(Kind::Device, number, at.compact)));
            clients.push(Box::new(KafkaLoad::new(Kind::Idempotent, number, &kafka)));
            clients.push(Box::new(KafkaLoad::new(Kind::Plain, number, &kafka)));
        }
        clients.push(Box::new(DeviceLoad::new(Kind::DeviceReset, 0, at.compact)));
        let shared = Arc::new(Shared::default());
        let threads = clients.into_iter().map(|client| {
            let (shared, rng) = (Arc::clone(&shared), rng.fork());
            thread::spawn(move || drive(client, &shared, rng))
        });
        let threads = threads.collect();
        Self { shared, threads }
    }

    /// Lets every client finish what it has in flight, and collects the ledgers.
    pub fn finish(self) -> Vec<Ledger> {
        self.shared.ending.store(true, Ordering::Release);
        self.threads.into_iter().map(|t| t.join().expect("a client does not panic")).collect()
    }
}

fn drive(mut client: Box<dyn Client>, shared: &Shared, mut rng: fastrand::Rng) -> Ledger {
    let mut asked_to_end: Option<Instant> = None;
    loop {
        let error = match client.session(shared, &mut rng) {
            Ok(()) => break,
            Err(error) => error,
        };
        let waited = shared.is_ending().then(|| asked_to_end.get_or_insert_with(Instant::now).elapsed());
        let late = waited.is_some_and(|waited| waited > ANSWER_WITHIN);
        let fault = match error.kind() {
            io::ErrorKind::InvalidData => true,
            // A killed broker's connections break; they do not fall silent.
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => true,
            _ => late,
        };
        if fault {
            let name = &client.ledger().name;
            shared.failures.lock().expect("no panic holds it").push(format!("{name}: {error}"));
            break;
        }
        pause(Duration::from_millis(rng.u64(1..30)));
    }
    client.ledger().clone()
}

/// A moment between two bursts, so that the broker sees bursts and the machine is not the limit.
pub fn breathe(rng: &mut fastrand::Rng) {
    pause(Duration::from_micros(rng.u64(200..6000)));
}

/// Turns the answer that should not be into a failure of the test.
pub fn refused(error: impl std::fmt::Display) -> io::Error {
    wrong(error.to_string())
}
