//! Devices on the compact protocol: one whose queue survives, one that forgets it with every connection.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use headwater_device::{Client as Device, Event, RamQueue};

use crate::ledger::{Kind, Ledger, wrong};
use crate::load::{ANSWER_WITHIN, Client, Shared, breathe};

/// Unacknowledged at most.
const WINDOW: usize = 48;
const QUEUE_BYTES: usize = 512 << 10;
const FRAME_BYTES: usize = 8192;

type Queue = RamQueue<QUEUE_BYTES>;

/// A device.
pub struct DeviceLoad {
    ledger: Ledger,
    address: SocketAddr,
    device: Box<Device<'static, Queue, FRAME_BYTES>>,
    epoch: u32,
    began: Instant,
    /// Sequence and counter of what is not acknowledged.
    in_flight: VecDeque<(u64, u64)>,
    resent_before: u64,
}

impl DeviceLoad {
    pub fn new(kind: Kind, number: usize, address: SocketAddr) -> Self {
        let ledger = Ledger::new(kind, number);
        Self {
            device: boot(&ledger.name, 1),
            ledger,
            address,
            epoch: 1,
            began: Instant::now(),
            in_flight: VecDeque::new(),
            resent_before: 0,
        }
    }

    fn now_ms(&self) -> i64 {
        1_000 + self.began.elapsed().as_millis() as i64
    }

    fn transmit(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        loop {
            let now = self.now_ms();
            let bytes = self.device.transmit(now);
            let count = bytes.len();
            if count == 0 {
                return Ok(());
            }
            stream.write_all(bytes)?;
            self.device.sent(count);
        }
    }

    fn acknowledged(&mut self, last: u64) {
        while self.in_flight.front().is_some_and(|(sequence, _)| *sequence <= last) {
            if let Some((_, counter)) = self.in_flight.pop_front() {
                self.ledger.ack(counter);
            }
        }
    }

    fn event(&mut self, event: Event) -> io::Result<()> {
        match event {
            Event::Open(last) | Event::Acked(last) => self.acknowledged(last),
            Event::Refused(sequence, code) => {
                return Err(wrong(format!("record {sequence} was refused: {}", code.name())));
            }
            Event::EpochUsed => return Err(wrong("the broker knows later sequences than were sent")),
            Event::Ended(code) => return Err(wrong(format!("the broker ended the session: {}", code.name()))),
            Event::GoBack(..) | Event::Command(_) | Event::Time | Event::HungUp | Event::Silent => {}
        }
        Ok(())
    }

    fn run(&mut self, shared: &Shared, rng: &mut fastrand::Rng) -> io::Result<()> {
        let mut stream = TcpStream::connect_timeout(&self.address, ANSWER_WITHIN)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_millis(100)))?;
        stream.set_write_timeout(Some(ANSWER_WITHIN))?;
        self.device.connected(self.now_ms());
        let (mut heard, mut input) = (Instant::now(), [0; 1024]);
        loop {
            for _ in 0..rng.usize(0..12) {
                if shared.is_ending() || self.in_flight.len() >= WINDOW {
                    break;
                }
                let (counter, value) = self.ledger.next(rng);
                let sequence = self.device.push(Some(self.now_ms()), "kills", &value);
                let sequence = sequence.map_err(|full| wrong(format!("the device's queue: {full:?}")))?;
                self.in_flight.push_back((sequence, counter));
            }
            self.transmit(&mut stream)?;
            if shared.is_ending() && self.in_flight.is_empty() {
                return Ok(());
            }
            match stream.read(&mut input) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    heard = Instant::now();
                    let mut rest = &input[..count];
                    while !rest.is_empty() {
                        let now = self.now_ms();
                        let (used, event) = self.device.receive(rest, now);
                        rest = &rest[used..];
                        event.map_or(Ok(()), |event| self.event(event))?;
                    }
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    if !self.in_flight.is_empty() && heard.elapsed() > ANSWER_WITHIN {
                        return Err(e);
                    }
                }
                Err(e) => return Err(e),
            }
            breathe(rng);
        }
    }
}

impl Client for DeviceLoad {
    fn session(&mut self, shared: &Shared, rng: &mut fastrand::Rng) -> io::Result<()> {
        let result = self.run(shared, rng);
        self.ledger.resent = self.resent_before + self.device.resent();
        if self.ledger.kind == Kind::DeviceReset && result.is_err() {
            // Its queue was in RAM: what had no Ack is not sent again, by anybody.
            self.in_flight.clear();
            self.resent_before = self.ledger.resent;
            self.epoch += 1;
            self.device = boot(&self.ledger.name, self.epoch);
        }
        result
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

/// The name lives as long as the test: one a client, and one a boot of those that forget.
fn boot(name: &str, epoch: u32) -> Box<Device<'static, Queue, FRAME_BYTES>> {
    let name: &'static str = Box::leak(name.to_owned().into_boxed_str());
    Box::new(Device::new(name, epoch, Queue::new()))
}
