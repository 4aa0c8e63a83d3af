//! YAML as a tree whose values know where they are.

use std::{fmt, sync::Arc};

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{DuplicateKeyPolicy, Spanned};

use crate::problem::{Place, Problem};

/// Deeper files are nobody's; each level takes stack.
const DEEPEST: usize = 48;
/// Values at most, aliases written out.
const MOST: usize = 100_000;

/// A value and where it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
}

/// What it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the order of the file.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// Reads a file.
    pub(crate) fn parse(file: &Arc<str>, text: &str) -> Result<Self, Problem> {
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! { max_depth: DEEPEST, max_nodes: MOST },
            strict_booleans: true,
            null_as_string: true,
            leading_zero_numbers_as_strings: true,
            underscored_numbers_as_strings: true,
            duplicate_keys: DuplicateKeyPolicy::Error,
            with_snippet: false,
        };
        if let Some((line, tag)) = tagged(text) {
            let place = Place {
                file: file.clone(),
                line,
            };
            let what = format!("{tag} is not available in this version: leave it out");
            return Err(place.problem("", what));
        }
        let read: Result<Spanned<Raw>, _> = serde_saphyr::from_str_with_options(text, options);
        match read {
            Ok(raw) => Ok(node(file, raw)),
            Err(error) => {
                let line = error.location().map_or(0, |at| at.line());
                let place = Place {
                    file: file.clone(),
                    line,
                };
                let text = error.to_string();
                let first = text.lines().next().unwrap_or_default();
                Err(place.problem("", format!("this is not YAML: {first}")))
            }
        }
    }

    /// The value of a key of a map.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(map) => map.iter().find(|(k, _)| k == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// Without the places.
    pub(crate) fn json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Int(value) => (*value).into(),
            Value::Float(value) => (*value).into(),
            Value::Text(text) => text.as_str().into(),
            Value::List(list) => list.iter().map(Self::json).collect(),
            Value::Map(map) => {
                let pairs = map.iter().map(|(key, value)| (key.clone(), value.json()));
                serde_json::Value::Object(pairs.collect())
            }
        }
    }

    /// A word for what it is.
    pub(crate) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// A scalar as text.
    pub(crate) fn scalar(&self) -> Option<String> {
        match &self.value {
            Value::Bool(value) => Some(value.to_string()),
            Value::Int(value) => Some(value.to_string()),
            Value::Float(value) => Some(value.to_string()),
            Value::Text(text) => Some(text.clone()),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }
}

/// A tag of compose's that says how files are merged, with its line: the parser knows
/// none, and would lose it.
fn tagged(text: &str) -> Option<(u64, &'static str)> {
    let of_line = |line: &str| {
        let mut tags = ["!reset", "!override"].into_iter();
        tags.find(|tag| {
            [": ", "- "]
                .iter()
                .any(|at| line.contains(&format!("{at}{tag}")))
        })
    };
    let mut lines = (1..).zip(text.lines());
    lines.find_map(|(number, line)| Some((number, of_line(line)?)))
}

fn node(file: &Arc<str>, raw: Spanned<Raw>) -> Node {
    let value = match raw.value {
        Raw::Scalar(value) => value,
        Raw::List(list) => Value::List(list.into_iter().map(|raw| node(file, raw)).collect()),
        Raw::Map(map) => {
            let pairs = map.into_iter();
            Value::Map(pairs.map(|(key, raw)| (key, node(file, raw))).collect())
        }
    };
    Node {
        place: Place {
            file: file.clone(),
            line: raw.referenced.line(),
        },
        value,
    }
}

/// What the parser gives.
enum Raw {
    Scalar(Value),
    List(Vec<Spanned<Self>>),
    Map(Vec<(String, Spanned<Self>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Any)
    }
}

struct Any;

impl<'de> Visitor<'de> for Any {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Int(value)))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Raw, E> {
        // longer ones are no number to anybody
        Ok(Raw::Scalar(i64::try_from(value).map_or_else(
            |_| Value::Text(value.to_string()),
            Value::Int,
        )))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Text(value.to_string())))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Text(value.to_string())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Text(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Text(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element()? {
            list.push(item);
        }
        Ok(Raw::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut pairs: Vec<(String, Spanned<Raw>)> = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if pairs.iter().any(|(other, _)| *other == key) {
                return Err(A::Error::custom(format!("{key} is there twice")));
            }
            let value = map.next_value()?;
            pairs.push((key, value));
        }
        Ok(Raw::Map(pairs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Node, Problem> {
        Node::parse(&"c.yml".into(), text)
    }

    #[test]
    fn values_know_their_lines() {
        let text = "x: &x\n  a: yes\n  b: 010\nservices:\n  web:\n    <<: *x\n    ports: [\"80\", 8080, 22:22]\n    c:\n    d: 1.5\n    e: true\n8080: 1\n";
        let root = parse(text).unwrap();
        let web = root.get("services").and_then(|s| s.get("web")).unwrap();
        let value = |key: &str| web.get(key).map(|node| node.value.clone());
        assert_eq!(value("a"), Some(Value::Text("yes".to_owned())));
        assert_eq!(value("b"), Some(Value::Text("010".to_owned())));
        assert_eq!(
            (value("c"), value("e")),
            (Some(Value::Null), Some(Value::Bool(true)))
        );
        let Some(Value::List(ports)) = value("ports") else {
            panic!("{web:?}")
        };
        let texts: Vec<_> = ports.iter().filter_map(Node::scalar).collect();
        assert_eq!(texts, ["80", "8080", "22:22"]);
        assert_eq!(ports[1].value, Value::Int(8080));
        assert_eq!(
            (ports[0].place.line, web.get("d").unwrap().place.line),
            (7, 9)
        );
        assert!(root.get("8080").is_some());
    }

    #[test]
    fn what_is_no_yaml_is_told_with_its_line() {
        let tagged = parse("a: 1\nb: !reset null\n").unwrap_err();
        assert_eq!(
            tagged.to_string(),
            "c.yml:2: !reset is not available in this version: leave it out"
        );
        for (text, line) in [
            ("a: 1\nb: [1", 0),
            ("a: 1\na: 2\n", 2),
            ("a: 1\n b: 2\n", 0),
        ] {
            let problem = parse(text).unwrap_err();
            assert!(line == 0 || problem.line == line, "{problem}");
            assert!(problem.to_string().contains("not YAML"), "{problem}");
        }
        assert!(parse(&"[".repeat(1000)).is_err());
        let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f]\n";
        assert!(parse(bomb).is_err());
    }
}
