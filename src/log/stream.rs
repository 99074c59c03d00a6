//! A backup as a stream of bytes: what a new store is filled with, commit by commit, and at its end what it holds. It can be made and
//! taken in on the way, without a second copy of anything; what is torn off or altered is found out.
//!
//! ```text
//! head   "HWBACKUP" | version u32, 1 | store id 16 | generation u32 | taken ms i64 | crc-32c u32 of all that
//! frame  kind u8 | body bytes u32 | body | crc-32c u32 of the CRC before and of all that
//! kinds  1 operations, as a record of the ring has them (`ops`)   2 the end: what was copied, JSON
//! ```
//! Numbers are little-endian. Each CRC covers the one before: a frame that is missing is found, too.

use std::io::{Error as IoError, ErrorKind, Read, Write};
use std::path::Path;

use super::build::Building;
use super::copy::{CopyReport, copy};
use super::depot::{Identity, origin_op};
use super::layout::FORMAT;
use super::ops;
use super::repair::{CopyError, Fresh, identity};
use super::store::{Op, StoreError};
use super::survey::Survey;

const MAGIC: &[u8; 8] = b"HWBACKUP";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 44;
const OPERATIONS: u8 = 1;
const END: u8 = 2;
/// No commit that was written has a longer body: a batch has at most 64 MiB.
const BODY_BYTES_MAX: u32 = 128 << 20;

/// Takes the bytes of a backup.
pub type Sink<'a> = dyn FnMut(Vec<u8>) -> Result<(), IoError> + 'a;

/// Writes a backup.
pub(super) struct StreamWriter<'a> {
    sink: &'a mut Sink<'a>,
    crc: u32,
}

impl<'a> StreamWriter<'a> {
    /// Writes its head.
    pub(super) fn begin(sink: &'a mut Sink<'_>, of: Identity, taken_ms: i64) -> Result<Self, StoreError> {
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&VERSION.to_le_bytes());
        head.extend_from_slice(&of.store_id);
        head.extend_from_slice(&of.generation.to_le_bytes());
        head.extend_from_slice(&taken_ms.to_le_bytes());
        let crc = crc32c::crc32c(&head);
        head.extend_from_slice(&crc.to_le_bytes());
        sink(head).map_err(|error| written(&error))?;
        Ok(Self { sink, crc })
    }

    /// Adds the operations of one commit.
    pub(super) fn put(&mut self, operations: &[Op]) -> Result<(), StoreError> {
        self.frame(OPERATIONS, ops::encoded_bytes(operations, false), |out| {
            ops::encode(operations, None, out)
        })
    }

    /// Ends it.
    pub(super) fn finish(mut self, report: &CopyReport) -> Result<(), StoreError> {
        let body = serde_json::to_vec(report).map_err(|error| StoreError::Io(error.to_string()))?;
        self.frame(END, body.len(), |out| out.extend_from_slice(&body))
    }

    fn frame(&mut self, kind: u8, bytes: usize, body: impl FnOnce(&mut Vec<u8>)) -> Result<(), StoreError> {
        let mut frame = Vec::with_capacity(bytes + 9);
        frame.push(kind);
        frame.extend_from_slice(&(bytes as u32).to_le_bytes());
        body(&mut frame);
        self.crc = after(self.crc, &frame);
        frame.extend_from_slice(&self.crc.to_le_bytes());
        (self.sink)(frame).map_err(|error| written(&error))
    }
}

fn written(error: &IoError) -> StoreError {
    StoreError::Io(error.to_string())
}

fn after(crc: u32, frame: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&crc.to_le_bytes()), frame)
}

/// Reads a backup.
struct StreamReader<'a> {
    input: &'a mut dyn Read,
    crc: u32,
}

/// A frame, checked.
struct Frame {
    kind: u8,
    /// All of it, as it was read.
    whole: Vec<u8>,
}

impl Frame {
    fn body(&self) -> &[u8] {
        &self.whole[5..self.whole.len() - 4]
    }
}

impl<'a> StreamReader<'a> {
    /// Reads its head; gives that, and of which store it is and when it was taken.
    fn begin(input: &'a mut dyn Read) -> Result<(Self, [u8; HEAD_BYTES], Identity, i64), CopyError> {
        let mut head = [0; HEAD_BYTES];
        input.read_exact(&mut head).map_err(|error| torn(&error))?;
        let mut at = 0;
        let mut next = |bytes: usize| {
            at += bytes;
            &head[at - bytes..at]
        };
        if next(8) != MAGIC {
            return Err(CopyError::Torn("it does not begin as one".into()));
        }
        let version = number(next(4));
        let mut store_id = [0; 16];
        store_id.copy_from_slice(next(16));
        let generation = number(next(4));
        let taken_ms = (u64::from(number(next(4))) | u64::from(number(next(4))) << 32) as i64;
        let crc = number(next(4));
        if crc != crc32c::crc32c(&head[..HEAD_BYTES - 4]) {
            return Err(CopyError::Torn("its head is damaged".into()));
        }
        if version != VERSION {
            let why = format!("it has version {version}, this headwater knows {VERSION}");
            return Err(CopyError::Torn(why));
        }
        let identity = Identity {
            format: FORMAT,
            store_id,
            generation,
        };
        Ok((Self { input, crc }, head, identity, taken_ms))
    }

    fn next(&mut self) -> Result<Frame, CopyError> {
        let mut whole = vec![0; 5];
        self.input.read_exact(&mut whole).map_err(|error| torn(&error))?;
        let (kind, bytes) = (whole[0], number(&whole[1..]));
        if bytes > BODY_BYTES_MAX {
            return Err(CopyError::Torn(format!("a part of it says that it has {bytes} bytes")));
        }
        let rest = u64::from(bytes) + 4;
        let read = self.input.take(rest).read_to_end(&mut whole);
        if read.map_err(|error| torn(&error))? as u64 != rest {
            return Err(torn(&ErrorKind::UnexpectedEof.into()));
        }
        let (frame, crc) = whole.split_at(whole.len() - 4);
        self.crc = after(self.crc, frame);
        if number(crc) != self.crc {
            return Err(CopyError::Torn("a checksum in it is wrong".into()));
        }
        Ok(Frame { kind, whole })
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk().copied().map_or(0, u32::from_le_bytes)
}

fn torn(error: &IoError) -> CopyError {
    match error.kind() {
        ErrorKind::UnexpectedEof => CopyError::Torn("it ends in the middle".into()),
        _ => CopyError::Torn(error.to_string()),
    }
}

/// Reads frame by frame up to the end; gives what is said there.
fn each(
    reader: &mut StreamReader<'_>,
    take: &mut dyn FnMut(&Frame) -> Result<(), CopyError>,
) -> Result<CopyReport, CopyError> {
    loop {
        let frame = reader.next()?;
        take(&frame)?;
        if frame.kind == END {
            return serde_json::from_slice(frame.body()).map_err(|error| CopyError::Torn(error.to_string()));
        }
    }
}

/// Makes a new directory of a backup, under the id of `fresh`; where it comes from stays known.
pub fn restore(input: &mut dyn Read, to: &Path, fresh: &Fresh) -> Result<CopyReport, CopyError> {
    let (mut reader, _, of, taken_ms) = StreamReader::begin(input)?;
    let identity = Identity {
        store_id: fresh.store_id,
        ..of
    };
    let building = Building::begin(to, identity, fresh.ring_seed).map_err(CopyError::To)?;
    let put = |ops: &[Op]| building.put(ops).map_err(CopyError::Write);
    put(&[origin_op(of.store_id, taken_ms)])?;
    let report = each(&mut reader, &mut |frame| match frame.kind {
        OPERATIONS => {
            let ops = ops::decode(frame.body().to_vec()).map_err(|error| CopyError::Torn(error.to_string()))?;
            // Bodies that are elsewhere are so in a ring only.
            if ops.iter().any(|found| found.placed.is_some()) {
                return Err(CopyError::Torn("it names what is not in it".into()));
            }
            put(&ops.into_iter().map(|found| found.op).collect::<Vec<_>>())
        }
        END => Ok(()),
        kind => Err(CopyError::Torn(format!("it has a part of kind {kind}"))),
    })?;
    building.finish().map_err(CopyError::Write)?;
    Ok(report)
}

/// Hands a backup on as it is, and checks it on the way.
pub fn relay(input: &mut dyn Read, output: &mut dyn Write) -> Result<CopyReport, CopyError> {
    let gone = |error: IoError| CopyError::Output(error);
    let (mut reader, head, ..) = StreamReader::begin(input)?;
    output.write_all(&head).map_err(gone)?;
    let report = each(&mut reader, &mut |frame| output.write_all(&frame.whole).map_err(gone))?;
    output.flush().map_err(gone)?;
    Ok(report)
}

/// A backup of a directory that nobody serves: of what is intact in it.
pub fn stream_directory(from: &Path, output: &mut dyn Write, now_ms: i64) -> Result<CopyReport, CopyError> {
    let mut survey = Survey::open(from).map_err(CopyError::From)?;
    let of = identity(&survey)?;
    let mut gone = None;
    let mut sink = |bytes: Vec<u8>| {
        output.write_all(&bytes).map_err(|error| {
            let kind = error.kind();
            gone = Some(error);
            kind.into()
        })
    };
    let streamed = (|| {
        let mut writer = StreamWriter::begin(&mut sink, of, now_ms)?;
        let report = copy(&mut survey, now_ms, &mut |ops| writer.put(ops))?;
        writer.finish(&report)?;
        Ok(report)
    })();
    match (streamed, gone) {
        (_, Some(error)) => Err(CopyError::Output(error)),
        (streamed, None) => {
            output.flush().map_err(CopyError::Output)?;
            streamed.map_err(CopyError::Write)
        }
    }
}
