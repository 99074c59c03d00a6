//! MQTT publishers with persistent sessions, QoS 1 and 2.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use headwater::cli::client::mqtt::{Event, Level, MqttClient, MqttError, MqttOptions};

use crate::ledger::{Kind, Ledger, wrong};
use crate::load::{ANSWER_WITHIN, Client, Shared, breathe, refused};

/// Unacknowledged at most: below what the broker allows.
const WINDOW: usize = 24;

/// A publisher.
pub struct MqttLoad {
    ledger: Ledger,
    options: MqttOptions,
    topic: String,
    /// Made by the first connection, kept for its session.
    client: Option<MqttClient>,
    /// Counter by token.
    in_flight: HashMap<u64, u64>,
}

impl MqttLoad {
    pub fn new(kind: Kind, number: usize, level: Level, address: &str) -> Self {
        let ledger = Ledger::new(kind, number);
        Self {
            options: MqttOptions {
                timeout: ANSWER_WITHIN,
                ..MqttOptions::new(address, format!("kills-{}", ledger.name), level)
            },
            topic: format!("plant/{}", ledger.name),
            ledger,
            client: None,
            in_flight: HashMap::new(),
        }
    }

    fn connect(&mut self) -> Result<(), MqttError> {
        let Some(client) = &mut self.client else {
            self.client = Some(MqttClient::connect(self.options.clone())?);
            return Ok(());
        };
        client.reconnect()?;
        if !client.session_present() {
            return Err(MqttError::Protocol("the broker forgot the session".to_owned()));
        }
        self.ledger.resent = client.resent();
        Ok(())
    }

    fn exchange(&mut self, shared: &Shared, rng: &mut fastrand::Rng) -> Result<bool, MqttError> {
        let Some(client) = &mut self.client else { return Ok(false) };
        let qos = if self.ledger.kind == Kind::Qos2 { 2 } else { 1 };
        let burst = rng.usize(1..=WINDOW);
        while !shared.is_ending() && client.unacked() < burst {
            let (counter, value) = self.ledger.next(rng);
            // A message that fails on the wire is kept for the next connection, under its token.
            let result = client.publish(&self.topic, &value, qos);
            self.in_flight.insert(client.last_token(), counter);
            result?;
        }
        let mut wait = ANSWER_WITHIN;
        while client.unacked() > 0 || wait.is_zero() {
            match client.poll(wait)? {
                Event::Acked { token, code } if code < 0x80 => {
                    let counter = self.in_flight.remove(&token);
                    let counter = counter.ok_or_else(|| MqttError::Protocol("an ack for nothing".to_owned()))?;
                    self.ledger.ack(counter);
                }
                Event::Acked { code, .. } => return Err(MqttError::Refused("a publish", code)),
                Event::Message(_) => {}
                Event::Idle if wait.is_zero() => break,
                Event::Idle => return Err(MqttError::Protocol("no ack in time".to_owned())),
            }
            wait = Duration::ZERO;
        }
        Ok(shared.is_ending() && client.unacked() == 0 && self.in_flight.is_empty())
    }
}

impl Client for MqttLoad {
    fn session(&mut self, shared: &Shared, rng: &mut fastrand::Rng) -> io::Result<()> {
        self.connect().map_err(broken)?;
        while !self.exchange(shared, rng).map_err(broken)? {
            breathe(rng);
        }
        match self.client.take() {
            Some(client) => client.disconnect().map_err(broken),
            None => Err(wrong("no client")),
        }
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

fn broken(error: MqttError) -> io::Error {
    match error {
        MqttError::Io(error) => error,
        error => refused(error),
    }
}
