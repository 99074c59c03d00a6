//! A blocking MQTT publisher, 3.1.1 and 5: publishes at QoS 1 and 2, keeps what is not acknowledged and resends it in order after
//! a reconnect. It subscribes to nothing.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::dial;
use super::mqtt_packet::{self as packet, PUBREL, Packet};

/// Protocol level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// MQTT 3.1.1.
    V311,
    /// MQTT 5.
    V5,
}

/// How to connect.
#[derive(Clone, Debug)]
pub struct MqttOptions {
    /// `HOST:PORT`.
    pub address: String,
    /// Client id.
    pub client_id: String,
    /// 3.1.1 or 5.
    pub level: Level,
    /// MQTT 5: seconds for which the broker keeps the session.
    pub session_expiry_s: u32,
    /// Keep alive; 0 is none.
    pub keep_alive_s: u16,
    /// Bound of connecting, and of waiting for an answer.
    pub timeout: Duration,
}

impl MqttOptions {
    /// A client with a persistent session.
    pub fn new(address: impl Into<String>, client_id: impl Into<String>, level: Level) -> Self {
        Self {
            address: address.into(),
            client_id: client_id.into(),
            level,
            session_expiry_s: 3600,
            keep_alive_s: 60,
            timeout: Duration::from_secs(10),
        }
    }
}

/// Why the client cannot go on.
#[derive(Debug)]
pub enum MqttError {
    /// The connection: reconnect.
    Io(io::Error),
    /// The broker closed the connection or said something that makes no sense.
    Protocol(String),
    /// The broker refused: what, and its code.
    Refused(&'static str, u8),
}

impl fmt::Display for MqttError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Protocol(text) => f.write_str(text),
            Self::Refused(what, code) => write!(f, "the broker refused {what}, code {code:#04x}"),
        }
    }
}

impl std::error::Error for MqttError {}

impl From<io::Error> for MqttError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The publish with this token is acknowledged (QoS 1: PUBACK, QoS 2: PUBCOMP). A code of 0x80 or more is a refusal (MQTT 5).
    Acked {
        /// What `publish` gave.
        token: u64,
        /// 0, or the broker's reason.
        code: u8,
    },
    /// Nothing within the time.
    Idle,
}

struct Unacked {
    token: u64,
    id: u16,
    topic: String,
    payload: Vec<u8>,
    qos: u8,
    /// QoS 2: PUBREC is here, so the broker owns it; only PUBREL is to be resent.
    released: bool,
}

/// One client and its session.
pub struct MqttClient {
    options: MqttOptions,
    stream: TcpStream,
    input: Vec<u8>,
    session_present: bool,
    id: u16,
    token: u64,
    unacked: VecDeque<Unacked>,
    events: VecDeque<Event>,
}

impl MqttClient {
    /// Connects and waits for CONNACK.
    pub fn connect(options: MqttOptions) -> Result<Self, MqttError> {
        let stream = dial(&options.address, options.timeout)?;
        let mut client = Self {
            options,
            stream,
            input: Vec::new(),
            session_present: false,
            id: 0,
            token: 0,
            unacked: VecDeque::new(),
            events: VecDeque::new(),
        };
        client.greet()?;
        Ok(client)
    }

    /// Connects anew to the same session and resends, in order, everything that is not acknowledged: QoS 1 and 2 with DUP, and
    /// PUBREL where the broker had the message.
    pub fn reconnect(&mut self) -> Result<(), MqttError> {
        self.stream = dial(&self.options.address, self.options.timeout)?;
        self.input.clear();
        self.greet()?;
        let mut out = Vec::new();
        for u in &self.unacked {
            out.extend(match u.released {
                true => packet::acknowledge(PUBREL, u.id),
                false => packet::publish(self.options.level, &u.topic, &u.payload, u.qos, u.id, true),
            });
        }
        Ok(self.stream.write_all(&out)?)
    }

    /// Whether the broker had the session at the last connect.
    pub fn session_present(&self) -> bool {
        self.session_present
    }

    /// Publishes that are not acknowledged.
    pub fn unacked(&self) -> usize {
        self.unacked.len()
    }

    /// Publishes at QoS 1 or 2; the token comes back in `Event::Acked`. After an error the message is kept for `reconnect`. The
    /// caller bounds how many are unacknowledged.
    pub fn publish(&mut self, topic: &str, payload: &[u8], qos: u8) -> Result<u64, MqttError> {
        assert!(matches!(qos, 1 | 2), "QoS 0 has no acknowledgement to wait for");
        self.token += 1;
        let (token, id) = (self.token, self.free_id());
        self.unacked.push_back(Unacked {
            token,
            id,
            topic: topic.to_owned(),
            payload: payload.to_vec(),
            qos,
            released: false,
        });
        let bytes = packet::publish(self.options.level, topic, payload, qos, id, false);
        self.stream.write_all(&bytes)?;
        Ok(token)
    }

    /// The token of the newest publish: what one that failed on the wire will come back with.
    pub fn last_token(&self) -> u64 {
        self.token
    }

    /// Waits for the next event, at most `wait`.
    pub fn poll(&mut self, wait: Duration) -> Result<Event, MqttError> {
        let until = Instant::now() + wait;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            if self.digest()? {
                continue;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.read(left)? {
                return Ok(Event::Idle);
            }
        }
    }

    /// Says goodbye; the session stays as long as it was agreed.
    pub fn disconnect(mut self) -> Result<(), MqttError> {
        Ok(self.stream.write_all(&packet::DISCONNECT)?)
    }

    fn greet(&mut self) -> Result<(), MqttError> {
        self.stream.write_all(&packet::connect(&self.options, false))?;
        let until = Instant::now() + self.options.timeout;
        loop {
            match self.next_packet()? {
                Some(Packet::ConnAck {
                    session_present,
                    code: 0,
                }) => {
                    self.session_present = session_present;
                    return Ok(());
                }
                Some(Packet::ConnAck { code, .. }) => return Err(MqttError::Refused("the connection", code)),
                Some(other) => return Err(MqttError::Protocol(format!("{other:?} before CONNACK"))),
                None if !self.read(self.left(until)?)? => return Err(timed_out("CONNACK")),
                None => {}
            }
        }
    }

    /// Takes one packet from what was read; false when there is none whole.
    fn digest(&mut self) -> Result<bool, MqttError> {
        let Some(packet) = self.next_packet()? else {
            return Ok(false);
        };
        match packet {
            Packet::PubAck { id, code } => self.done(id, code),
            // A refusal ends the exchange; there is no PUBREL (MQTT 5, 4.3.3).
            Packet::PubRec { id, code } if code >= 0x80 => self.done(id, code),
            Packet::PubRec { id, .. } => {
                if let Some(unacked) = self.unacked.iter_mut().find(|u| u.id == id) {
                    unacked.released = true;
                }
                self.stream.write_all(&packet::acknowledge(PUBREL, id))?;
            }
            Packet::PubComp { id, .. } => self.done(id, 0),
            Packet::Disconnect { code } => return Err(MqttError::Refused("the connection", code)),
            Packet::ConnAck { .. } => return Err(MqttError::Protocol("a second CONNACK".to_owned())),
        }
        Ok(true)
    }

    fn done(&mut self, id: u16, code: u8) {
        if let Some(at) = self.unacked.iter().position(|u| u.id == id)
            && let Some(unacked) = self.unacked.remove(at)
        {
            self.events.push_back(Event::Acked {
                token: unacked.token,
                code,
            });
        }
    }

    fn next_packet(&mut self) -> Result<Option<Packet>, MqttError> {
        match packet::decode(&self.input).map_err(MqttError::Protocol)? {
            Some((packet, used)) => {
                self.input.drain(..used);
                Ok(Some(packet))
            }
            None => Ok(None),
        }
    }

    /// Reads what there is, waiting at most `wait`; false when there was nothing.
    fn read(&mut self, wait: Duration) -> Result<bool, MqttError> {
        self.stream.set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(MqttError::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(count) => {
                self.input.extend(&buffer[..count]);
                Ok(true)
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(false),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(true),
            Err(e) => Err(e.into()),
        }
    }

    fn left(&self, until: Instant) -> Result<Duration, MqttError> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err(timed_out("an answer"))
        } else {
            Ok(left)
        }
    }

    fn free_id(&mut self) -> u16 {
        loop {
            self.id = self.id.checked_add(1).unwrap_or(1);
            if !self.unacked.iter().any(|u| u.id == self.id) {
                return self.id;
            }
        }
    }
}

fn timed_out(what: &str) -> MqttError {
    MqttError::Io(io::Error::new(io::ErrorKind::TimedOut, format!("no {what} in time")))
}
