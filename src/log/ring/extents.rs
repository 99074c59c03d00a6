//! Ranges of a file that were written and are not in it yet. Of what overlaps, the newest counts.

use std::collections::BTreeMap;

/// Ranges by where they begin, without overlaps.
#[derive(Debug, Default)]
pub(super) struct Extents {
    ranges: BTreeMap<u64, Vec<u8>>,
    bytes: usize,
}

impl Extents {
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.ranges.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.ranges.iter().map(|(at, data)| (*at, data.as_slice()))
    }

    /// Adds a range over those that are there.
    pub(super) fn write(&mut self, at: u64, data: &[u8]) {
        match self.ranges.get_mut(&at).filter(|same| same.len() == data.len()) {
            Some(same) => same.copy_from_slice(data),
            None => self.put(at, data.to_vec()),
        }
    }

    /// Adds ranges that are newer than all that are there.
    pub(super) fn merge(&mut self, newer: Self) {
        for (at, data) in newer.ranges {
            self.put(at, data);
        }
    }

    fn put(&mut self, at: u64, data: Vec<u8>) {
        self.cut(at, at + data.len() as u64);
        self.bytes += data.len();
        self.ranges.insert(at, data);
    }

    /// Takes out the ranges for which `which` is true.
    pub(super) fn take(&mut self, which: impl Fn(u64, &[u8]) -> bool) -> Self {
        let mut taken = Self::default();
        self.ranges.retain(|at, data| {
            let stays = !which(*at, data);
            if !stays {
                taken.put(*at, std::mem::take(data));
            }
            stays
        });
        self.bytes -= taken.bytes;
        taken
    }

    /// Removes everything between two places, keeping what sticks out on either side.
    pub(super) fn cut(&mut self, from: u64, to: u64) {
        let hit: Vec<u64> = self.touching(from, to).map(|(at, _)| at).collect();
        for at in hit {
            let Some(data) = self.ranges.remove(&at) else { continue };
            self.bytes -= data.len();
            let end = at + data.len() as u64;
            let rest = |from: u64, to: u64| data[(from - at) as usize..(to - at) as usize].to_vec();
            let left = (at < from).then(|| (at, rest(at, from)));
            let right = (end > to).then(|| (to, rest(to, end)));
            for (at, part) in left.into_iter().chain(right) {
                self.bytes += part.len();
                self.ranges.insert(at, part);
            }
        }
    }

    /// Fills `out` if one range holds all of it.
    pub(super) fn read_whole(&self, at: u64, out: &mut [u8]) -> bool {
        let Some((begins, data)) = self.ranges.range(..=at).next_back() else {
            return false;
        };
        let from = (at - begins) as usize;
        let found = data.get(from..from.saturating_add(out.len()));
        found.map(|found| out.copy_from_slice(found)).is_some()
    }

    /// Lays what is here over `out`.
    pub(super) fn overlay(&self, at: u64, out: &mut [u8]) {
        let end = at + out.len() as u64;
        for (begins, data) in self.touching(at, end) {
            let (from, to) = (at.max(begins), end.min(begins + data.len() as u64));
            let part = &data[(from - begins) as usize..(to - begins) as usize];
            out[(from - at) as usize..(to - at) as usize].copy_from_slice(part);
        }
    }

    pub(super) fn touches(&self, from: u64, to: u64) -> bool {
        self.touching(from, to).next().is_some()
    }

    fn touching(&self, from: u64, to: u64) -> impl Iterator<Item = (u64, &Vec<u8>)> {
        let before_end = self.ranges.range(..to).rev();
        let hit = before_end.take_while(move |(at, data)| **at + data.len() as u64 > from);
        hit.map(|(at, data)| (*at, data))
    }
}
