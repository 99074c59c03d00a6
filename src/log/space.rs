//! Where the next bodies go: behind the newest of the data files, for a flush and for a commit that writes its own. It only counts;
//! `bodies` makes and writes the files.

use std::collections::VecDeque;

use super::ring::BLOCK;

/// The end of the newest data file, and which files are needed that the database does not name yet.
#[derive(Debug)]
pub(super) struct Space {
    /// What is not smaller begins at a multiple of it.
    align_bytes: u64,
    /// The newest file; 0 before there is one.
    pub(super) number: u32,
    /// Where the next body goes in it.
    pub(super) at: u64,
    /// Blocks are kept ready in it up to here.
    pub(super) ready: u64,
    /// By the number of a commit's record: the file that it wrote bodies to. Oldest first.
    written: VecDeque<(u64, u32)>,
}

impl Space {
    /// Without files.
    pub(super) fn new(align_bytes: u64) -> Self {
        Self {
            align_bytes,
            number: 0,
            at: 0,
            ready: 0,
            written: VecDeque::new(),
        }
    }

    /// Where so many bytes would begin.
    pub(super) fn next(&self, bytes: u64) -> u64 {
        match bytes < self.align_bytes {
            true => self.at,
            false => self.at.next_multiple_of(self.align_bytes),
        }
    }

    /// A body was found, written by the commit of that record.
    pub(super) fn found(&mut self, seq: u64, file: u32, end: u64) {
        self.reaches(file, end);
        self.written.push_back((seq, file));
    }

    /// There is such a file, with something in it up to `end`.
    pub(super) fn reaches(&mut self, file: u32, end: u64) {
        if file > self.number {
            self.begin(file);
        }
        if file == self.number {
            self.at = self.at.max(end.next_multiple_of(BLOCK));
        }
    }

    /// A file is the newest from now on.
    pub(super) fn begin(&mut self, number: u32) {
        (self.number, self.at, self.ready) = (number, 0, 0);
    }

    /// Takes so many bytes, for the commit of that record if it is one; gives where they begin.
    pub(super) fn take(&mut self, bytes: u64, seq: Option<u64>) -> u64 {
        let at = self.next(bytes);
        self.at = (at + bytes).next_multiple_of(BLOCK);
        self.written.extend(seq.map(|seq| (seq, self.number)));
        at
    }

    /// The oldest file that is needed whatever the database says of it, once it has the records up to `seq`: bodies come to it, or it
    /// has some of a record that is newer.
    pub(super) fn oldest_needed(&self, seq: u64) -> u32 {
        let waiting = self.written.iter().filter(|(of, _)| *of > seq);
        waiting.map(|(_, file)| *file).fold(self.number, u32::min)
    }

    /// The database has the records up to this one.
    pub(super) fn named(&mut self, seq: u64) {
        while self.written.pop_front_if(|(of, _)| *of <= seq).is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_needed_until_the_database_names_what_its_commits_wrote() {
        let mut space = Space::new(16_384);
        space.reaches(3, 5000);
        assert_eq!(space.take(100, Some(7)), 8192);
        assert_eq!(space.take(5000, None), 12_288);
        assert_eq!(
            space.take(20_000, None),
            32_768,
            "what is large begins at a page of the card"
        );
        space.begin(4);
        assert_eq!(space.take(1, Some(8)), 0);
        assert_eq!([6, 7, 8].map(|seq| space.oldest_needed(seq)), [3, 4, 4]);
        space.named(7);
        assert_eq!(space.oldest_needed(6), 4);
    }

    #[test]
    fn the_next_body_goes_behind_all_that_were_found() {
        let mut space = Space::new(BLOCK);
        space.reaches(2, 4096);
        space.found(9, 2, 9000);
        space.found(8, 1, 90_000);
        assert_eq!((space.number, space.at), (2, 12_288));
        space.reaches(5, 0);
        assert_eq!((space.number, space.at), (5, 0));
    }
}
