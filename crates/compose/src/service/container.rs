//! What a task's container is.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::put;
use crate::{
    Input, absolute,
    cursor::{Cursor, Fields},
    env_file,
    interpolate::fill,
};

/// Most of a `ContainerSpec`.
pub(super) fn container(input: &Input<'_>, fields: &mut Fields<'_>) -> Map<String, Value> {
    let mut container = Map::new();
    for (key, docker) in [("entrypoint", "Command"), ("command", "Args")] {
        let words = fields.take(key).map(|at| json!(command(&at)));
        put(&mut container, docker, words);
    }
    for (key, docker) in [
        ("hostname", "Hostname"),
        ("working_dir", "Dir"),
        ("user", "User"),
        ("stop_signal", "StopSignal"),
    ] {
        put(
            &mut container,
            docker,
            fields.take(key).map(|at| json!(at.text())),
        );
    }
    for (key, docker) in [("init", "Init"), ("read_only", "ReadOnly"), ("tty", "TTY")] {
        put(
            &mut container,
            docker,
            fields.take(key).map(|at| json!(at.boolean())),
        );
    }
    for (key, docker) in [
        ("cap_add", "CapabilityAdd"),
        ("cap_drop", "CapabilityDrop"),
        ("group_add", "Groups"),
    ] {
        put(
            &mut container,
            docker,
            fields.take(key).map(|at| json!(at.texts())),
        );
    }
    let grace = fields.take("stop_grace_period");
    put(
        &mut container,
        "StopGracePeriod",
        grace.map(|at| json!(at.duration())),
    );
    let score = fields.take("oom_score_adj");
    put(
        &mut container,
        "OomScoreAdj",
        score.map(|at| json!(at.number::<i64>())),
    );
    let sysctls = fields.take("sysctls");
    let sysctls = sysctls.map(|at| json!(at.labels().into_iter().collect::<BTreeMap<_, _>>()));
    put(&mut container, "Sysctls", sysctls);
    put(
        &mut container,
        "Ulimits",
        fields.take("ulimits").map(|at| ulimits(&at)),
    );
    put(
        &mut container,
        "Hosts",
        fields.take("extra_hosts").map(|at| hosts(&at)),
    );
    put(
        &mut container,
        "Healthcheck",
        fields.take("healthcheck").map(|at| health(&at)),
    );
    let env = environment(input, fields);
    put(&mut container, "Env", (!env.is_empty()).then(|| json!(env)));
    put(&mut container, "DNSConfig", dns(fields));
    container
}

/// A list, or a line as a shell would part it.
fn command(at: &Cursor<'_>) -> Vec<String> {
    if at.node.scalar().is_none() {
        return at.texts();
    }
    let text = at.text();
    shlex::split(&text).unwrap_or_else(|| {
        at.wrong("a quotation mark or a backslash is left open");
        Vec::new()
    })
}

/// `KEY=VALUE`s in order of their keys; a `KEY` alone takes the image's away.
fn environment(input: &Input<'_>, fields: &mut Fields<'_>) -> Vec<String> {
    let mut all: BTreeMap<String, Option<String>> = BTreeMap::new();
    // without a value, it is the one of whoever deploys
    let resolved = |key: &str, value: Option<String>| value.or_else(|| (input.variable)(key));
    let files = fields.take("env_file").map(|at| at.one_or_more());
    for at in files.unwrap_or_default() {
        for (key, value) in env_file(input, &at) {
            let value = resolved(&key, value);
            all.insert(key, value);
        }
    }
    let own = fields.take("environment");
    for (key, value) in own.map(|at| at.pairs(&['='])).unwrap_or_default() {
        let value = resolved(&key, value);
        all.insert(key, value);
    }
    let one = |(key, value): (String, Option<String>)| match value {
        Some(value) => format!("{key}={value}"),
        None => key,
    };
    all.into_iter().map(one).collect()
}

/// A path, or `path`, `required` and `format`.
fn env_file(input: &Input<'_>, at: &Cursor<'_>) -> Vec<(String, Option<String>)> {
    let (mut path, mut required, mut raw) = (String::new(), true, false);
    if at.node.scalar().is_some() {
        path = at.text();
    } else {
        let mut fields = at.fields();
        if let Some(at) = fields.take("path") {
            path = at.text();
        }
        if let Some(at) = fields.take("required") {
            required = at.boolean();
        }
        if let Some(at) = fields.take("format") {
            raw = at.one_of(&["raw"]) == "raw";
        }
        fields.end();
    }
    let path = absolute(input, &path);
    let text = match (input.read)(&path) {
        Ok(text) => text,
        Err(_) if !required => return Vec::new(),
        Err(why) => {
            at.wrong(format!("cannot read {}: {why}", path.display()));
            return Vec::new();
        }
    };
    let text = String::from_utf8_lossy(&text);
    let mut variables = env_file::variables(&text).unwrap_or_else(|line| {
        at.wrong(format!(
            "line {line} of {} is not KEY=VALUE",
            path.display()
        ));
        Vec::new()
    });
    for (key, value) in variables.iter_mut().filter(|_| !raw) {
        let Some(value) = value else { continue };
        match fill(value, input.variable, &mut |_| {}, 0) {
            Ok(filled) => *value = filled,
            Err(why) => at.wrong(format!("{key} in {}: {why}", path.display())),
        }
    }
    variables
}

fn health(at: &Cursor<'_>) -> Value {
    let mut fields = at.fields();
    let mut check = Map::new();
    let disabled = fields.take("disable").is_some_and(|at| at.boolean());
    if let Some(test) = fields.take("test") {
        let words = match test.node.scalar() {
            Some(line) => vec!["CMD-SHELL".to_owned(), line],
            None => test.texts(),
        };
        let known = words
            .first()
            .is_none_or(|word| ["NONE", "CMD", "CMD-SHELL"].contains(&word.as_str()));
        if !known {
            test.wrong("the first word is NONE, CMD or CMD-SHELL");
        }
        if disabled {
            test.wrong("disable: true and test contradict each other: leave one of them out");
        }
        check.insert("Test".to_owned(), json!(words));
    }
    for (key, docker) in [
        ("interval", "Interval"),
        ("timeout", "Timeout"),
        ("start_period", "StartPeriod"),
        ("start_interval", "StartInterval"),
    ] {
        put(
            &mut check,
            docker,
            fields.take(key).map(|at| json!(at.duration())),
        );
    }
    let retries = fields.take("retries");
    put(
        &mut check,
        "Retries",
        retries.map(|at| json!(at.number::<u32>())),
    );
    fields.end();
    match disabled {
        true => json!({"Test": ["NONE"]}),
        false => Value::Object(check),
    }
}

/// `NAME: LIMIT`, or `NAME: {soft, hard}`, in order of their names.
fn ulimits(at: &Cursor<'_>) -> Value {
    let mut all: Vec<_> = at.entries();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    let one = |(name, at): (String, Cursor<'_>)| {
        let (soft, hard) = match at.node.scalar() {
            Some(_) => {
                let both = at.number::<i64>();
                (both, both)
            }
            None => {
                let mut fields = at.fields();
                let soft = fields.take("soft").map(|at| at.number::<i64>());
                let hard = fields.take("hard").map(|at| at.number::<i64>());
                fields.end();
                if soft.is_none() || hard.is_none() {
                    at.wrong("give soft and hard");
                }
                (soft.unwrap_or(0), hard.unwrap_or(0))
            }
        };
        json!({"Name": name, "Soft": soft, "Hard": hard})
    };
    json!(all.into_iter().map(one).collect::<Vec<_>>())
}

/// Lines of hosts(5), of `NAME:ADDRESS`, `NAME=ADDRESS` or a mapping.
fn hosts(at: &Cursor<'_>) -> Value {
    let lines = at.pairs(&['=', ':']).into_iter().map(|(name, address)| {
        let address = address.unwrap_or_default();
        let address = address.trim_start_matches('[').trim_end_matches(']');
        format!("{address} {name}")
    });
    json!(lines.collect::<Vec<_>>())
}

fn dns(fields: &mut Fields<'_>) -> Option<Value> {
    let mut dns = Map::new();
    for (key, docker) in [
        ("dns", "Nameservers"),
        ("dns_search", "Search"),
        ("dns_opt", "Options"),
    ] {
        let list = fields.take(key).map(|at| {
            let texts = at.one_or_more();
            json!(texts.iter().map(Cursor::text).collect::<Vec<_>>())
        });
        put(&mut dns, docker, list);
    }
    (!dns.is_empty()).then_some(Value::Object(dns))
}
