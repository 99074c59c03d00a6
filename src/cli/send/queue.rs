//! The queue of `headwater send`: in memory, or in a file as well, so that what was taken in survives the process and keeps its
//! epoch and sequences.
//!
//! ```text
//! file    "hwq1", epoch u32, entries
//! entry   length u32 of the body, CRC-32C of the body, body            little-endian
//! body    1, sequence u64, has time u8, time i64, channel length u8, channel, payload      a record
//!         2, sequence u64                                                                  everything up to it is acknowledged
//!         3, epoch u32                                                                     what waits counts from 1 in this epoch
//! ```
//! A torn entry at the end was never sent: it is cut off. The file is written anew once nothing in it waits; it then begins with
//! an entry of kind 2. One that has no entry at all was torn in that moment: how far its epoch was used is not known, so that it
//! gets a new one.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use headwater_device::{Full, Queue, Stored};

const MAGIC: &[u8; 4] = b"hwq1";
/// Records and bytes that wait at most; then input waits.
const RECORDS_MAX: usize = 200_000;
const BYTES_MAX: usize = 64 << 20;
/// An empty queue's file is begun anew past this.
const FILE_BYTES: u64 = 1 << 20;

struct Held {
    taken_ms: Option<i64>,
    channel: Box<str>,
    payload: Box<[u8]>,
}

/// A queue in memory, with or without a file behind it.
pub struct HostQueue {
    records: VecDeque<Held>,
    bytes: usize,
    first: u64,
    epoch: u32,
    file: Option<File>,
    /// What is not written yet.
    pending: Vec<u8>,
}

impl HostQueue {
    /// One that ends with the process.
    pub fn volatile(epoch: u32) -> Self {
        Self {
            records: VecDeque::new(),
            bytes: 0,
            first: 1,
            epoch,
            file: None,
            pending: Vec::new(),
        }
    }

    /// One in a file, which is made with `epoch` if it is not there.
    pub fn open(path: &Path, epoch: u32) -> io::Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        file.try_lock()
            .map_err(|_| io::Error::other("another process has it"))?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        let mut queue = Self::volatile(epoch);
        if !MAGIC.starts_with(content.get(..4).unwrap_or(&content)) {
            return Err(io::Error::other("this is no queue of headwater send"));
        }
        if content.get(8..).and_then(entry).is_none() {
            queue.file = Some(file);
            queue.begin_file()?;
            return Ok(queue);
        }
        queue.epoch = u32::from_le_bytes([content[4], content[5], content[6], content[7]]);
        let mut at = 8;
        while let Some(body) = entry(&content[at..]) {
            queue.replay(body);
            at += 8 + body.len();
        }
        file.set_len(at as u64)?;
        file.seek(SeekFrom::End(0))?;
        queue.file = Some(file);
        Ok(queue)
    }

    /// The epoch of its sequences.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Takes another epoch, for `Client::renew`, which renumbers.
    pub fn set_epoch(&mut self, epoch: u32) {
        self.epoch = epoch;
    }

    /// Records that wait for their Ack.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Makes durable what was taken in. Before anything of it is sent: a sequence must never be given twice.
    pub fn sync(&mut self) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            self.pending.clear();
            return Ok(());
        };
        if !self.pending.is_empty() {
            file.write_all(&self.pending)?;
            self.pending.clear();
            file.sync_data()?;
        }
        Ok(())
    }

    fn begin_file(&mut self) -> io::Result<()> {
        self.pending.clear();
        self.pending.extend_from_slice(MAGIC);
        self.pending.extend_from_slice(&self.epoch.to_le_bytes());
        let last = self.first - 1;
        self.log(&ack(last));
        if let Some(file) = &mut self.file {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
        }
        self.sync()
    }

    fn log(&mut self, body: &[u8]) {
        let length = u32::try_from(body.len()).expect("a record is far smaller");
        self.pending.extend_from_slice(&length.to_le_bytes());
        self.pending.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
        self.pending.extend_from_slice(body);
    }

    fn replay(&mut self, body: &[u8]) {
        let number = |at: usize| {
            body.get(at..at + 8)
                .and_then(|b| b.try_into().ok())
                .map(u64::from_le_bytes)
        };
        match (body[0], number(1), number(10)) {
            (2, Some(sequence), _) => {
                self.drop_until(sequence);
                if self.records.is_empty() {
                    self.first = self.first.max(sequence + 1);
                }
            }
            (3, ..) => {
                if let Some(epoch) = body.get(1..).and_then(|b| b.try_into().ok()) {
                    self.epoch = u32::from_le_bytes(epoch);
                    self.first = 1;
                }
            }
            (1, _, Some(time)) if body.len() > 18 => {
                let channel_end = 19 + usize::from(body[18]);
                let channel = body
                    .get(19..channel_end)
                    .map(String::from_utf8_lossy)
                    .unwrap_or_default();
                self.keep(Held {
                    taken_ms: (body[9] != 0).then_some(time as i64),
                    channel: channel.into(),
                    payload: body.get(channel_end..).unwrap_or_default().into(),
                });
            }
            _ => {}
        }
    }

    fn keep(&mut self, held: Held) {
        self.bytes += held.channel.len() + held.payload.len();
        self.records.push_back(held);
    }

    fn drop_until(&mut self, last: u64) {
        while self.first <= last
            && let Some(held) = self.records.pop_front()
        {
            self.bytes -= held.channel.len() + held.payload.len();
            self.first += 1;
        }
    }
}

impl Queue for HostQueue {
    fn first(&self) -> u64 {
        self.first
    }

    fn next(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    fn push(&mut self, stored: Stored<'_>) -> Result<u64, Full> {
        let fits = (1..=255).contains(&stored.channel.len());
        if !fits || self.records.len() >= RECORDS_MAX || self.bytes >= BYTES_MAX {
            return Err(Full);
        }
        let sequence = self.next();
        let held = Held {
            taken_ms: stored.taken_ms,
            channel: stored.channel.into(),
            payload: stored.payload.into(),
        };
        if self.file.is_some() {
            let body = record(sequence, &held);
            self.log(&body);
        }
        self.keep(held);
        Ok(sequence)
    }

    fn read(&mut self, sequence: u64) -> Option<Stored<'_>> {
        let at = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        let held = self.records.get(at)?;
        Some(Stored {
            taken_ms: held.taken_ms,
            channel: &held.channel,
            payload: &held.payload,
        })
    }

    fn release(&mut self, last: u64) {
        let first = self.first;
        self.drop_until(last);
        if self.first == first || self.file.is_none() {
            return;
        }
        self.log(&ack(self.first - 1));
        let long = self
            .file
            .as_mut()
            .and_then(|f| f.stream_position().ok())
            .is_some_and(|at| at > FILE_BYTES);
        if long && self.records.is_empty() {
            // Writing anew is only thrift: what fails here fails again, and is told, at the next sync.
            let _ = self.begin_file();
        }
    }

    fn renumber(&mut self) {
        self.first = 1;
        if self.file.is_some() {
            let epoch = self.epoch.to_le_bytes();
            self.log(&[3, epoch[0], epoch[1], epoch[2], epoch[3]]);
        }
    }
}

fn entry(rest: &[u8]) -> Option<&[u8]> {
    let number = |at: usize| {
        rest.get(at..at + 4)
            .and_then(|b| b.try_into().ok())
            .map(u32::from_le_bytes)
    };
    let body = rest.get(8..8usize.checked_add(number(0)? as usize)?)?;
    (!body.is_empty() && crc32c::crc32c(body) == number(4)?).then_some(body)
}

fn record(sequence: u64, held: &Held) -> Vec<u8> {
    let mut body = vec![1];
    body.extend_from_slice(&sequence.to_le_bytes());
    body.push(u8::from(held.taken_ms.is_some()));
    body.extend_from_slice(&held.taken_ms.unwrap_or(0).to_le_bytes());
    body.push(held.channel.len() as u8);
    body.extend_from_slice(held.channel.as_bytes());
    body.extend_from_slice(&held.payload);
    body
}

fn ack(sequence: u64) -> Vec<u8> {
    let mut body = vec![2];
    body.extend_from_slice(&sequence.to_le_bytes());
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(payload: &[u8]) -> Stored<'_> {
        Stored {
            taken_ms: Some(-7),
            channel: "t",
            payload,
        }
    }

    #[test]
    fn what_waits_survives_with_its_sequence_and_a_torn_end_is_cut() {
        let path = std::env::temp_dir().join(format!("headwater-send-queue-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let mut queue = HostQueue::open(&path, 42).unwrap();
        for payload in [b"a", b"b", b"c"] {
            queue.push(reading(payload)).unwrap();
        }
        queue.release(1);
        queue.sync().unwrap();
        drop(queue);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&[30, 0, 0, 0, 1, 2, 3]).unwrap();
        drop(file);
        let mut queue = HostQueue::open(&path, 43).unwrap();
        assert_eq!((queue.epoch(), queue.first(), queue.next()), (42, 2, 4));
        assert_eq!(queue.read(3), Some(reading(b"c")));
        assert_eq!(queue.read(1), None);
        queue.release(3);
        queue.sync().unwrap();
        drop(queue);
        let queue = HostQueue::open(&path, 43).unwrap();
        assert_eq!((queue.first(), queue.next()), (4, 4));
        drop(queue);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_waits_goes_on_in_a_new_epoch_and_a_file_without_an_entry_gets_one() {
        let path = std::env::temp_dir().join(format!("headwater-send-epoch-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let mut queue = HostQueue::open(&path, 42).unwrap();
        for payload in [b"a", b"b", b"c"] {
            queue.push(reading(payload)).unwrap();
        }
        queue.release(1);
        queue.set_epoch(77);
        queue.renumber();
        assert_eq!(queue.push(reading(b"d")), Ok(3));
        queue.sync().unwrap();
        drop(queue);
        let mut queue = HostQueue::open(&path, 43).unwrap();
        assert_eq!((queue.epoch(), queue.first(), queue.next()), (77, 1, 4));
        assert_eq!(queue.read(1), Some(reading(b"b")));
        assert_eq!(queue.read(3), Some(reading(b"d")));
        drop(queue);
        // Nothing behind the header: nobody knows how many sequences of epoch 77 were given.
        OpenOptions::new().write(true).open(&path).unwrap().set_len(8).unwrap();
        let queue = HostQueue::open(&path, 44).unwrap();
        assert_eq!((queue.epoch(), queue.next()), (44, 1));
        drop(queue);
        std::fs::write(&path, "another file").unwrap();
        assert!(HostQueue::open(&path, 45).is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
