//! Services of servers that are not the mesh's: `ipvsmesh.runtime=static` with
//! `ipvsmesh.endpoints=ADDRESS[:PORT],...`. Docker's clients must name an image and may
//! name a number of tasks; neither says anything here.

use model::{Mode, RuntimeSpec, Server, ServiceSpec, label};
use serde_json::Value;

use super::{BTreeMap, only};
use crate::ApiError;

/// What tasks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Docker,
    Process,
    Static,
    Adopted,
}

/// By the label, or else by `TaskTemplate.Runtime`.
pub(super) fn kind(label: Option<&String>, template: Option<&str>) -> Result<Kind, ApiError> {
    match label.map(String::as_str).or(template) {
        Some("process") => Ok(Kind::Process),
        Some("static") => Ok(Kind::Static),
        // nobody can make one, but what is shown can be sent back
        Some("adopted") => Ok(Kind::Adopted),
        None | Some("" | "container" | "docker") => Ok(Kind::Docker),
        Some(other) => Err(ApiError::invalid(format!(
            "runtime {other:?} is not known: use docker, process or static ({}, or TaskTemplate.Runtime)",
            label::RUNTIME
        ))),
    }
}

/// Refuses what has a meaning that servers of others do not have, and gives how many
/// there are.
pub(super) fn check(raw: &Value, labels: &BTreeMap<String, String>) -> Result<Mode, ApiError> {
    const TEMPLATE: [&str; 6] = [
        "ContainerSpec",
        "RestartPolicy",
        "ForceUpdate",
        "Runtime",
        "Networks",
        "Placement",
    ];
    // what docker's clients say in any case
    const CONTAINER: [&str; 3] = ["Image", "StopGracePeriod", "Isolation"];
    only(raw, "TaskTemplate", &TEMPLATE)?;
    only(raw, "TaskTemplate.ContainerSpec", &CONTAINER)?;
    only(raw, "TaskTemplate.Placement", &["Platforms", "Constraints"])?;
    if raw
        .pointer("/Mode/Global")
        .is_some_and(|mode| !mode.is_null())
    {
        return Err(ApiError::invalid(
            "Mode: a static service has one task for each endpoint: leave Global out",
        ));
    }
    let servers = Server::of_labels(labels);
    let servers = servers
        .map_err(|error| ApiError::invalid(format!("Labels: {}: {error}", label::ENDPOINTS)))?;
    let replicas = u32::try_from(servers.len()).unwrap_or(u32::MAX);
    Ok(Mode::Replicated { replicas })
}

/// Refuses a number of tasks that is not that of the endpoints, where somebody has
/// changed it.
pub(super) fn check_scale(
    raw: &Value,
    before: &ServiceSpec,
    spec: &ServiceSpec,
) -> Result<(), ApiError> {
    let said = raw.pointer("/Mode/Replicated/Replicas");
    let said = said.and_then(Value::as_u64);
    let number = |spec: &ServiceSpec| match spec.mode {
        Mode::Replicated { replicas } => Some(u64::from(replicas)),
        Mode::Global => None,
    };
    let is_static = spec.task.runtime == RuntimeSpec::Static;
    match said {
        Some(said) if is_static && said != 0 => {
            if Some(said) == number(before) || Some(said) == number(spec) {
                return Ok(());
            }
            Err(ApiError::invalid(format!(
                "service {} is static, and has one task for each endpoint: add or remove endpoints (--endpoint-add, --endpoint-rm, label {})",
                spec.name,
                label::ENDPOINTS
            )))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use model::State;
    use serde_json::json;

    use super::*;
    use crate::convert::{changed_service, service};

    fn raw(endpoints: &str, replicas: u32) -> Value {
        json!({
            "Name": "legacy",
            "Labels": {label::RUNTIME: "static", label::ENDPOINTS: endpoints},
            // what docker's own client sends, too
            "TaskTemplate": {"ContainerSpec": {"Image": "none", "Isolation": "default"}, "ForceUpdate": 0},
            "Mode": {"Replicated": {"Replicas": replicas}},
        })
    }

    #[test]
    fn labels_make_a_static_service() {
        let state = State::default();
        let spec = service(&raw("192.0.2.1:80,192.0.2.2:80", 1), &state).unwrap();
        assert_eq!(spec.task.runtime, RuntimeSpec::Static);
        assert_eq!(spec.mode, Mode::Replicated { replicas: 2 });
        // one more by the label, with the number that was shown
        let more = raw("192.0.2.1:80,192.0.2.2:80,192.0.2.3:80", 2);
        let more = changed_service(&more, &state, &spec).unwrap();
        assert_eq!(more.mode, Mode::Replicated { replicas: 3 });
        // but no number that nobody could fill
        let scaled = raw("192.0.2.1:80,192.0.2.2:80", 5);
        let refused = changed_service(&scaled, &state, &spec).unwrap_err();
        assert!(
            refused.message.contains("one task for each endpoint"),
            "{}",
            refused.message
        );
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        let state = State::default();
        let mut command = raw("192.0.2.1:80", 1);
        command["TaskTemplate"]["ContainerSpec"]["Args"] = json!(["sleep"]);
        let mut few = raw("192.0.2.1:80", 1);
        few["TaskTemplate"]["Placement"] = json!({"MaxReplicas": 1});
        let mut global = raw("192.0.2.1:80", 1);
        global["Mode"] = json!({"Global": {}});
        let mut docker = raw("192.0.2.1:80", 1);
        docker["Labels"][label::RUNTIME] = json!("docker");
        let mut adopted = raw("192.0.2.1:80", 1);
        adopted["Labels"] = json!({label::RUNTIME: "adopted"});
        for (raw, word) in [
            (command, "ContainerSpec.Args"),
            (few, "Placement.MaxReplicas"),
            (global, "Global"),
            (docker, "is of static services"),
            (adopted, "labels of running containers"),
            (raw("web:80", 1), "web:80"),
            (raw("", 1), "needs an endpoint"),
        ] {
            let refused = service(&raw, &state).unwrap_err().message;
            assert!(refused.contains(word), "{refused}");
        }
    }
}
