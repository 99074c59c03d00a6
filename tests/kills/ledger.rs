//! What a client knows of its own records: which it has sent, which were acked, and what the broker said of where they are.

use std::io;

/// What a client is; it decides what may happen to a record that is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// MQTT QoS 1: a resend may be stored twice.
    Qos1,
    /// MQTT QoS 2: stored once.
    Qos2,
    /// A device whose queue survives: stored once.
    Device,
    /// A device that loses its queue with every connection and takes a new epoch: stored once, unacked ones may be gone.
    DeviceReset,
    /// Kafka with producer id and sequences: stored once.
    Idempotent,
    /// Kafka without: a resend may be stored twice.
    Plain,
}

impl Kind {
    pub const ALL: [Self; 6] = [
        Self::Qos1,
        Self::Qos2,
        Self::Device,
        Self::DeviceReset,
        Self::Idempotent,
        Self::Plain,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Qos1 => "qos1",
            Self::Qos2 => "qos2",
            Self::Device => "device",
            Self::DeviceReset => "device-reset",
            Self::Idempotent => "idempotent",
            Self::Plain => "plain",
        }
    }

    /// Whether a second copy is a failure.
    pub fn once(self) -> bool {
        !matches!(self, Self::Qos1 | Self::Plain)
    }
}

/// Where a broker said that a record is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub counter: u64,
    pub topic: String,
    pub partition: i32,
    pub offset: u64,
}

/// One client's side of the story. Its records are numbered from 0, each carries `NAME COUNTER FILLER`.
#[derive(Clone, Debug)]
pub struct Ledger {
    pub kind: Kind,
    pub name: String,
    /// By counter.
    acked: Vec<bool>,
    pub placed: Vec<Place>,
    /// Resent packets, batches or frames.
    pub resent: u64,
}

impl Ledger {
    pub fn new(kind: Kind, number: usize) -> Self {
        Self {
            kind,
            name: format!("{}-{number}", kind.name()),
            acked: Vec::new(),
            placed: Vec::new(),
            resent: 0,
        }
    }

    /// The next record to send: its counter and its value.
    pub fn next(&mut self, rng: &mut fastrand::Rng) -> (u64, Vec<u8>) {
        let counter = self.acked.len() as u64;
        self.acked.push(false);
        let mut value = format!("{} {counter} ", self.name).into_bytes();
        // Mostly readings; now and then something that fills pages.
        let filler = if rng.u8(..) < 4 { rng.usize(..6000) } else { rng.usize(..120) };
        value.extend((0..filler).map(|_| rng.alphanumeric() as u8));
        (counter, value)
    }

    pub fn ack(&mut self, counter: u64) {
        self.acked[counter as usize] = true;
    }

    pub fn sent(&self) -> u64 {
        self.acked.len() as u64
    }

    pub fn is_acked(&self, counter: u64) -> bool {
        self.acked.get(counter as usize).copied().unwrap_or(false)
    }

    /// Counters that were acked.
    pub fn acked(&self) -> impl Iterator<Item = u64> {
        (0..).zip(&self.acked).filter(|(_, acked)| **acked).map(|(n, _)| n)
    }
}

/// Who sent a value, and its counter.
pub fn identity(value: &[u8]) -> Option<(&str, u64)> {
    let mut words = std::str::from_utf8(value).ok()?.split(' ');
    let name = words.next()?;
    let counter = words.next()?.parse().ok()?;
    words.next().map(|_| (name, counter))
}

/// The broker did what it must not: no connection error, which a kill explains, but a failure of the test.
pub fn wrong(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}
