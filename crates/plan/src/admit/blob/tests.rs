use model::ContainerSpec;

use super::*;
use crate::testing::{Mesh, service};

fn spec(name: &str, data: &[u8]) -> BlobSpec {
    BlobSpec {
        name: name.to_owned(),
        labels: BTreeMap::new(),
        data: data.to_vec().into(),
    }
}

fn create(mesh: &mut Mesh, kind: BlobKind, spec: BlobSpec) -> Result<BlobId, Refusal> {
    let (id, tx) = mesh.decide(|state, context| create_blob(state, kind, spec, context))?;
    mesh.commit(&tx);
    Ok(id)
}

fn remove(mesh: &mut Mesh, id: &BlobId) -> Result<(), Refusal> {
    let tx = remove_blob(&mesh.state, id, mesh.now)?;
    mesh.commit(&tx);
    Ok(())
}

fn file(kind: BlobKind, id: &BlobId, name: &str, target: &str) -> FileRef {
    FileRef {
        kind,
        blob: id.clone(),
        name: name.to_owned(),
        target: target.to_owned(),
        uid: 0,
        gid: 0,
        mode: FileRef::MODE,
    }
}

fn container(files: Vec<FileRef>) -> ServiceSpec {
    let mut spec = service("web", 1);
    spec.task.runtime = RuntimeSpec::Docker(Box::new(ContainerSpec {
        image: "web".to_owned(),
        files,
        ..ContainerSpec::default()
    }));
    spec
}

#[test]
fn names_and_sizes_are_swarms() {
    let mut mesh = Mesh::new(1);
    let long = "x".repeat(65);
    for bad in ["", "-a", "a-", "a b", "a/b", "ü", &long] {
        let refused = create(&mut mesh, BlobKind::Config, spec(bad, b"x")).unwrap_err();
        assert!(refused.to_string().contains("invalid name"), "{bad}");
    }
    for (kind, size) in [(BlobKind::Secret, 512_001), (BlobKind::Config, 1_024_001)] {
        for data in [vec![], vec![0; size]] {
            let refused = create(&mut mesh, kind, spec("a", &data)).unwrap_err();
            assert!(refused.to_string().contains("larger than 0"), "{refused}");
        }
        create(&mut mesh, kind, spec("a.b_c-1", &vec![0; size - 1])).unwrap();
        let refused = create(&mut mesh, kind, spec("A.b_c-1", b"x")).unwrap_err();
        assert_eq!(refused.kind(), super::super::Kind::Conflict);
    }
}

#[test]
fn what_a_service_needs_stays() {
    let mut mesh = Mesh::new(1);
    let id = create(&mut mesh, BlobKind::Secret, spec("key", b"x")).unwrap();
    let with = container(vec![file(BlobKind::Secret, &id, "key", "key")]);
    // looked at before the service was there
    let removal = remove_blob(&mesh.state, &id, mesh.now).unwrap();
    let web = mesh.create(&with).unwrap();
    assert!(!mesh.takes(&removal));
    mesh.settle();
    let refused = remove(&mut mesh, &id).unwrap_err().to_string();
    assert_eq!(
        refused,
        "secret 'key' is in use by the following service: web"
    );
    // a task of the spec before that is not replaced yet
    let version = mesh.get(&web).version;
    mesh.update(&web, &container(Vec::new())).unwrap();
    assert!(mesh.get(&web).version != version && remove(&mut mesh, &id).is_err());
    mesh.remove(&web);
    remove(&mut mesh, &id).unwrap();
    assert!(mesh.state.blobs.is_empty() && mesh.create(&with).is_err());
    // its name is free at once
    create(&mut mesh, BlobKind::Secret, spec("key", b"y")).unwrap();
}

#[test]
fn labels_change_and_nothing_else() {
    let mut mesh = Mesh::new(1);
    let id = create(&mut mesh, BlobKind::Config, spec("a", b"x")).unwrap();
    let version = mesh.state.blobs[&id].version;
    let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let change = |mesh: &Mesh| label_blob(&mesh.state, &id, version, labels.clone(), mesh.now);
    let tx = change(&mesh).unwrap();
    mesh.commit(&tx);
    assert_eq!(mesh.state.blobs[&id].spec.labels, labels);
    let now = mesh.state.blobs[&id].version;
    let same = label_blob(&mesh.state, &id, now, labels.clone(), mesh.now);
    assert!(
        same.unwrap().is_empty(),
        "stacks are deployed again and again"
    );
    let refused = change(&mesh).unwrap_err().to_string();
    assert!(refused.contains("out of sequence"), "{refused}");
}

#[test]
fn files_have_a_place_of_their_own() {
    let mut mesh = Mesh::new(1);
    let config = create(&mut mesh, BlobKind::Config, spec("a", b"x")).unwrap();
    let secret = create(&mut mesh, BlobKind::Secret, spec("b", b"x")).unwrap();
    let one = |target: &str| file(BlobKind::Config, &config, "a", target);
    let other = |target: &str| file(BlobKind::Secret, &secret, "b", target);
    for (files, word) in [
        (vec![one("../a")], "not valid"),
        (vec![one("")], "not valid"),
        (vec![one("/a:b")], "not valid"),
        (vec![one("/run/secrets/b"), other("b")], "conflicting"),
        (vec![file(BlobKind::Config, &secret, "b", "b")], "not found"),
        (vec![file(BlobKind::Config, &config, "A", "b")], "not found"),
    ] {
        let refused = mesh.create(&container(files)).unwrap_err().to_string();
        assert!(refused.contains(word), "{refused}");
    }
    let mut process = service("p", 1);
    for (target, fits) in [("a", true), ("/run/configs/a/b", true), ("/etc/a", false)] {
        let RuntimeSpec::Process(spec) = &mut process.task.runtime else {
            panic!("it is a process");
        };
        spec.files = vec![one(target)];
        process.name = crate::testing::name(if fits { "fits" } else { "fits-not" });
        let created = mesh.create(&process);
        assert_eq!(created.is_ok(), fits, "{target}: {created:?}");
        if let Ok(id) = created {
            mesh.remove(&id);
            mesh.settle();
        }
    }
    mesh.create(&container(vec![one("/etc/a"), other("b")]))
        .unwrap();
}
