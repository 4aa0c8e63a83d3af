//! Placeholders in what a service says of its tasks, such as `--hostname
//! "{{.Node.Hostname}}-{{.Task.Slot}}"`: Go's templates, with SwarmKit's words, in
//! the host name, the environment and the mounts
//! (<https://docs.docker.com/reference/cli/docker/service/create/#create-services-using-templates>).

use std::collections::{BTreeMap, HashMap};

use gtmpl::Value;
use model::{MountKind, Node, RuntimeSpec, Service, ServiceSpec, Task};

/// A template that cannot be read, or asks for what is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("template {text:?} is not valid: {why}")]
pub struct InvalidTemplate {
    text: String,
    why: String,
}

/// What placeholders may name, for one task.
#[derive(Debug)]
pub struct Placeholders(Value);

fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let fields = fields.map(|(key, value)| (key.to_owned(), value));
    Value::Object(HashMap::from(fields))
}

fn text(text: &(impl ToString + ?Sized)) -> Value {
    Value::String(text.to_string())
}

/// Who a task is, in words.
struct Identity<'a> {
    service: &'a str,
    node: &'a str,
    hostname: &'a str,
    task: &'a str,
    name: &'a str,
    slot: &'a str,
}

impl Placeholders {
    /// Those of a task of this service on this node.
    pub fn new(service: &Service, task: &Task, node: &Node) -> Self {
        let identity = Identity {
            service: service.id.as_str(),
            node: node.id.as_str(),
            hostname: &node.hostname,
            task: task.id.as_str(),
            name: &task.container_name(),
            slot: &match task.slot {
                0 => task.node.to_string(),
                slot => slot.to_string(),
            },
        };
        Self::of(&service.spec, &identity)
    }

    /// Those of a task that might be.
    pub(crate) fn example(spec: &ServiceSpec) -> Self {
        let identity = Identity {
            service: "service",
            node: "node",
            hostname: "host",
            task: "task",
            name: "name",
            slot: "1",
        };
        Self::of(spec, &identity)
    }

    fn of(spec: &ServiceSpec, identity: &Identity<'_>) -> Self {
        let labels = spec.labels.iter();
        let labels = labels.map(|(key, value)| (key.clone(), text(value)));
        let platform = object([
            ("OS", text(std::env::consts::OS)),
            ("Architecture", text(std::env::consts::ARCH)),
        ]);
        let service = object([
            ("ID", text(identity.service)),
            ("Name", text(&spec.name)),
            ("Labels", Value::Object(labels.collect())),
        ]);
        let node = object([
            ("ID", text(identity.node)),
            ("Hostname", text(identity.hostname)),
            ("Platform", platform),
        ]);
        let task = object([
            ("ID", text(identity.task)),
            ("Name", text(identity.name)),
            ("Slot", text(identity.slot)),
        ]);
        Self(object([
            ("Service", service),
            ("Node", node),
            ("Task", task),
        ]))
    }

    fn fill(&self, text: &mut String) -> Result<(), InvalidTemplate> {
        if !text.contains("{{") {
            return Ok(());
        }
        let filled = gtmpl::template(text, self.0.clone());
        *text = filled.map_err(|error| InvalidTemplate {
            text: text.clone(),
            why: error.to_string(),
        })?;
        Ok(())
    }

    fn fill_all(&self, texts: &mut BTreeMap<String, String>) -> Result<(), InvalidTemplate> {
        texts.values_mut().try_for_each(|text| self.fill(text))
    }

    /// Writes what they stand for in the place of the placeholders.
    ///
    /// # Errors
    /// The first template that is not valid.
    pub fn expand(&self, runtime: &mut RuntimeSpec) -> Result<(), InvalidTemplate> {
        let container = match runtime {
            RuntimeSpec::Process(process) => {
                return process.env.iter_mut().try_for_each(|env| self.fill(env));
            }
            RuntimeSpec::Docker(container) => container,
            RuntimeSpec::Static | RuntimeSpec::Adopted { .. } => return Ok(()),
        };
        container
            .hostname
            .iter_mut()
            .try_for_each(|name| self.fill(name))?;
        container
            .env
            .iter_mut()
            .try_for_each(|env| self.fill(env))?;
        for mount in &mut container.mounts {
            self.fill(&mut mount.target)?;
            match &mut mount.kind {
                MountKind::Bind { source, .. } => self.fill(source)?,
                MountKind::Volume {
                    source,
                    labels,
                    options,
                    ..
                } => {
                    source.iter_mut().try_for_each(|source| self.fill(source))?;
                    self.fill_all(labels)?;
                    self.fill_all(options)?;
                }
                MountKind::Tmpfs { .. } => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use model::{ContainerSpec, Mount};

    use super::*;
    use crate::testing::service;

    fn expanded(container: ContainerSpec) -> Result<ContainerSpec, InvalidTemplate> {
        let mut spec = service("web", 1);
        spec.labels = BTreeMap::from([("tier".to_owned(), "front".to_owned())]);
        let identity = Identity {
            service: "s1",
            node: "n1",
            hostname: "alpha",
            task: "t1",
            name: "web.3.t1",
            slot: "3",
        };
        let mut runtime = RuntimeSpec::Docker(Box::new(container));
        Placeholders::of(&spec, &identity).expand(&mut runtime)?;
        match runtime {
            RuntimeSpec::Docker(container) => Ok(*container),
            _ => unreachable!(),
        }
    }

    fn env(text: &str) -> ContainerSpec {
        ContainerSpec {
            env: vec![text.to_owned()],
            ..ContainerSpec::default()
        }
    }

    #[test]
    fn placeholders_are_filled_in() {
        for (template, filled) in [
            (
                "A={{.Task.Slot}} {{ .Task.ID }} {{.Task.Name}}",
                "A=3 t1 web.3.t1",
            ),
            ("A={{.Node.Hostname}}/{{.Node.ID}}", "A=alpha/n1"),
            ("A={{.Service.Name}} {{.Service.ID}}", "A=web s1"),
            ("A={{.Service.Labels.tier}}", "A=front"),
            ("A={{index .Service.Labels \"tier\"}}", "A=front"),
            ("A={{if eq .Task.Slot \"3\"}}yes{{else}}no{{end}}", "A=yes"),
            ("A={{printf \"%s-%s\" .Service.Name .Task.Slot}}", "A=web-3"),
            ("A={\"json\": {}}", "A={\"json\": {}}"),
        ] {
            let expanded = expanded(env(template)).map(|spec| spec.env);
            assert_eq!(expanded, Ok(vec![filled.to_owned()]), "{template}");
        }
        let slot = "{{.Task.Slot}}".to_owned();
        let all = expanded(ContainerSpec {
            hostname: Some(slot.clone()),
            mounts: vec![Mount {
                target: format!("/data/{slot}"),
                read_only: false,
                kind: MountKind::Volume {
                    source: Some(format!("data-{slot}")),
                    no_copy: false,
                    labels: BTreeMap::from([("slot".to_owned(), slot.clone())]),
                    driver: None,
                    options: BTreeMap::from([("slot".to_owned(), slot)]),
                },
            }],
            ..ContainerSpec::default()
        });
        let all = all.map(|spec| serde_json::to_string(&spec).unwrap());
        let all = all.unwrap();
        assert!(!all.contains("{{"), "{all}");
        for part in ["\"3\"", "/data/3", "data-3"] {
            assert!(all.contains(part), "{part}: {all}");
        }
    }

    #[test]
    fn what_cannot_be_filled_in_is_told() {
        for bad in [
            "A={{.Task.Slot",
            "A={{.Task.Colour}}",
            "A={{.Service.Labels.none}}",
            "A={{frob 1}}",
        ] {
            let error = expanded(env(bad)).unwrap_err().to_string();
            assert!(
                error.contains("is not valid") && error.contains(&bad[..5]),
                "{error}"
            );
        }
    }
}
