//! The campaign: machine after machine out of a seed, each through lives that end with a power cut.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::cut::Cut;
use super::depot::Machine;
use super::disks::{Disks, Event, File, Image};
use super::load::{Load, open};
use super::model::{Model, Turn};
use super::planted::Planted;
use crate::log::depot::{DATA, DATABASE, RING};
use crate::log::{LossReason, check};

/// Lives of a machine.
const LIVES: usize = 6;
/// Cuts of a life; the machine goes on from the last one.
pub const CUTS: usize = 5;
/// Of so many cuts one is also looked at with `check`, as files.
const CHECKED: usize = 4;

/// What was met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub cuts: u64,
    /// Before the first answer of a life: in the recovery, or just behind it.
    pub in_recovery: u64,
    /// With a turn under way; those whose turn was there afterwards, and was not.
    pub in_turn: u64,
    pub turn_kept: u64,
    pub turn_dropped: u64,
    /// With a part of it not synced.
    pub database: u64,
    pub ring: u64,
    pub data: u64,
    pub ring_growth: u64,
    pub holes: u64,
    pub names: u64,
    /// Records compared, and turns that had been told.
    pub records: u64,
    pub turns: u64,
    /// Looked at with `check`.
    pub checked: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.cuts += other.cuts;
        self.in_recovery += other.in_recovery;
        self.in_turn += other.in_turn;
        self.turn_kept += other.turn_kept;
        self.turn_dropped += other.turn_dropped;
        self.database += other.database;
        self.ring += other.ring;
        self.data += other.data;
        self.ring_growth += other.ring_growth;
        self.holes += other.holes;
        self.names += other.names;
        self.records += other.records;
        self.turns += other.turns;
        self.checked += other.checked;
    }
}

/// A machine out of a seed, through all of its lives. What is wrong, if something is.
pub fn machine(seed: u64, planted: Option<Planted>) -> Result<Tally, String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut tally = Tally::default();
    let (mut image, mut model, mut now_ms) = (empty(), Model::default(), 1_000_000);
    for life in 0..LIVES {
        let here = |what: String| format!("seed {seed}, life {life}: {what}");
        let told = lived(image, model, &mut now_ms, &mut rng, planted).map_err(here)?;
        let mut next = None;
        for number in 0..CUTS {
            let cut = Cut::honest(told.place(&mut rng), &mut rng);
            let after = told.cut(&cut, now_ms, &mut tally, rng.usize(..CHECKED) == 0);
            next = Some(after.map_err(|what| here(format!("cut {number} ({cut:?}): {what}")))?);
        }
        (image, model) = next.expect("a life has a cut");
        now_ms += rng.i64(0..5_000);
    }
    Ok(tally)
}

/// The disks with an empty store.
pub fn empty() -> Image {
    let disks = Disks::new(Image::new(), None);
    Machine::new(disks.clone())
        .create()
        .expect("nothing is wrong with the disks");
    disks.seen()
}

/// A life, and all that happened on its disks.
pub struct Lived {
    image: Image,
    before: Model,
    trace: Vec<Event>,
    turns: Vec<Turn>,
}

/// Lets a machine live.
pub fn lived(
    image: Image,
    before: Model,
    now_ms: &mut i64,
    rng: &mut fastrand::Rng,
    planted: Option<Planted>,
) -> Result<Lived, String> {
    let disks = Disks::new(image.clone(), planted);
    let mut load = Load::new(disks.clone(), before.clone(), *now_ms, rng.u64(..))?;
    // A short one is little but a recovery.
    let turns = if rng.u8(..3) == 0 {
        rng.usize(1..4)
    } else {
        rng.usize(10..50)
    };
    for _ in 0..turns {
        load.step();
    }
    load.model
        .compare(&load.log)
        .map_err(|what| format!("before any cut: {what}"))?;
    load.model
        .compare_records(&load.log)
        .map_err(|what| format!("before any cut: {what}"))?;
    if load.machine.lost() > 0 {
        return Err("a store was set aside before any cut".into());
    }
    *now_ms = load.now_ms();
    let trace = disks.switch_off();
    Ok(Lived {
        image,
        before,
        trace,
        turns: load.turns,
    })
}

impl Lived {
    /// Where to cut: anywhere, in the recovery, or right behind something of a certain kind, which may be rare.
    fn place(&self, rng: &mut fastrand::Rng) -> usize {
        let kind: fn(&Event) -> bool = match rng.u8(..12) {
            0 | 1 => |event| matches!(event, Event::Told(_)),
            2 => |event| matches!(event, Event::Write { file: File::Ring, .. }),
            3 => |event| {
                matches!(
                    event,
                    Event::Write {
                        file: File::Data(_),
                        ..
                    }
                )
            },
            4 => |event| matches!(event, Event::Punch { .. }),
            5 => |event| matches!(event, Event::Create(_) | Event::Remove(_)),
            6 => |event| matches!(event, Event::SetLen { file: File::Ring, .. }),
            7 => |event| matches!(event, Event::Sync(File::Database)),
            8 => {
                let first = self.trace.iter().position(|event| matches!(event, Event::Told(_)));
                return rng.usize(..=first.expect("every life has a turn"));
            }
            _ => |_| true,
        };
        let places: Vec<usize> = (0..self.trace.len()).filter(|at| kind(&self.trace[*at])).collect();
        match places.is_empty() {
            true => rng.usize(..=self.trace.len()),
            false => places[rng.usize(..places.len())] + 1,
        }
    }

    /// Turns that were told before an event, and whether another had begun.
    fn told(&self, at: usize) -> (usize, bool) {
        let (mut told, mut begun) = (0, 0);
        for event in &self.trace[..at] {
            match event {
                Event::Begins(number) => begun = number + 1,
                Event::Told(number) => told = number + 1,
                _ => {}
            }
        }
        (told, begun > told)
    }

    /// What was told after so many turns.
    fn model(&self, turns: usize) -> Model {
        let mut model = self.before.clone();
        self.turns[..turns].iter().for_each(|turn| model.apply(turn));
        model
    }

    /// Cuts, and looks at what is there; gives it with what was found.
    fn cut(&self, cut: &Cut, now_ms: i64, tally: &mut Tally, checked: bool) -> Result<(Image, Model), String> {
        let (turns, under_way) = self.told(cut.at);
        self.count(cut.at, turns, under_way, tally);
        let image = cut.apply(&self.image, &self.trace);
        let disks = Disks::new(image.clone(), None);
        let machine = Machine::new(disks.clone());
        let opening = open(&machine, now_ms, false).map_err(|error| format!("it does not open: {error}"))?;
        if machine.lost() > 0 {
            return Err("it was set aside as damaged".into());
        }
        let log = &opening.log;
        let mut model = self.model(turns);
        if let Err(without) = model.compare(log) {
            if !under_way {
                return Err(without);
            }
            model.apply(&self.turns[turns]);
            model
                .compare(log)
                .map_err(|with| format!("neither without the turn under way ({without}) nor with it ({with})"))?;
            tally.turn_kept += 1;
        } else {
            tally.turn_dropped += u64::from(under_way);
        }
        tally.records += model.compare_records(log)?;
        if checked {
            tally.checked += 1;
            compare_check(&image, log)?;
        }
        model.adopt(log);
        // What opening wrote counts for nothing: the machine is found as the cut left it.
        disks.switch_off();
        Ok((image, model))
    }

    fn count(&self, at: usize, turns: usize, under_way: bool, tally: &mut Tally) {
        tally.cuts += 1;
        tally.turns += turns as u64;
        tally.in_recovery += u64::from(turns == 0);
        tally.in_turn += u64::from(under_way);
        let (mut database, mut ring, mut data, mut growth, mut holes, mut names) = Default::default();
        for event in &self.trace[..at] {
            match event {
                Event::Sync(File::Database) => database = false,
                Event::Sync(File::Ring) => (ring, growth) = (false, false),
                Event::Sync(File::Data(_)) => (data, holes) = (false, false),
                Event::SyncFolder => names = false,
                Event::Create(_) | Event::Remove(_) => names = true,
                Event::SetLen { file: File::Ring, .. } => growth = true,
                Event::Punch { .. } => holes = true,
                Event::Write { file, .. } => match file {
                    File::Database => database = true,
                    File::Ring => ring = true,
                    File::Data(_) => data = true,
                },
                _ => {}
            }
        }
        for (count, met) in [
            (&mut tally.database, database),
            (&mut tally.ring, ring),
            (&mut tally.data, data),
            (&mut tally.ring_growth, growth),
            (&mut tally.holes, holes),
            (&mut tally.names, names),
        ] {
            *count += u64::from(met);
        }
    }

    /// Cuts on disks that lie. What the log makes of it.
    pub fn cut_of_a_liar(&self, cut: &Cut, now_ms: i64) -> Result<Outcome, String> {
        let (turns, _) = self.told(cut.at);
        let image = cut.apply(&self.image, &self.trace);
        let disks = Disks::new(image.clone(), None);
        let machine = Machine::new(disks.clone());
        let Ok(opening) = open(&machine, now_ms, false) else {
            return Ok(Outcome::Told);
        };
        let log = &opening.log;
        let marked = log.losses().iter().any(|found| found.loss.reason == LossReason::Damage);
        let outcome = if machine.lost() > 0 || marked {
            Outcome::Told
        } else {
            // Any whole state of this life is believed: nothing on the disks says that there was a later one.
            let mut whole = (0..=self.turns.len()).rev().map(|turns| (turns, self.model(turns)));
            match whole.find(|(_, model)| model.compare(log).is_ok()) {
                None => return Err(self.model(turns).compare(log).expect_err("none was found")),
                Some((found, model)) => match model.compare_records(log) {
                    Ok(_) if found >= turns => Outcome::Kept,
                    Ok(_) => Outcome::Short,
                    // A batch that is not the one of its place is not served.
                    Err(why) if why.contains("is not the one") => return Err(why),
                    Err(_) => Outcome::ToldByReading,
                },
            }
        };
        disks.switch_off();
        Ok(outcome)
    }

    /// So many events.
    pub fn events(&self) -> usize {
        self.trace.len()
    }
}

/// What became of a log whose disks confirmed what they did not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// Nothing told is missing.
    Kept,
    /// The loss is told at the start: the store is set aside, offsets go on above it; or what is missing has a marker.
    Told,
    /// The loss is told to whoever reads it, and by `check`.
    ToldByReading,
    /// The state of an earlier moment, whole. Nobody can tell.
    Short,
}

/// `check` of the same disks, as files, finds them sound and says the same bounds.
fn compare_check(image: &Image, log: &crate::log::Log) -> Result<(), String> {
    let folder = Folder::new(image);
    let report = check(&folder.0).map_err(|error| error.to_string())?;
    if !report.sound() {
        return Err(format!("check: {:?} {:?}", report.damaged, report.unread));
    }
    for partition in &report.partitions {
        let number = crate::model::Partition(partition.partition);
        let bounds = log
            .bounds(&partition.topic, number)
            .ok_or("check knows a partition more")?;
        let (found, open) = (
            (partition.log_start, partition.offset_next),
            (bounds.log_start.0, bounds.high_watermark.0),
        );
        if found != open {
            return Err(format!(
                "check says {found:?} of {} {number}, the log {open:?}",
                partition.topic
            ));
        }
    }
    Ok(())
}

/// A directory with an image; it goes with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(image: &Image) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("headwater-power-{}-{number}", std::process::id()));
        std::fs::create_dir_all(path.join(DATA)).expect("a directory can be made");
        for (file, bytes) in image {
            let path = match file {
                File::Database => path.join(DATABASE),
                File::Ring => path.join(RING),
                File::Data(number) => path.join(DATA).join(format!("{number:010}.data")),
            };
            std::fs::write(path, bytes).expect("a file can be written");
        }
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a campaign found.
#[derive(Default)]
pub struct Report {
    pub tally: Tally,
    /// What was wrong, by seed.
    pub wrong: Vec<(u64, String)>,
}

/// Machines from a seed on, on all processors, until there were so many cuts.
pub fn campaign(seed: u64, cuts: u64) -> Report {
    let machines = cuts.div_ceil((LIVES * CUTS) as u64);
    let (next, report) = (AtomicU64::new(0), Mutex::new(Report::default()));
    let work = || {
        loop {
            let seed = match next.fetch_add(1, Ordering::Relaxed) {
                number if number < machines => seed + number,
                _ => return,
            };
            let result = machine(seed, None);
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            match result {
                Ok(tally) => report.tally.add(&tally),
                Err(what) => report.wrong.push((seed, what)),
            }
        }
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    report.into_inner().unwrap_or_else(PoisonError::into_inner)
}
