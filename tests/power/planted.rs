//! Planted bugs: what the disks would see of an engine that did one thing wrong. The campaign must find each of them.
//!
//! They are planted where the disks record, not in the engine: an operation is held back, left out, or entered
//! earlier than it came.

use super::disks::{Event, File};

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// An ack goes out before its record of the ring is synced.
    AckBeforeSync,
    /// A record of the ring is not synced, now and then.
    RingSyncMissed,
    /// The last sync of a flush is missing, though the ring's space is used again.
    FlushSyncMissed,
    /// The index names bodies that are not synced.
    IndexAheadOfBodies,
    /// A record is written over others of the ring before the flush that makes them superfluous.
    RingReusedBeforeFlush,
    /// A data file is used though its name is not durable.
    FolderSyncMissed,
}

impl Planted {
    pub const ALL: [Self; 6] = [
        Self::AckBeforeSync,
        Self::RingSyncMissed,
        Self::FlushSyncMissed,
        Self::IndexAheadOfBodies,
        Self::RingReusedBeforeFlush,
        Self::FolderSyncMissed,
    ];
}

/// Records what happens, with a bug or without.
#[derive(Debug)]
pub struct Plant {
    planted: Option<Planted>,
    held: Vec<Event>,
    count: usize,
}

impl Plant {
    pub fn new(planted: Option<Planted>) -> Self {
        let (held, count) = (Vec::new(), 0);
        Self { planted, held, count }
    }

    pub fn record(&mut self, event: Event, trace: &mut Vec<Event>) {
        use Planted::*;
        let Some(planted) = self.planted else {
            return trace.push(event);
        };
        let (file, mark) = (event.file(), matches!(event, Event::Begins(_) | Event::Told(_)));
        match planted {
            AckBeforeSync if matches!(event, Event::Sync(File::Ring)) => self.held.push(event),
            AckBeforeSync if !mark => {
                trace.append(&mut self.held);
                trace.push(event);
            }
            RingSyncMissed if matches!(event, Event::Sync(File::Ring)) => {
                self.count += 1;
                if !self.count.is_multiple_of(5) {
                    trace.push(event);
                }
            }
            FlushSyncMissed if matches!(event, Event::Sync(File::Database)) => {
                trace.append(&mut self.held);
                self.held.push(event);
            }
            FlushSyncMissed if !mark => {
                // More of the same flush follows; else it was the last one.
                match file {
                    Some(File::Database) => trace.append(&mut self.held),
                    _ => self.held.clear(),
                }
                trace.push(event);
            }
            IndexAheadOfBodies => match (file, &event) {
                (Some(File::Data(_)), Event::Write { .. } | Event::Sync(_)) => self.held.push(event),
                (Some(File::Database), _) => trace.push(event),
                _ => {
                    trace.append(&mut self.held);
                    trace.push(event);
                }
            },
            RingReusedBeforeFlush => match (file, &event) {
                (Some(File::Database), _) => self.held.push(event),
                (Some(File::Ring), Event::Sync(_)) => {
                    trace.push(event);
                    trace.append(&mut self.held);
                }
                _ => trace.push(event),
            },
            FolderSyncMissed if matches!(event, Event::SyncFolder) => {}
            _ => trace.push(event),
        }
    }
}
