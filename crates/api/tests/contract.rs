//! What Docker's clients send and read: the requests that its command was seen to make
//! (`tests/data/docker-cli.json`), bollard as a client, and nonsense.

#![allow(clippy::unwrap_used, reason = "a test fails so")]

// the name by which everybody else knows it, the fake included
extern crate ipvsmesh_api as api;

mod fake;

use std::{collections::BTreeMap, fmt::Write as _, io::Write as _, os::unix::net::UnixStream};

use bollard::{
    API_DEFAULT_VERSION, Docker, models,
    query_parameters::{ListServicesOptions, ListTasksOptions, UpdateServiceOptions},
};
use fake::{Served, raw};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A place holder `{name.key.0}` by what was answered before.
fn filled(text: &str, known: &BTreeMap<String, Value>) -> String {
    let mut filled = text.to_owned();
    for (name, value) in known {
        while let Some(at) = filled.find(&format!("{{{name}.")) {
            let end = at + filled[at..].find('}').unwrap();
            let pointer = filled[at + name.len() + 1..end].replace('.', "/");
            let found = value.pointer(&pointer).unwrap();
            let found = found
                .as_str()
                .map_or_else(|| found.to_string(), str::to_owned);
            filled.replace_range(at..=end, &found);
        }
    }
    filled
}

/// What may not stand in a path as it is.
fn escaped(path: &str) -> String {
    let mut escaped = String::new();
    for byte in path.bytes() {
        match byte {
            b'"' | b'{' | b'}' | b' ' => write!(escaped, "%{byte:02X}").unwrap(),
            _ => escaped.push(byte.into()),
        }
    }
    escaped
}

#[test]
fn what_dockers_command_sends_is_answered_as_it_expects() {
    let served = Served::start();
    let text = include_str!("../../../tests/data/docker-cli.json");
    let catalogue: Value = serde_json::from_str(text).unwrap();
    let mut known = BTreeMap::new();
    for entry in catalogue.as_array().unwrap() {
        for request in entry["sends"].as_array().unwrap() {
            let call = filled(request["call"].as_str().unwrap(), &known);
            let (method, path) = call.split_once(' ').unwrap();
            let body = match &request["body"] {
                Value::Null => String::new(),
                // a place holder is the whole of it
                Value::String(whole) => filled(whole, &known),
                body => filled(&body.to_string(), &known),
            };
            let (status, _, answer) = raw(&served, method, &escaped(path), &body);
            let about = format!("{}: {call}: {answer}", entry["cli"]);
            assert_eq!(json!(status), request["status"], "{about}");
            let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
            for pointer in request["has"].as_array().into_iter().flatten() {
                let pointer = pointer.as_str().unwrap();
                assert!(answer.pointer(pointer).is_some(), "{pointer}: {about}");
            }
            if let Some(name) = request["as"].as_str() {
                known.insert(name.to_owned(), answer);
            }
        }
    }
}

#[tokio::test]
async fn bollard_is_a_client() {
    let served = Served::start();
    let path = served.socket.display().to_string();
    let docker = Docker::connect_with_unix(&path, 10, API_DEFAULT_VERSION).unwrap();
    let docker = docker.negotiate_version().await.unwrap();
    assert_eq!(docker.ping().await.unwrap(), "OK");
    let info = docker.info().await.unwrap();
    let swarm = info.swarm.unwrap();
    assert_eq!(swarm.control_available, Some(true));
    docker.version().await.unwrap();
    docker.inspect_swarm().await.unwrap();

    let network = models::NetworkCreateRequest {
        name: "back".to_owned(),
        driver: Some("overlay".to_owned()),
        ..Default::default()
    };
    docker.create_network(network).await.unwrap();
    let networks = docker.list_networks(None).await.unwrap();
    assert_eq!(networks[0].name.as_deref(), Some("back"));
    docker.inspect_network("back", None).await.unwrap();

    let spec = models::ServiceSpec {
        name: Some("web".to_owned()),
        task_template: Some(models::TaskSpec {
            container_spec: Some(models::TaskSpecContainerSpec {
                image: Some("web:1".to_owned()),
                ..Default::default()
            }),
            networks: Some(vec![models::NetworkAttachmentConfig {
                target: Some("back".to_owned()),
                ..Default::default()
            }]),
            ..Default::default()
        }),
        ..Default::default()
    };
    docker.create_service(spec, None).await.unwrap();
    let services = docker.list_services(None::<ListServicesOptions>).await;
    let service = services.unwrap().remove(0);
    let mut spec = service.spec.unwrap();
    spec.mode
        .as_mut()
        .unwrap()
        .replicated
        .as_mut()
        .unwrap()
        .replicas = Some(2);
    let version = service.version.unwrap().index.unwrap();
    let options = UpdateServiceOptions {
        version: version.try_into().unwrap(),
        ..Default::default()
    };
    docker
        .update_service("web", spec, options, None)
        .await
        .unwrap();
    let tasks = docker.list_tasks(None::<ListTasksOptions>).await.unwrap();
    assert_eq!(tasks.len(), 2);
    docker
        .inspect_task(tasks[0].id.as_deref().unwrap())
        .await
        .unwrap();
    let nodes = docker.list_nodes(None).await.unwrap();
    docker
        .inspect_node(nodes[0].id.as_deref().unwrap())
        .await
        .unwrap();

    docker.delete_service("web").await.unwrap();
    docker.inspect_service("web", None).await.unwrap_err();
    docker.remove_network("back").await.unwrap();
}

/// What is answered to these bytes; `ends`: no more are to come, so that the server may
/// take whoever sent them for gone.
fn send(served: &Served, bytes: &[u8], ends: bool) -> String {
    use std::io::Read as _;
    let mut stream = UnixStream::connect(&served.socket).unwrap();
    // it may be refused before all was sent
    let _ = stream.write_all(bytes);
    if ends {
        let _ = stream.shutdown(std::net::Shutdown::Write);
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn alive(served: &Served) -> bool {
    raw(served, "GET", "/v1.41/services", "").0 == 200
}

#[test]
fn broken_requests_are_refused_and_it_lives() {
    let served = Served::start();
    let create = "POST /v1.41/services/create HTTP/1.1\r\nHost: x\r\n";
    for (bytes, status) in [
        ("GET /services\r\n\r\n".to_owned(), "400"),
        ("\u{0}\u{1}\r\n\r\n".to_owned(), "400"),
        ("GET /services HTTP/9.9\r\n\r\n".to_owned(), "400"),
        (
            format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(1 << 20)),
            "4",
        ),
        (
            format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(10_000)),
            "4",
        ),
        (format!("{create}Content-Length: -1\r\n\r\n"), "400"),
        (
            format!("{create}Transfer-Encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n"),
            "400",
        ),
        (
            format!("{create}Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n"),
            "400",
        ),
        (
            format!("{create}Content-Length: 5\r\nConnection: close\r\n\r\n{{"),
            "",
        ),
    ] {
        let answer = send(&served, bytes.as_bytes(), true);
        let start = &bytes[..bytes.len().min(80)];
        let begins = format!("HTTP/1.1 {status}");
        assert!(
            answer.starts_with(&begins) || status.is_empty(),
            "{start:?}: {answer:?}"
        );
        assert!(alive(&served), "{start:?}");
    }
    // an honest one in pieces, as some clients send it
    let pieces = "9\r\n{\"Name\":\"\r\n3\r\nx\"}\r\n0\r\n\r\n";
    let head = "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    let answer = send(&served, format!("{create}{head}{pieces}").as_bytes(), false);
    assert!(
        answer.contains("400") && answer.contains("ContainerSpec"),
        "{answer}"
    );
}

/// JSON that somebody may send for an object of the API: its keys, or others, with
/// values of any kind.
fn nonsense() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        Just(json!("web:1")),
    ];
    let key = prop_oneof![
        prop::sample::select(vec![
            "Name",
            "Labels",
            "TaskTemplate",
            "ContainerSpec",
            "Image",
            "Env",
            "Mounts",
            "Networks",
            "Target",
            "Mode",
            "Replicated",
            "Replicas",
            "Global",
            "EndpointSpec",
            "Ports",
            "TargetPort",
            "PublishedPort",
            "Protocol",
            "Resources",
            "Limits",
            "RestartPolicy",
            "UpdateConfig",
            "Parallelism",
            "Healthcheck",
            "Test",
            "Driver",
            "IPAM",
            "Config",
            "Subnet",
            "ipvsmesh.probe",
            "ipvsmesh.weight",
            "ipvsmesh.runtime",
            "Configs",
            "Secrets",
            "File",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,8}",
    ];
    leaf.prop_recursive(6, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nonsense_is_answered_with_a_reason(
        body in nonsense(),
        path in prop::sample::select(vec![
            "/v1.41/services/create", "/networks/create", "/configs/create", "/secrets/create",
            "/services/x/update?version=1", "/ipvsmesh/v1/trace",
        ]),
    ) {
        thread_local! { static SERVED: Served = Served::start(); }
        SERVED.with(|served| {
            let (status, _, answer) = raw(served, "POST", path, &body.to_string());
            let said: Value = serde_json::from_str(&answer).unwrap();
            let refused = (400..500).contains(&status) || status == 503;
            prop_assert!(status == 201 || refused, "{} {}", status, answer);
            prop_assert!(status == 201 || said["message"].is_string(), "{}", answer);
            Ok(())
        })?;
    }

    #[test]
    fn no_path_ends_it(path in "/(v1\\.[0-9]{1,3}/)?(services|tasks|nodes|networks|configs|swarm|x)(/[!-~]{0,20})?(\\?[!-~]{0,40})?") {
        thread_local! { static SERVED: Served = Served::start(); }
        SERVED.with(|served| {
            // a log may be followed for ever
            prop_assume!(!path.contains("logs"));
            let (status, ..) = raw(served, "GET", &path, "");
            prop_assert!(status == 200 || (400..500).contains(&status) || status == 503, "{}", status);
            Ok(())
        })?;
    }
}
