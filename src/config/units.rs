//! Sizes and durations as people write them: a number and a unit.

/// Bytes of `"64MiB"`. Units: B, KB, MB, GB, TB (powers of 1000) and KiB, MiB, GiB, TiB (powers of 1024).
pub(super) fn size_bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text.trim())?;
    let factor: u64 = match unit {
        "B" => 1,
        "KB" | "kB" => 1000,
        "MB" => 1000_u64.pow(2),
        "GB" => 1000_u64.pow(3),
        "TB" => 1000_u64.pow(4),
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// Microseconds of `"7d"`, `"1h30m"` or `"200us"`. Units: us, ms, s, m, h, d, w.
pub(super) fn duration_us(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut total = 0_u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let unit_from = rest.find(|c: char| !c.is_ascii_digit())?;
        let after = rest.get(unit_from..)?;
        let unit_bytes = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let factor: u64 = match after.get(..unit_bytes)?.trim() {
            "us" => 1,
            "ms" => 1_000,
            "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            "d" => 86_400_000_000,
            "w" => 604_800_000_000,
            _ => return None,
        };
        let number: u64 = rest.get(..unit_from)?.parse().ok()?;
        total = total.checked_add(number.checked_mul(factor)?)?;
        rest = after.get(unit_bytes..)?;
    }
    Some(total)
}

/// Milliseconds of a duration; a part of one counts as a whole one, so that a bound never becomes zero.
pub fn duration_ms(text: &str) -> Option<u64> {
    duration_us(text).map(|us| us.div_ceil(1000))
}

fn split(text: &str) -> Option<(u64, &str)> {
    let at = text.find(|c: char| !c.is_ascii_digit())?;
    Some((text.get(..at)?.parse().ok()?, text.get(at..)?.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_a_unit_and_fit_64_bits() {
        assert_eq!(size_bytes("64MiB"), Some(64 << 20));
        assert_eq!(size_bytes("10 GB"), Some(10_000_000_000));
        assert_eq!(size_bytes("1B"), Some(1));
        for bad in ["64", "", "MiB", "1.5MiB", "-1B", "99999999999TiB", "1mib"] {
            assert_eq!(size_bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_need_a_unit_and_may_be_sums() {
        assert_eq!(duration_us("200us"), Some(200));
        assert_eq!(duration_ms("7d"), Some(7 * 86_400_000));
        assert_eq!(duration_ms("1h30m"), Some(5_400_000));
        assert_eq!(duration_ms("1us"), Some(1));
        for bad in ["7", "", "d", "1.5h", "-1h", "1y", "99999999999999w", "1h30"] {
            assert_eq!(duration_us(bad), None, "{bad}");
        }
    }
}
