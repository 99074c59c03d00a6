//! The messages and their numbers. Each struct's fields are in the order in which postcard writes them; the numbers are written
//! here and nowhere else, so that no order of variants can move them.
//!
//! ```text
//!  0 Hello        device → broker     8 Ping         either
//!  1 Challenge    broker → device     9 Pong         either
//!  2 HelloAck     broker → device    10 TimeRequest  device → broker
//!  3 Publish      device → broker    11 Time         broker → device
//!  4 PublishBatch device → broker    12 Command      broker → device
//!  5 Skip         device → broker    13 CommandAck   device → broker
//!  6 Ack          broker → device    14 Bye          either
//!  7 Nack         broker → device
//! ```

use serde::{Deserialize, Serialize, Serializer};

use crate::{CHANNEL_BYTES_MAX, Code, DEVICE_BYTES_MAX, NONCE_BYTES, PROOF_BYTES, SEQUENCE_MAX, VERSION, WireError};

/// Opens a session; may come again at any time, which restarts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello<'a> {
    /// Protocol version; first in every version.
    pub version: u8,
    /// Who it is: 1 to 64 bytes without control characters.
    pub device: &'a str,
    /// The life of the queue: a new one whenever sequence numbers start again.
    pub epoch: u32,
    /// The oldest sequence that the device still holds, or the one its next record will get. Counted from 1.
    pub next: u64,
    /// Largest frame after COBS decoding that the device can receive, bytes; longer commands are not sent to it.
    pub frame_bytes_max: u32,
    /// Proof of the pre-shared key over a Challenge's nonce.
    pub proof: Option<[u8; PROOF_BYTES]>,
}

/// The session is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloAck {
    /// The base of the session's times: milliseconds since 1970 on the broker's clock.
    pub time_ms: i64,
    /// The last sequence stored of this epoch; 0 for none.
    pub last: u64,
    /// How far a sequence may be ahead of the last acknowledged one.
    pub window: u32,
    /// Largest frame after COBS decoding that the broker takes, bytes.
    pub frame_bytes_max: u32,
    /// The broker ends a session that sent nothing for this long.
    pub idle_ms: u32,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish<'a> {
    /// Its sequence.
    pub sequence: u64,
    /// When it was taken, less HelloAck's time; `None` when the device does not know.
    pub time: Option<i64>,
    /// What it is about; 1 to 255 bytes.
    pub channel: &'a str,
    /// The value.
    #[serde(serialize_with = "bytes")]
    pub payload: &'a [u8],
}

/// Records with sequences one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishBatch<'a> {
    /// The sequence of the first.
    pub sequence: u64,
    /// The entries, to the end of the message.
    pub entries: Entries<'a>,
}

/// One record of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry<'a> {
    /// As in Publish.
    pub time: Option<i64>,
    /// As in Publish; empty repeats the channel of the entry before.
    pub channel: &'a str,
    /// The value.
    #[serde(serialize_with = "bytes")]
    pub payload: &'a [u8],
}

/// The encoded entries of a batch; iterating decodes them one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entries<'a>(pub &'a [u8]);

/// A record is refused, for now or for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nack {
    /// Which, or from which on.
    pub sequence: u64,
    /// A `Code`.
    pub code: u8,
    /// How long to wait before it is sent again.
    pub retry_after_ms: u32,
}

/// Answer to a TimeRequest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Time {
    /// The request's.
    pub token: u32,
    /// Milliseconds since 1970 on the broker's clock.
    pub time_ms: i64,
}

/// A command for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command<'a> {
    /// What CommandAck repeats.
    pub id: u64,
    /// The command's name: the record's header `name`, or empty.
    pub name: &'a str,
    /// The record's value.
    #[serde(serialize_with = "bytes")]
    pub payload: &'a [u8],
}

/// Any message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Message<'a> {
    Hello(Hello<'a>),
    /// The nonce for the proof.
    Challenge([u8; NONCE_BYTES]),
    HelloAck(HelloAck),
    Publish(Publish<'a>),
    PublishBatch(PublishBatch<'a>),
    /// Sequences before this one that were not sent are lost: the device dropped them.
    Skip(u64),
    /// Everything up to and including this sequence is stored, settled or known as lost.
    Ack(u64),
    Nack(Nack),
    /// A token that Pong repeats.
    Ping(u32),
    Pong(u32),
    /// A token that Time repeats.
    TimeRequest(u32),
    Time(Time),
    Command(Command<'a>),
    /// The id of the command that was carried out.
    CommandAck(u64),
    /// The session ends; with a code.
    Bye(u8),
}

// Slices would go byte by byte through serde; this is the same on the wire and fast.
fn bytes<S: Serializer>(bytes: &&[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

impl<'a> Message<'a> {
    /// Its number on the wire.
    pub fn number(&self) -> u8 {
        match self {
            Self::Hello(_) => 0,
            Self::Challenge(_) => 1,
            Self::HelloAck(_) => 2,
            Self::Publish(_) => 3,
            Self::PublishBatch(_) => 4,
            Self::Skip(_) => 5,
            Self::Ack(_) => 6,
            Self::Nack(_) => 7,
            Self::Ping(_) => 8,
            Self::Pong(_) => 9,
            Self::TimeRequest(_) => 10,
            Self::Time(_) => 11,
            Self::Command(_) => 12,
            Self::CommandAck(_) => 13,
            Self::Bye(_) => 14,
        }
    }

    /// Reads one message: number and fields, nothing left over, every field within its limits. The entries of a batch are
    /// checked as they are iterated.
    pub fn decode(buf: &'a [u8]) -> Result<Self, WireError> {
        let (number, rest) = postcard::take_from_bytes::<u32>(buf).map_err(|_| WireError::Short(buf.len()))?;
        let message = match number {
            0 => Self::Hello(hello(rest)?),
            1 => Self::Challenge(whole(number, rest)?),
            2 => Self::HelloAck(whole(number, rest)?),
            3 => Self::Publish(whole(number, rest)?),
            4 => {
                let (sequence, entries) = take(number, rest)?;
                Self::PublishBatch(PublishBatch {
                    sequence,
                    entries: Entries(entries),
                })
            }
            5 => Self::Skip(whole(number, rest)?),
            6 => Self::Ack(whole(number, rest)?),
            7 => Self::Nack(whole(number, rest)?),
            8 => Self::Ping(whole(number, rest)?),
            9 => Self::Pong(whole(number, rest)?),
            10 => Self::TimeRequest(whole(number, rest)?),
            11 => Self::Time(whole(number, rest)?),
            12 => Self::Command(whole(number, rest)?),
            13 => Self::CommandAck(whole(number, rest)?),
            14 => Self::Bye(whole(number, rest)?),
            _ => return Err(WireError::Number(number)),
        };
        message.check()?;
        Ok(message)
    }

    /// Whether every field is within its limits; encoding checks it too.
    pub(crate) fn check(&self) -> Result<(), WireError> {
        let ok = |holds: bool, field| if holds { Ok(()) } else { Err(WireError::Limit(field)) };
        let in_range = |sequence| (1..=SEQUENCE_MAX).contains(&sequence);
        match self {
            Self::Hello(hello) => {
                ok((1..=DEVICE_BYTES_MAX).contains(&hello.device.len()), "device")?;
                ok(!hello.device.chars().any(char::is_control), "device")?;
                ok(in_range(hello.next), "next")
            }
            Self::Publish(publish) => {
                ok(in_range(publish.sequence), "sequence")?;
                ok((1..=CHANNEL_BYTES_MAX).contains(&publish.channel.len()), "channel")
            }
            Self::PublishBatch(batch) => {
                ok(in_range(batch.sequence), "sequence")?;
                ok(!batch.entries.0.is_empty(), "entries")
            }
            Self::Skip(next) => ok(in_range(*next), "next"),
            Self::Command(command) => ok(command.name.len() <= CHANNEL_BYTES_MAX, "name"),
            _ => Ok(()),
        }
    }

    /// Writes number and fields to `buf` and returns how many bytes they are.
    pub(crate) fn write(&self, buf: &mut [u8]) -> Result<usize, WireError> {
        self.check()?;
        let number = self.number();
        let (first, rest) = buf.split_first_mut().ok_or(WireError::Buffer)?;
        *first = number;
        let fields = match self {
            Self::Hello(fields) => put(fields, rest),
            Self::Challenge(nonce) => put(nonce, rest),
            Self::HelloAck(fields) => put(fields, rest),
            Self::Publish(fields) => put(fields, rest),
            Self::PublishBatch(batch) => {
                let head = put(&batch.sequence, rest)?;
                let end = head.saturating_add(batch.entries.0.len());
                let place = rest.get_mut(head..end).ok_or(WireError::Buffer)?;
                place.copy_from_slice(batch.entries.0);
                Ok(end)
            }
            Self::Skip(n) | Self::Ack(n) | Self::CommandAck(n) => put(n, rest),
            Self::Nack(fields) => put(fields, rest),
            Self::Ping(token) | Self::Pong(token) | Self::TimeRequest(token) => put(token, rest),
            Self::Time(fields) => put(fields, rest),
            Self::Command(fields) => put(fields, rest),
            Self::Bye(code) => put(code, rest),
        }?;
        Ok(fields.saturating_add(1))
    }
}

impl<'a> Entries<'a> {
    /// How many entries decode.
    pub fn count_valid(self) -> usize {
        self.into_iter().filter(Result::is_ok).count()
    }
}

/// Decodes entries; ends after the first error.
#[derive(Clone, Debug)]
pub struct EntriesIter<'a> {
    rest: &'a [u8],
    channel: &'a str,
}

impl<'a> IntoIterator for Entries<'a> {
    type Item = Result<Entry<'a>, WireError>;
    type IntoIter = EntriesIter<'a>;

    fn into_iter(self) -> EntriesIter<'a> {
        EntriesIter {
            rest: self.0,
            channel: "",
        }
    }
}

impl<'a> Iterator for EntriesIter<'a> {
    type Item = Result<Entry<'a>, WireError>;

    /// The next entry, its channel filled in.
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let result = take::<Entry<'a>>(4, self.rest).and_then(|(mut entry, rest)| {
            if entry.channel.is_empty() {
                entry.channel = self.channel;
            }
            if !(1..=CHANNEL_BYTES_MAX).contains(&entry.channel.len()) {
                return Err(WireError::Limit("channel"));
            }
            Ok((entry, rest))
        });
        match result {
            Ok((entry, rest)) => {
                self.rest = rest;
                self.channel = entry.channel;
                Some(Ok(entry))
            }
            Err(error) => {
                self.rest = &[];
                Some(Err(error))
            }
        }
    }
}

fn hello(rest: &[u8]) -> Result<Hello<'_>, WireError> {
    // Another version may have other fields behind it: its number counts first.
    match rest.first() {
        Some(&VERSION) => whole(0, rest),
        Some(&version) => Err(WireError::Version(version)),
        None => Err(WireError::Fields(0)),
    }
}

fn take<'a, T: Deserialize<'a>>(number: u32, buf: &'a [u8]) -> Result<(T, &'a [u8]), WireError> {
    postcard::take_from_bytes(buf).map_err(|_| WireError::Fields(number))
}

fn whole<'a, T: Deserialize<'a>>(number: u32, buf: &'a [u8]) -> Result<T, WireError> {
    match take(number, buf)? {
        (fields, []) => Ok(fields),
        _ => Err(WireError::Fields(number)),
    }
}

pub(crate) fn put<T: Serialize>(fields: &T, buf: &mut [u8]) -> Result<usize, WireError> {
    match postcard::to_slice(fields, buf) {
        Ok(written) => Ok(written.len()),
        Err(_) => Err(WireError::Buffer),
    }
}

impl Nack {
    /// The code as such.
    pub fn code(&self) -> Code {
        Code(self.code)
    }
}
