//! What a stack is and what it shall be: which requests lead from the one to the other.

use std::collections::BTreeMap;

use compose::{
    After, Stack,
    diff::{Difference, differences},
};
use model::BlobKind;
use serde_json::{Value, json};

use crate::output::{list, text};

/// What there is of a stack, as the daemon shows it.
#[derive(Debug, Default)]
pub(super) struct Current {
    /// All networks of the mesh: services name them by their ids.
    pub(super) networks: Vec<Value>,
    /// All configs of the mesh.
    pub(super) configs: Vec<Value>,
    /// All secrets of the mesh.
    pub(super) secrets: Vec<Value>,
    /// The stack's own.
    pub(super) services: Vec<Value>,
}

/// What is done about one thing.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    CreateNetwork(Value),
    CreateBlob(BlobKind, Value),
    /// Data of a secret are not shown: the daemon is told them, and compares.
    UpdateBlob {
        kind: BlobKind,
        is: Value,
        wanted: Value,
    },
    CreateService {
        spec: Value,
        /// Services of the mesh that are waited for.
        after: Vec<After>,
    },
    UpdateService {
        is: Value,
        spec: Value,
        differences: Vec<Difference>,
    },
    RemoveService(Value),
}

fn named<'a>(all: &'a [Value], at: &str, name: &str) -> Option<&'a Value> {
    all.iter().find(|one| text(one, at) == name)
}

/// Names that must be there, and are not.
pub(super) fn missing(stack: &Stack, current: &Current) -> Vec<String> {
    let mut missing = Vec::new();
    for (what, names, all, at) in [
        (
            "network",
            &stack.external_networks,
            &current.networks,
            "/Name",
        ),
        (
            "config",
            &stack.external_configs,
            &current.configs,
            "/Spec/Name",
        ),
        (
            "secret",
            &stack.external_secrets,
            &current.secrets,
            "/Spec/Name",
        ),
    ] {
        let gone = names.iter().filter(|name| named(all, at, name).is_none());
        missing.extend(gone.map(|name| {
            format!(
                "{what} {name:?} is declared as external, but could not be found: create it first (ipvsmesh {what} create {name})"
            )
        }));
    }
    missing
}

/// What is to be done, in order.
pub(super) fn steps(name: &str, stack: &Stack, current: &Current, prune: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    for wanted in &stack.networks {
        if named(&current.networks, "/Name", text(wanted, "/Name")).is_none() {
            steps.push(Step::CreateNetwork(wanted.clone()));
        }
    }
    for (kind, wanted, all) in [
        (BlobKind::Secret, &stack.secrets, &current.secrets),
        (BlobKind::Config, &stack.configs, &current.configs),
    ] {
        for wanted in wanted {
            let wanted = wanted.clone();
            steps.push(match named(all, "/Spec/Name", text(&wanted, "/Name")) {
                None => Step::CreateBlob(kind, wanted),
                Some(is) => Step::UpdateBlob {
                    kind,
                    is: is.clone(),
                    wanted,
                },
            });
        }
    }
    if prune {
        let wanted = |service: &&Value| {
            let mut services = stack.services.iter();
            services.any(|wanted| wanted.spec["Name"] == service["Spec"]["Name"])
        };
        let gone = current.services.iter().filter(|service| !wanted(service));
        steps.extend(gone.cloned().map(Step::RemoveService));
    }
    let networks: BTreeMap<_, _> = current
        .networks
        .iter()
        .map(|network| (text(network, "/Id"), text(network, "/Name")))
        .collect();
    for service in &stack.services {
        let found = named(
            &current.services,
            "/Spec/Name",
            text(&service.spec, "/Name"),
        );
        steps.push(match found {
            None => Step::CreateService {
                spec: service.spec.clone(),
                after: service
                    .after
                    .iter()
                    .map(|after| After {
                        service: format!("{name}_{}", after.service),
                        until: after.until,
                    })
                    .collect(),
            },
            Some(is) => update(is, &service.spec, &networks),
        });
    }
    steps
}

fn update(is: &Value, wanted: &Value, networks: &BTreeMap<&str, &str>) -> Step {
    let mut by_name = is["Spec"].clone();
    let attached = by_name.pointer_mut("/TaskTemplate/Networks");
    for network in attached.and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(name) = networks.get(text(network, "/Target")) {
            network["Target"] = json!(name);
        }
    }
    let mut wanted = wanted.clone();
    // docker's own client adds what the registry says of an image that it deploys
    let at = "/TaskTemplate/ContainerSpec/Image";
    let pinned = text(&by_name, at).strip_prefix(text(&wanted, at));
    if pinned.is_some_and(|digest| digest.starts_with("@sha256:")) {
        wanted["TaskTemplate"]["ContainerSpec"]["Image"] = json!(text(&by_name, at));
    }
    let mut spec = wanted.clone();
    spec["TaskTemplate"]["ForceUpdate"] = is["Spec"]["TaskTemplate"]["ForceUpdate"].clone();
    let ports = spec.pointer_mut("/EndpointSpec/Ports");
    for port in ports.and_then(Value::as_array_mut).into_iter().flatten() {
        // silence would keep the address that it has
        if port["HostIP"].is_null() {
            port["HostIP"] = json!("");
        }
    }
    Step::UpdateService {
        differences: differences(&by_name, &wanted),
        is: is.clone(),
        spec,
    }
}

/// For `--dry-run`: what would be done; `None`: nothing.
pub(super) fn preview(step: &Step) -> Option<String> {
    let keys = |differences: &[Difference]| differences.iter().map(line).collect::<String>();
    let made = |spec: &Value| keys(&differences(&json!({}), &without_data(spec)));
    Some(match step {
        Step::CreateNetwork(spec) => format!("+ network {}\n{}", text(spec, "/Name"), made(spec)),
        Step::CreateBlob(kind, spec) => {
            format!("+ {kind} {}\n{}", text(spec, "/Name"), made(spec))
        }
        Step::UpdateBlob { kind, is, wanted } => {
            let labels = |of: &Value| json!({"Labels": of["Labels"]});
            let differences = differences(&labels(&is["Spec"]), &labels(wanted));
            if differences.is_empty() {
                return None;
            }
            format!("~ {kind} {}\n{}", text(wanted, "/Name"), keys(&differences))
        }
        Step::CreateService { spec, .. } => {
            format!("+ service {}\n{}", text(spec, "/Name"), made(spec))
        }
        Step::UpdateService { differences, .. } if differences.is_empty() => return None,
        Step::UpdateService {
            spec, differences, ..
        } => format!("~ service {}\n{}", text(spec, "/Name"), keys(differences)),
        Step::RemoveService(is) => format!("- service {}\n", text(is, "/Spec/Name")),
    })
}

/// What is in a config or a secret is not shown.
fn without_data(spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let Some(map) = spec.as_object_mut() {
        map.remove("Data");
        map.remove("Name");
    }
    spec
}

fn line(difference: &Difference) -> String {
    let Difference { key, is, wanted } = difference;
    match (is, wanted) {
        (None, Some(wanted)) => format!("    + {key}: {wanted}\n"),
        (Some(is), None) => format!("    - {key}: {is}\n"),
        (is, wanted) => {
            let shown = |value: &Option<Value>| value.clone().unwrap_or_default();
            format!("    ~ {key}: {} -> {}\n", shown(is), shown(wanted))
        }
    }
}

/// What of a network that is there is not as wanted: it cannot be changed.
pub(super) fn unlike(wanted: &Value, current: &Current) -> Option<String> {
    let name = text(wanted, "/Name");
    let is = named(&current.networks, "/Name", name)?;
    let internal = |network: &Value| network["Internal"].as_bool().unwrap_or(false);
    let subnets = list(wanted, "/IPAM/Config").iter();
    let mut subnets = subnets.map(|config| text(config, "/Subnet"));
    let has = |subnet| {
        let mut configs = list(is, "/IPAM/Config").iter();
        configs.any(|config| text(config, "/Subnet") == subnet)
    };
    let same = internal(is) == internal(wanted) && subnets.all(has);
    (!same).then(|| {
        format!(
            "network {name} is there and is not as its file says; a network cannot be changed: remove the stack (ipvsmesh stack rm), or give it another name"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack() -> Stack {
        let spec = json!({
            "Name": "app_web",
            "TaskTemplate": {"ContainerSpec": {"Image": "web"}, "Networks": [{"Target": "app_default"}]},
            "EndpointSpec": {"Ports": [{"TargetPort": 80}]},
        });
        Stack {
            networks: vec![json!({"Name": "app_default"})],
            secrets: vec![json!({"Name": "app_key", "Data": "aHVzaA=="})],
            external_networks: vec!["theirs".to_owned()],
            services: vec![compose::Service {
                name: "web".to_owned(),
                spec,
                after: vec![After {
                    service: "db".to_owned(),
                    until: compose::Until::Running,
                }],
            }],
            ..Stack::default()
        }
    }

    fn previewed(steps: &[Step]) -> String {
        steps.iter().filter_map(preview).collect()
    }

    #[test]
    fn what_is_not_there_is_made() {
        let all = steps("app", &stack(), &Current::default(), true);
        let Some(Step::CreateService { after, .. }) = all.last() else {
            panic!("{all:?}");
        };
        assert_eq!(after[0].service, "app_db");
        let shown = previewed(&all);
        for line in [
            "+ network app_default\n",
            "+ secret app_key\n",
            "+ service app_web\n",
            "    + TaskTemplate.ContainerSpec.Image: \"web\"\n",
        ] {
            assert!(shown.contains(line), "no {line:?} in\n{shown}");
        }
        assert!(!shown.contains("aHVzaA"));
        let missing = missing(&stack(), &Current::default());
        assert!(missing[0].contains("network \"theirs\" is declared as external"));
    }

    #[test]
    fn what_is_as_wanted_is_left() {
        let service = |image: &str, name: &str| {
            json!({"ID": "s", "Spec": {
                "Name": name,
                "TaskTemplate": {
                    "ForceUpdate": 2, "ContainerSpec": {"Image": image}, "Networks": [{"Target": "n1"}],
                },
                "EndpointSpec": {"Ports": [{"TargetPort": 80}]},
            }})
        };
        let current = |image: &str| Current {
            networks: vec![json!({"Id": "n1", "Name": "app_default"})],
            secrets: vec![json!({"Spec": {"Name": "app_key"}})],
            services: vec![service(image, "app_web"), service("x", "app_old")],
            ..Current::default()
        };
        for same in ["web", "web@sha256:0123"] {
            let all = steps("app", &stack(), &current(same), false);
            assert_eq!(previewed(&all), "");
        }
        let all = steps("app", &stack(), &current("old"), true);
        let expected = "- service app_old\n~ service app_web\n    ~ TaskTemplate.ContainerSpec.Image: \"old\" -> \"web\"\n";
        assert_eq!(previewed(&all), expected);
        let Some(Step::UpdateService { spec, .. }) = all.last() else {
            panic!("{all:?}");
        };
        assert_eq!(spec["TaskTemplate"]["ForceUpdate"], 2);
        assert_eq!(spec["EndpointSpec"]["Ports"][0]["HostIP"], "");
    }

    #[test]
    fn networks_that_differ_are_told() {
        let current = Current {
            networks: vec![
                json!({"Name": "a", "Internal": false, "IPAM": {"Config": [{"Subnet": "10.1.0.0/24"}]}}),
            ],
            ..Current::default()
        };
        let differs = |wanted: Value| unlike(&wanted, &current).is_some();
        assert!(differs(json!({"Name": "a", "Internal": true})));
        assert!(differs(
            json!({"Name": "a", "IPAM": {"Config": [{"Subnet": "10.2.0.0/24"}]}})
        ));
        assert!(!differs(
            json!({"Name": "a", "IPAM": {"Config": [{"Subnet": "10.1.0.0/24"}]}})
        ));
        assert!(!differs(json!({"Name": "b", "Internal": true})));
    }
}
