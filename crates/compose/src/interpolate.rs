//! `$VAR`, `${VAR:-default}` and the like
//! (<https://github.com/compose-spec/compose-spec/blob/main/12-interpolation.md>).

use crate::{
    node::{Node, Value},
    problem::Log,
};

/// Defaults within defaults, at most.
const DEEPEST: usize = 16;

/// What a variable is; `None`: it is not set.
pub(crate) type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Fills in all texts of a tree.
pub(crate) fn interpolate(node: &mut Node, key: &str, variables: &Lookup<'_>, log: &Log) {
    match &mut node.value {
        Value::Text(text) => {
            let mut unset = |name: &str| {
                let what =
                    format!("The {name:?} variable is not set. Defaulting to a blank string.");
                log.warn(node.place.problem("", what));
            };
            match fill(text, variables, &mut unset, 0) {
                Ok(filled) => *text = filled,
                Err(why) => log.wrong(node.place.problem(key, why)),
            }
        }
        Value::List(list) => {
            for (n, item) in list.iter_mut().enumerate() {
                interpolate(item, &format!("{key}[{n}]"), variables, log);
            }
        }
        Value::Map(map) => {
            for (name, item) in map {
                interpolate(item, &format!("{key}.{name}"), variables, log);
            }
        }
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => {}
    }
}

/// Fills in one text.
pub(crate) fn fill(
    text: &str,
    variables: &Lookup<'_>,
    unset: &mut dyn FnMut(&str),
    depth: usize,
) -> Result<String, String> {
    let wrong = || {
        format!(
            "invalid interpolation format: {text:?}. You may need to escape any $ with another $"
        )
    };
    if depth > DEEPEST {
        return Err(wrong());
    }
    let (mut filled, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('$') {
        filled.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            filled.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let end = closing(after).ok_or_else(wrong)?;
            let inner = &after[..end];
            filled.push_str(&braced(inner, variables, unset, depth).ok_or_else(wrong)??);
            rest = &after[end + 1..];
        } else {
            let end = name_end(rest);
            if end == 0 {
                return Err(wrong());
            }
            let name = &rest[..end];
            match variables(name) {
                Some(value) => filled.push_str(&value),
                None => unset(name),
            }
            rest = &rest[end..];
        }
    }
    filled.push_str(rest);
    Ok(filled)
}

/// How many octets of it are a name.
fn name_end(text: &str) -> usize {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    if !text.starts_with(first) {
        return 0;
    }
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    end.unwrap_or(text.len())
}

/// Where the brace is closed, past those that are opened within.
fn closing(text: &str) -> Option<usize> {
    let mut open = 0usize;
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '{' if before == '$' => open += 1,
            '}' if open == 0 => return Some(at),
            '}' => open -= 1,
            _ => {}
        }
        before = c;
    }
    None
}

/// What is in braces; `None`: it has no sense.
fn braced(
    inner: &str,
    variables: &Lookup<'_>,
    unset: &mut dyn FnMut(&str),
    depth: usize,
) -> Option<Result<String, String>> {
    let end = name_end(inner);
    let (name, operator) = inner.split_at(end);
    if name.is_empty() {
        return None;
    }
    let value = variables(name);
    if operator.is_empty() {
        return Some(Ok(value.unwrap_or_else(|| {
            unset(name);
            String::new()
        })));
    }
    // with a colon, an empty one is as good as none
    let (colon, operator) = match operator.strip_prefix(':') {
        Some(operator) => (true, operator),
        None => (false, operator),
    };
    let value = value.filter(|value| !(colon && value.is_empty()));
    let mut more = |text: &str| fill(text, variables, unset, depth + 1);
    let mut chars = operator.chars();
    let operator = chars.next()?;
    let word = chars.as_str();
    Some(match (operator, value) {
        ('-' | '?', Some(value)) => Ok(value),
        ('-', None) => more(word),
        ('?', None) => match more(word) {
            Ok(why) if why.is_empty() => {
                Err(format!("required variable {name} is missing a value"))
            }
            Ok(why) => Err(format!(
                "required variable {name} is missing a value: {why}"
            )),
            wrong => wrong,
        },
        ('+', Some(_)) => more(word),
        ('+', None) => Ok(String::new()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn filled(text: &str) -> Result<String, String> {
        let variables = |name: &str| match name {
            "A" => Some("one".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        fill(text, &variables, &mut |_| {}, 0)
    }

    #[test]
    fn variables_are_filled_in_as_compose_does() {
        for (text, expected) in [
            ("no", "no"),
            ("$A-${A}", "one-one"),
            ("$$A $${A}", "$A ${A}"),
            ("${NONE}x$NONE", "x"),
            ("${A:-x}${NONE:-x}${EMPTY:-x}", "onexx"),
            ("${A-x}${NONE-x}${EMPTY-x}", "onex"),
            ("${A:+x}${NONE:+x}${EMPTY:+x}", "x"),
            ("${A+x}${NONE+x}${EMPTY+x}", "xx"),
            ("${A:?no}${EMPTY?no}", "one"),
            ("${NONE:-${A}}${NONE:-a${NONE:-b}c}", "oneabc"),
            ("${NONE:-}", ""),
            ("http://${NONE:-h:80}/", "http://h:80/"),
        ] {
            assert_eq!(filled(text).as_deref(), Ok(expected), "{text}");
        }
        for (text, word) in [
            ("$", "escape"),
            ("${", "escape"),
            ("${}", "escape"),
            ("${A", "escape"),
            ("${A!x}", "escape"),
            ("$1", "escape"),
            ("${NONE:?give one}", "NONE is missing a value: give one"),
            ("${EMPTY:?}", "EMPTY is missing a value"),
        ] {
            let error = filled(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
        assert!(filled(&format!("{}x{}", "${N:-".repeat(5000), "}".repeat(5000))).is_err());
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(text in "[${}A:?+é -]{0,24}") {
            let _ = filled(&text);
        }
    }
}
