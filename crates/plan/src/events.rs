//! What happened between two states: levels made into edges, at the cost of what
//! changed. Who writes a state says nothing of it, so that nothing can be forgotten.

use std::collections::BTreeSet;

use model::{
    Blob, BlobKind, DesiredState, Event, EventKind, Mode, Network, Node, Options, Service, State,
    Task, TaskId, TaskState, TaskStatus, differences,
};

/// All that happened from one state to a later one.
pub fn between(old: &State, new: &State) -> Vec<Event> {
    let mut events = Vec::new();
    for (_, was, is) in differences(&old.nodes, &new.nodes) {
        events.extend(node(was.map(|node| &**node), is.map(|node| &**node)));
    }
    for (_, was, is) in differences(&old.networks, &new.networks) {
        events.extend(network(was.map(|one| &**one), is.map(|one| &**one)));
    }
    for (_, was, is) in differences(&old.blobs, &new.blobs) {
        events.extend(blob(was.map(|one| &**one), is.map(|one| &**one)));
    }
    for (_, was, is) in differences(&old.services, &new.services) {
        events.extend(service(was.map(|one| &**one), is.map(|one| &**one)));
    }
    let tasks = differences(&old.tasks, &new.tasks).map(|(id, ..)| id);
    let statuses = differences(&old.statuses, &new.statuses).map(|(id, ..)| id);
    let tasks: BTreeSet<&TaskId> = tasks.chain(statuses).collect();
    for id in tasks {
        let (was, is) = (Look::of(old, id), Look::of(new, id));
        task(&was, &is, &mut events);
    }
    events
}

/// Docker's three words for what there is of something before and after; `None` where
/// nothing changed that matters.
fn action<T>(
    was: Option<&T>,
    is: Option<&T>,
    same: impl Fn(&T, &T) -> bool,
) -> Option<&'static str> {
    match (was, is) {
        (None, _) => Some("create"),
        (_, None) => Some("remove"),
        (Some(was), Some(is)) => (!same(was, is)).then_some("update"),
    }
}

fn node(was: Option<&Node>, is: Option<&Node>) -> Option<Event> {
    let said = |node: &Node| {
        (
            node.hostname.clone(),
            node.labels.clone(),
            node.availability,
        )
    };
    let action = action(was, is, |was, is| said(was) == said(is))?;
    let node = is.or(was)?;
    let mut event = Event::new(EventKind::Node, action, &node.id).with("name", &node.hostname);
    event.node = Some(node.id.clone());
    if let (Some(was), Some(is)) = (was, is)
        && was.availability != is.availability
    {
        event = event
            .with("availability.old", was.availability.as_str())
            .with("availability.new", is.availability.as_str());
    }
    Some(event)
}

fn network(was: Option<&Network>, is: Option<&Network>) -> Option<Event> {
    let same = |was: &Network, is: &Network| (&was.spec, &was.pools) == (&is.spec, &is.pools);
    let action = action(was, is, same)?;
    let network = is.or(was)?;
    let pools = network.pools.iter().map(|pool| pool.subnet.to_string());
    let pools: Vec<_> = pools.collect();
    Some(
        Event::new(EventKind::Network, action, &network.id)
            .with("name", &network.spec.name)
            // docker's clients expect one
            .with("type", "ipvsmesh")
            .with("subnets", pools.join(" ")),
    )
}

fn blob(was: Option<&Blob>, is: Option<&Blob>) -> Option<Event> {
    let action = action(was, is, |was, is| was.spec.labels == is.spec.labels)?;
    let blob = is.or(was)?;
    let kind = match blob.kind {
        BlobKind::Config => EventKind::Config,
        BlobKind::Secret => EventKind::Secret,
    };
    // never what is in it
    Some(Event::new(kind, action, &blob.id).with("name", &blob.spec.name))
}

// === services ===

fn service(was: Option<&Service>, is: Option<&Service>) -> Option<Event> {
    let same = |was: &Service, is: &Service| {
        was.spec == is.spec && update_state(was) == update_state(is) && was.endpoint == is.endpoint
    };
    let action = action(was, is, same)?;
    let service = is.or(was)?;
    let mut event =
        Event::new(EventKind::Service, action, &service.id).with("name", &service.spec.name);
    event.service = Some(service.id.clone());
    let (Some(was), Some(is)) = (was, is) else {
        return Some(event);
    };
    event = event.with("changed", changed(was, is).join(" "));
    if let (Mode::Replicated { replicas: old }, Mode::Replicated { replicas: new }) =
        (&was.spec.mode, &is.spec.mode)
        && old != new
    {
        event = event.with("replicas.old", old).with("replicas.new", new);
    }
    if update_state(was) != update_state(is) {
        let message = is.update_status.as_ref().map(|status| &status.message);
        event = event
            .with("updatestate.old", update_state(was))
            .with("updatestate.new", update_state(is))
            .with("reason", message.map_or("", String::as_str));
    }
    Some(event)
}

fn update_state(service: &Service) -> &'static str {
    let status = service.update_status.as_ref();
    status.map_or("", |status| status.state.as_str())
}

/// Which parts of it are others.
fn changed(was: &Service, is: &Service) -> Vec<&'static str> {
    let (old, new) = (&was.spec, &is.spec);
    let parts = [
        ("name", old.name != new.name),
        ("labels", old.labels != new.labels),
        ("mode", old.mode != new.mode),
        ("task", old.task != new.task),
        (
            "endpoint",
            old.endpoint != new.endpoint || was.endpoint != is.endpoint,
        ),
        ("update-config", old.update != new.update),
        ("rollback-config", old.rollback != new.rollback),
        ("registry-auth", old.registry_auth != new.registry_auth),
    ];
    let parts = parts.into_iter().filter(|(_, differs)| *differs);
    parts.map(|(name, _)| name).collect()
}

// === tasks ===

/// A task in one of the two states.
struct Look<'a> {
    state: &'a State,
    task: Option<&'a Task>,
    status: Option<&'a TaskStatus>,
}

impl<'a> Look<'a> {
    fn of(state: &'a State, id: &TaskId) -> Self {
        Self {
            state,
            task: state.tasks.get(id).map(|task| &**task),
            status: state.status(id),
        }
    }

    fn event(&self, task: &Task, kind: EventKind, action: &'static str) -> Event {
        let node = self.state.nodes.get(&task.node);
        let mut event = Event::new(kind, action, &task.id)
            .with("name", task.name())
            .with("service", &task.service_name)
            .with("node", node.map_or("", |node| &node.hostname));
        event.service = Some(task.service.clone());
        event.node = Some(task.node.clone());
        event
    }

    fn word(&self) -> Option<TaskState> {
        self.status.map(|status| status.state)
    }

    /// What connections it gets.
    fn share(&self) -> Share {
        let (Some(task), Some(status)) = (self.task, self.status) else {
            return Share::None;
        };
        match (
            status.runs(),
            status.draining || task.desired != DesiredState::Running,
        ) {
            (false, _) => Share::None,
            (true, true) => Share::Open,
            (true, false) => Share::New,
        }
    }

    fn weight(&self, task: &Task) -> u32 {
        let service = self.state.services.get(&task.service);
        let options = service.map(|service| Options::of(&service.spec.labels).unwrap_or_default());
        options.map_or(1, |options| options.weights.of(task.slot))
    }

    /// Why it gets no new connections, though it runs.
    fn why_drained(&self, task: &Task) -> &'static str {
        let service = self.state.services.get(&task.service);
        match (task.desired, service) {
            (DesiredState::Running, _) => "unhealthy",
            (_, None) => "its service was removed",
            (_, Some(service)) if service.spec.task != task.spec => "replaced by an update",
            (_, Some(service)) => match service.spec.mode {
                Mode::Replicated { replicas } if replicas < task.slot => "scaled down",
                _ => "not wanted any more",
            },
        }
    }

    /// Why it gets no connections at all.
    fn why_gone(&self) -> String {
        match self.status {
            Some(status) if !status.error.is_empty() => status.error.clone(),
            Some(status) if !status.state.is_final() && status.ended => {
                "its process has ended".to_owned()
            }
            Some(status) if status.state == TaskState::Shutdown => "stopped".to_owned(),
            Some(status) if status.state.is_final() => match status.exit_code {
                Some(code) => format!("ended with status {code}"),
                None => status.state.as_str().to_owned(),
            },
            _ => "not running".to_owned(),
        }
    }
}

/// What connections a task gets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Share {
    /// None.
    None,
    /// Those that it has may end.
    Open,
    /// New ones.
    New,
}

fn task(was: &Look<'_>, is: &Look<'_>, events: &mut Vec<Event>) {
    let Some(task) = is.task.or(was.task) else {
        return;
    };
    if was.task.is_none() {
        events.push(is.event(task, EventKind::Task, "create"));
    }
    let known = was.status.map_or("", |status| status.error.as_str());
    let news = |status: &&TaskStatus| {
        // what stands in its way, and is tried again
        let obstacle = status.state == TaskState::Preparing && !status.error.is_empty();
        Some(status.state) != was.word() || (obstacle && known != status.error)
    };
    if let Some(status) = is.status.filter(news) {
        let code = status.exit_code.filter(|_| status.state.is_final());
        let event = is.event(task, EventKind::Task, status.state.as_str());
        let old = was.word().map_or("", TaskState::as_str);
        events.push(
            event
                .with("state.old", old)
                .with("reason", why(status))
                .with(
                    "exitCode",
                    code.map_or_else(String::new, |code| code.to_string()),
                ),
        );
    }
    let destination = |action| is.event(task, EventKind::Destination, action);
    match (was.share(), is.share()) {
        (was, is) if was == is => {}
        (_, Share::New) => events.push(
            destination("add")
                .with("reason", "running")
                .with("weight", is.weight(task)),
        ),
        (_, Share::Open) => {
            events.push(destination("drain").with("reason", is.why_drained(task)));
        }
        (_, Share::None) => events.push(destination("remove").with("reason", is.why_gone())),
    }
    if is.task.is_none() {
        events.push(was.event(task, EventKind::Task, "remove"));
    }
}

/// Why a task has come to this; nothing where the state says it all.
fn why(status: &TaskStatus) -> &str {
    match status.error.as_str() {
        "" if status.message == status.state.as_str() => "",
        "" => &status.message,
        error => error,
    }
}

#[cfg(test)]
mod tests;
