//! The tests of the campaign. `HEADWATER_POWER_CUTS` and `HEADWATER_SEED` make it longer, and repeat it;
//! `scripts/power` sets them.

use std::collections::BTreeMap;
use std::time::Instant;

use super::campaign::{CUTS, Outcome, Report, campaign, empty, lived, machine};
use super::cut::Cut;
use super::model::Model;
use super::planted::Planted;

/// Machines within which a planted bug must be found.
const SEEDS_MAX: u64 = 100;

fn of_environment(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok().and_then(|value| value.parse().ok());
    value.unwrap_or(default)
}

#[test]
fn a_power_cut_anywhere_loses_nothing_that_was_told() {
    let (seed, cuts) = (
        of_environment("HEADWATER_SEED", 1),
        of_environment("HEADWATER_POWER_CUTS", 500),
    );
    let began = Instant::now();
    let Report { tally, wrong } = campaign(seed, cuts);
    let seconds = began.elapsed().as_secs_f64();
    let rate = tally.cuts as f64 / seconds;
    println!(
        "power: {} cuts from seed {seed} on in {seconds:.1} s, {rate:.0} a second",
        tally.cuts
    );
    println!(
        "power: {} told records compared, {} turns, {} cuts by check as well",
        tally.records, tally.turns, tally.checked
    );
    println!("power: {tally:?}");
    for (seed, what) in &wrong {
        println!("power: {what}\npower: again with: scripts/power --seed {seed} --cuts 1");
    }
    let unopenable = wrong
        .iter()
        .filter(|(_, what)| what.contains("does not open") || what.contains("set aside"))
        .count();
    println!("power: {} lost, {unopenable} unopenable", wrong.len() - unopenable);
    assert!(wrong.is_empty(), "{wrong:#?}");
    if tally.cuts >= 300 {
        // It was where it hurts.
        let often = [
            tally.in_recovery,
            tally.turn_kept,
            tally.turn_dropped,
            tally.database,
            tally.ring,
            tally.data,
        ];
        assert!(often.iter().all(|count| *count > tally.cuts / 100), "{tally:?}");
        let met = [tally.holes, tally.names, tally.ring_growth];
        assert!(met.iter().all(|count| *count > 0), "{tally:?}");
    }
}

#[test]
fn every_planted_bug_is_found() {
    for planted in Planted::ALL {
        let found = (1..SEEDS_MAX).find_map(|seed| Some((seed, machine(seed, Some(planted)).err()?)));
        let (seed, what) = found.unwrap_or_else(|| panic!("{planted:?} is not found"));
        let what: String = what.chars().take(200).collect();
        println!("power: planted {planted:?} is found with seed {seed}: {what}");
    }
}

#[test]
fn disks_that_confirm_what_they_did_not_write_are_told_or_show_a_whole_earlier_state() {
    let mut outcomes = BTreeMap::<Outcome, u64>::new();
    for seed in 1..=of_environment("HEADWATER_POWER_LIARS", 40) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (mut now_ms, model) = (1_000_000, Model::default());
        let told =
            lived(empty(), model, &mut now_ms, &mut rng, None).unwrap_or_else(|what| panic!("seed {seed}: {what}"));
        for _ in 0..CUTS {
            let lies_percent = [20, 50, 100][rng.usize(..3)];
            let at = told.events() / 2 + rng.usize(..=told.events() / 2);
            let cut = Cut {
                lies_percent,
                ..Cut::honest(at, &mut rng)
            };
            let outcome = told
                .cut_of_a_liar(&cut, now_ms)
                .unwrap_or_else(|what| panic!("seed {seed}, {cut:?}: {what}"));
            *outcomes.entry(outcome).or_default() += 1;
        }
    }
    println!("power: on disks that lie: {outcomes:?}");
    assert!(
        outcomes.get(&Outcome::Told).is_some_and(|count| *count > 0),
        "{outcomes:?}"
    );
}
