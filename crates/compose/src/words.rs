//! Durations, sizes and shares, in compose's forms.

/// `1m30s`, `500ms`: nanoseconds.
pub(crate) fn duration(text: &str) -> Result<u64, String> {
    let read = model::duration(text).map_err(|error| error.to_string())?;
    Ok(u64::try_from(read.as_nanos()).unwrap_or(u64::MAX))
}

/// `64m`, `1.5gb`, `512k`, or octets: powers of 1024.
pub(crate) fn octets(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let lower = lower.strip_suffix('i').unwrap_or(lower);
    let shift = match lower.chars().last() {
        Some('k') => 10,
        Some('m') => 20,
        Some('g') => 30,
        Some('t') => 40,
        _ => 0,
    };
    let number = if shift > 0 {
        &lower[..lower.len() - 1]
    } else {
        lower
    };
    scaled(number, 1 << shift).ok_or_else(|| "use a size such as 64m or 1g".to_owned())
}

/// `0.5`: a share of a processor, in billionths.
pub(crate) fn cpus(text: &str) -> Result<u64, String> {
    scaled(text, 1_000_000_000).ok_or_else(|| "use a number such as 0.5".to_owned())
}

/// `0444`: permissions.
pub(crate) fn mode(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let mode = u32::from_str_radix(digits, 8).ok().filter(|m| *m <= 0o7777);
    mode.ok_or_else(|| "use an octal number such as 0444".to_owned())
}

/// A decimal number times a factor.
fn scaled(text: &str, factor: u64) -> Option<u64> {
    let number: f64 = text.trim().parse().ok()?;
    #[allow(clippy::cast_precision_loss, reason = "a factor is a round number")]
    let product = number * factor as f64;
    let digits = |c: char| c.is_ascii_digit() || c == '.';
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_units() {
        assert_eq!(duration("1m30s"), Ok(90_000_000_000));
        assert_eq!(duration("1.5ms"), Ok(1_500_000));
        assert_eq!(octets("1.5gb"), Ok(3 << 29));
        assert_eq!((octets("100"), octets("64MiB")), (Ok(100), Ok(64 << 20)));
        assert_eq!(cpus("0.25"), Ok(250_000_000));
        assert_eq!((mode("0440"), mode("0o440")), (Ok(0o440), Ok(0o440)));
        for bad in ["", "5", "x", "-1s", "1e3s", "s", "."] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(octets("m").is_err() && cpus("half").is_err() && mode("9").is_err());
    }
}
