//! What a service's spec would change, key by key. The daemon fills in what a spec does
//! not say: that is no difference.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// One key that is other than it is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// `TaskTemplate.ContainerSpec.Env[0]`
    pub key: String,
    /// What it is; `None`: nothing.
    pub is: Option<Value>,
    /// What is wanted.
    pub wanted: Option<Value>,
}

/// What is different between a service's spec, with networks by name, and the one that
/// is wanted. `ForceUpdate` is nobody's wish.
pub fn differences(is: &Value, wanted: &Value) -> Vec<Difference> {
    let mut all = Vec::new();
    walk("", Some(&whole(is)), Some(&whole(wanted)), &mut all);
    all
}

/// With all that is meant where nothing is said, and without what means nothing.
fn whole(spec: &Value) -> Value {
    let rollout = json!({
        "Parallelism": 1, "Delay": 0, "FailureAction": "pause", "Monitor": 5_000_000_000_u64,
        "MaxFailureRatio": 0, "Order": "stop-first",
    });
    let mut whole = json!({
        "Labels": {},
        "TaskTemplate": {
            "Runtime": "container",
            "RestartPolicy": {"Condition": "any", "Delay": 5_000_000_000_u64},
            "ContainerSpec": {"Isolation": "default", "StopGracePeriod": 10_000_000_000_u64},
        },
        "UpdateConfig": rollout,
        "RollbackConfig": rollout,
    });
    lay(&mut whole, spec);
    let template = &mut whole["TaskTemplate"];
    if let Some(template) = template.as_object_mut() {
        template.remove("ForceUpdate");
    }
    for (list, id) in [("Configs", "ConfigID"), ("Secrets", "SecretID")] {
        let files = template["ContainerSpec"].get_mut(list);
        for file in files.and_then(Value::as_array_mut).into_iter().flatten() {
            // they are known by their names
            file.as_object_mut().map(|file| file.remove(id));
        }
    }
    let ports = whole.pointer_mut("/EndpointSpec/Ports");
    if let Some(ports) = ports.and_then(Value::as_array_mut) {
        ports.sort_by_key(|port| {
            let number = |key: &str| port[key].as_u64();
            (
                number("PublishedPort"),
                number("TargetPort"),
                port.to_string(),
            )
        });
    }
    whole
}

/// Lays one over the other.
fn lay(below: &mut Value, above: &Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (key, value) in above {
                lay(below.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (below, above) => *below = above.clone(),
    }
}

fn walk(key: &str, is: Option<&Value>, wanted: Option<&Value>, all: &mut Vec<Difference>) {
    let nothing = |value: Option<&Value>| value.is_none_or(says_nothing);
    if nothing(is) && nothing(wanted) {
        return;
    }
    let empty = Map::new();
    let map = |value: Option<&Value>| match value {
        None | Some(Value::Null) => Some(empty.clone()),
        Some(Value::Object(map)) => Some(map.clone()),
        Some(_) => None,
    };
    if let (Some(old), Some(new)) = (map(is), map(wanted)) {
        let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
        for name in keys {
            let below = match (key, name.contains('.')) {
                ("", _) => name.clone(),
                (key, true) => format!("{key}[{name}]"),
                (key, false) => format!("{key}.{name}"),
            };
            walk(&below, old.get(name), new.get(name), all);
        }
        return;
    }
    if let (Some(Value::Array(old)), Some(Value::Array(new))) = (is, wanted)
        && old.len() == new.len()
    {
        for (n, (old, new)) in old.iter().zip(new).enumerate() {
            walk(&format!("{key}[{n}]"), Some(old), Some(new), all);
        }
        return;
    }
    if !same(is, wanted) {
        all.push(Difference {
            key: key.to_owned(),
            is: is.cloned(),
            wanted: wanted.cloned(),
        });
    }
}

/// 0 and 0.0 are one number.
fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a, b) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => a == b || a.as_f64() == b.as_f64(),
        (a, b) => a == b,
    }
}

/// Null, false, 0, "" or an empty list or mapping of such.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(says_nothing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_filled_in_is_no_difference() {
        let wanted = json!({
            "Name": "app_web",
            "TaskTemplate": {"ContainerSpec": {"Image": "web", "Configs": [{"ConfigName": "a"}]}},
            "EndpointSpec": {"Mode": "vip", "Ports": [
                {"TargetPort": 80, "PublishedPort": 8081}, {"TargetPort": 80, "PublishedPort": 8080},
            ]},
        });
        let is = json!({
            "Name": "app_web", "Labels": {},
            "TaskTemplate": {
                "Runtime": "container", "ForceUpdate": 3, "Resources": {"Limits": {}},
                "ContainerSpec": {
                    "Image": "web", "Isolation": "default", "Configs": [{"ConfigName": "a", "ConfigID": "x"}],
                },
                "RestartPolicy": {"Condition": "any", "Delay": 5_000_000_000_u64, "MaxAttempts": 0},
            },
            "UpdateConfig": {"Parallelism": 1, "MaxFailureRatio": 0.0},
            "EndpointSpec": {"Mode": "vip", "Ports": [
                {"TargetPort": 80, "PublishedPort": 8080}, {"TargetPort": 80, "PublishedPort": 8081},
            ]},
        });
        assert_eq!(differences(&is, &wanted), []);
    }

    #[test]
    fn differences_are_exact_to_the_key() {
        let is = json!({"Labels": {"a.b": "1"}, "Mode": {"Replicated": {"Replicas": 0}},
            "TaskTemplate": {"ContainerSpec": {"Env": ["A=1", "B=2"], "Dir": "/x"}}});
        let wanted = json!({"Labels": {"a.b": "2"}, "Mode": {"Replicated": {"Replicas": 2}},
            "TaskTemplate": {"ContainerSpec": {"Env": ["A=1", "B=3"], "Args": ["x"]}}});
        let all = differences(&is, &wanted);
        let keys: Vec<_> = all.iter().map(|one| one.key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "Labels[a.b]",
                "Mode.Replicated.Replicas",
                "TaskTemplate.ContainerSpec.Args",
                "TaskTemplate.ContainerSpec.Dir",
                "TaskTemplate.ContainerSpec.Env[1]"
            ]
        );
        assert_eq!(all[3].wanted, None);
    }
}
