//! Durations as people write them.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};

/// Reads a duration as docker and Go have them: `30s`, `1m30s`, `1.5h`, `500ms`, `0`; and
/// days of 24 hours, `7d`. `None` where it is none, is negative, or is longer than
/// Docker's API can say (2^63 - 1 nanoseconds).
pub fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    // the crate takes "1 hour" and ISO 8601 as well
    let plain =
        text.starts_with(|c: char| c.is_ascii_digit()) && !text.contains(char::is_whitespace);
    let span: Span = plain.then(|| text.parse().ok()).flatten()?;
    let span = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    let duration = Duration::try_from(span).ok()?;
    i64::try_from(duration.as_nanos())
        .is_ok()
        .then_some(duration)
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
            ("7d", 604_800_000_000),
        ] {
            let read = duration(text).map(|duration| duration.as_micros());
            assert_eq!(read, Some(microseconds), "{text}");
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
            assert_eq!(duration(bad), None, "{bad}");
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
            prop_assert_eq!(read, Some(Duration::from_secs(seconds.into())));
        }
    }
}
