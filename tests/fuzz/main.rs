//! Fuzz targets, one for each decoder. Seeded and coverage-blind, so that they run on the stable compiler: inputs are mutated
//! from well-formed seeds and from `tests/fuzz/<target>/*`, the inputs that once failed. Seconds for each target:
//! `HEADWATER_FUZZ_SECONDS` (2 when unset); seed: `HEADWATER_FUZZ_SEED`.

mod batch;
mod compact;
mod engine;
mod kafka;
mod mqtt;
