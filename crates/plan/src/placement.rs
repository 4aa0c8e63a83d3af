//! Which nodes a service's tasks may be on.

use model::{Availability, Node, Service, State};

/// Why a service's tasks may not stay on a node, in words with the next step.
pub fn must_leave(service: &Service, node: &Node) -> Option<String> {
    if node.availability == Availability::Drain {
        return Some(format!(
            "node {0} is drained: ipvsmesh node update --availability active {0}",
            node.hostname
        ));
    }
    let mut constraints = service.spec.constraints.iter();
    let unfit = constraints.find(|constraint| !constraint.fits(node))?;
    Some(format!(
        "node {} does not fit {unfit}: change it (node update --label-add), or the service (service update --constraint-rm)",
        node.hostname
    ))
}

/// Why a service gets no task, if no node takes any.
pub fn nowhere(state: &State, service: &Service) -> Option<String> {
    let mut why = Vec::new();
    for node in state.nodes.values() {
        let paused = node.availability == Availability::Pause;
        let paused = paused.then(|| {
            format!(
                "node {0} is paused: ipvsmesh node update --availability active {0}",
                node.hostname
            )
        });
        why.push(must_leave(service, node).or(paused)?);
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
        spec.constraints = vec!["node.labels.disk==ssd".parse().unwrap()];
        mesh.update(&id, &spec).unwrap();
        assert!(
            why(&mesh)
                .unwrap()
                .contains("does not fit node.labels.disk==ssd")
        );
    }
}
