//! `deploy`: how many tasks, where, and how they are replaced.

use serde_json::{Map, Value, json};

use super::put;
use crate::{
    cursor::{Cursor, Fields},
    words,
};

/// Reads it into a `TaskTemplate` and a service's spec; gives the service's labels.
pub(super) fn deploy(
    fields: &mut Fields<'_>,
    restart: Option<Cursor<'_>>,
    scale: Option<Cursor<'_>>,
    ports: &[Value],
    template: &mut Map<String, Value>,
    spec: &mut Map<String, Value>,
) -> Vec<(String, String)> {
    let mut replicas = scale.map(|at| (at.number::<u32>(), at));
    let (mut mode, mut endpoint, mut labels) =
        ("replicated".to_owned(), "vip".to_owned(), Vec::new());
    let mut policy = restart.map(|at| of_container(&at));
    if let Some(at) = fields.take("deploy") {
        let mut deploy = at.fields();
        if let Some(at) = deploy.take("mode") {
            mode = at.one_of(&["replicated", "global"]);
        }
        if let Some(at) = deploy.take("replicas") {
            replicas = Some((at.number(), at));
        }
        if let Some(at) = deploy.take("endpoint_mode") {
            endpoint = at.one_of(&["vip", "dnsrr"]);
        }
        if let Some(at) = deploy.take("labels") {
            labels = at.labels();
        }
        if let Some(at) = deploy.take("restart_policy") {
            policy = Some(restart_policy(&at));
        }
        put(
            template,
            "Resources",
            deploy.take("resources").map(|at| resources(&at)),
        );
        put(
            template,
            "Placement",
            deploy.take("placement").map(|at| placement(&at)),
        );
        for (key, docker) in [
            ("update_config", "UpdateConfig"),
            ("rollback_config", "RollbackConfig"),
        ] {
            put(spec, docker, deploy.take(key).map(|at| update(&at)));
        }
        deploy.end();
    }
    put(template, "RestartPolicy", policy);
    let mode = match (mode.as_str(), replicas) {
        ("global", Some((_, at))) => {
            at.wrong("replicas can only be used with replicated mode");
            Value::Null
        }
        ("global", None) => json!({"Global": {}}),
        (_, replicas) => json!({"Replicated": {"Replicas": replicas.map_or(1, |(n, _)| n)}}),
    };
    spec.insert("Mode".to_owned(), mode);
    spec.insert(
        "EndpointSpec".to_owned(),
        json!({"Mode": endpoint, "Ports": ports}),
    );
    labels
}

/// `restart` of a container, where `deploy` says nothing of it.
fn of_container(at: &Cursor<'_>) -> Value {
    let text = match at.node.value {
        // an unquoted no
        crate::node::Value::Bool(false) => "no".to_owned(),
        _ => at.text(),
    };
    let (word, most) = text.split_once(':').unwrap_or((&text, ""));
    match word {
        "no" => json!({"Condition": "none"}),
        "always" | "unless-stopped" => json!({"Condition": "any"}),
        "on-failure" => match most.parse::<u64>() {
            Ok(most) => json!({"Condition": "on-failure", "MaxAttempts": most}),
            Err(_) => json!({"Condition": "on-failure"}),
        },
        _ => {
            at.wrong("use no, always, unless-stopped or on-failure[:N]");
            Value::Null
        }
    }
}

fn restart_policy(at: &Cursor<'_>) -> Value {
    let mut fields = at.fields();
    let mut policy = Map::new();
    let condition = fields.take("condition");
    let condition = condition.map(|at| json!(at.one_of(&["any", "on-failure", "none"])));
    put(&mut policy, "Condition", condition);
    put(
        &mut policy,
        "Delay",
        fields.take("delay").map(|at| json!(at.duration())),
    );
    let most = fields.take("max_attempts");
    put(
        &mut policy,
        "MaxAttempts",
        most.map(|at| json!(at.number::<u64>())),
    );
    put(
        &mut policy,
        "Window",
        fields.take("window").map(|at| json!(at.duration())),
    );
    fields.end();
    Value::Object(policy)
}

fn resources(at: &Cursor<'_>) -> Value {
    let mut fields = at.fields();
    let mut all = Map::new();
    for (key, docker) in [("limits", "Limits"), ("reservations", "Reservations")] {
        let Some(at) = fields.take(key) else { continue };
        let mut of = at.fields();
        let mut some = Map::new();
        put(
            &mut some,
            "NanoCPUs",
            of.take("cpus").map(|at| json!(at.parse(words::cpus))),
        );
        put(
            &mut some,
            "MemoryBytes",
            of.take("memory").map(|at| json!(at.size())),
        );
        if key == "limits" {
            put(
                &mut some,
                "Pids",
                of.take("pids").map(|at| json!(at.number::<u64>())),
            );
        }
        for key in ["devices", "generic_resources"] {
            if let Some(at) = of.take(key) {
                at.wrong("devices are not available in this version: leave them out");
            }
        }
        of.end();
        all.insert(docker.to_owned(), Value::Object(some));
    }
    fields.end();
    Value::Object(all)
}

/// As Docker has it: whether there is such a place, the daemon says.
fn placement(at: &Cursor<'_>) -> Value {
    let mut fields = at.fields();
    let mut placement = Map::new();
    let constraints = fields.take("constraints");
    put(
        &mut placement,
        "Constraints",
        constraints.map(|at| json!(at.texts())),
    );
    if let Some(at) = fields.take("preferences") {
        let one = |at: Cursor<'_>| {
            let mut fields = at.fields();
            let spread = fields.take("spread").map(|at| at.text());
            fields.end();
            json!({"Spread": {"SpreadDescriptor": spread.unwrap_or_default()}})
        };
        let all: Vec<_> = at.items().into_iter().map(one).collect();
        placement.insert("Preferences".to_owned(), json!(all));
    }
    let most = fields.take("max_replicas_per_node");
    put(
        &mut placement,
        "MaxReplicas",
        most.map(|at| json!(at.number::<u64>())),
    );
    fields.end();
    Value::Object(placement)
}

fn update(at: &Cursor<'_>) -> Value {
    let mut fields = at.fields();
    let mut config = Map::new();
    let parallelism = fields.take("parallelism").map(|at| at.number::<u64>());
    config.insert("Parallelism".to_owned(), json!(parallelism.unwrap_or(1)));
    put(
        &mut config,
        "Delay",
        fields.take("delay").map(|at| json!(at.duration())),
    );
    put(
        &mut config,
        "Monitor",
        fields.take("monitor").map(|at| json!(at.duration())),
    );
    let actions = ["pause", "continue", "rollback"];
    let action = fields.take("failure_action");
    put(
        &mut config,
        "FailureAction",
        action.map(|at| json!(at.one_of(&actions))),
    );
    let ratio = fields.take("max_failure_ratio");
    put(
        &mut config,
        "MaxFailureRatio",
        ratio.map(|at| json!(at.number::<f64>())),
    );
    let order = fields.take("order");
    let order = order.map(|at| json!(at.one_of(&["stop-first", "start-first"])));
    put(&mut config, "Order", order);
    fields.end();
    Value::Object(config)
}
