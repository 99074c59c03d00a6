//! How the store treats its disk: like a card, which is slow to begin a write and wears by it, or like any other.

use crate::config::Profile;

use super::bodies::FILE_BYTES;
use super::media::Media;
use super::quota::unnamed_bytes;
use super::ring::{BLOCK, RING_BYTES, RING_BYTES_MAX};

/// What cards write and clear at a time, or a part of it: their allocation units are 4 MiB and multiples of it.
const CARD_UNIT: u64 = 4 << 20;
/// What a card programs at a time: a write that begins elsewhere costs it the page before, too.
const CARD_PAGE: u64 = 16 << 10;

/// Which way the store goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Any disk that begins a write quickly.
    Ssd,
    /// A memory card.
    Sd,
}

/// The way that was chosen, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Which.
    pub way: Way,
    /// Why, in a word for a metric: `configured`, `card`, `other_disk`, `no_disk`.
    pub cause: &'static str,
    /// The same for people.
    pub why: String,
}

/// How large the files of a store may become, and how they are written.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// A new ring.
    pub ring_bytes: u64,
    /// The ring grows up to this.
    pub ring_bytes_max: u64,
    /// A data file gets no more bodies behind this.
    pub file_bytes: u64,
    /// So many bytes of a data file are made ready at a time; none if 0.
    pub ready_bytes: u64,
    /// What is not smaller begins at a multiple of this in its file; of 4,096.
    pub align_bytes: u64,
    /// A commit with so many bytes of bodies writes them to a data file itself.
    pub once_bytes: usize,
    /// A flush is due when so much waits in memory.
    pub waiting_bytes: usize,
    /// The same for so much of the ring.
    pub waiting_ring_bytes: u64,
    /// The same for so many bytes of bodies that commits wrote to a data file themselves, and the database does not name yet: an
    /// opening has to read them all.
    pub unnamed_bytes: u64,
    /// The journal in the database is laid together when so much of it is there.
    pub journal_bytes: u64,
}

impl Way {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ssd => "ssd",
            Self::Sd => "sd",
        }
    }

    /// Wait before a commit where the configuration names none, microseconds. A commit costs a card milliseconds, and what comes
    /// meanwhile shares it.
    pub fn linger_us(self) -> Option<u64> {
        match self {
            Self::Ssd => None,
            Self::Sd => Some(5_000),
        }
    }

    /// The sizes of the store's files.
    pub(super) fn sizes(self) -> Sizes {
        match self {
            Self::Ssd => Sizes::default(),
            // A flush costs some ten runs whatever it brings, so it brings more; bodies are written once where a second run costs
            // less than to write them again.
            Self::Sd => Sizes {
                ring_bytes: 4 * CARD_UNIT,
                ring_bytes_max: 8 * CARD_UNIT,
                file_bytes: FILE_BYTES,
                ready_bytes: CARD_UNIT,
                align_bytes: CARD_PAGE,
                once_bytes: 64 << 10,
                waiting_bytes: 6 << 20,
                waiting_ring_bytes: 2 * CARD_UNIT,
                ..Sizes::default()
            },
        }
    }
}

impl Sizes {
    /// Below a quota of so many bytes: what grows takes from it, and what is given back late must not be much of it.
    pub(super) fn within(self, quota_bytes: u64) -> Self {
        let unnamed_bytes = unnamed_bytes(quota_bytes);
        Self {
            // A small one leaves the ring as it is made.
            ring_bytes_max: self.ring_bytes_max.min((quota_bytes / 8).max(self.ring_bytes)),
            unnamed_bytes: self.unnamed_bytes.min(unnamed_bytes),
            journal_bytes: self.journal_bytes.min(unnamed_bytes),
            ..self
        }
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            ring_bytes: RING_BYTES,
            ring_bytes_max: RING_BYTES_MAX,
            file_bytes: FILE_BYTES,
            ready_bytes: 0,
            align_bytes: BLOCK,
            once_bytes: 512 << 10,
            waiting_bytes: 2 << 20,
            waiting_ring_bytes: RING_BYTES / 2,
            unnamed_bytes: 16 << 20,
            journal_bytes: 8 << 20,
        }
    }
}

/// Chooses for a directory that lies on these disks.
pub fn choose(profile: Profile, media: &Media) -> Chosen {
    let (way, cause, why) = match profile {
        Profile::Ssd => (Way::Ssd, "configured", "storage.profile says so".to_owned()),
        Profile::Sd => (Way::Sd, "configured", "storage.profile says so".to_owned()),
        Profile::Auto => match (media.card(), media.disks.is_empty()) {
            (Some(card), _) => (Way::Sd, "card", format!("the data directory lies on {}", card.name)),
            (None, false) => {
                let why = format!("the data directory lies on {}, which is no card", media.names());
                (Way::Ssd, "other_disk", why)
            }
            (None, true) => {
                let why = "no disk is to be found under the data directory".to_owned();
                (Way::Ssd, "no_disk", why)
            }
        },
    };
    Chosen { way, cause, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_configured_wins_and_auto_needs_a_card() {
        let none = Media::default();
        let chosen = |profile| choose(profile, &none);
        assert_eq!(chosen(Profile::Sd).way, Way::Sd);
        assert_eq!(chosen(Profile::Ssd).cause, "configured");
        let auto = chosen(Profile::Auto);
        assert_eq!((auto.way, auto.cause), (Way::Ssd, "no_disk"));
    }

    #[test]
    fn the_files_of_a_card_are_made_of_its_units() {
        let sizes = Way::Sd.sizes();
        for bytes in [
            sizes.ring_bytes,
            sizes.ring_bytes_max,
            sizes.ready_bytes,
            sizes.file_bytes,
        ] {
            assert!(bytes.is_multiple_of(CARD_UNIT) && bytes > 0, "{sizes:?}");
        }
        assert!(sizes.waiting_ring_bytes <= sizes.ring_bytes / 2 && sizes.align_bytes.is_multiple_of(BLOCK));
    }
}
