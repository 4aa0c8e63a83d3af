//! What is in the way, station by station: what differs from what is wanted, what the
//! state itself says, and what was counted as dropped while the probe was under way.

use model::{DesiredState, TaskState};
use plan::netns::Netns;

use super::{
    drift::{differing, drift_next},
    dropped::{before_ours, counted},
    evidence::Evidence,
    explain::{At, Obstacle, Scene, arrived, chosen_name},
    probe::Outcome,
    scene::{Client, Target},
    task,
};

/// All that is found.
pub(crate) fn all(scene: &Scene<'_>, evidence: &Evidence) -> Vec<Obstacle> {
    let mut found = isolated(scene).into_iter().collect::<Vec<_>>();
    found.extend(elsewhere(scene));
    found.extend(differing(scene, evidence));
    found.extend(nobody_to_choose(scene, evidence));
    found.extend(task::obstacles(scene, evidence));
    // what else was dropped at the same moment says nothing where it arrived
    if arrived(scene, evidence) == Some(false) {
        found.extend(counted(scene, evidence));
        found.extend(no_way(scene, evidence));
    }
    found.extend(before_ours(scene, evidence));
    found
}

pub(crate) fn obstacle(at: At, what: impl Into<String>, next: impl Into<String>) -> Obstacle {
    Obstacle {
        at,
        stops: true,
        what: what.into(),
        next: next.into(),
    }
}

// === what the state says ===

/// Why a service has no task that takes connections.
pub(crate) fn idle(scene: &Scene<'_>, service: &model::ServiceId) -> String {
    let state = scene.state;
    let Some(found) = state.services.get(service) else {
        return "the service is gone".to_owned();
    };
    let nodes = u32::try_from(state.nodes.len()).unwrap_or(u32::MAX);
    let wanted = found.wanted_tasks(nodes);
    let name = &found.spec.name;
    if wanted == 0 {
        return format!("service {name} has no tasks (0 are wanted)");
    }
    let tasks = state.tasks_of(service);
    let status = |task: &model::Task| state.status(&task.id);
    let current = tasks
        .iter()
        .filter(|task| task.desired == DesiredState::Running);
    let current: Vec<_> = current.collect();
    let of = |what: TaskState| {
        let mut all = current.iter().filter_map(|task| status(task));
        all.any(|status| status.state == what)
    };
    let mut why = format!("no task of service {name} takes connections (of {wanted})");
    if of(TaskState::Starting) {
        why.push_str(": they start, or are not healthy yet");
        return why;
    }
    let obstructed = current.iter().find_map(|task| {
        let status = status(task).filter(|status| status.state == TaskState::Preparing)?;
        (!status.error.is_empty()).then_some((task, &status.error))
    });
    if let Some((task, error)) = obstructed {
        why.push_str(&format!(
            ": {} waits for what it needs ({error})",
            task.name()
        ));
        return why;
    }
    let ended = tasks.iter().rev().find_map(|task| {
        let status = status(task)?;
        let failed = status.state.is_final() && status.state != TaskState::Shutdown;
        (failed || status.ended).then_some((task, status))
    });
    if let Some((task, status)) = ended {
        why.push_str(&format!(": {} has ended", task.name()));
        if !status.error.is_empty() {
            why.push_str(&format!(" ({})", status.error));
        }
    }
    why
}

pub(crate) fn idle_next(scene: &Scene<'_>, service: &model::ServiceId) -> String {
    let found = scene.state.services.get(service);
    let name = found.map_or("SERVICE", |service| service.spec.name.as_str());
    let nodes = u32::try_from(scene.state.nodes.len()).unwrap_or(u32::MAX);
    match found.is_some_and(|service| service.wanted_tasks(nodes) == 0) {
        true => format!("ipvsmesh service scale {name}=1"),
        false => format!("ipvsmesh service ps --no-trunc {name}; ipvsmesh service logs {name}"),
    }
}

/// The names of the networks that the client is on.
pub(crate) fn networks_of(scene: &Scene<'_>, task: Option<&model::Task>) -> Vec<String> {
    let on = task.iter().flat_map(|task| &task.attachments);
    on.map(|at| network_name(scene, &at.network)).collect()
}

pub(crate) fn network_name(scene: &Scene<'_>, id: &model::NetworkId) -> String {
    let network = scene.state.networks.get(id);
    network.map_or_else(|| id.to_string(), |network| network.spec.name.to_string())
}

/// How a client gets onto a network.
pub(crate) fn join_next(client: &model::Task, networks: &[String]) -> String {
    format!(
        "put both on one network: ipvsmesh service update --network-add {} {}",
        networks.first().map_or("NETWORK", String::as_str),
        client.service_name
    )
}

/// Networks that do not reach each other.
fn isolated(scene: &Scene<'_>) -> Option<Obstacle> {
    let client = scene.client_task()?;
    let its = match &scene.target {
        Target::Vip { network, .. } => vec![network_name(scene, network)],
        Target::Task(id) => networks_of(scene, scene.state.tasks.get(id).map(|task| &**task)),
        Target::Port { .. } | Target::Outside => return None,
    };
    let on = networks_of(scene, Some(client));
    if its.iter().any(|network| on.contains(network)) {
        return None;
    }
    Some(obstacle(
        At::Gateway,
        format!(
            "the networks are isolated: {} is on {}, and {} on {}",
            client.name(),
            on.join(", "),
            scene.at.map(|at| at.ip().to_string()).unwrap_or_default(),
            its.join(", ")
        ),
        join_next(client, &its),
    ))
}

/// Another machine that asks for what only tasks and the host may.
fn elsewhere(scene: &Scene<'_>) -> Option<Obstacle> {
    let Client::Elsewhere(_) = scene.client else {
        return None;
    };
    let what = match scene.target {
        Target::Port { .. } => return None,
        Target::Vip { .. } => "VIPs are for tasks and for the host",
        Target::Task(_) => "addresses of tasks are for tasks and for the host",
        Target::Outside => "no service is published there",
    };
    Some(obstacle(
        At::Host,
        format!("{what}; another machine is refused"),
        "publish a port: ipvsmesh service update --publish-add PORT:TARGET SERVICE",
    ))
}

// === IPVS ===

fn nobody_to_choose(scene: &Scene<'_>, evidence: &Evidence) -> Option<Obstacle> {
    let (place, key) = scene.balancer()?;
    let service = scene.target.service()?;
    let of = |netns: Option<&Netns>| netns.and_then(|netns| netns.services.get(&key)).cloned();
    let takes = |service: &plan::netns::VirtualService| {
        service.destinations.values().any(|one| one.weight > 0)
    };
    let (shall, is) = (of(scene.wanted.get(&place)), of(evidence.seen.get(&place)));
    let mark = key.1;
    let Some(shall) = shall.filter(takes) else {
        return Some(obstacle(
            At::Ipvs,
            idle(scene, service),
            idle_next(scene, service),
        ));
    };
    let next = drift_next(scene);
    let Some(is) = is else {
        let what = format!("the IPVS service of mark {mark} is missing");
        return Some(obstacle(At::Ipvs, what, next));
    };
    if is.destinations.is_empty() {
        let what = format!("the IPVS service of mark {mark} has no destinations");
        return Some(obstacle(At::Ipvs, what, next));
    }
    if !takes(&is) {
        let what = format!(
            "all {} destinations of the IPVS service of mark {mark} have weight 0: no new connections",
            is.destinations.len()
        );
        return Some(obstacle(At::Ipvs, what, next));
    }
    let full = is.destinations.iter().all(|(at, one)| {
        let at = std::net::SocketAddr::new(at.0, at.1);
        let busy = evidence.busy.get(&at).copied().unwrap_or(0);
        one.weight == 0 || one.upper_threshold > 0 && busy >= one.upper_threshold
    });
    full.then(|| {
        let limit = shall
            .destinations
            .values()
            .map(|one| one.upper_threshold)
            .max();
        obstacle(
            At::Ipvs,
            format!(
                "every destination has as many connections as its limit allows ({})",
                limit.unwrap_or(0)
            ),
            "raise it (ipvsmesh service update --connection-limit), or add tasks (service scale)",
        )
    })
}

// === what came back ===

/// The network's own word that there is no way.
fn no_way(scene: &Scene<'_>, evidence: &Evidence) -> Option<Obstacle> {
    let probe = evidence.probe.as_ref()?;
    let Outcome::Unreachable(said) = &probe.outcome else {
        return None;
    };
    if probe.from.is_some() {
        return None;
    }
    // not even an address to send from was found
    Some(obstacle(
        At::Client,
        format!("the client itself has no way there: {said}"),
        match &scene.client {
            Client::Task(id) => format!(
                "look at its routes: ip netns exec {} ip route",
                scene.instance.task_netns(id)
            ),
            _ => "look at the host's routes: ip route".to_owned(),
        },
    ))
}

/// What is said of a station where it was lost, and nothing is known to be in the way.
pub(crate) fn unknown(scene: &Scene<'_>, evidence: &Evidence, at: At) -> Obstacle {
    let came = match evidence.probe.as_ref().map(|probe| &probe.outcome) {
        Some(Outcome::Refused) => "it was refused".to_owned(),
        Some(Outcome::Unreachable(said)) => format!("it was refused: {said}"),
        _ => "nothing came back".to_owned(),
    };
    let (what, next) = match at {
        At::Host => (
            "the host has not sent it on; nothing of ours differs there",
            "look for other firewalls: nft list ruleset",
        ),
        At::Mark | At::Ipvs => (
            "IPVS does not know the connection; nothing of ours differs on the way to it",
            "look at the packets: tcpdump in the namespace; nft list ruleset",
        ),
        At::Task => (
            "no socket of the task knows the connection; nothing of ours differs on the way to it",
            "look into the task: ipvsmesh exec TASK -- tcpdump -n; and its own firewall: nft list ruleset",
        ),
        At::Reply if scene.target == Target::Outside => (
            "it left the mesh",
            "look beyond: from the host itself, --from host",
        ),
        At::Reply => (
            "the task has answered, and the answer did not come back",
            "look at the packets on their way back: tcpdump in the router's namespace",
        ),
        At::Name | At::Client | At::Gateway => (
            "it did not get further; nothing of ours differs",
            "look at the packets: tcpdump in the namespace",
        ),
    };
    let chosen = match (&evidence.chosen, at) {
        (Some(chosen), At::Task | At::Reply) => format!(" ({})", chosen_name(scene, chosen)),
        _ => String::new(),
    };
    obstacle(at, format!("{what}{chosen}; {came}"), next)
}
