//! The operations of a commit as the body of a record of the ring. Little-endian:
//! ```text
//! operations u32, then for each: map u8 | what u8 (0 put, 1 delete, 2 delete until, 3 put with a body) | key bytes u32 | key
//!     | value bytes u32 | value | with a body: body bytes u32 | body
//! ```
//! The value of a put is what is stored, of "delete until" the key that stays.

use bytes::{Buf, Bytes};

use super::layout::damaged;
use super::store::{Change, Map, Op, StoreError};

/// Bytes that the operations take.
pub(super) fn encoded_bytes(ops: &[Op]) -> usize {
    4 + ops
        .iter()
        .map(|op| 10 + op.key.len() + value_bytes(op) + body(op).map_or(0, |body| 4 + total(body)))
        .sum::<usize>()
}

fn total(slices: &[Bytes]) -> usize {
    slices.iter().map(Bytes::len).sum()
}

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

/// Appends the operations to `out`.
pub(super) fn encode(ops: &[Op], out: &mut Vec<u8>) {
    out.extend_from_slice(&(ops.len() as u32).to_le_bytes());
    for op in ops {
        let what = match op.change {
            Change::Put(_) => 0,
            Change::Delete => 1,
            Change::DeleteUntil(_) => 2,
            Change::PutLong { .. } => 3,
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
                out.extend_from_slice(&(total(body) as u32).to_le_bytes());
                body.iter().for_each(|slice| out.extend_from_slice(slice));
            }
        }
    }
}

/// Reads what `encode` wrote. Its bytes had their CRC checked: what does not fit is our own fault or a format not known here.
pub(super) fn decode(body: Vec<u8>) -> Result<Vec<Op>, StoreError> {
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
        let change = match what {
            0 => Change::Put(vec![value]),
            1 => Change::Delete,
            2 => Change::DeleteUntil(value.to_vec()),
            3 => Change::PutLong {
                head: value,
                body: vec![part(&mut rest)?],
            },
            other => return Err(unknown("change", other)),
        };
        let key = key.to_vec();
        ops.push(Op { map, key, change });
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
