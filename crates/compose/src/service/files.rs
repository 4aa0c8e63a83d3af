//! `configs` and `secrets` of a service.

use std::collections::BTreeMap;

use model::FileRef;
use serde_json::{Map, Value, json};

use crate::{
    cursor::{Cursor, Fields},
    object::{Object, Objects},
    words,
};

/// Reads them into a `ContainerSpec`.
pub(super) fn files(
    fields: &mut Fields<'_>,
    objects: &mut Objects,
    container: &mut Map<String, Value>,
) {
    for (key, what, docker, all) in [
        ("configs", "config", "Config", &mut objects.configs),
        ("secrets", "secret", "Secret", &mut objects.secrets),
    ] {
        let items = fields.take(key).map(|at| at.items()).unwrap_or_default();
        let items: Vec<_> = items.iter().map(|at| file(at, what, docker, all)).collect();
        if !items.is_empty() {
            container.insert(format!("{docker}s"), json!(items));
        }
    }
}

fn file(at: &Cursor<'_>, what: &str, docker: &str, all: &mut BTreeMap<String, Object>) -> Value {
    let (mut source, mut target) = (String::new(), None);
    let (mut uid, mut gid, mut mode) = ("0".to_owned(), "0".to_owned(), FileRef::MODE);
    if at.node.scalar().is_some() {
        source = at.text();
    } else {
        let mut fields = at.fields();
        if let Some(at) = fields.take("source") {
            source = at.text();
        }
        target = fields.take("target").map(|at| at.text());
        for (key, id) in [("uid", &mut uid), ("gid", &mut gid)] {
            if let Some(at) = fields.take(key) {
                *id = at.number::<u32>().to_string();
            }
        }
        if let Some(at) = fields.take("mode") {
            // 0440 is a text here; a number was written otherwise
            mode = match at.node.value {
                crate::node::Value::Int(n) => u32::try_from(n).unwrap_or(u32::MAX),
                _ => at.parse(words::mode),
            };
        }
        fields.end();
    }
    let name = Objects::need(all, what, &source, at);
    json!({
        "File": {"Name": target.unwrap_or(source), "UID": uid, "GID": gid, "Mode": mode},
        format!("{docker}Name"): name,
    })
}
