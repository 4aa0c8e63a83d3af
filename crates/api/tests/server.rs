//! The server and the client against each other, with a mesh in memory.

#![allow(clippy::unwrap_used, reason = "a test fails so")]

// the name by which everybody else knows it, the fake included
extern crate ipvsmesh_api as api;

mod fake;

use std::time::{Duration, Instant};

use api::client::{Client, ClientError, Filters, LogQuery};
use fake::{Served, raw};
use serde_json::{Value, json};

fn spec(name: &str) -> Value {
    json!({
        "Name": name,
        "Labels": {"ipvsmesh.runtime": "process", "color": "red"},
        "TaskTemplate": {"ContainerSpec": {
            "Image": "whatever", "Labels": {"kept": "yes"}, "Args": ["whoami", "--port", "80"],
        }},
        "Mode": {"Replicated": {"Replicas": 2}},
        "EndpointSpec": {"Ports": [{"Name": "web", "TargetPort": 80, "PublishedPort": 8080}]},
    })
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> (u16, String) {
    match answer {
        Err(ClientError::Refused { status, message }) => (status, message),
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn the_life_of_a_service() {
    let served = Served::start();
    let client = Client::new(&served.socket);
    client
        .create_network(&json!({"Name": "back", "Driver": "ipvsmesh"}))
        .await
        .unwrap();
    let mut asked = spec("vote");
    asked["TaskTemplate"]["Networks"] = json!([{"Target": "back", "Aliases": ["v"]}]);
    let id = client.create_service(&asked).await.unwrap();

    // what was sent is given back, with what we made of it
    let service = client.service("VOTE").await.unwrap();
    assert_eq!(service["ID"], json!(id));
    let container = &service["Spec"]["TaskTemplate"]["ContainerSpec"];
    assert_eq!(container["Labels"], json!({"kept": "yes"}));
    assert_eq!(container["Image"], "whoami");
    assert_eq!(container["Command"], json!(["whoami"]));
    assert_eq!(container["Args"], json!(["--port", "80"]));
    assert_eq!(service["Spec"]["EndpointSpec"]["Ports"][0]["Name"], "web");
    let network = client.network("back").await.unwrap()["Id"].clone();
    let attached = &service["Spec"]["TaskTemplate"]["Networks"];
    assert_eq!(*attached, json!([{"Target": network, "Aliases": ["v"]}]));
    assert_eq!(service["Endpoint"]["Ports"][0]["PublishedPort"], 8080);
    assert!(
        service["Endpoint"]["VirtualIPs"][0]["Addr"]
            .as_str()
            .unwrap()
            .ends_with("/20")
    );

    let listed = client.services(&Filters::one("name", "vo")).await.unwrap();
    assert_eq!(
        listed[0]["ServiceStatus"],
        json!({"RunningTasks": 2, "DesiredTasks": 2, "CompletedTasks": 0})
    );
    assert!(
        client
            .services(&Filters::one("label", "color=blue"))
            .await
            .unwrap()
            .is_empty()
    );

    // a whole spec with one change, as docker's client updates
    let mut changed = service["Spec"].clone();
    changed["Mode"]["Replicated"]["Replicas"] = json!(3);
    changed["Labels"] = json!({"ipvsmesh.runtime": "process"});
    let version = service["Version"]["Index"].as_u64().unwrap();
    client.update_service(&id, version, &changed).await.unwrap();
    let service = client.service(&id[..5]).await.unwrap();
    assert_eq!(
        service["Spec"]["Labels"],
        json!({"ipvsmesh.runtime": "process"})
    );
    assert_eq!(service["PreviousSpec"]["Labels"]["color"], "red");
    let stale = refusal(client.update_service(&id, version, &changed).await);
    assert_eq!(stale.0, 409);
    assert!(stale.1.contains("out of sequence"), "{}", stale.1);

    let version = service["Version"]["Index"].as_u64().unwrap();
    client
        .rollback_service(&id, version, &changed)
        .await
        .unwrap();
    assert_eq!(
        client.service("vote").await.unwrap()["Spec"]["Labels"]["color"],
        "red"
    );

    assert_eq!(refusal(client.remove_network("back").await).0, 409);
    client.remove_service("vote").await.unwrap();
    assert_eq!(
        refusal(client.service("vote").await),
        (404, "service vote not found".to_owned())
    );
    client.remove_network("back").await.unwrap();
}

#[tokio::test]
async fn tasks_are_filtered_by_their_service_alone() {
    let served = Served::start();
    let client = Client::new(&served.socket);
    let id = client.create_service(&spec("web")).await.unwrap();
    let mut other = spec("other");
    other["EndpointSpec"] = json!({});
    // a name that is the beginning of the other service's id
    other["Name"] = json!(id[..1].to_owned());
    client.create_service(&other).await.unwrap();
    let tasks = client
        .tasks(&Filters::one("service", &id[..1]))
        .await
        .unwrap();
    let names: Vec<_> = tasks
        .iter()
        .map(|task| task["Name"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 2);
    assert!(
        names
            .iter()
            .all(|name| name.starts_with(&id[..1]) && !name.starts_with("web"))
    );

    let mut filters = Filters::one("service", "web");
    filters.add("desired-state", "running");
    filters.add("node", "one");
    filters.add("_up-to-date", "true");
    assert_eq!(client.tasks(&filters).await.unwrap().len(), 2);
    filters.add("label", "color=blue");
    assert!(client.tasks(&filters).await.unwrap().is_empty());
    let refused = refusal(client.tasks(&Filters::one("color", "red")).await);
    assert!(
        refused.0 == 400 && refused.1.contains("color"),
        "{}",
        refused.1
    );
    assert_eq!(client.task("web.1").await.unwrap()["Slot"], 1);
}

#[tokio::test]
async fn logs_are_framed_filtered_and_tailed() {
    let served = Served::start();
    let client = Client::new(&served.socket);
    client.create_service(&spec("web")).await.unwrap();
    let mut lines = client
        .service_logs(
            "web",
            &LogQuery {
                details: true,
                timestamps: true,
                ..LogQuery::default()
            },
        )
        .await
        .unwrap();
    let mut seen = Vec::new();
    while let Some(frame) = lines.next().await.unwrap() {
        seen.push((frame.stderr, String::from_utf8(frame.text).unwrap()));
    }
    assert_eq!(seen.len(), 6);
    // by time, whichever task wrote it
    assert!(
        seen[0]
            .1
            .starts_with("1970-01-01T00:00:01.000000000Z com.docker.swarm.node.id="),
        "{}",
        seen[0].1
    );
    assert!(
        seen[2].0
            && seen[2].1.contains("com.docker.swarm.task.id=")
            && seen[2].1.ends_with("oops from web.1\n")
    );

    let query = LogQuery {
        tail: Some(1),
        ..LogQuery::default()
    };
    let mut lines = client.task_logs("web.2", &query).await.unwrap();
    let frame = lines.next().await.unwrap().unwrap();
    assert_eq!(frame.text, b"bye from web.2\n");
    assert!(lines.next().await.unwrap().is_none());
    assert_eq!(
        refusal(client.service_logs("nothere", &query).await.map(drop)).0,
        404
    );
}

#[tokio::test]
async fn a_followed_log_ends_with_its_service_and_does_not_hold_up_the_daemon() {
    let mut served = Served::start();
    let client = Client::new(&served.socket);
    client.create_service(&spec("web")).await.unwrap();
    client.create_service(&json!({"Name": "x", "TaskTemplate": {"Runtime": "process", "ContainerSpec": {"Args": ["x"]}}})).await.unwrap();
    let query = LogQuery {
        follow: true,
        ..LogQuery::default()
    };
    let mut web = client.service_logs("web", &query).await.unwrap();
    for _ in 0..6 {
        web.next().await.unwrap().unwrap();
    }
    // of a task that comes later, everything is heard
    let tail = Some(1);
    let last = LogQuery { tail, ..query };
    let mut tailed = client.service_logs("web", &last).await.unwrap();
    for _ in 0..2 {
        let frame = tailed.next().await.unwrap().unwrap();
        assert!(frame.text.starts_with(b"bye"));
    }
    let service = client.service("web").await.unwrap();
    let version = service["Version"]["Index"].as_u64().unwrap();
    let mut three = spec("web");
    three["Mode"]["Replicated"]["Replicas"] = json!(3);
    let updated = client.update_service("web", version, &three).await;
    updated.unwrap();
    for lines in [&mut web, &mut tailed] {
        for text in ["hello", "oops", "bye"] {
            let frame = lines.next().await.unwrap().unwrap();
            assert_eq!(frame.text, format!("{text} from web.3\n").into_bytes());
        }
    }
    client.remove_service("web").await.unwrap();
    assert!(web.next().await.unwrap().is_none());
    assert!(tailed.next().await.unwrap().is_none());

    let mut x = client.service_logs("x", &query).await.unwrap();
    x.next().await.unwrap().unwrap();
    let begun = Instant::now();
    tokio::task::spawn_blocking(move || served.stop())
        .await
        .unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_service_without_a_name_gets_one() {
    let served = Served::start();
    let client = Client::new(&served.socket);
    let mut nameless = spec("");
    nameless.as_object_mut().unwrap().remove("Name");
    let id = client.create_service(&nameless).await.unwrap();
    let name = client.service(&id).await.unwrap()["Spec"]["Name"].clone();
    assert!(name.as_str().unwrap().contains('_'), "{name}");
}

#[tokio::test]
async fn inspect_finds_a_service_by_its_task() {
    let served = Served::start();
    let client = Client::new(&served.socket);
    client.create_service(&spec("web")).await.unwrap();
    assert_eq!(client.inspect("web.1").await.unwrap().name, "web");
    assert_eq!(refusal(client.inspect("nothere").await).0, 404);
    assert_eq!(refusal(client.sandbox("web.1").await).0, 503);
}

#[tokio::test]
async fn a_trace_is_asked_for_in_json() {
    let served = Served::start();
    let request = api::trace::TraceRequest {
        from: "client.1".to_owned(),
        to: "web".to_owned(),
        udp: false,
        port: Some(80),
        patience_ms: 1000,
    };
    let client = Client::new(&served.socket);
    let trace = client.trace(&request).await.unwrap();
    assert_eq!((trace.from.as_str(), trace.arrived), ("client.1", true));
    for (body, status) in [
        (r#"{"from": "host", "to": "8080"}"#, 200),
        (r#"{"from": "host"}"#, 400),
        (r#"{"from": "host", "to": "8080", "colour": 1}"#, 400),
        (r#"{"from": "host", "to": "8080", "port": 65536}"#, 400),
        (r#"["host", "8080"]"#, 400),
        ("nonsense", 400),
    ] {
        let path = "/v1.44/ipvsmesh/v1/trace";
        assert_eq!(raw(&served, "POST", path, body).0, status, "{body}");
    }
}

#[test]
fn any_version_is_spoken_and_nothing_else_is_one() {
    let served = Served::start();
    for path in ["/_ping", "/v1.24/_ping", "/v1.41/_ping", "/v9.99/_ping"] {
        let (status, head, body) = raw(&served, "GET", path, "");
        assert_eq!((status, body.as_str()), (200, "OK"), "{path}");
        assert!(head.contains("api-version: 1.44"), "{head}");
    }
    let (status, head, body) = raw(&served, "HEAD", "/_ping", "");
    assert!(status == 200 && head.contains("swarm: active/manager") && body.is_empty());
    assert_eq!(raw(&served, "GET", "/v1.41/secrets", "").2, "[]");
    // what is not ours is the engine's, and there is none
    for path in [
        "/nothing",
        "/1.41/_ping",
        "/vx.y/services",
        "/v1.41",
        "/v1.41/containers/json",
        "/containers/services/json",
        "/v1.41/v1.41/_ping",
    ] {
        let (status, _, body) = raw(&served, "GET", path, "");
        let said: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(status, 503, "{path}");
        let words = "cannot reach the Docker Engine at /nowhere/docker.sock";
        assert!(
            said["message"].as_str().unwrap().contains(words),
            "{path}: {body}"
        );
    }
}

#[test]
fn every_refusal_is_json_with_a_message() {
    let served = Served::start();
    let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
    let large = format!("{{\"Name\": \"{}\"}}", "x".repeat(3 << 20));
    for (method, path, body, status) in [
        ("POST", "/services/create", "", 400),
        ("POST", "/services/create", "no json", 400),
        ("POST", "/services/create", "[]", 400),
        ("POST", "/services/create", "\"x\"", 400),
        ("POST", "/services/create", "{}", 400),
        ("POST", "/services/create", deep.as_str(), 400),
        ("POST", "/services/create", large.as_str(), 413),
        ("POST", "/networks/create", "{}", 503),
        ("POST", "/networks/create", r#"{"Driver": "overlay"}"#, 400),
        (
            "POST",
            "/networks/create",
            r#"{"Driver": "bridge", "Name": "x"}"#,
            503,
        ),
        ("POST", "/networks/x/connect", "{}", 503),
        ("POST", "/swarm/init", "{}", 409),
        ("POST", "/networks/create", "[1]", 400),
        ("POST", "/services/x/update?version=1", "{}", 404),
        ("POST", "/services/x/update", "{}", 404),
        ("GET", "/services?filters=nonsense", "", 400),
        ("GET", "/tasks?filters=%7B%22a%22%3A1%7D", "", 400),
        ("GET", "/services/%FF", "", 400),
        ("PUT", "/services", "", 404),
        ("POST", "/secrets/create", "{}", 400),
        ("DELETE", "/services/x", "", 404),
        ("GET", "/distribution/nginx:latest/json", "", 503),
        ("GET", "/distribution/a/b/c/json", "", 503),
    ] {
        let (got, _, answer) = raw(&served, method, path, body);
        let said: Value = serde_json::from_str(&answer)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}: {answer}"));
        assert_eq!(got, status, "{method} {path}: {answer}");
        assert!(
            !said["message"].as_str().unwrap_or_default().is_empty(),
            "{method} {path}: {answer}"
        );
    }
}
