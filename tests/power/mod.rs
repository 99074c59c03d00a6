//! Power cuts, by the thousand: the whole log runs on disks in memory under a mixed load; every write and sync of
//! database, ring and data files is recorded in one order of time; and out of a seed the power is cut at any place of
//! it, with any part of what was not synced on the disks or not. Then the real store is opened, and must hold what
//! was told, byte by byte, and of the turn that was under way all or nothing. Part of the unit tests of `log`,
//! because it needs its seams; `src/manual/power.md` says more.

mod campaign;
mod cut;
mod depot;
mod disks;
mod load;
mod model;
mod planted;
mod tests;
