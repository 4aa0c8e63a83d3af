//! Several files as one: a later one is laid over those before
//! (<https://github.com/compose-spec/compose-spec/blob/main/13-merge.md>).

use crate::node::{Node, Value};

/// Of a service: what is replaced as a whole.
const WHOLE: [&str; 3] = ["command", "entrypoint", "healthcheck.test"];
/// Lists of `KEY=VALUE` that may be mappings as well.
const PAIRS: [&str; 6] = [
    "environment",
    "labels",
    "sysctls",
    "extra_hosts",
    "deploy.labels",
    "annotations",
];
/// Lists of names that may be mappings as well.
const NAMES: [&str; 2] = ["networks", "depends_on"];
/// What is a text or a list of such.
const ONE_OR_MORE: [&str; 5] = ["env_file", "dns", "dns_search", "dns_opt", "tmpfs"];

/// Lays one tree over another.
pub(crate) fn merge(base: &mut Node, over: Node) {
    walk(base, over, &mut Vec::new());
}

fn walk(base: &mut Node, mut over: Node, path: &mut Vec<String>) {
    // `services`, its name, then what is said of it
    let of_service = (path.first().is_some_and(|first| first == "services") && path.len() > 2)
        .then(|| path[2..].join("."));
    let at = of_service.as_deref().unwrap_or_default();
    if WHOLE.contains(&at) {
        *base = over;
        return;
    }
    if PAIRS.contains(&at) || NAMES.contains(&at) {
        as_map(base, at);
        as_map(&mut over, at);
    }
    if ONE_OR_MORE.contains(&at) {
        as_list(base);
        as_list(&mut over);
    }
    match (&mut base.value, over.value) {
        (Value::Map(below), Value::Map(above)) => {
            for (key, value) in above {
                match below.iter_mut().find(|(k, _)| *k == key) {
                    Some((_, node)) => {
                        path.push(key);
                        walk(node, value, path);
                        path.pop();
                    }
                    None => below.push((key, value)),
                }
            }
        }
        (Value::List(below), Value::List(above)) => {
            for item in above {
                let same = |other: &Node| match identity(at, &item) {
                    Some(identity) => identity_is(at, other, &identity),
                    None => other.value_is(&item),
                };
                match below.iter_mut().find(|other| same(other)) {
                    Some(other) => *other = item,
                    None => below.push(item),
                }
            }
        }
        // nothing is said
        (_, Value::Null) => {}
        (below, above) => {
            *below = above;
            base.place = over.place;
        }
    }
}

impl Node {
    /// The same value, wherever it is.
    fn value_is(&self, other: &Self) -> bool {
        match (&self.value, &other.value) {
            (Value::List(a), Value::List(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.value_is(b))
            }
            (Value::Map(a), Value::Map(b)) => {
                a.len() == b.len()
                    && a.iter().all(|(key, a)| {
                        let b = other.get(key);
                        b.is_some_and(|b| a.value_is(b))
                    })
            }
            (a, b) => a == b,
        }
    }
}

/// By what an item of a list is known, so that a later one takes its place.
fn identity(at: &str, item: &Node) -> Option<String> {
    let of = |key: &str| item.get(key).and_then(Node::scalar);
    match at {
        "volumes" => of("target").or_else(|| {
            let text = item.scalar()?;
            let mut parts = text.split(':');
            let first = parts.next()?.to_owned();
            Some(parts.next().map_or(first, str::to_owned))
        }),
        "configs" | "secrets" => of("target")
            .or_else(|| of("source"))
            .or_else(|| item.scalar()),
        "env_file" => of("path").or_else(|| item.scalar()),
        _ => None,
    }
}

fn identity_is(at: &str, item: &Node, wanted: &str) -> bool {
    identity(at, item).is_some_and(|identity| identity == wanted)
}

fn as_list(node: &mut Node) {
    if !matches!(node.value, Value::List(_) | Value::Null) {
        node.value = Value::List(vec![node.clone()]);
    }
}

fn as_map(node: &mut Node, at: &str) {
    let Value::List(list) = &node.value else {
        return;
    };
    let mut map: Vec<(String, Node)> = Vec::new();
    for item in list {
        let Some(text) = item.scalar() else {
            // told when it is read
            return;
        };
        let parted = match at {
            "extra_hosts" => text.split_once('=').or_else(|| text.split_once(':')),
            _ if NAMES.contains(&at) => None,
            _ => text.split_once('='),
        };
        let (key, value) = match parted {
            Some((key, value)) => (key.to_owned(), Value::Text(value.to_owned())),
            None => (text, Value::Null),
        };
        let value = Node {
            place: item.place.clone(),
            value,
        };
        map.retain(|(other, _)| *other != key);
        map.push((key, value));
    }
    node.value = Value::Map(map);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(base: &str, over: &str) -> Node {
        let parse = |text: &str| Node::parse(&"c.yml".into(), text).unwrap();
        let mut node = parse(&format!("services:\n  web: {base}"));
        merge(&mut node, parse(&format!("services:\n  web: {over}")));
        node.get("services").unwrap().get("web").unwrap().clone()
    }

    fn expected(text: &str) -> Node {
        Node::parse(&"c.yml".into(), text).unwrap()
    }

    #[test]
    fn files_are_laid_over_each_other() {
        for (base, over, result) in [
            ("{image: a, user: x}", "{image: b}", "{image: b, user: x}"),
            ("{command: [a, b]}", "{command: c}", "{command: c}"),
            ("{dns: [a]}", "{dns: b}", "{dns: [a, b]}"),
            (
                "{environment: [A=1, B=2]}",
                "{environment: {B: x, C: y}}",
                "{environment: {A: \"1\", B: x, C: y}}",
            ),
            (
                "{ports: [80, 81]}",
                "{ports: [81, 82]}",
                "{ports: [80, 81, 82]}",
            ),
            (
                "{volumes: [\"a:/x\", \"b:/y\"]}",
                "{volumes: [{source: c, target: /x}]}",
                "{volumes: [{source: c, target: /x}, \"b:/y\"]}",
            ),
            (
                "{networks: [a]}",
                "{networks: {b: {aliases: [x]}}}",
                "{networks: {a: , b: {aliases: [x]}}}",
            ),
            (
                "{deploy: {replicas: 1, labels: [a=b]}}",
                "{deploy: {replicas: 2, labels: {c: d}}}",
                "{deploy: {replicas: 2, labels: {a: b, c: d}}}",
            ),
            (
                "{healthcheck: {test: [a], retries: 1}}",
                "{healthcheck: {test: [b]}}",
                "{healthcheck: {test: [b], retries: 1}}",
            ),
            ("{image: a}", "", "{image: a}"),
        ] {
            let (seen, expected) = (merged(base, over), expected(result));
            assert!(seen.value_is(&expected), "{base} {over}: {seen:?}");
        }
    }
}
