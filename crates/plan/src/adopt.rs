//! Services of containers that are not ours: what is to be written so that the state
//! says what Docker says. One step at a time, until there is none.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use model::{
    Candidate, DesiredState, Elsewhere, EndpointSpec, Guest, Health, Key, Mode, Name, NodeId,
    Object, Options, PublishMode, PublishedPort, RuntimeSpec, Service, ServiceSpec, State, Task,
    TaskId, TaskSpec, Transaction, Versioned, label,
};

use crate::{
    admit::{self, Context, Refusal},
    orchestrate::attachments,
};

/// What is to be written next, and what cannot be.
#[derive(Debug, Default)]
pub struct Step {
    /// Nothing, once all is as Docker says.
    pub tx: Transaction,
    /// By the service's name, in words: what was asked for and cannot be had.
    pub problems: BTreeMap<String, BTreeSet<String>>,
}

impl Step {
    fn problem(&mut self, service: &str, why: String) {
        let of_service = self.problems.entry(service.to_owned()).or_default();
        of_service.insert(why);
    }
}

/// What containers with one name of a service ask for.
struct Group<'a> {
    name: Name,
    /// The oldest first: what it says of the service holds.
    containers: Vec<&'a Candidate>,
}

impl Group<'_> {
    fn running(&self) -> impl Iterator<Item = &Candidate> {
        self.containers.iter().copied().filter(|c| reachable(c))
    }
}

fn reachable(container: &Candidate) -> bool {
    container.running && !container.addresses.is_empty()
}

/// The next step on this node.
pub fn plan_adoption(
    state: &State,
    node: &NodeId,
    seen: &[Candidate],
    context: &mut Context<'_>,
) -> Step {
    let mut step = Step::default();
    let groups = groups(seen, &mut step);
    for (folded, group) in &groups {
        let found = state.services.values();
        let mut found = found.filter(|service| service.spec.name.folded() == *folded);
        let service = found.next();
        if let Some(other) = service.filter(|s| !is_adopted(s)) {
            let names: Vec<_> = group.containers.iter().map(|c| c.name.as_str()).collect();
            step.problem(
                folded,
                format!(
                    "container {} has {}={folded}, but {} is no service of labelled containers: name another one, or remove that",
                    names.join(", "),
                    label::SERVICE,
                    other.spec.name
                ),
            );
            continue;
        }
        if step.tx.is_empty() {
            write_service(state, node, group, service, context, &mut step);
        } else {
            // only for what there is to say of it
            spec(group, 0, &mut step);
        }
        if let Some(service) = service.filter(|_| step.tx.is_empty()) {
            write_tasks(state, node, group, service, context, &mut step);
        }
    }
    for service in state.services.values().filter(|s| is_adopted(s)) {
        if !step.tx.is_empty() {
            break;
        }
        if !groups.contains_key(&service.spec.name.folded()) {
            forget(state, node, service, context.now, &mut step);
        }
    }
    step
}

/// How healthy those tasks are that stand for containers, as Docker says.
pub fn healths(state: &State, seen: &[Candidate]) -> BTreeMap<TaskId, Health> {
    let by_id: BTreeMap<&str, &Candidate> = seen.iter().map(|c| (c.id.as_str(), c)).collect();
    let tasks = state.tasks.values().filter_map(|task| {
        let container = task.elsewhere.as_ref()?.container.as_ref()?;
        let health = by_id.get(container.id.as_str())?.health;
        Some((task.id.clone(), health))
    });
    tasks.collect()
}

fn is_adopted(service: &Service) -> bool {
    matches!(service.spec.task.runtime, RuntimeSpec::Adopted { .. })
}

/// Containers by the name of their service, in lower case.
fn groups<'a>(seen: &'a [Candidate], step: &mut Step) -> BTreeMap<String, Group<'a>> {
    let mut groups: BTreeMap<String, Group<'a>> = BTreeMap::new();
    for container in seen {
        let Some(text) = container.labels.get(label::SERVICE) else {
            continue;
        };
        let Ok(name) = text.trim().parse::<Name>() else {
            step.problem(
                text,
                format!(
                    "container {} has {}={text:?}, which is no name of a service: use letters, digits and -",
                    container.name,
                    label::SERVICE
                ),
            );
            continue;
        };
        if let Some(why) = container.obstacle {
            step.problem(
                &name.folded(),
                format!("container {} gets no connections: {why}", container.name),
            );
        }
        let group = groups.entry(name.folded()).or_insert_with(|| Group {
            name,
            containers: Vec::new(),
        });
        group.containers.push(container);
    }
    for group in groups.values_mut() {
        group.containers.sort_by_key(|c| (c.created, &c.id));
    }
    groups
}

/// The options among a container's labels.
fn options(container: &Candidate) -> BTreeMap<String, String> {
    let labels = container.labels.iter();
    let labels = labels.filter(|(key, _)| label::ALL.contains(&key.as_str()));
    labels.map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// The ports that a container asks to be published.
fn ports(container: &Candidate) -> Result<Vec<PublishedPort>, String> {
    let Some(text) = container.labels.get(label::PUBLISH) else {
        return Ok(Vec::new());
    };
    let wrong = |why: String| format!("{}={text}: {why}", label::PUBLISH);
    let target = || match container.labels.get(label::PORT) {
        Some(port) => match port.trim().parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(format!(
                "{}={port} is no port: use a number from 1 to 65535",
                label::PORT
            )),
        },
        None => match &container.exposed[..] {
            [(port, _)] => Ok(*port),
            exposed => Err(wrong(format!(
                "which port of the container is meant is not said (it exposes {}): say {}=PORT, or PUBLISHED:PORT",
                exposed.len(),
                label::PORT
            ))),
        },
    };
    let mut all = Vec::new();
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (numbers, protocol) = match part.split_once('/') {
            Some((numbers, protocol)) => (numbers, format!("/{protocol}")),
            None => (part, String::new()),
        };
        // a number alone is the host's: of a target alone nobody would know the number
        let whole = match numbers.bytes().all(|byte| byte.is_ascii_digit()) {
            true => format!("{numbers}:{}{protocol}", target()?),
            false => part.to_owned(),
        };
        let ports = PublishedPort::parse(&whole).map_err(|error| wrong(error.to_string()))?;
        all.extend(ports);
    }
    match all.iter().find(|port| port.mode == PublishMode::Host) {
        Some(_) => Err(wrong(
            "mode=host is docker's own -p: use mode=ingress".to_owned(),
        )),
        None => Ok(all),
    }
}

/// What the service of a group shall be. What cannot be read is told, and left out.
fn spec(group: &Group<'_>, others: usize, step: &mut Step) -> ServiceSpec {
    let folded = group.name.folded();
    let mut labels = BTreeMap::from([(label::RUNTIME.to_owned(), "adopted".to_owned())]);
    let (mut published, mut image) = (Vec::new(), "");
    for (n, container) in group.containers.iter().enumerate() {
        let said = ports(container);
        if n == 0 {
            image = &container.image;
            let mut more = labels.clone();
            more.extend(options(container));
            match Options::of(&more) {
                Ok(_) => labels = more,
                Err(error) => {
                    step.problem(&folded, format!("container {}: {error}", container.name))
                }
            }
            match said {
                Ok(ports) => published = ports,
                Err(why) => step.problem(&folded, format!("container {}: {why}", container.name)),
            }
        } else if said.as_ref() != Ok(&published)
            || options(container) != options(group.containers[0])
        {
            step.problem(
                &folded,
                format!(
                    "container {} asks for other ports or options than {}, which is older: those of the older one hold",
                    container.name, group.containers[0].name
                ),
            );
        }
    }
    let replicas = group.running().count() + others;
    let mut addresses = group.running().flat_map(|c| &c.addresses);
    ServiceSpec {
        name: group.name.clone(),
        labels,
        mode: Mode::Replicated {
            replicas: u32::try_from(replicas).unwrap_or(u32::MAX),
        },
        task: TaskSpec {
            runtime: RuntimeSpec::Adopted {
                image: image.to_owned(),
                ipv6: addresses.any(|address| address.is_ipv6()),
            },
            networks: Vec::new(),
            restart: Default::default(),
            force_update: 0,
        },
        placement: Default::default(),
        endpoint: EndpointSpec {
            ports: published,
            ..EndpointSpec::default()
        },
        update: Default::default(),
        rollback: Default::default(),
        registry_auth: None,
    }
}

/// Makes the service of a group, or changes it to what its containers say.
fn write_service(
    state: &State,
    node: &NodeId,
    group: &Group<'_>,
    service: Option<&Versioned<Service>>,
    context: &mut Context<'_>,
    step: &mut Step,
) {
    let others = service.map_or(0, |service| {
        let tasks = state.tasks_of(&service.id).into_iter();
        tasks
            .filter(|task| task.node != *node && task.desired == DesiredState::Running)
            .count()
    });
    let mut wanted = spec(group, others, step);
    if let Some(service) = service {
        // once it is on a network it stays there; and a VIP that clients know stays too
        wanted.task.networks.clone_from(&service.spec.task.networks);
        if let (RuntimeSpec::Adopted { ipv6, .. }, RuntimeSpec::Adopted { ipv6: had, .. }) =
            (&mut wanted.task.runtime, &service.spec.task.runtime)
        {
            *ipv6 |= had;
        }
    }
    let write = |wanted: &ServiceSpec, context: &mut Context<'_>| match service {
        None => admit::create_service(state, wanted.clone(), &serde_json::Value::Null, context)
            .map(|(_, tx)| tx),
        Some(service) if service.spec == *wanted => Ok(Transaction::default()),
        Some(service) => admit::change_adopted(state, service, wanted.clone(), context),
    };
    let folded = group.name.folded();
    match write(&wanted, context) {
        Ok(tx) => step.tx = tx,
        // it is reached by VIP and name meanwhile, and by the ports that it has
        Err(refusal @ (Refusal::PortTaken { .. } | Refusal::PortTwice(_))) => {
            step.problem(&folded, refusal.to_string());
            wanted.endpoint.ports =
                service.map_or_else(Vec::new, |s| s.spec.endpoint.ports.clone());
            match write(&wanted, context) {
                Ok(tx) => step.tx = tx,
                Err(refusal) => step.problem(&folded, refusal.to_string()),
            }
        }
        Err(refusal) => step.problem(&folded, refusal.to_string()),
    }
}

/// Makes a task of each container that runs, and forgets those of others.
fn write_tasks(
    state: &State,
    node: &NodeId,
    group: &Group<'_>,
    service: &Versioned<Service>,
    context: &mut Context<'_>,
    step: &mut Step,
) {
    let tasks = state.tasks_of(&service.id);
    let mut slots: BTreeSet<u32> = tasks.iter().map(|task| task.slot).collect();
    let mut wanted: BTreeMap<&str, &Candidate> =
        group.running().map(|c| (c.id.as_str(), c)).collect();
    for task in tasks.iter().filter(|task| task.node == *node) {
        let guest = task.elsewhere.as_ref().and_then(|e| e.container.as_ref());
        let is = guest.and_then(|guest| wanted.get(guest.id.as_str()));
        let same = is.is_some_and(|container| {
            task.desired == DesiredState::Running
                && task.attachments == attachments(service, &container.addresses)
                && task.elsewhere == Some(elsewhere(container))
        });
        if same {
            guest.and_then(|guest| wanted.remove(guest.id.as_str()));
        } else {
            drop_task(state, task, step);
            slots.remove(&task.slot);
        }
    }
    let mut wanted: Vec<_> = wanted.into_values().collect();
    wanted.sort_by_key(|container| (container.created, &container.id));
    for container in wanted {
        let slot = (1..).find(|slot| slots.insert(*slot)).unwrap_or(u32::MAX);
        let task = Task {
            id: TaskId::from_random((context.random)()),
            service: service.id.clone(),
            service_name: service.spec.name.clone(),
            slot,
            node: node.clone(),
            spec: service.spec.task.clone(),
            attachments: attachments(service, &container.addresses),
            desired: DesiredState::Running,
            created: context.now,
            not_before: None,
            elsewhere: Some(elsewhere(container)),
        };
        step.tx.create(Object::Task(Box::new(task)));
    }
    if !step.tx.is_empty() {
        step.tx.expect.push(model::Expect {
            key: Key::Service(service.id.clone()),
            version: Some(service.version),
        });
    }
}

fn elsewhere(container: &Candidate) -> Elsewhere {
    Elsewhere {
        port: None,
        container: Some(Guest {
            id: container.id.clone(),
            name: container.name.clone(),
            bridges: container.bridges.clone(),
        }),
    }
}

/// A container that has ended has no connections to wait for.
fn drop_task(state: &State, task: &Versioned<Task>, step: &mut Step) {
    step.tx.delete(task.version, Key::Task(task.id.clone()));
    if let Some(status) = state.statuses.get(&task.id) {
        step.tx.delete(status.version, Key::Status(task.id.clone()));
    }
}

/// Removes a service whose last container is gone, and before that its tasks.
fn forget(
    state: &State,
    node: &NodeId,
    service: &Versioned<Service>,
    now: Timestamp,
    step: &mut Step,
) {
    let tasks = state.tasks_of(&service.id);
    let (mine, others): (Vec<_>, Vec<_>) = tasks.into_iter().partition(|t| t.node == *node);
    if !mine.is_empty() {
        mine.into_iter()
            .for_each(|task| drop_task(state, task, step));
    } else if others.is_empty() {
        match admit::remove(state, &service.id, now) {
            Ok(tx) => step.tx = tx,
            Err(refusal) => step.problem(&service.spec.name.folded(), refusal.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
