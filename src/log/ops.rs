//! The operations of a commit as the body of a record of the ring. Little-endian:
//! ```text
//! operations u32, then for each: map u8 | what u8 (0 put, 1 delete, 2 delete until, 3 put with a body, 4 put with a body in a data
//!     file) | key bytes u32 | key | value bytes u32 | value | 3: body bytes u32 | body | 4: place of 20 bytes | CRC-32C of the body u32
//! ```
//! The value of a put is what is stored, of "delete until" the key that stays.

use bytes::{Buf, Bytes};

use super::bodies::{Extent, Placed};
use super::layout::damaged;
use super::store::{Change, Map, Op, StoreError};

/// An operation as it was found.
pub(super) struct FoundOp {
    pub(super) op: Op,
    /// Its body is not in it but there.
    pub(super) placed: Option<Placed>,
}

/// Bytes that the operations take; the bodies that can be are elsewhere if `placed`.
pub(super) fn encoded_bytes(ops: &[Op], placed: bool) -> usize {
    let of_body = |op: &Op| match body(op) {
        _ if placed && placeable(op).is_some() => Extent::ENCODED + 4,
        Some(slices) => 4 + total(slices),
        None => 0,
    };
    let bytes = |op: &Op| 10 + op.key.len() + value_bytes(op) + of_body(op);
    4 + ops.iter().map(bytes).sum::<usize>()
}

/// The body of an operation that may lie in its place from the start. That of a journal row is laid together with others by the flush,
/// which needs it in memory.
pub(super) fn placeable(op: &Op) -> Option<&[Bytes]> {
    body(op).filter(|_| op.map == Map::Segments)
}

/// Bytes of all such bodies.
pub(super) fn placeable_bytes(ops: &[Op]) -> usize {
    ops.iter().filter_map(placeable).map(total).sum()
}

fn total(slices: &[Bytes]) -> usize {
    slices.iter().map(Bytes::len).sum()
}

/// The body of a put that has one.
fn body(op: &Op) -> Option<&[Bytes]> {
    match &op.change {
        Change::PutLong { body, .. } => Some(body),
        _ => None,
    }
}

fn value_bytes(op: &Op) -> usize {
    match &op.change {
        Change::Put(slices) => total(slices),
        Change::PutLong { head, .. } => head.len(),
        Change::Delete => 0,
        Change::DeleteUntil(until) => until.len(),
    }
}

/// Appends the operations to `out`; with the places of the bodies that can be elsewhere, in order, if they are.
pub(super) fn encode(ops: &[Op], placed: Option<&[Placed]>, out: &mut Vec<u8>) {
    let mut places = placed.unwrap_or_default().iter();
    out.extend_from_slice(&(ops.len() as u32).to_le_bytes());
    for op in ops {
        let what = match op.change {
            Change::Put(_) => 0,
            Change::Delete => 1,
            Change::DeleteUntil(_) => 2,
            Change::PutLong { .. } => 3 + u8::from(placed.is_some() && placeable(op).is_some()),
        };
        out.extend_from_slice(&[op.map.number(), what]);
        out.extend_from_slice(&(op.key.len() as u32).to_le_bytes());
        out.extend_from_slice(&op.key);
        out.extend_from_slice(&(value_bytes(op) as u32).to_le_bytes());
        match &op.change {
            Change::Put(slices) => slices.iter().for_each(|slice| out.extend_from_slice(slice)),
            Change::Delete => {}
            Change::DeleteUntil(until) => out.extend_from_slice(until),
            Change::PutLong { head, body } => {
                out.extend_from_slice(head);
                if what == 4 {
                    let placed = places.next().expect("every body has a place");
                    out.extend_from_slice(&placed.extent.encode());
                    out.extend_from_slice(&placed.crc.to_le_bytes());
                } else {
                    out.extend_from_slice(&(total(body) as u32).to_le_bytes());
                    body.iter().for_each(|slice| out.extend_from_slice(slice));
                }
            }
        }
    }
}

/// Reads what `encode` wrote. Its bytes had their CRC checked: what does not fit is our own fault or a format not known here.
pub(super) fn decode(body: Vec<u8>) -> Result<Vec<FoundOp>, StoreError> {
    let mut rest = Bytes::from(body);
    let short = |_| damaged("a record of the ring ends inside of an operation");
    let count = rest.try_get_u32_le().map_err(short)?;
    let mut ops = Vec::new();
    for _ in 0..count {
        let number = rest.try_get_u8().map_err(short)?;
        let what = rest.try_get_u8().map_err(short)?;
        let key = part(&mut rest)?;
        let value = part(&mut rest)?;
        let unknown = |name: &str, number: u8| damaged(format!("a record of the ring has {name} {number}"));
        let map = Map::of_number(number).ok_or_else(|| unknown("map", number))?;
        let mut placed = None;
        let change = match what {
            0 => Change::Put(vec![value]),
            1 => Change::Delete,
            2 => Change::DeleteUntil(value.to_vec()),
            3 => Change::PutLong {
                head: value,
                body: vec![part(&mut rest)?],
            },
            4 => {
                let place = (Extent::ENCODED <= rest.len()).then(|| rest.split_to(Extent::ENCODED));
                let place = Extent::decode(&place.unwrap_or_default())?.0;
                let extent = place.ok_or_else(|| damaged("a record of the ring has a place that cannot be"))?;
                let crc = rest.try_get_u32_le().map_err(short)?;
                placed = Some(Placed { extent, crc });
                Change::PutLong {
                    head: value,
                    body: Vec::new(),
                }
            }
            other => return Err(unknown("change", other)),
        };
        let op = Op {
            map,
            key: key.to_vec(),
            change,
        };
        ops.push(FoundOp { op, placed });
    }
    Ok(ops)
}

fn part(rest: &mut Bytes) -> Result<Bytes, StoreError> {
    let bytes = rest.try_get_u32_le().map(|bytes| bytes as usize);
    match bytes {
        Ok(bytes) if bytes <= rest.len() => Ok(rest.split_to(bytes)),
        _ => Err(damaged("a record of the ring ends inside of an operation")),
    }
}
