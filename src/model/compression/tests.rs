//! Compression: every codec there and back, bounded output, broken input.

#![allow(clippy::arithmetic_side_effects, clippy::panic)]

use super::*;

fn inflate(codec: Codec, input: &[u8], bytes_max: usize) -> Result<Vec<u8>, CompressionError> {
    let mut inflater = Inflater::default();
    inflater.inflate(codec, input, bytes_max)?;
    Ok(inflater.into_buffer())
}

fn sample(bytes: usize) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut out = Vec::new();
    while out.len() < bytes {
        out.extend_from_slice(format!("reading {} of sensor {}; ", rng.u16(..), rng.u8(..)).as_bytes());
    }
    out.truncate(bytes);
    out
}

#[test]
fn every_codec_returns_what_it_got() {
    for size in [1, 100, 65_536, 65_537, 300_000] {
        let input = sample(size);
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let mut packed = b"before".to_vec();
            compress(codec, &input, &mut packed);
            let packed = packed.strip_prefix(b"before").expect("it appends");
            assert_eq!(
                inflate(codec, packed, size).as_deref(),
                Ok(&input[..]),
                "{codec} {size}"
            );
            let bound = inflate(codec, packed, size - 1);
            assert_eq!(
                bound,
                Err(CompressionError::TooLarge { bytes_max: size - 1 }),
                "{codec} {size}"
            );
        }
    }
}

#[test]
fn what_is_cut_off_is_refused() {
    let input = sample(100_000);
    for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        let mut packed = Vec::new();
        compress(codec, &input, &mut packed);
        for cut in [0, 1, 3, 10, packed.len() / 2, packed.len() - 1] {
            // A frame of nothing is nothing: the records' count notices.
            let got = inflate(codec, &packed[..cut], 1 << 20);
            assert!(
                got.is_err() || got.is_ok_and(|g| g.is_empty() && cut == 0),
                "{codec} cut at {cut}"
            );
        }
    }
}

#[test]
fn raw_snappy_is_read_as_librdkafka_writes_it() {
    let input = sample(50_000);
    let raw = snap::raw::Encoder::new().compress_vec(&input).expect("snappy");
    assert_eq!(inflate(Codec::Snappy, &raw, 1 << 20), Ok(input));
}

#[test]
fn lz4_frames_are_read_whatever_their_blocks_and_checksums() {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    let input = sample(400_000);
    for mode in [BlockMode::Independent, BlockMode::Linked] {
        for size in [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max4MB] {
            for checks in [false, true] {
                let info = FrameInfo::new()
                    .block_mode(mode)
                    .block_size(size)
                    .block_checksums(checks)
                    .content_checksum(checks)
                    .content_size(checks.then_some(input.len() as u64));
                let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
                encoder.write_all(&input).expect("lz4");
                let packed = encoder.finish().expect("lz4");
                assert_eq!(inflate(Codec::Lz4, &packed, 1 << 20).as_deref(), Ok(&input[..]));
            }
        }
    }
}

#[test]
fn our_lz4_is_read_by_a_decoder_that_checks_everything() {
    let input = sample(200_000);
    let mut packed = Vec::new();
    compress(Codec::Lz4, &input, &mut packed);
    let mut read = Vec::new();
    lz4_flex::frame::FrameDecoder::new(&packed[..])
        .read_to_end(&mut read)
        .expect("lz4");
    assert_eq!(read, input);
}

#[test]
fn zstd_without_a_size_in_its_frame_is_read() {
    let input = sample(300_000);
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).expect("zstd");
    encoder.write_all(&input).expect("zstd");
    let packed = encoder.finish().expect("zstd");
    assert_eq!(inflate(Codec::Zstd, &packed, 1 << 20), Ok(input));
}

#[test]
fn a_claimed_size_reserves_nothing_it_cannot_hold() {
    // Snappy that says 2^30 bytes, in 6.
    let lie = [0x80, 0x80, 0x80, 0x80, 0x04, 0x00];
    let mut inflater = Inflater::default();
    assert!(inflater.inflate(Codec::Snappy, &lie, 1 << 30).is_err());
    assert!(inflater.into_buffer().capacity() < 4096);
}
