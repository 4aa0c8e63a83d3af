//! `volumes` and `tmpfs` of a service.

use serde_json::{Map, Value, json};

use super::put;
use crate::{
    Input, absolute,
    cursor::{Cursor, Fields},
    object::Objects,
    words,
};

/// `Mounts` of a `ContainerSpec`.
pub(super) fn mounts(input: &Input<'_>, fields: &mut Fields<'_>, objects: &Objects) -> Vec<Value> {
    let items = fields.take("volumes").map(|at| at.items());
    let items = items.unwrap_or_default();
    let mount = |at: &Cursor<'_>| match at.node.scalar() {
        Some(text) => short(input, at, &text, objects),
        None => long(input, at, objects),
    };
    items.iter().map(mount).collect()
}

fn is_path(source: &str) -> bool {
    source.starts_with(['/', '.', '~'])
}

/// A volume by its name in the file.
fn volume(mount: &mut Map<String, Value>, at: &Cursor<'_>, name: &str, objects: &Objects) {
    match objects.volumes.get(name) {
        Some(volume) => {
            mount.insert("Source".to_owned(), json!(volume.name));
            let options = mount.entry("VolumeOptions").or_insert_with(|| json!({}));
            for (key, value) in &volume.options {
                options[key.as_str()] = value.clone();
            }
        }
        None => at.wrong(format!(
            "undefined volume {name:?}: define it below the top level's volumes, or write ./{name} for a directory"
        )),
    }
}

/// `[SOURCE:]TARGET[:OPTION,...]`
fn short(input: &Input<'_>, at: &Cursor<'_>, text: &str, objects: &Objects) -> Value {
    let parts: Vec<_> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => ("", target, ""),
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options),
        _ => {
            at.wrong(format!("{text:?} is not valid: use SOURCE:TARGET[:ro]"));
            return Value::Null;
        }
    };
    let mut mount = Map::from_iter([("Target".to_owned(), json!(target))]);
    let bind = is_path(source);
    mount.insert(
        "Type".to_owned(),
        json!(if bind { "bind" } else { "volume" }),
    );
    if bind {
        mount.insert("Source".to_owned(), json!(absolute(input, source)));
    } else if !source.is_empty() {
        volume(&mut mount, at, source, objects);
    }
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => put(&mut mount, "ReadOnly", Some(json!(true))),
            "nocopy" if !bind => {
                mount.entry("VolumeOptions").or_insert_with(|| json!({}))["NoCopy"] = json!(true)
            }
            // the engine does as it must
            "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" => {}
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" if bind => {
                put(
                    &mut mount,
                    "BindOptions",
                    Some(json!({"Propagation": option})),
                );
            }
            _ => at.wrong(format!("option {option:?} is not known: use ro or rw")),
        }
    }
    Value::Object(mount)
}

fn long(input: &Input<'_>, at: &Cursor<'_>, objects: &Objects) -> Value {
    let mut fields = at.fields();
    let mut mount = Map::new();
    let kind = fields
        .take("type")
        .map(|at| at.one_of(&["bind", "volume", "tmpfs"]));
    let kind = kind.unwrap_or_else(|| "volume".to_owned());
    mount.insert("Type".to_owned(), json!(kind));
    match fields.take("target") {
        Some(target) => put(&mut mount, "Target", Some(json!(target.text()))),
        None => at.wrong("target is missing"),
    }
    let read_only = fields.take("read_only");
    put(
        &mut mount,
        "ReadOnly",
        read_only.map(|at| json!(at.boolean())),
    );
    if let Some(at) = fields.take("bind") {
        let mut bind = at.fields();
        let mut options = Map::new();
        let propagation = bind.take("propagation");
        put(
            &mut options,
            "Propagation",
            propagation.map(|at| json!(at.text())),
        );
        bind.ignore(&["create_host_path", "selinux", "recursive"]);
        bind.end();
        mount.insert("BindOptions".to_owned(), Value::Object(options));
    }
    if let Some(at) = fields.take("volume") {
        let mut of = at.fields();
        let mut options = Map::new();
        put(
            &mut options,
            "NoCopy",
            of.take("nocopy").map(|at| json!(at.boolean())),
        );
        of.end();
        mount.insert("VolumeOptions".to_owned(), Value::Object(options));
    }
    if let Some(at) = fields.take("tmpfs") {
        let mut of = at.fields();
        let mut options = Map::new();
        put(
            &mut options,
            "SizeBytes",
            of.take("size").map(|at| json!(at.size())),
        );
        put(
            &mut options,
            "Mode",
            of.take("mode").map(|at| json!(at.parse(words::mode))),
        );
        of.end();
        mount.insert("TmpfsOptions".to_owned(), Value::Object(options));
    }
    fields.ignore(&["consistency"]);
    if let Some(source) = fields.take("source") {
        let text = source.text();
        match kind.as_str() {
            "bind" => put(&mut mount, "Source", Some(json!(absolute(input, &text)))),
            "volume" => volume(&mut mount, &source, &text, objects),
            _ => source.wrong("a tmpfs has no source"),
        }
    } else if kind == "bind" {
        at.wrong("source is missing");
    }
    fields.end();
    Value::Object(mount)
}

/// `PATH[:OPTION=VALUE,...]`, one or more.
pub(super) fn tmpfs(fields: &mut Fields<'_>) -> Vec<Value> {
    let all = fields.take("tmpfs").map(|at| at.one_or_more());
    let one = |at: Cursor<'_>| {
        let text = at.text();
        let (target, options) = text.split_once(':').unwrap_or((&text, ""));
        let mut made = Map::new();
        for option in options.split(',').filter(|option| !option.is_empty()) {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            let read = match key {
                "size" => words::octets(value).map(|n| ("SizeBytes", json!(n))),
                "mode" => words::mode(value).map(|n| ("Mode", json!(n))),
                _ => Err("it is not known: use size and mode".to_owned()),
            };
            match read {
                Ok((key, value)) => put(&mut made, key, Some(value)),
                Err(why) => at.wrong(format!("option {option:?}: {why}")),
            }
        }
        let mut mount = Map::from_iter([
            ("Type".to_owned(), json!("tmpfs")),
            ("Target".to_owned(), json!(target)),
        ]);
        put(
            &mut mount,
            "TmpfsOptions",
            (!made.is_empty()).then_some(Value::Object(made)),
        );
        Value::Object(mount)
    };
    all.unwrap_or_default().into_iter().map(one).collect()
}
