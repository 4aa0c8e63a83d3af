//! Which nodes a service's tasks may be on.

use std::collections::{BTreeMap, BTreeSet};

use model::{Availability, DesiredState, Node, NodeId, Service, State, Task};

/// Why a service's tasks may not stay on a node, in words with the next step.
pub fn must_leave(service: &Service, node: &Node) -> Option<String> {
    if node.availability == Availability::Drain {
        return Some(format!(
            "node {0} is drained: ipvsmesh node update --availability active {0}",
            node.hostname
        ));
    }
    let mut constraints = service.spec.placement.constraints.iter();
    let unfit = constraints.find(|constraint| !constraint.fits(node))?;
    Some(format!(
        "node {} does not fit {unfit}: change it (node update --label-add), or the service (service update --constraint-rm)",
        node.hostname
    ))
}

/// The slots of a service that have a task on each node.
pub(crate) type Slots = BTreeMap<NodeId, BTreeSet<u32>>;

/// Those that have one which shall run, and may yet.
pub(crate) fn slots<'a>(state: &State, tasks: impl IntoIterator<Item = &'a Task>) -> Slots {
    let mut slots = Slots::new();
    for task in tasks {
        let status = state.status(&task.id);
        let ended = status.is_some_and(|status| status.state.is_final());
        if task.desired == DesiredState::Running && !ended {
            let on_node = slots.entry(task.node.clone()).or_default();
            on_node.insert(task.slot);
        }
    }
    slots
}

/// Whether a node has as many of a service's slots as it may. One that is there already
/// may have another task there, so that one takes the other's place.
pub(crate) fn is_full(service: &Service, slots: &Slots, node: &NodeId, slot: u32) -> bool {
    let here = slots.get(node);
    let others = here.map_or(0, |here| here.iter().filter(|one| **one != slot).count());
    let most = service.spec.placement.max_per_node;
    most.is_some_and(|most| others >= most.get() as usize)
}

/// Whether a task is one of those that its node has beyond what it may have of the
/// service: those with the highest slots.
pub(crate) fn is_beyond(service: &Service, slots: &Slots, task: &Task) -> bool {
    let Some(most) = service.spec.placement.max_per_node else {
        return false;
    };
    let here = slots.get(&task.node).into_iter().flatten();
    here.skip(most.get() as usize)
        .any(|slot| *slot == task.slot)
}

/// For how many slots of a service there is room. More are not begun, else one that is
/// empty could take the place of one whose task is replaced.
pub(crate) fn room(state: &State, service: &Service, slots: &Slots) -> usize {
    let Some(most) = service.spec.placement.max_per_node else {
        return usize::MAX;
    };
    let most = most.get() as usize;
    let on = |node: &Node| match node.availability {
        _ if must_leave(service, node).is_some() => 0,
        Availability::Active => most,
        // what is there stays
        _ => slots.get(&node.id).map_or(0, |here| here.len().min(most)),
    };
    state.nodes.values().map(|node| on(node)).sum()
}

/// How much of a service is where a node is: the slots on nodes with the same values of
/// the labels that its tasks are spread over, by the first label, by the first two, and
/// so on. The node with the least is the next one's.
pub(crate) fn crowd(state: &State, service: &Service, slots: &Slots, node: &Node) -> Vec<usize> {
    let spread = &service.spec.placement.spread;
    let alike = |other: &Node, labels: usize| {
        let mut labels = spread.iter().take(labels);
        labels.all(|label| label.of(other) == label.of(node))
    };
    let on = |labels: usize| {
        let nodes = state.nodes.values();
        let nodes = nodes.filter(|other| alike(other, labels));
        nodes
            .filter_map(|node| slots.get(&node.id))
            .map(BTreeSet::len)
            .sum()
    };
    (1..=spread.len()).map(on).collect()
}

/// Why a service gets no task, if no node takes any.
pub fn nowhere(state: &State, service: &Service) -> Option<String> {
    let slots = slots(
        state,
        state.tasks_of(&service.id).iter().map(|task| &***task),
    );
    let full = |node: &Node| {
        // slots have numbers above 0
        is_full(service, &slots, &node.id, 0).then(|| {
            format!(
                "node {} has as many as it may: service update --replicas-max-per-node",
                node.hostname
            )
        })
    };
    let mut why = Vec::new();
    for node in state.nodes.values() {
        let paused = node.availability == Availability::Pause;
        let paused = paused.then(|| {
            format!(
                "node {0} is paused: ipvsmesh node update --availability active {0}",
                node.hostname
            )
        });
        why.push(
            must_leave(service, node)
                .or(paused)
                .or_else(|| full(node))?,
        );
    }
    Some(format!("no node takes new tasks of it: {}", why.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Mesh, service};

    #[test]
    fn that_no_node_takes_tasks_is_said_with_the_next_step() {
        let mut mesh = Mesh::new(2);
        let id = mesh.create(&service("web", 1)).unwrap();
        let set = |mesh: &mut Mesh, availability| {
            for id in mesh.state.nodes.keys().cloned().collect::<Vec<_>>() {
                let version = mesh.state.nodes[&id].version;
                let labels = Default::default();
                let tx = crate::admit::update_node(&mesh.state, &id, version, labels, availability);
                mesh.commit(&tx.unwrap());
            }
        };
        let why = |mesh: &Mesh| nowhere(&mesh.state, mesh.get(&id));
        assert_eq!(why(&mesh), None);
        set(&mut mesh, Availability::Pause);
        assert!(why(&mesh).unwrap().contains("is paused: "));
        set(&mut mesh, Availability::Drain);
        assert!(why(&mesh).unwrap().contains("is drained: "));
        set(&mut mesh, Availability::Active);
        let mut spec = mesh.get(&id).spec.clone();
        spec.placement.constraints = vec!["node.labels.disk==ssd".parse().unwrap()];
        mesh.update(&id, &spec).unwrap();
        assert!(
            why(&mesh)
                .unwrap()
                .contains("does not fit node.labels.disk==ssd")
        );
    }
}
