//! Where to begin reading, and points in time as people write them.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::duration_ms;

/// `--from`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// The first record still there.
    Earliest,
    /// What comes from now on.
    Latest,
    /// An offset.
    Offset(u64),
    /// So many milliseconds ago.
    Ago(u64),
    /// Milliseconds since 1970.
    Time(i64),
}

impl std::str::FromStr for From {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ago = || Some(Self::Ago(duration_ms(text.strip_prefix('-')?)?));
        let found = match text {
            "earliest" => Some(Self::Earliest),
            "latest" => Some(Self::Latest),
            _ => text
                .parse()
                .ok()
                .map(Self::Offset)
                .or_else(ago)
                .or_else(|| rfc3339(text).map(Self::Time)),
        };
        found.ok_or_else(|| {
            "that is no place to begin. Try: earliest, latest, an offset, -1h or 2026-01-31T08:00Z".to_owned()
        })
    }
}

/// So many milliseconds ago, in milliseconds since 1970.
pub(super) fn ago(ms: u64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    now_ms.saturating_sub(i64::try_from(ms).unwrap_or(i64::MAX)).max(0)
}

/// Milliseconds since 1970 of `2026-01-31T08:00[:00[.000]](Z|+01:00)`.
fn rfc3339(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let mut date = date
        .splitn(3, '-')
        .map(|part| digits(part, if part.len() == 4 { 4 } else { 2 }));
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    if !(1..=12).contains(&month) || !(1..=days_of(year, month)).contains(&day) || year < 1970 {
        return None;
    }
    let (clock, zone_minutes) = match time.strip_suffix(['Z', 'z']) {
        Some(clock) => (clock, 0),
        None => {
            let at = time.rfind(['+', '-'])?;
            let (clock, zone) = time.split_at(at);
            let (hours, minutes) = zone.get(1..)?.split_once(':')?;
            let minutes = digits(hours, 2)? * 60 + digits(minutes, 2)?;
            (clock, if zone.starts_with('-') { -minutes } else { minutes })
        }
    };
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let mut clock = clock.splitn(3, ':').map(|part| digits(part, 2));
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next().unwrap_or(Some(0))?);
    if hour > 23 || minute > 59 || second > 60 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let ms: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let minutes = (days_since_1970(year, month, day) * 24 + hour) * 60 + minute - zone_minutes;
    Some((minutes * 60 + second) * 1000 + ms)
}

fn digits(text: &str, count: usize) -> Option<i64> {
    (text.len() == count && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let years: i64 = (1970..year).map(|y| if is_leap(y) { 366 } else { 365 }).sum();
    let months: i64 = (1..month).map(|m| days_of(year, m)).sum();
    years + months + day - 1
}

/// `2026-01-31T08:00:00.000Z`
pub(super) fn to_rfc3339(time_ms: i64) -> String {
    let (mut days, ms) = (time_ms.div_euclid(86_400_000), time_ms.rem_euclid(86_400_000));
    if !(0..=2_932_896).contains(&days) {
        return format!("{time_ms} ms");
    }
    let mut year = 1970;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let mut month = 1;
    while days >= days_of(year, month) {
        days -= days_of(year, month);
        month += 1;
    }
    let (s, rest) = (ms / 1000, ms % 1000);
    format!(
        "{year:04}-{month:02}-{:02}T{:02}:{:02}:{:02}.{rest:03}Z",
        days + 1,
        s / 3600,
        s / 60 % 60,
        s % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_beginning_is_understood() {
        for (text, from) in [
            ("earliest", From::Earliest),
            ("latest", From::Latest),
            ("17", From::Offset(17)),
            ("-1h", From::Ago(3_600_000)),
            ("2026-01-31T08:00Z", From::Time(1_769_846_400_000)),
            ("2026-01-31T09:00:01.25+01:00", From::Time(1_769_846_401_250)),
            ("1970-01-01T00:00:00Z", From::Time(0)),
            ("2024-02-29t23:59:59z", From::Time(1_709_251_199_000)),
        ] {
            assert_eq!(text.parse(), Ok(from), "{text}");
        }
        for bad in [
            "",
            "-1",
            "-",
            "1h",
            "2026-02-29T00:00Z",
            "2026-13-01T00:00Z",
            "2026-01-31",
            "2026-01-31T08:00",
            "yesterday",
        ] {
            assert!(bad.parse::<From>().is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_written_as_they_are_read() {
        for ms in [
            0,
            951_782_400_000,
            1_709_251_199_001,
            1_769_846_401_250,
            4_102_444_800_000,
        ] {
            assert_eq!(to_rfc3339(ms).parse(), Ok(From::Time(ms)));
        }
        assert_eq!(to_rfc3339(-1), "-1 ms");
    }
}
