//! What the database says of its ring, in `Map::Meta`.

use super::layout::{Fields, damaged};
use super::ring::Applied;
use super::store::{Map, Op, Store, StoreError};

/// Key in `Map::Meta`: number u64 and CRC u32 of the newest record whose changes are in the database.
pub(super) const META_APPLIED: &[u8] = b"ring_applied";
/// Key in `Map::Meta`: the id of the ring.
pub(super) const META_RING: &[u8] = b"ring_id";

/// Operations for a new database: it has a ring of this id, and nothing of it yet.
pub fn new_ring(id: [u8; 16]) -> [Op; 2] {
    [
        Op::put(Map::Meta, META_RING, id.to_vec()),
        applied_op(Applied::default()),
    ]
}

/// The id of a database's ring, and the newest record of it that the database has.
pub(super) fn ring_of(database: &dyn Store) -> Result<([u8; 16], Applied), StoreError> {
    let meta = |key: &[u8]| {
        let value = database.point(Map::Meta, key)?;
        value.ok_or_else(|| damaged("the database does not know its ring"))
    };
    let id = meta(META_RING)?
        .try_into()
        .map_err(|_| damaged("the ring's id is not 16 bytes"))?;
    let applied = meta(META_APPLIED)?;
    let mut applied = Fields(&applied);
    let (seq, crc) = (applied.u64()?, applied.u32()?);
    Ok((id, Applied { seq, crc }))
}

/// Stores which record's changes are the newest in the database.
pub(super) fn applied_op(applied: Applied) -> Op {
    let value = [&applied.seq.to_be_bytes()[..], &applied.crc.to_be_bytes()].concat();
    Op::put(Map::Meta, META_APPLIED, value)
}
