//! Consistent overhead byte stuffing (Cheshire and Baker, 1999): bytes without any 0x00. Own code, because it works in place
//! and needs neither a second buffer nor a panic.

use crate::WireError;

/// Bytes that stuffing `n` bytes may add.
pub(crate) const fn overhead(n: usize) -> usize {
    // One code byte at the start and one after each full run of 254.
    (n / 254).saturating_add(1)
}

/// Stuffs the `len` bytes at `buf[from..]` to the start of `buf` and returns how many they became. `from` must be at least
/// `overhead(len)`: writing then never passes reading.
pub(crate) fn stuff_in_place(buf: &mut [u8], from: usize, len: usize) -> Option<usize> {
    let until = from.checked_add(len)?;
    let (mut read, mut write) = (from, 0usize);
    loop {
        let rest = buf.get(read..until)?;
        let window = rest.get(..254).unwrap_or(rest);
        let zero = window.iter().position(|b| *b == 0);
        let run = zero.unwrap_or(window.len());
        let data = write.checked_add(1)?;
        if data > read {
            return None;
        }
        buf.copy_within(read..read.checked_add(run)?, data);
        *buf.get_mut(write)? = u8::try_from(run.checked_add(1)?).ok()?;
        write = data.checked_add(run)?;
        read = read.checked_add(run)?;
        if zero.is_some() {
            // The zero is in the code byte; one at the very end still needs an empty run behind it.
            read = read.checked_add(1)?;
        } else if read == until {
            return Some(write);
        }
    }
}

/// Unstuffs `src` into `out` and returns how many bytes there are. `src` has no 0x00 in it.
pub(crate) fn unstuff(src: &[u8], out: &mut [u8]) -> Result<usize, WireError> {
    let (mut read, mut write) = (0usize, 0usize);
    while let Some(code) = src.get(read) {
        let run = usize::from(*code).checked_sub(1).ok_or(WireError::Cobs(read))?;
        let data = read.saturating_add(1);
        let end = data.saturating_add(run);
        let bytes = src.get(data..end).ok_or(WireError::Cobs(read))?;
        let write_end = write.saturating_add(run);
        let place = out.get_mut(write..write_end).ok_or(WireError::TooLarge(write_end))?;
        place.copy_from_slice(bytes);
        read = end;
        write = write_end;
        if run < 254 && read < src.len() {
            *out.get_mut(write).ok_or(WireError::TooLarge(write))? = 0;
            write = write.saturating_add(1);
        }
    }
    Ok(write)
}

/// Unstuffs `buf` to its own start.
pub(crate) fn unstuff_in_place(buf: &mut [u8]) -> Result<usize, WireError> {
    let (mut read, mut write) = (0usize, 0usize);
    while let Some(code) = buf.get(read) {
        let run = usize::from(*code).checked_sub(1).ok_or(WireError::Cobs(read))?;
        let data = read.saturating_add(1);
        let end = data.saturating_add(run);
        if end > buf.len() {
            return Err(WireError::Cobs(read));
        }
        buf.copy_within(data..end, write);
        read = end;
        write = write.saturating_add(run);
        if run < 254 && read < buf.len() {
            // `write` is at least one behind `read`: a code byte was read for it.
            if let Some(place) = buf.get_mut(write) {
                *place = 0;
            }
            write = write.saturating_add(1);
        }
    }
    Ok(write)
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    fn stuffed(src: &[u8]) -> ([u8; 1200], usize) {
        let mut buf = [0xaa; 1200];
        let from = overhead(src.len());
        buf[from..][..src.len()].copy_from_slice(src);
        let n = stuff_in_place(&mut buf, from, src.len()).unwrap();
        (buf, n)
    }

    #[test]
    fn the_examples_of_the_paper_come_out() {
        for (plain, coded) in [
            (&[][..], &[1][..]),
            (&[0], &[1, 1]),
            (&[0, 0], &[1, 1, 1]),
            (&[0x11, 0x22, 0, 0x33], &[3, 0x11, 0x22, 2, 0x33]),
            (&[0x11, 0, 0, 0], &[2, 0x11, 1, 1, 1]),
        ] {
            let (buf, n) = stuffed(plain);
            assert_eq!(&buf[..n], coded);
        }
    }

    #[test]
    fn what_is_stuffed_comes_back_at_every_length_around_a_full_run() {
        let mut source = [0u8; 1000];
        for density in [1usize, 3, 254, 255, 5000] {
            for (i, b) in source.iter_mut().enumerate() {
                *b = if i % density == density - 1 {
                    0
                } else {
                    (i % 255) as u8 + 1
                };
            }
            for len in (0..20).chain(250..260).chain(505..515).chain([762, 763, 1000]) {
                let (mut buf, n) = stuffed(&source[..len]);
                assert!(n <= len + overhead(len));
                assert!(buf[..n].iter().all(|b| *b != 0));
                let mut out = [0; 1000];
                assert_eq!(unstuff(&buf[..n], &mut out), Ok(len));
                assert_eq!(out[..len], source[..len]);
                assert_eq!(unstuff_in_place(&mut buf[..n]), Ok(len));
                assert_eq!(buf[..len], source[..len]);
            }
        }
    }

    #[test]
    fn a_code_past_the_end_is_an_error_with_its_place() {
        assert_eq!(unstuff(&[2, 7, 9, 1], &mut [0; 9]), Err(WireError::Cobs(2)));
        assert_eq!(unstuff_in_place(&mut [2, 7, 9, 1]), Err(WireError::Cobs(2)));
    }
}
