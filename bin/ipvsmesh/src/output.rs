//! What is printed: tables in docker's form, JSON, and nothing at all where the
//! reader has gone.

use std::{
    io::{self, IsTerminal},
    str::FromStr,
};

use anyhow::Context as _;
use serde::Serialize as _;
use serde_json::{
    Value,
    ser::{PrettyFormatter, Serializer},
};

use crate::template::Template;

/// Whoever read our output has gone (`| head`). Not worth a word.
#[derive(Debug, thiserror::Error)]
#[error("the reader of the output has gone")]
pub(crate) struct Closed;

/// Writes to standard output.
pub(crate) fn print(text: impl AsRef<[u8]>) -> anyhow::Result<()> {
    written(io::stdout().lock(), text.as_ref(), "output")
}

/// Writes to standard error.
pub(crate) fn print_error(text: impl AsRef<[u8]>) -> anyhow::Result<()> {
    written(io::stderr().lock(), text.as_ref(), "error")
}

fn written(mut to: impl io::Write, text: &[u8], name: &str) -> anyhow::Result<()> {
    match to.write_all(text).and_then(|()| to.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Closed.into()),
        other => other.with_context(|| format!("cannot write to standard {name}")),
    }
}

/// Whether colours are wanted there: on a terminal that has them, unless `NO_COLOR` is set
/// (<https://no-color.org>).
pub(crate) fn colours(to: &impl IsTerminal) -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    to.is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}

/// How a list is printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    /// Columns
    #[default]
    Table,
    /// One JSON object a line
    Json,
    /// This for each row; under a heading or not
    Template(Template, bool),
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("table") {
            Some("") => Ok(Self::Table),
            Some(template) if template.starts_with([' ', '\t', '\\']) => {
                Template::new(template.trim_start()).map(|t| Self::Template(t, true))
            }
            _ if text == "json" => Ok(Self::Json),
            _ if text.contains("{{") => Template::new(text).map(|t| Self::Template(t, false)),
            _ => Err("use table, json, or a Go template such as '{{.Name}}'".to_owned()),
        }
    }
}

/// How one object is printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum OneFormat {
    /// JSON on one line
    Json,
    /// This
    Template(Template),
}

impl FromStr for OneFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "json" => Ok(Self::Json),
            _ if text.contains("{{") => Template::new(text).map(Self::Template),
            _ => Err("use json, or a Go template such as '{{.ID}}'".to_owned()),
        }
    }
}

impl OneFormat {
    /// A value in this form, with a line feed.
    pub(crate) fn render(&self, value: &Value) -> anyhow::Result<String> {
        match self {
            Self::Json => Ok(format!("{value}\n")),
            Self::Template(template) => Ok(template.fill(value)? + "\n"),
        }
    }
}

/// A list with docker's column names.
#[derive(Debug)]
pub(crate) struct Listing {
    /// Heading and JSON key of each column.
    pub(crate) columns: &'static [(&'static str, &'static str)],
    /// The cells; the first one of each row is the id.
    pub(crate) rows: Vec<Vec<String>>,
}

impl Listing {
    /// The text for these options; `quiet` leaves the ids only.
    pub(crate) fn render(&self, quiet: bool, format: &Format) -> anyhow::Result<String> {
        if quiet {
            let ids = self.rows.iter().filter_map(|row| row.first());
            // `ID *` marks a node that is asked itself
            let ids = ids.map(|id| format!("{}\n", id.split(' ').next().unwrap_or(id)));
            return Ok(ids.collect());
        }
        Ok(match format {
            Format::Table => {
                let heading = self
                    .columns
                    .iter()
                    .map(|(heading, _)| (*heading).to_owned());
                let rows = std::iter::once(heading.collect()).chain(self.rows.iter().cloned());
                table(&rows.collect::<Vec<_>>())
            }
            Format::Json => {
                let lines = self
                    .rows
                    .iter()
                    .map(|row| format!("{}\n", self.object(row)));
                lines.collect()
            }
            Format::Template(template, heading) => {
                let mut lines = Vec::new();
                if *heading {
                    let columns = self.columns.iter();
                    let names =
                        columns.map(|(heading, key)| ((*key).to_owned(), Value::from(*heading)));
                    lines.push(template.fill(&Value::Object(names.collect()))?);
                }
                for row in &self.rows {
                    lines.push(template.fill(&self.object(row))?);
                }
                if *heading {
                    let cells = |line: &String| line.split('\t').map(str::to_owned).collect();
                    table(&lines.iter().map(cells).collect::<Vec<_>>())
                } else {
                    lines.iter().map(|line| format!("{line}\n")).collect()
                }
            }
        })
    }

    /// A row by the keys of its columns.
    fn object(&self, row: &[String]) -> Value {
        let keys = self.columns.iter().map(|(_, key)| (*key).to_owned());
        Value::Object(keys.zip(row.iter().cloned().map(Value::String)).collect())
    }
}

/// Columns as docker's: at least 10 wide, 3 spaces apart, the last as it is.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
        (widest + 3).max(10)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (cell, width) in row.iter().zip(&widths).take(row.len().saturating_sub(1)) {
            text.push_str(&format!("{cell:width$}"));
        }
        text.push_str(row.last().map_or("", String::as_str));
        text.push('\n');
    }
    text
}

/// Objects as `inspect` shows them: a list indented as docker's, or one line; by a
/// template a line each.
pub(crate) fn objects(values: Vec<Value>, format: Option<&OneFormat>) -> anyhow::Result<String> {
    match format {
        None => indented(&Value::Array(values)),
        Some(OneFormat::Json) => Ok(format!("{}\n", Value::Array(values))),
        Some(format) => values.iter().map(|value| format.render(value)).collect(),
    }
}

/// JSON for people.
fn indented(value: &Value) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    let four = PrettyFormatter::with_indent(b"    ");
    value.serialize(&mut Serializer::with_formatter(&mut bytes, four))?;
    Ok(format!("{}\n", String::from_utf8(bytes)?))
}

/// The text at a JSON pointer; empty where there is none.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    let at = value.pointer(pointer).and_then(Value::as_str);
    at.unwrap_or_default()
}

/// The number at a JSON pointer; 0 where there is none.
pub(crate) fn number(value: &Value, pointer: &str) -> u64 {
    let at = value.pointer(pointer).and_then(Value::as_u64);
    at.unwrap_or_default()
}

/// The list at a JSON pointer; empty where there is none.
pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    let at = value.pointer(pointer).and_then(Value::as_array);
    at.map_or(&[], Vec::as_slice)
}

/// The first 12 characters, as docker shows ids.
pub(crate) fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// A text, or its start and `…` where it has more than `most` characters.
pub(crate) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let start = text.chars().take(most - 1);
    start.chain(['…']).collect()
}

/// A word with a capital, as docker shows states.
pub(crate) fn capital(word: &str) -> String {
    let mut chars = word.chars();
    let first = chars.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(chars).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing() -> Listing {
        let row = |cells: &[&str]| cells.iter().map(ToString::to_string).collect();
        Listing {
            columns: &[("ID", "ID"), ("NAME", "Name"), ("PORTS", "Ports")],
            rows: vec![
                row(&["abc *", "a-name-that-is-long", "*:80->80/tcp"]),
                row(&["def", "ü", ""]),
            ],
        }
    }

    #[test]
    fn columns_are_aligned_by_characters() {
        let expected = "\
ID        NAME                  PORTS
abc *     a-name-that-is-long   *:80->80/tcp
def       ü                     \n";
        assert_eq!(listing().render(false, &Format::Table).unwrap(), expected);
        assert_eq!(
            listing().render(true, &Format::Table).unwrap(),
            "abc\ndef\n"
        );
    }

    #[test]
    fn json_is_an_object_a_line() {
        let text = listing().render(false, &Format::Json).unwrap();
        let lines: Vec<Value> = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["Name"], "ü");
    }

    #[test]
    fn nothing_is_a_heading() {
        let empty = Listing {
            rows: Vec::new(),
            ..listing()
        };
        assert_eq!(
            empty.render(false, &Format::Table).unwrap(),
            "ID        NAME      PORTS\n"
        );
        assert_eq!(empty.render(true, &Format::Table).unwrap(), "");
    }

    #[test]
    fn a_template_is_a_line_a_row_under_a_heading_or_not() {
        let by = |format: &str| {
            let format: Format = format.parse().unwrap();
            listing()
                .render(false, &format)
                .map_err(|error| error.to_string())
        };
        let lines = "a-name-that-is-long *:80->80/tcp\nü \n";
        assert_eq!(by("{{.Name}} {{.Ports}}").unwrap(), lines);
        let expected = "ID        PORTS\nabc *     *:80->80/tcp\ndef       \n";
        assert_eq!(by("table {{.ID}}\\t{{.Ports}}").unwrap(), expected);
        assert_eq!(
            by("table").unwrap(),
            by("table {{.ID}}\t{{.Name}}\t{{.Ports}}").unwrap()
        );
        assert!(by("{{.Nosuch}}").unwrap_err().contains("Nosuch"));
        for nonsense in ["yaml", "{{.Name", "tables"] {
            assert!(nonsense.parse::<Format>().is_err(), "{nonsense}");
        }
        let one: OneFormat = "{{.ID}}".parse().unwrap();
        let values = vec![
            serde_json::json!({"ID": "a"}),
            serde_json::json!({"ID": "b"}),
        ];
        assert_eq!(objects(values, Some(&one)).unwrap(), "a\nb\n");
        assert!("table".parse::<OneFormat>().is_err());
    }

    #[test]
    fn objects_are_indented_as_dockers() {
        assert_eq!(objects(Vec::new(), None).unwrap(), "[]\n");
        let one = || vec![serde_json::json!({"ID": "a"})];
        let indented = objects(one(), None).unwrap();
        assert_eq!(indented, "[\n    {\n        \"ID\": \"a\"\n    }\n]\n");
        let line = objects(one(), Some(&OneFormat::Json)).unwrap();
        assert_eq!(line, "[{\"ID\":\"a\"}]\n");
    }
}
