//! Reads a tree: each value by its type, each mistake with its place, and no key unseen.

use std::str::FromStr;

use crate::{
    node::{Node, Value},
    problem::Log,
    words,
};

/// A value in the tree, with the way to it.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    pub(crate) node: &'a Node,
    pub(crate) key: String,
    pub(crate) log: &'a Log,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(node: &'a Node, key: impl Into<String>, log: &'a Log) -> Self {
        let key = key.into();
        Self { node, key, log }
    }

    pub(crate) fn wrong(&self, what: impl Into<String>) {
        self.log.wrong(self.node.place.problem(&self.key, what));
    }

    pub(crate) fn warn(&self, what: impl Into<String>) {
        self.log.warn(self.node.place.problem(&self.key, what));
    }

    pub(crate) fn is_null(&self) -> bool {
        self.node.value == Value::Null
    }

    fn unlike<T: Default>(&self, wanted: &str) -> T {
        self.wrong(format!(
            "it is {}, and should be {wanted}",
            self.node.kind()
        ));
        T::default()
    }

    /// A scalar as text.
    pub(crate) fn text(&self) -> String {
        let text = self.node.scalar();
        text.unwrap_or_else(|| self.unlike("a text"))
    }

    /// A scalar that is read so.
    pub(crate) fn parse<T: Default, E: ToString>(
        &self,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> T {
        let Some(text) = self.node.scalar() else {
            return self.unlike("a text");
        };
        read(&text).unwrap_or_else(|why| {
            self.wrong(format!("{text:?} is not valid: {}", why.to_string()));
            T::default()
        })
    }

    pub(crate) fn number<T: Default + FromStr>(&self) -> T {
        self.parse(|text| text.parse().map_err(|_| "use a number"))
    }

    pub(crate) fn boolean(&self) -> bool {
        self.parse(|text| match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "y" | "on" | "1" => Ok(true),
            "false" | "no" | "n" | "off" | "0" => Ok(false),
            _ => Err("use true or false"),
        })
    }

    /// Nanoseconds.
    pub(crate) fn duration(&self) -> u64 {
        self.parse(words::duration)
    }

    /// Octets.
    pub(crate) fn size(&self) -> u64 {
        self.parse(words::octets)
    }

    /// One of these words.
    pub(crate) fn one_of(&self, known: &[&str]) -> String {
        self.parse(|text| match known.contains(&text) {
            true => Ok(text.to_owned()),
            false => Err(format!("use {}", known.join(", "))),
        })
    }

    /// The items of a list.
    pub(crate) fn items(&self) -> Vec<Self> {
        match &self.node.value {
            Value::List(list) => {
                let items = list.iter().enumerate();
                let item = |(n, node)| Self::new(node, format!("{}[{n}]", self.key), self.log);
                items.map(item).collect()
            }
            Value::Null => Vec::new(),
            _ => self.unlike("a list"),
        }
    }

    /// The items of a list, or one that stands alone.
    pub(crate) fn one_or_more(&self) -> Vec<Self> {
        match self.node.value {
            Value::List(_) | Value::Null => self.items(),
            _ => vec![self.clone()],
        }
    }

    pub(crate) fn texts(&self) -> Vec<String> {
        self.items().iter().map(Self::text).collect()
    }

    /// The entries of a mapping.
    pub(crate) fn entries(&self) -> Vec<(String, Self)> {
        match &self.node.value {
            Value::Map(map) => {
                let entry = |(key, node): &'a (String, Node)| {
                    let at = Self::new(node, self.below(key), self.log);
                    (key.clone(), at)
                };
                map.iter().map(entry).collect()
            }
            Value::Null => Vec::new(),
            _ => self.unlike("a mapping"),
        }
    }

    fn below(&self, key: &str) -> String {
        match self.key.is_empty() {
            true => key.to_owned(),
            false => format!("{}.{key}", self.key),
        }
    }

    /// A mapping, or a list of `KEY=VALUE`; later ones take the place of earlier ones.
    pub(crate) fn pairs(&self, separators: &[char]) -> Vec<(String, Option<String>)> {
        let mut pairs: Vec<(String, Option<String>)> = Vec::new();
        let mut add = |key: String, value: Option<String>| {
            pairs.retain(|(other, _)| *other != key);
            pairs.push((key, value));
        };
        match &self.node.value {
            Value::Map(_) => {
                for (key, at) in self.entries() {
                    let value = (!at.is_null()).then(|| at.text());
                    add(key, value);
                }
            }
            Value::List(_) => {
                for at in self.items() {
                    let text = at.text();
                    let mut parted = separators.iter().map(|by| text.split_once(*by));
                    match parted.find_map(|parted| parted) {
                        Some((key, value)) => add(key.to_owned(), Some(value.to_owned())),
                        None => add(text, None),
                    }
                }
            }
            Value::Null => {}
            _ => self.unlike("a mapping or a list of KEY=VALUE"),
        }
        pairs
    }

    /// Labels: what has no value has an empty one.
    pub(crate) fn labels(&self) -> Vec<(String, String)> {
        let pairs = self.pairs(&['=']).into_iter();
        pairs
            .map(|(key, value)| (key, value.unwrap_or_default()))
            .collect()
    }

    /// A mapping whose keys are taken one after the other.
    pub(crate) fn fields(&self) -> Fields<'a> {
        Fields {
            at: self.clone(),
            entries: self.entries(),
        }
    }
}

/// What is left of a mapping.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    pub(crate) at: Cursor<'a>,
    entries: Vec<(String, Cursor<'a>)>,
}

impl<'a> Fields<'a> {
    /// The value of a key, if it says anything.
    pub(crate) fn take(&mut self, key: &str) -> Option<Cursor<'a>> {
        let at = self.entries.iter().position(|(name, _)| name == key)?;
        let (_, found) = self.entries.remove(at);
        (!found.is_null()).then_some(found)
    }

    /// Takes keys of which nothing is made, and warns of them.
    pub(crate) fn ignore(&mut self, keys: &[&str]) {
        for key in keys {
            if let Some(ignored) = self.take(key) {
                ignored.warn("this option is ignored");
            }
        }
    }

    /// Nobody knows what is left. Extensions (`x-...`) are not ours to know.
    pub(crate) fn end(self) {
        for (key, left) in &self.entries {
            if !key.starts_with("x-") {
                left.wrong("this option is not known: leave it out");
            }
        }
    }
}
