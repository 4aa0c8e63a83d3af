//! Files of variables: `env_file`, and `.env` beside a compose file.

/// The variables of a file, in order; `None` as a value: a name alone.
///
/// # Errors
/// The number of a line that is no variable.
pub fn variables(text: &str) -> Result<Vec<(String, Option<String>)>, u64> {
    let mut all = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (number, line) in (1u64..).zip(text.lines()) {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = match line.split_once('=') {
            Some((key, value)) => (key.trim_end(), Some(unquoted(value.trim()))),
            None => (line, None),
        };
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(number);
        }
        all.push((key.to_owned(), value));
    }
    Ok(all)
}

/// Without quotation marks around it, or a comment behind it.
fn unquoted(value: &str) -> String {
    for quote in ['"', '\''] {
        let Some(rest) = value.strip_prefix(quote) else {
            continue;
        };
        let Some((inner, after)) = rest.rsplit_once(quote) else {
            continue;
        };
        let after = after.trim_start();
        if after.is_empty() || after.starts_with('#') {
            return match quote {
                '"' => inner
                    .replace("\\n", "\n")
                    .replace("\\\"", "\"")
                    .replace("\\\\", "\\"),
                _ => inner.to_owned(),
            };
        }
    }
    let end = value.find(" #").unwrap_or(value.len());
    value[..end].trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read() {
        let text = "# no\n\nA=1\nexport B = two words # no\nC=\"a # b\\n\"  # no\nD='$x'\nE=\nF\n";
        let pair = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
        let expected = vec![
            pair("A", "1"),
            pair("B", "two words"),
            pair("C", "a # b\n"),
            pair("D", "$x"),
            pair("E", ""),
            ("F".to_owned(), None),
        ];
        assert_eq!(variables(text), Ok(expected));
        assert_eq!(variables("A=1\n=x"), Err(2));
        assert_eq!(variables("two words"), Err(1));
    }
}
