//! Sizes and shares of processors, in docker's forms.

/// `64m`, `1.5g`, `512k`, `100b` or octets: powers of 1024.
pub(crate) fn octets(text: &str) -> Result<u64, String> {
    let wrong = || "use a size such as 64m or 1g".to_owned();
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let lower = lower.strip_suffix('i').unwrap_or(lower);
    let (number, shift) = match lower.chars().last() {
        Some('k') => (&lower[..lower.len() - 1], 10),
        Some('m') => (&lower[..lower.len() - 1], 20),
        Some('g') => (&lower[..lower.len() - 1], 30),
        Some('t') => (&lower[..lower.len() - 1], 40),
        _ => (lower, 0),
    };
    scaled(number, 1u64 << shift).ok_or_else(wrong)
}

/// `0.5`: a share of a processor, in billionths.
pub(crate) fn cpus(text: &str) -> Result<u64, String> {
    scaled(text, 1_000_000_000).ok_or_else(|| "use a number such as 0.5".to_owned())
}

/// A decimal number times a factor.
fn scaled(text: &str, factor: u64) -> Option<u64> {
    let digits = |c: char| c.is_ascii_digit() || c == '.';
    let number: f64 = text.trim().parse().ok()?;
    // docker has them as signed 64-bit numbers
    #[allow(clippy::cast_precision_loss, reason = "a factor is a round number")]
    let product = number * factor as f64;
    if !text.trim().chars().all(digits) || product > 9e18 {
        return None;
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked above; digits have no sign"
    )]
    Some(product.round() as u64)
}

/// Octets as docker prints them: `64MiB`.
pub(crate) fn spelled(octets: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    #[allow(clippy::cast_precision_loss, reason = "four digits are printed")]
    let (mut value, mut unit) = (octets as f64, 0);
    while value >= 1024.0 && unit + 1 < units.len() {
        (value, unit) = (value / 1024.0, unit + 1);
    }
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{}", units[unit])
}

/// Octets that passed or are used, as docker writes them: `1.2kB`, powers of 1000.
pub(crate) fn amount(octets: u64) -> String {
    let mut value = octets as f64;
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if value < 1000.0 {
            return match value {
                value if value < 10.0 && unit != "B" => format!("{value:.1}{unit}"),
                _ => format!("{value:.0}{unit}"),
            };
        }
        value /= 1000.0;
    }
    format!("{value:.0}PB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, size) in [
            ("0", 0),
            ("100", 100),
            ("100b", 100),
            ("1k", 1 << 10),
            ("64M", 64 << 20),
            ("64MiB", 64 << 20),
            ("1.5g", 3 << 29),
        ] {
            assert_eq!(octets(text), Ok(size), "{text}");
        }
        for bad in ["", "m", "-1", "1x", "1e3", "inf", "99999999t"] {
            assert!(octets(bad).is_err(), "{bad}");
        }
        assert_eq!(cpus("0.5"), Ok(500_000_000));
        assert!(cpus("half").is_err());
    }

    #[test]
    fn sizes_are_spelled_as_docker_does() {
        for (size, text) in [(0, "0B"), (1536, "1.5KiB"), (64 << 20, "64MiB")] {
            assert_eq!(spelled(size), text);
        }
    }

    #[test]
    fn octets_are_short() {
        for (octets, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.0kB"),
            (12_345, "12kB"),
            (1_500_000_000, "1.5GB"),
            (u64::MAX, "18447PB"),
        ] {
            assert_eq!(amount(octets), text);
        }
    }
}
