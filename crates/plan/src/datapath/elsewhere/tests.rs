use std::collections::BTreeMap;

use imbl::OrdSet;
use model::{Candidate, Health, TaskState, label};

use super::*;
use crate::{
    adopt::plan_adoption,
    datapath::{Settings, wanted},
    netns::{Place, Places},
    plan_writes,
    testing::{Mesh, node_id},
};

fn want(mesh: &Mesh) -> Places {
    let nobody = OrdSet::new();
    let (node, instance) = (node_id(1), Instance::default());
    wanted(&mesh.state, &node, &instance, &nobody, &Settings::default())
}

fn adopt(mesh: &mut Mesh, seen: &[Candidate]) {
    loop {
        let step = mesh
            .decide(|state, context| Ok(plan_adoption(state, &node_id(1), seen, context)))
            .unwrap();
        if step.tx.is_empty() {
            return;
        }
        mesh.commit(&step.tx);
    }
}

#[test]
fn the_host_turns_answers_back_while_there_is_one() {
    let mut mesh = Mesh::new(1);
    let container = Candidate {
        id: "c1".to_owned(),
        name: "app_1".to_owned(),
        labels: BTreeMap::from([
            (label::SERVICE.to_owned(), "web".to_owned()),
            (label::PUBLISH.to_owned(), "8080:80".to_owned()),
        ]),
        running: true,
        health: Health::None,
        addresses: vec![[172, 18, 0, 2].into()],
        bridges: vec!["172.18.0.0/16".parse().unwrap()],
        ..Candidate::default()
    };
    let before = want(&mesh);
    adopt(&mut mesh, &[container]);
    // whether it serves is asked by the same way
    assert!(want(&mesh)[&Place::Host].sets.contains_key("ivm-guests"));

    let task = mesh.state.tasks.keys().next().cloned().unwrap();
    mesh.report(&task, TaskState::Running, false);
    let with = want(&mesh);
    let host = &with[&Place::Host];
    let mangle = &host.tables[&(Family::V4, Table::Mangle)];
    assert_eq!(
        mangle.own["IPVSMESH-BACK"],
        ["-j TEE --gateway 10.90.1.2", "-j DROP"]
    );
    let entries = |set: &str| {
        let entries = host.sets[set].entries.keys();
        entries.map(ToString::to_string).collect::<Vec<_>>()
    };
    for (set, expected) in [
        ("ivm-guests", "172.18.0.2/32"),
        ("ivm-bridges", "172.18.0.0/16"),
        ("ivm-farports", "10.90.1.2,tcp:8080"),
        ("ivm-farvips", "10.200.0.1/32"),
    ] {
        assert_eq!(entries(set), [expected], "{set}");
    }
    assert!(entries("ivm-servers").is_empty());
    let balanced = with[&Place::Ingress].services.values().next().unwrap();
    assert_eq!(
        balanced.destinations.keys().collect::<Vec<_>>(),
        [&([172, 18, 0, 2].into(), 80)]
    );

    // and nothing is left of it
    adopt(&mut mesh, &[]);
    let after = want(&mesh);
    let (host, bare) = (&after[&Place::Host], &before[&Place::Host]);
    assert_eq!(host.tables, bare.tables);
    assert_eq!(
        host.sets.keys().collect::<Vec<_>>(),
        bare.sets.keys().collect::<Vec<_>>()
    );
    assert!(plan_writes(&with, &after).len() > 10);
}

#[test]
fn instances_have_marks_of_their_own() {
    let of = |name: &str| mark(&Instance::try_from(name.to_owned()).unwrap());
    assert_eq!(of(""), "0x77000000/0xff000000");
    let marks: BTreeSet<_> = ["", "a", "b", "c"].map(of).into();
    assert_eq!(marks.len(), 4);
}
