//! Durations as people write them.

use std::time::Duration;

/// In nanoseconds.
const UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
    ("d", 86400e9),
];

/// It is no duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("use a number with a unit, such as 500ms, 5s or 1m30s")]
pub struct InvalidDuration;

/// Reads a duration as Go's `time.ParseDuration` does, which docker's are of: `30s`,
/// `1m30s`, `1.5h`, `500ms`, `0`; and days of 24 hours, `7d`. Without a sign, to the
/// nanosecond.
///
/// # Errors
/// It is none, or it is longer than Docker's API can say (2^63 - 1 nanoseconds).
pub fn duration(text: &str) -> Result<Duration, InvalidDuration> {
    let (mut rest, mut nanoseconds) = (text, 0_u64);
    while !rest.is_empty() && text != "0" {
        let (part, after) = part(rest).ok_or(InvalidDuration)?;
        nanoseconds = nanoseconds.checked_add(part).ok_or(InvalidDuration)?;
        rest = after;
    }
    match text.is_empty() || i64::try_from(nanoseconds).is_err() {
        true => Err(InvalidDuration),
        false => Ok(Duration::from_nanos(nanoseconds)),
    }
}

/// A number with its unit, in nanoseconds, and what follows.
fn part(text: &str) -> Option<(u64, &str)> {
    let (number, after) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.')?);
    let end = after.find(|c: char| c.is_ascii_digit() || c == '.');
    let (unit, after) = after.split_at(end.unwrap_or(after.len()));
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let nanoseconds = number.parse::<f64>().ok()? * factor;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "digits have no sign, and what is too long becomes the longest, which is refused"
    )]
    Some((nanoseconds.round() as u64, after))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, microseconds) in [
            ("0", 0),
            ("0s", 0),
            ("5s", 5_000_000),
            ("1m30s", 90_000_000),
            ("1.5h", 5_400_000_000),
            ("1h30m", 5_400_000_000),
            ("500ms", 500_000),
            ("1.5ms", 1_500),
            ("2000000ns", 2_000),
            ("1500us", 1_500),
            ("1500µs", 1_500),
            // in any order
            ("1.5h30m", 7_200_000_000),
            ("30s1m", 90_000_000),
            ("7d", 604_800_000_000),
        ] {
            let read = duration(text).map(|duration| duration.as_micros());
            assert_eq!(read, Ok(microseconds), "{text}");
        }
        for bad in [
            "",
            "5",
            "s",
            "-5s",
            "5 s",
            " 5s",
            "5x",
            "1.2.3s",
            "5s4",
            "99999999h",
            ".",
            "x",
            "1e3s",
            "1 hour",
            "PT5S",
            "5s ago",
            "1y",
            "1mo",
        ] {
            assert_eq!(duration(bad), Err(InvalidDuration), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_reader(text in "\\PC*") {
            let _ = duration(&text);
        }

        #[test]
        fn whole_durations_keep_their_value(seconds in 0_u32..1_000_000) {
            let read = duration(&format!("{seconds}s"));
            prop_assert_eq!(read, Ok(Duration::from_secs(seconds.into())));
        }
    }
}
