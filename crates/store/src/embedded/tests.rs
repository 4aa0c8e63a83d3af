use model::{Claim, Key, Resource};
use proptest::prelude::*;

use super::*;

fn claim(name: &str, owner: &str) -> Object {
    Object::Claim(Claim {
        resource: Resource::ServiceName(name.to_owned()),
        owner: owner.to_owned(),
        released: None,
    })
}

fn key(name: &str) -> Key {
    Key::Claim(Resource::ServiceName(name.to_owned()))
}

#[tokio::test]
async fn what_was_committed_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let mut tx = Transaction::default();
    tx.create(claim("vote", "a"));
    let store = Embedded::open(dir.path()).unwrap();
    assert_eq!(store.commit(tx.clone()).await.unwrap(), Revision(1));
    let again = store.commit(tx).await;
    assert!(matches!(again, Err(CommitError::Conflict { .. })));
    let before = store.load().await.unwrap();
    drop(store);
    let store = Embedded::open(dir.path()).unwrap();
    assert_eq!(store.load().await.unwrap(), before);
    assert_eq!(before.revision, Revision(1));
}

#[tokio::test]
async fn a_watch_begins_where_it_is_told_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path()).unwrap();
    for n in 0..3 {
        let mut tx = Transaction::default();
        tx.create(claim(&format!("n{n}"), "a"));
        store.commit(tx).await.unwrap();
    }
    let mut watch = store.watch(Revision(1)).await.unwrap();
    let mut tx = Transaction::default();
    tx.delete(Revision(1), key("n0"));
    store.commit(tx).await.unwrap();
    for expected in 2..=4 {
        assert_eq!(watch.next().await.unwrap().revision, Revision(expected));
    }
}

#[tokio::test]
async fn a_second_one_is_refused_naming_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let _first = Embedded::open(dir.path()).unwrap();
    let error = Embedded::open(dir.path()).err().unwrap().to_string();
    assert!(error.contains("in use") && error.contains(&std::process::id().to_string()));
}

#[test]
fn a_damaged_file_is_refused_and_left_alone() {
    for bytes in [&b""[..], b"nonsense", &[0; 5000], b"redb"] {
        refused(bytes, &["damaged", "backup"]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    /// The state that a watcher builds is the state that is loaded.
    #[test]
    fn watching_and_loading_agree(writes in proptest::collection::vec((0..6_u8, any::<bool>()), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let store = Embedded::open(dir.path()).unwrap();
            let mut watch = store.watch(Revision(0)).await.unwrap();
            let mut seen = State::default();
            for (n, put) in writes {
                let name = format!("n{n}");
                let version = seen.claims.get(&Resource::ServiceName(name.clone())).map(|c| c.version);
                let mut tx = Transaction::default();
                match (put, version) {
                    (true, None) => tx.create(claim(&name, "a")),
                    (true, Some(version)) => tx.replace(version, claim(&name, "b")),
                    (false, Some(version)) => tx.delete(version, key(&name)),
                    (false, None) => continue,
                }
                store.commit(tx).await.unwrap();
                let batch = watch.next().await.unwrap();
                seen.apply(batch.revision, batch.changes);
            }
            assert_eq!(store.load().await.unwrap(), seen);
        });
    }
}

// === files ===

const V1: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../tests/data/store-v1.redb"
);

/// What `tests/data/store-v1.redb` was made of: an object of each kind, one that
/// was changed, one that was deleted, a tombstone.
fn transactions_of_v1() -> Vec<Transaction> {
    use model::{
        AllocatedPort, Attachment, DesiredState, Endpoint, EndpointMode, EndpointSpec, Lease,
        Listener, Mark, Mode, Network, NetworkAttachment, NetworkId, NetworkSpec, Node, NodeId,
        Pool, Pools, ProcessIdentity, ProcessSpec, Protocol, PublishMode, PublishedPort,
        RestartCondition, RestartPolicy, RuntimeSpec, Service, ServiceId, ServiceSpec, Task,
        TaskId, TaskSpec, TaskState, TaskStatus, Vip,
    };
    use std::time::Duration;
    let when = |seconds: i64| jiff::Timestamp::from_second(1_735_689_600 + seconds).unwrap();
    let node = NodeId::from_random([1; 16]);
    let network = NetworkId::from_random([2; 16]);
    let service = ServiceId::from_random([3; 16]);
    let task = TaskId::from_random([4; 16]);
    let mark = |n| Mark::new(n).unwrap();
    let net = |text: &str| text.parse().unwrap();
    let taken = |resource, owner: &str| {
        Object::Claim(Claim {
            resource,
            owner: owner.to_owned(),
            released: None,
        })
    };
    let mut first = Transaction::default();
    first.create(Object::Pools(Pools::default()));
    first.create(Object::Node(Node {
        id: node.clone(),
        hostname: "host1".to_owned(),
        number: 1,
        created: when(0),
        labels: std::collections::BTreeMap::new(),
        availability: model::Availability::default(),
    }));

    let mut second = Transaction::default();
    second.create(Object::Network(Network {
        id: network.clone(),
        spec: NetworkSpec {
            name: "back".parse().unwrap(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            internal: true,
            ipv6: false,
            subnets: vec![net("10.100.0.0/24")],
        },
        pools: vec![Pool {
            subnet: net("10.100.0.0/24"),
            vips: net("10.200.0.0/20"),
        }],
        created: when(1),
        raw: serde_json::json!({"Name": "back"}),
    }));
    second.create(taken(
        Resource::NetworkName("back".to_owned()),
        network.as_str(),
    ));
    second.create(taken(
        Resource::Block(net("10.100.0.0/24")),
        network.as_str(),
    ));
    second.create(Object::Lease(Lease {
        network: network.clone(),
        node: node.clone(),
        block: net("10.100.0.0/24"),
        block6: None,
    }));

    let spec = ServiceSpec {
        name: "Vote".parse().unwrap(),
        labels: [("ipvsmesh.runtime".to_owned(), "process".to_owned())].into(),
        mode: Mode::Replicated { replicas: 2 },
        task: TaskSpec {
            runtime: RuntimeSpec::Process(ProcessSpec {
                command: vec!["whoami".to_owned(), "--port".to_owned(), "80".to_owned()],
                env: vec!["A=b".to_owned()],
                dir: Some("/tmp".to_owned()),
                user: Some("nobody".to_owned()),
                files: Vec::new(),
                stop_signal: Some("SIGINT".to_owned()),
                stop_grace: Duration::from_millis(2500),
            }),
            networks: vec![NetworkAttachment {
                network: network.clone(),
                aliases: vec!["web".to_owned()],
            }],
            restart: RestartPolicy {
                condition: RestartCondition::OnFailure,
                delay: Duration::from_secs(1),
                max_attempts: 3,
                window: Duration::from_secs(60),
            },
            force_update: 1,
        },
        placement: Default::default(),
        endpoint: EndpointSpec {
            mode: EndpointMode::Vip,
            ports: vec![PublishedPort {
                protocol: Protocol::Udp,
                target: 80,
                published: None,
                mode: PublishMode::Ingress,
                host_ip: None,
            }],
        },
        update: Default::default(),
        rollback: Default::default(),
        registry_auth: None,
    };
    let vote = Service {
        id: service.clone(),
        spec: spec.clone(),
        spec_after: Revision::default(),
        previous: Some(Box::new(ServiceSpec {
            mode: Mode::Global,
            endpoint: EndpointSpec {
                mode: EndpointMode::DnsRr,
                ports: Vec::new(),
            },
            ..spec.clone()
        })),
        endpoint: Endpoint {
            vips: vec![Vip {
                network: network.clone(),
                address: [10, 200, 0, 1].into(),
                tcp: mark(0x100),
                udp: mark(0x101),
            }],
            ports: vec![AllocatedPort {
                port: PublishedPort {
                    published: Some(30_000),
                    ..spec.endpoint.ports[0].clone()
                },
                mark: mark(0x102),
                ingress: model::ANY_INGRESS,
                keeps_port: false,
                affine: None,
            }],
        },
        created: when(2),
        updated: when(3),
        update_status: None,
        raw: serde_json::json!({"Name": "Vote", "Unknown": [1, null]}),
        raw_previous: serde_json::Value::Null,
    };
    let listener = Listener {
        host_ip: None,
        protocol: Protocol::Udp,
        port: 30_000,
    };
    let mut third = Transaction::default();
    third.create(Object::Service(Box::new(vote)));
    for resource in [
        Resource::ServiceName("vote".to_owned()),
        Resource::Address([10, 200, 0, 1].into()),
        Resource::Mark(mark(0x100)),
        Resource::Listener(listener),
        Resource::ServiceName("gone".to_owned()),
    ] {
        third.create(taken(resource, service.as_str()));
    }
    third.create(Object::Task(Box::new(Task {
        id: task.clone(),
        service: service.clone(),
        service_name: "Vote".parse().unwrap(),
        slot: 1,
        node,
        spec: spec.task,
        attachments: vec![Attachment {
            network,
            addresses: vec![[10, 100, 0, 2].into()],
        }],
        desired: DesiredState::Running,
        created: when(4),
        not_before: Some(when(5)),
        elsewhere: None,
    })));

    let mut fourth = Transaction::default();
    fourth.create(Object::Status(TaskStatus {
        task,
        state: TaskState::Running,
        since: when(6),
        started: None,
        message: "started".to_owned(),
        error: String::new(),
        exit_code: Some(0),
        process: Some(ProcessIdentity {
            pid: 4711,
            start_time: 12345,
            boot_id: "00000000-0000-0000-0000-000000000000".to_owned(),
            netns_inode: 4_026_531_840,
        }),
        draining: false,
        draining_since: None,
        ended: false,
        attached: true,
    }));
    fourth.replace(
        Revision(3),
        Object::Claim(Claim {
            resource: Resource::Mark(mark(0x100)),
            owner: service.to_string(),
            released: Some(when(7)),
        }),
    );
    fourth.delete(Revision(3), key("gone"));
    vec![first, second, third, fourth]
}

fn state_of_v1() -> State {
    let mut state = State::default();
    for (tx, revision) in transactions_of_v1().into_iter().zip(1..) {
        state.apply(Revision(revision), tx.changes);
    }
    state
}

/// A directory with a copy of a file as its store.
fn dir_with(bytes: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("store.redb"), bytes).unwrap();
    dir
}

/// How tests/data/store-v1.redb was made: with UPDATE_STORE_V1 set. Never again once
/// version 1 was released: a new schema gets a new file.
async fn make_the_store_of_version_1() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path()).unwrap();
    for tx in transactions_of_v1() {
        store.commit(tx).await.unwrap();
    }
    drop(store);
    let path = dir.path().join("store.redb");
    let mut database = Database::open(&path).unwrap();
    while database.compact().unwrap() {}
    drop(database);
    fs::copy(&path, V1).unwrap();
}

#[tokio::test]
async fn a_store_of_version_1_is_read() {
    if std::env::var_os("UPDATE_STORE_V1").is_some() {
        make_the_store_of_version_1().await;
    }
    let dir = dir_with(&fs::read(V1).unwrap());
    let store = Embedded::open(dir.path()).unwrap();
    assert_eq!(store.load().await.unwrap(), state_of_v1());
    // and goes on where it ended, with its history
    let mut tx = Transaction::default();
    tx.replace(Revision(3), claim("vote", "b"));
    assert_eq!(store.commit(tx).await.unwrap(), Revision(5));
    let mut watch = store.watch(Revision(0)).await.unwrap();
    for (tx, revision) in transactions_of_v1().into_iter().zip(1..) {
        let batch = watch.next().await.unwrap();
        assert_eq!(
            (batch.revision, batch.changes),
            (Revision(revision), tx.changes)
        );
    }
}

#[test]
fn each_kind_of_object_is_in_the_store_of_version_1() {
    let all = transactions_of_v1();
    let words: std::collections::BTreeSet<_> = all
        .iter()
        .flat_map(|tx| &tx.changes)
        .filter_map(|change| match change {
            Change::Put(object) => {
                let json = serde_json::to_value(object).unwrap();
                json.as_object().unwrap().keys().next().cloned()
            }
            Change::Delete(_) => None,
        })
        .collect();
    let expected = [
        "claim", "lease", "network", "node", "pools", "service", "status", "task",
    ];
    assert!(words.iter().eq(expected), "{words:?}");
}

/// Refused, naming the file, which stays as it was.
fn refused(bytes: &[u8], words: &[&str]) {
    let dir = dir_with(bytes);
    let path = dir.path().join("store.redb");
    let error = Embedded::open(dir.path())
        .err()
        .expect("refused")
        .to_string();
    for word in words.iter().copied().chain([path.to_str().unwrap()]) {
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }
    assert!(fs::read(&path).unwrap() == bytes, "it was changed");
}

/// A store's file after a change by hand.
fn changed(change: impl FnOnce(&redb::WriteTransaction)) -> Vec<u8> {
    let dir = dir_with(&fs::read(V1).unwrap());
    let path = dir.path().join("store.redb");
    let database = Database::open(&path).unwrap();
    let write = database.begin_write().unwrap();
    change(&write);
    write.commit().unwrap();
    drop(database);
    fs::read(path).unwrap()
}

#[test]
fn a_newer_schema_is_refused_with_both_numbers_and_untouched() {
    let newer = changed(|write| {
        let mut meta = write.open_table(META).unwrap();
        meta.insert("schema", 7).unwrap();
    });
    refused(&newer, &["schema 7", "knows 1", "install a newer ipvsmesh"]);
}

#[test]
fn what_is_no_store_of_ours_is_refused_and_untouched() {
    let value = changed(|write| {
        let mut objects = write.open_table(OBJECTS).unwrap();
        objects.insert("services/x", &b"{}"[..]).unwrap();
    });
    refused(&value, &["damaged", "services/x", "backup"]);
    let log = changed(|write| {
        let mut log = write.open_table(LOG).unwrap();
        log.insert(4, &b"nonsense"[..]).unwrap();
    });
    refused(&log, &["damaged", "log"]);
    let schema = changed(|write| {
        let mut meta = write.open_table(META).unwrap();
        meta.remove("schema").unwrap();
    });
    refused(&schema, &["damaged", "no schema"]);
    // another program's
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other");
    let database = Database::create(&path).unwrap();
    let write = database.begin_write().unwrap();
    let table: TableDefinition<'_, u64, u64> = TableDefinition::new("theirs");
    write.open_table(table).unwrap().insert(1, 2).unwrap();
    write.commit().unwrap();
    drop(database);
    refused(&fs::read(path).unwrap(), &["damaged", "no schema"]);
}

#[test]
fn a_value_that_changed_but_still_makes_sense_is_refused() {
    let bytes = fs::read(V1).unwrap();
    let host = b"\"host1\"";
    let places = (0..bytes.len() - host.len()).filter(|at| bytes[*at..].starts_with(host));
    let places: Vec<_> = places.collect();
    // the node's object, and its making in the history
    assert!(places.len() >= 2);
    for at in places {
        let mut bytes = bytes.clone();
        bytes[at + 5] = b'2';
        refused(&bytes, &["damaged"]);
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("store.redb")).unwrap();
    let error = Embedded::open(dir.path()).err().unwrap();
    assert!(matches!(error, OpenError::Io { .. }) && error.to_string().contains("store.redb"));
    let missing = dir.path().join("missing");
    let error = Embedded::open(&missing).err().unwrap();
    assert!(matches!(error, OpenError::Io { .. }) && error.to_string().contains("missing"));
}

#[test]
fn a_store_that_was_half_made_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("store.redb.new"), b"re").unwrap();
    drop(Embedded::open(dir.path()).unwrap());
    let left: std::collections::BTreeSet<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(left.iter().eq(["lock", "store.redb"]), "{left:?}");
}

#[tokio::test]
async fn a_transaction_happens_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let store = Embedded::open(dir.path()).unwrap();
    let mut tx = Transaction::default();
    tx.create(claim("a", "x"));
    store.commit(tx).await.unwrap();
    let before = store.load().await.unwrap();
    for wrong in [key("a"), key("b")] {
        let mut tx = Transaction::default();
        tx.create(claim("c", "x"));
        // of a it expects nothing, of b something
        let version = (wrong == key("b")).then_some(Revision(1));
        tx.expect.push(model::Expect {
            key: wrong.clone(),
            version,
        });
        match store.commit(tx).await {
            Err(CommitError::Conflict { key }) => assert_eq!(key, wrong),
            other => panic!("{other:?}"),
        }
        assert_eq!(store.load().await.unwrap(), before);
    }
    // expectations alone are checked, and write nothing
    let mut tx = Transaction::default();
    tx.expect.push(model::Expect {
        key: key("a"),
        version: Some(Revision(1)),
    });
    assert_eq!(store.commit(tx.clone()).await.unwrap(), Revision(1));
    tx.expect[0].version = None;
    assert!(store.commit(tx).await.is_err());
}

#[tokio::test]
async fn history_is_kept_so_far_and_what_is_older_is_said_to_be_gone() {
    let dir = dir_with(&changed(|write| {
        // as if so many commits had been made
        let mut log = write.open_table(LOG).unwrap();
        for revision in 5..=HISTORY {
            log.insert(revision, &b"[]"[..]).unwrap();
        }
        let mut meta = write.open_table(META).unwrap();
        meta.insert("revision", HISTORY).unwrap();
    }));
    let store = Embedded::open(dir.path()).unwrap();
    for n in 0..3 {
        let mut tx = Transaction::default();
        tx.create(claim(&format!("n{n}"), "a"));
        store.commit(tx).await.unwrap();
    }
    match store.watch(Revision(2)).await {
        Err(WatchError::Compacted { oldest }) => assert_eq!(oldest, Revision(3)),
        other => panic!("{other:?}"),
    }
    let mut watch = store.watch(Revision(3)).await.unwrap();
    for revision in 4..=HISTORY + 3 {
        assert_eq!(watch.next().await.unwrap().revision, Revision(revision));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// A file that something happened to is read as it was, or refused and left as it is.
    #[test]
    fn any_damage_is_refused_or_harmless(
        at in any::<proptest::sample::Index>(),
        damage in prop_oneof![
            (1..=255u8).prop_map(|bits| (1, Some(bits))),
            (1..5000usize).prop_map(|length| (length, None)),
            Just((usize::MAX, None)),
        ],
    ) {
        let mut bytes = fs::read(V1).unwrap();
        let at = at.index(bytes.len());
        match damage {
            (usize::MAX, _) => bytes.truncate(at),
            (_, Some(bits)) => bytes[at] ^= bits,
            (length, None) => {
                let end = bytes.len().min(at + length);
                bytes[at..end].fill(0);
            }
        }
        let dir = dir_with(&bytes);
        match Embedded::open(dir.path()) {
            Ok(store) => {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                let state = runtime.block_on(store.load()).unwrap();
                prop_assert_eq!(state, state_of_v1());
            }
            Err(error) => {
                prop_assert!(matches!(error, OpenError::Damaged { .. }), "{error}");
                prop_assert!(fs::read(dir.path().join("store.redb")).unwrap() == bytes);
            }
        }
    }
}
