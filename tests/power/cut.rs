//! A power cut: what a machine finds on its disks when it is switched on again. What was synced before is there. Of
//! what came after, any sector may be there or not, in whatever order it was written; so may lengths, holes, and
//! names of files.

use std::collections::BTreeMap;

use super::disks::{Event, File, Image, put};

/// How a cut treats what was not synced.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// So many of the events have happened.
    pub at: usize,
    /// What the disk writes at once: 512 or 4,096 bytes.
    pub sector: usize,
    /// Percent of the sectors, lengths, holes and names that are kept.
    pub kept_percent: u8,
    /// A write is there whole or not at all.
    pub whole_writes: bool,
    /// Percent of the syncs that the disk confirmed and did not do.
    pub lies_percent: u8,
    pub seed: u64,
}

impl Cut {
    /// A cut at that place by an honest disk.
    pub fn honest(at: usize, rng: &mut fastrand::Rng) -> Self {
        Self {
            at,
            sector: if rng.bool() { 512 } else { 4096 },
            kept_percent: [0, 10, 50, 50, 50, 90, 100][rng.usize(..7)],
            whole_writes: rng.u8(..4) == 0,
            lies_percent: 0,
            seed: rng.u64(..),
        }
    }

    /// What is on the disks after it.
    pub fn apply(&self, before: &Image, trace: &[Event]) -> Image {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let mut durable = before.clone();
        let mut pending: BTreeMap<File, Vec<Event>> = BTreeMap::new();
        // Data files by name, as they are durable; and what was done to names since.
        let mut names: Vec<File> = before.keys().copied().collect();
        let mut renamed: Vec<(File, bool)> = Vec::new();
        for event in &trace[..self.at] {
            match event {
                Event::Sync(_) | Event::SyncFolder if rng.u8(..100) < self.lies_percent => {}
                Event::Sync(file) => {
                    for event in pending.remove(file).unwrap_or_default() {
                        apply(durable.entry(*file).or_default(), &event);
                    }
                }
                Event::SyncFolder => renamed.drain(..).for_each(|change| rename(&mut names, change)),
                Event::Create(number) => {
                    let file = File::Data(*number);
                    let emptied = Event::SetLen { file, len: 0 };
                    pending.entry(file).or_default().push(emptied);
                    renamed.push((file, true));
                }
                Event::Remove(number) => renamed.push((File::Data(*number), false)),
                Event::Begins(_) | Event::Told(_) => {}
                Event::Write { file, .. } | Event::SetLen { file, .. } | Event::Punch { file, .. } => {
                    pending.entry(*file).or_default().push(event.clone());
                }
            }
        }
        for (file, events) in pending {
            let bytes = durable.entry(file).or_default();
            events.iter().for_each(|event| self.tear(bytes, event, &mut rng));
        }
        for change in renamed {
            if self.keeps(&mut rng) {
                rename(&mut names, change);
            }
        }
        durable.retain(|file, _| names.contains(file));
        for file in names {
            durable.entry(file).or_default();
        }
        durable
    }

    fn keeps(&self, rng: &mut fastrand::Rng) -> bool {
        rng.u8(..100) < self.kept_percent
    }

    /// Applies some of what was not synced.
    fn tear(&self, bytes: &mut Vec<u8>, event: &Event, rng: &mut fastrand::Rng) {
        let (begins, len) = match event {
            Event::Write { at, data, .. } => (*at, data.len()),
            Event::Punch { at, len, .. } => (*at, *len),
            _ if self.keeps(rng) => return apply(bytes, event),
            _ => return,
        };
        if self.whole_writes {
            if self.keeps(rng) {
                apply(bytes, event);
            }
            return;
        }
        // Holes are made of blocks of the file system.
        let sector = if matches!(event, Event::Punch { .. }) {
            4096
        } else {
            self.sector
        };
        let mut from = begins;
        while from < begins + len {
            let until = ((from / sector + 1) * sector).min(begins + len);
            if self.keeps(rng) {
                match event {
                    Event::Write { data, .. } => put(bytes, from, &data[from - begins..until - begins]),
                    _ => punch(bytes, from, until),
                }
            }
            from = until;
        }
    }
}

fn apply(bytes: &mut Vec<u8>, event: &Event) {
    match event {
        Event::Write { at, data, .. } => put(bytes, *at, data),
        Event::SetLen { len, .. } => bytes.resize(*len, 0),
        Event::Punch { at, len, .. } => punch(bytes, *at, at + len),
        _ => {}
    }
}

fn punch(bytes: &mut [u8], from: usize, until: usize) {
    let until = until.min(bytes.len());
    if from < until {
        bytes[from..until].fill(0);
    }
}

fn rename(names: &mut Vec<File>, (file, there): (File, bool)) {
    names.retain(|name| *name != file);
    if there {
        names.push(file);
    }
}
