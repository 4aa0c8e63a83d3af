//! What was seen of the stations that were passed, in words.

use model::Protocol;

use super::{
    evidence::{Asked, Evidence},
    explain::{At, Scene, mark_entry},
    probe::Outcome,
    scene::{self, Target},
};

/// What a name is.
pub(crate) fn name_fact(asked: &Asked) -> String {
    match &asked.said {
        Ok(said) => {
            let addresses: Vec<_> = said.addresses.iter().map(ToString::to_string).collect();
            format!(
                "{} is {} ({} ms)",
                asked.name,
                addresses.join(", "),
                said.took.as_millis()
            )
        }
        Err(_) => String::new(),
    }
}

/// What was seen of a station where nothing is in the way.
pub(crate) fn fact(scene: &Scene<'_>, evidence: &Evidence, at: At) -> String {
    match at {
        At::Name => String::new(),
        At::Client => {
            let from = evidence.probe.as_ref().and_then(|probe| probe.from);
            from.map_or_else(
                || "nothing is in its way".to_owned(),
                |from| format!("sent from {from}"),
            )
        }
        At::Gateway => match scene.client_task() {
            Some(task) => format!("came by {}", task.link()),
            None => format!("came by {}", scene.instance.host_link()),
        },
        At::Host => host_fact(scene, evidence),
        At::Mark => mark_fact(scene),
        At::Ipvs => ipvs_fact(scene, evidence),
        At::Task => task_fact(scene, evidence),
        At::Reply => match &evidence.probe {
            Some(probe) if probe.outcome == Outcome::Answered => {
                format!("came after {} ms", probe.took.as_millis())
            }
            Some(_) => "none, which UDP does not ask for".to_owned(),
            None => String::new(),
        },
    }
}

fn host_fact(scene: &Scene<'_>, evidence: &Evidence) -> String {
    let Some(tracked) = evidence.tracked else {
        return match scene.way() {
            Some(way) => format!(
                "set {} has {}",
                way.host.0,
                way.host
                    .1
                    .first()
                    .map(ToString::to_string)
                    .unwrap_or_default()
            ),
            None => "nothing is in its way".to_owned(),
        };
    };
    let from = evidence.probe.as_ref().and_then(|probe| probe.from);
    let masked = match from == Some(tracked.from) {
        true => String::new(),
        false => format!(", as {}", tracked.from),
    };
    match scene.target {
        Target::Port { .. } => format!("DNAT to {}{masked}", tracked.to),
        _ => format!("sent on{masked}"),
    }
}

fn mark_fact(scene: &Scene<'_>) -> String {
    let (Some((set, entry)), Some((place, (_, mark)))) = (mark_entry(scene), scene.balancer())
    else {
        return String::new();
    };
    let sets = scene.wanted.get(&place).map(|netns| &netns.sets);
    let wanted = sets.and_then(|sets| sets.get(&set)?.entries.get(&entry));
    match wanted {
        Some(_) => format!("set {set} gives {} mark {mark}", entry),
        None => format!(
            "none: set {set} has no {} while no task takes connections",
            entry
        ),
    }
}

fn ipvs_fact(scene: &Scene<'_>, evidence: &Evidence) -> String {
    let Some((place, key)) = scene.balancer() else {
        return String::new();
    };
    let service = scene
        .wanted
        .get(&place)
        .and_then(|netns| netns.services.get(&key));
    let (scheduler, count) = service.map_or(("", 0), |service| {
        (&*service.scheduling.scheduler, service.destinations.len())
    });
    let chose = evidence.balanced.as_ref().map_or_else(String::new, |one| {
        let task = scene::task_at(scene.state, one.to.ip());
        let name = task.map_or_else(String::new, |task| format!("{} ", task.name()));
        format!(" chose {name}({})", one.to)
    });
    let of = match count {
        1 => String::new(),
        count => format!(" of {count}"),
    };
    format!("{scheduler}, mark {}{chose}{of}", key.1)
}

fn task_fact(scene: &Scene<'_>, evidence: &Evidence) -> String {
    let Some(chosen) = &evidence.chosen else {
        return "answered".to_owned();
    };
    let name = chosen.task.as_ref().map(|task| scene.task_name(task));
    let name = name.unwrap_or_else(|| chosen.at.to_string());
    let holder = match &chosen.holder {
        Some(holder) => format!("{} (pid {}) ", holder.name, holder.pid),
        None => String::new(),
    };
    let did = match (scene.protocol, &evidence.probe) {
        (_, None) => "listens",
        (Protocol::Udp, Some(probe)) if probe.outcome == Outcome::Silent => "read it",
        (Protocol::Udp, Some(_)) => "answered",
        (_, Some(_)) => "took the connection",
    };
    format!("{name}: {holder}{did}")
}
