//! What is in the way in the task itself: nothing that listens, or not for others, or
//! that does not take what comes.

use std::collections::BTreeSet;

use kernel::evidence::End;
use model::Protocol;

use super::{
    evidence::{Chosen, Evidence},
    explain::{At, Obstacle, Scene, chosen_name, was_read},
    probe::Outcome,
};

/// All that is found.
pub(crate) fn obstacles(scene: &Scene<'_>, evidence: &Evidence) -> Vec<Obstacle> {
    let Some(chosen) = evidence.chosen.as_ref() else {
        return Vec::new();
    };
    let outcome = evidence.probe.as_ref().map(|probe| &probe.outcome);
    // who has answered listened
    let nobody = match outcome {
        Some(Outcome::Answered) => None,
        _ => not_listening(scene, chosen),
    };
    let found = nobody.or_else(|| not_taking(scene, evidence, chosen));
    found.into_iter().collect()
}

fn obstacle(what: String, next: String) -> Obstacle {
    Obstacle {
        at: At::Task,
        stops: true,
        what,
        next,
    }
}

fn not_listening(scene: &Scene<'_>, chosen: &Chosen) -> Option<Obstacle> {
    let task = chosen.task.as_ref()?;
    let (at, listening) = (chosen.at, &chosen.sockets.listening);
    let ends = chosen.sockets.end.is_some();
    if ends || listening.iter().any(|one| one.takes(at)) {
        return None;
    }
    let (name, port, protocol) = (scene.task_name(task), at.port(), scene.protocol);
    let same: Vec<_> = listening
        .iter()
        .filter(|one| one.at.port() == port)
        .collect();
    if let Some(one) = same.first() {
        return Some(obstacle(
            format!("task {name} listens on {} only, not on {}", one.at, at.ip()),
            "let its program listen on 0.0.0.0 or [::]; see its options, and restart it".to_owned(),
        ));
    }
    let others: BTreeSet<_> = listening.iter().map(|one| one.at.port()).collect();
    let others: Vec<_> = others.iter().map(ToString::to_string).collect();
    let but = match others.is_empty() {
        true => "on no port at all".to_owned(),
        false => format!("but on {}", others.join(", ")),
    };
    let service = scene.state.tasks.get(task);
    let service = service.map_or("SERVICE", |task| task.service_name.as_str());
    Some(obstacle(
        format!("nothing listens on port {port}/{protocol} of task {name}, {but}"),
        match others.first() {
            Some(other) => {
                format!("publish or ask for port {other}, or let the program listen on {port}")
            }
            None => format!("see what its program says: ipvsmesh service logs {service}"),
        },
    ))
}

/// A program that listens and takes nothing.
fn not_taking(scene: &Scene<'_>, evidence: &Evidence, chosen: &Chosen) -> Option<Obstacle> {
    let takes = chosen
        .sockets
        .listening
        .iter()
        .find(|one| one.takes(chosen.at))?;
    let answered = evidence
        .probe
        .as_ref()
        .map(|probe| probe.outcome == Outcome::Answered);
    let untaken = match scene.protocol {
        Protocol::Udp => answered == Some(false) && takes.waiting > 0 && !was_read(evidence),
        _ => chosen.sockets.end == Some(End::Waiting),
    };
    let stopped = chosen
        .holder
        .as_ref()
        .filter(|holder| "Tt".contains(holder.state));
    if !untaken && (stopped.is_none() || answered == Some(true)) {
        return None;
    }
    let who = match &chosen.holder {
        Some(holder) => format!("{} (pid {})", holder.name, holder.pid),
        None => "its program".to_owned(),
    };
    let (task, what) = (chosen_name(scene, chosen), scene.protocol);
    let (state, next) = match stopped {
        Some(holder) => (
            "is stopped",
            format!("let it go on: kill -CONT {}", holder.pid),
        ),
        None => (
            "does not take it",
            "it hangs or is too slow; see its log: ipvsmesh service logs".to_owned(),
        ),
    };
    let did = match what {
        Protocol::Udp => "the datagram waits",
        _ => "the kernel has made the connection",
    };
    Some(obstacle(format!("{task}: {did}, and {who} {state}"), next))
}
