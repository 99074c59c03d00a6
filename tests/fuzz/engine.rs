//! The engine: replays the regression inputs of a target, then mutates until the time is over. A panic in the target fails the
//! test and prints the input in hex, ready to be added as a regression input.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// Runs one target: `seeds` are well-formed inputs, `target` must not panic whatever it gets.
pub fn run(name: &str, seeds: &[Vec<u8>], mut target: impl FnMut(&[u8])) {
    assert!(!seeds.is_empty(), "{name}: a fuzz target needs a well-formed seed");
    let mut corpus: Vec<Vec<u8>> = seeds.to_vec();
    let kept = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz")
        .join(name);
    if let Ok(entries) = std::fs::read_dir(&kept) {
        let mut paths: Vec<_> = entries.map(|e| e.expect("a readable corpus").path()).collect();
        paths.sort();
        corpus.extend(paths.iter().map(|p| std::fs::read(p).expect("a readable corpus file")));
    }
    let mut once = |input: &[u8]| {
        if catch_unwind(AssertUnwindSafe(|| target(input))).is_err() {
            let hex: String = input.iter().map(|b| format!("{b:02x}")).collect();
            panic!("{name}: this input panics; keep it as tests/fuzz/{name}/<what>.bin: {hex}");
        }
    };
    corpus.iter().for_each(|input| once(input));
    let number = |var: &str, default: u64| {
        std::env::var(var).map_or(default, |v| {
            v.parse().unwrap_or_else(|_| panic!("{var} must be a number"))
        })
    };
    let seconds = number("HEADWATER_FUZZ_SECONDS", 2);
    let seed = number("HEADWATER_FUZZ_SEED", 0x5eed);
    let mut rng = fastrand::Rng::with_seed(seed);
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut runs = 0u64;
    while Instant::now() < until {
        for _ in 0..256 {
            let input = mutate(&corpus, &mut rng);
            once(&input);
            runs += 1;
        }
    }
    println!("{name}: {runs} inputs in {seconds} s, seed {seed}, no panic");
}

fn mutate(corpus: &[Vec<u8>], rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut input = corpus[rng.usize(..corpus.len())].clone();
    for _ in 0..rng.usize(1..6) {
        let at = rng.usize(..=input.len());
        match rng.u8(..9) {
            0 if at < input.len() => input[at] ^= 1 << rng.u8(..8),
            1 if at < input.len() => input[at] = rng.u8(..),
            2 => input.truncate(at),
            3 => input.insert(at, rng.u8(..)),
            4 if at < input.len() => drop(input.remove(at)),
            // Extreme numbers, where lengths and counts sit.
            5 => {
                let extreme: [&[u8]; 7] = [
                    &[0xff, 0xff, 0xff, 0xff],
                    &[0x7f, 0xff, 0xff, 0xff],
                    &[0x80, 0, 0, 0],
                    &[0xff, 0xff],
                    &[0, 0, 0, 0],
                    &[0xff, 0xff, 0xff, 0xff, 0x0f],
                    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
                ];
                for (i, b) in extreme[rng.usize(..extreme.len())].iter().enumerate() {
                    if let Some(place) = input.get_mut(at + i) {
                        *place = *b;
                    }
                }
            }
            6 => {
                let other = &corpus[rng.usize(..corpus.len())];
                let from = rng.usize(..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            7 if !input.is_empty() => {
                let (a, b) = (rng.usize(..input.len()), rng.usize(..input.len()));
                let piece = input[a.min(b)..a.max(b)].to_vec();
                input.splice(at..at, piece);
            }
            _ => input.extend((0..rng.usize(..16)).map(|_| rng.u8(..)).collect::<Vec<_>>()),
        }
        input.truncate(1 << 16);
    }
    input
}
