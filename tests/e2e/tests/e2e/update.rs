//! Services that change while they are used: nothing of it is to be noticed.

use e2e::{
    HOST_IP, Load, Node, Report,
    docker::{Engine, IMAGE},
    until,
};

/// 16 clients, half of which keep their connections: by the published port, by the VIP
/// and by the name.
fn clients(node: &Node) -> Vec<Load> {
    node.cli("service create --quiet --name client --runtime process -- sleep 10000")
        .ok();
    node.wait_running("client", 1);
    let outside = format!("nsenter --net=/run/netns/{}", node.outside);
    let inside = format!(
        "nsenter --net=/run/netns/{} ipvsmesh --instance {} exec client.1 --",
        node.host, node.instance
    );
    let mut all = vec![
        Load::start("published port", &outside, 6, &format!("{HOST_IP}:8080")),
        Load::start("VIP", &inside, 6, &format!("{}:80", node.vip("web"))),
        Load::start("name", &inside, 4, "web:80"),
    ];
    phase(&mut all, "at rest", || {});
    all
}

/// Something happens under load; no request may fail meanwhile.
fn phase(clients: &mut [Load], name: &str, act: impl FnOnce()) -> Vec<Report> {
    act();
    let reports: Vec<_> = clients.iter_mut().map(|load| load.report(name)).collect();
    for report in &reports {
        assert_eq!(report.failed, 0, "{}", report.text);
    }
    reports
}

const QUICK: &str = "--update-monitor 1s --rollback-monitor 1s";

fn state(node: &Node) -> String {
    let service = node.inspect("web");
    service["UpdateStatus"]["State"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// The arguments that the tasks which shall run were made with.
fn texts(node: &Node) -> Vec<String> {
    let ids = node
        .cli("service ps -q --filter desired-state=running web")
        .ok();
    let tasks = ids.lines().map(|id| {
        let path = format!("http://x/tasks/{id}");
        let socket = node.socket();
        let said = e2e::sh(None, &format!("curl -sS --unix-socket {socket} {path}")).ok();
        let task: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        let args = task["Spec"]["ContainerSpec"]["Args"].as_array().cloned();
        let args = args.unwrap_or_default();
        let text = args.iter().skip_while(|word| *word != "--text").nth(1);
        text.and_then(|text| text.as_str())
            .unwrap_or_default()
            .to_owned()
    });
    let mut all: Vec<_> = tasks.collect();
    all.sort();
    all
}

#[test]
fn no_request_fails_while_a_service_changes() {
    let node = Node::started();
    node.whoami(
        "web",
        &format!("--replicas 3 --publish 8080:80 --publish 8082:80 --update-order start-first --rollback-order start-first {QUICK}"),
    );
    node.wait_running("web", 3);
    let mut clients = clients(&node);
    phase(&mut clients, "scale up", || {
        node.cli("service scale web=5").ok();
    });
    phase(&mut clients, "scale down", || {
        node.cli("service scale web=3").ok();
    });
    phase(&mut clients, "start-first update", || {
        node.cli("service update --args '--port 80 --text two' web")
            .ok();
    });
    assert_eq!(texts(&node), ["two"; 3]);
    phase(&mut clients, "update with other ports", || {
        node.cli("service update --args '--port 80 --text three' --publish-add 8081:80 --publish-rm 8082:80 web")
            .ok();
    });
    node.from_outside(&format!("curl -sS --max-time 9 {HOST_IP}:8081"))
        .ok();
    node.from_outside(&format!("curl -sS --max-time 9 {HOST_IP}:8082"))
        .fails(7, &[]);
    phase(&mut clients, "rollback", || {
        node.cli("service rollback web").ok();
    });
    assert_eq!(texts(&node), ["two"; 3]);
    assert_eq!(state(&node), "rollback_completed");
    phase(&mut clients, "stop-first update", || {
        node.cli("service update --update-order stop-first --force web")
            .ok();
    });
    assert_eq!(state(&node), "completed");
}

#[test]
fn no_request_fails_while_containers_change() {
    let mut node = Engine::shared().node();
    node.start();
    node.cli(&format!(
        "service create --quiet --name web --replicas 2 --publish 8080:80 --publish 8082:80 --update-order start-first --rollback-order start-first {QUICK} {IMAGE} whoami --port 80"
    ))
    .ok();
    let mut clients = clients(&node);
    phase(&mut clients, "containers, scale up", || {
        node.cli("service scale web=3").ok();
    });
    phase(&mut clients, "containers, scale down", || {
        node.cli("service scale web=2").ok();
    });
    phase(&mut clients, "containers, update with other ports", || {
        node.cli("service update --args 'whoami --port 80 --text two' --publish-add 8081:80 --publish-rm 8082:80 web")
            .ok();
    });
    assert_eq!(texts(&node), ["two"; 2]);
    phase(&mut clients, "containers, rollback", || {
        node.cli("service rollback web").ok();
    });
    assert_eq!(texts(&node), [""; 2]);
}

#[test]
fn a_version_that_fails_is_paused_rolled_back_or_gone_on_with() {
    let node = Node::started();
    node.whoami(
        "web",
        "--replicas 2 --publish 8080:80 --update-order start-first --update-monitor 10s --restart-delay 1s --probe tcp:80,interval=1s,retries=2,start-period=5s",
    );
    node.wait_running("web", 2);
    let mut clients = clients(&node);
    phase(&mut clients, "paused", || {
        node.cli("service update --args '--port nonsense' web")
            .fails(1, &["service update paused: update paused due to failure or early termination of task"]);
    });
    assert_eq!((state(&node), texts(&node).len()), ("paused".to_owned(), 2));
    let pretty = node.cli("service inspect --pretty web").ok();
    for words in [
        "UpdateStatus:\n State:\t\tpaused",
        "Update order:      start-first",
    ] {
        assert!(pretty.contains(words), "{pretty}");
    }
    phase(&mut clients, "rolled back by hand", || {
        node.cli("service update --rollback web").ok();
    });
    assert_eq!(state(&node), "rollback_completed");
    // one that is never healthy
    phase(&mut clients, "rolled back", || {
        node.cli("service update --update-failure-action rollback --args '--port 81' web")
            .fails(1, &["service rolled back: update rolled back due to failure or early termination of task"]);
    });
    assert_eq!(state(&node), "rollback_completed");
    assert_eq!(node.running("web").len(), 2);
    drop(clients);
    node.cli("service update --update-failure-action continue --update-order stop-first --args '--port nonsense' web")
        .fails(1, &["does not come up"]);
}

/// Clients read a service, and write it back with a change and the version that they
/// read: between the two the mesh may have written how far an update is.
#[test]
fn a_client_that_looked_during_an_update_may_ask_for_the_next_after_it() {
    let node = Node::started();
    node.whoami("web", QUICK);
    node.wait_running("web", 1);
    node.cli("service update --detach --force web").ok();
    let seen = node.inspect("web");
    assert_eq!(seen["UpdateStatus"]["State"], "updating");
    until("it is updated", 60, || {
        (state(&node) == "completed").then_some(())
    });
    let now = node.inspect("web");
    assert_ne!(now["Version"], seen["Version"]);
    let file = format!("/tmp/{}.json", node.instance);
    std::fs::write(&file, seen["Spec"].to_string()).expect("/tmp");
    let ask = || {
        let said = node.on_host(&format!(
            "curl -sS -w '\n%{{http_code}}' --unix-socket {} \
             --data @{file} 'http://x/services/{}/update?version={}'",
            node.socket(),
            seen["ID"].as_str().expect("an ID"),
            seen["Version"]["Index"]
        ));
        said.ok()
    };
    let first = ask();
    assert!(first.ends_with("\n200"), "{first}");
    let second = ask();
    assert!(
        second.contains("out of sequence") && second.ends_with("\n409"),
        "{second}"
    );
    std::fs::remove_file(&file).expect("/tmp");
}

#[test]
fn an_update_goes_on_after_the_daemon_was_killed() {
    let mut node = Node::started();
    node.whoami(
        "web",
        &format!(
            "--replicas 4 --publish 8080:80 --update-order start-first --update-delay 2s {QUICK}"
        ),
    );
    node.wait_running("web", 4);
    let mut clients = clients(&node);
    node.cli("service update --detach --args '--port 80 --text two' web")
        .ok();
    until("one is replaced", 40, || {
        texts(&node).contains(&"two".to_owned()).then_some(())
    });
    node.kill();
    assert_ne!(clients[0].report("killed").failed, u64::MAX);
    node.start();
    phase(&mut clients, "killed and started", || {
        until("all are replaced", 120, || {
            (state(&node) == "completed").then_some(())
        });
    });
    assert_eq!(texts(&node), ["two"; 4]);
}

#[test]
fn a_probe_keeps_traffic_from_tasks_that_do_not_serve() {
    let node = Node::started();
    node.whoami(
        "web",
        "--replicas 1 --publish 8080:80 --restart-delay 1s --stop-grace-period 1s --probe http:80/,interval=1s,timeout=3s,retries=2",
    );
    let mut clients = clients(&node);
    phase(&mut clients, "late tasks", || {
        node.cli("service update --quiet --update-order start-first --update-monitor 1s --args '--port 80 --delay 3 --text late' --replicas 3 web")
            .ok();
    });
    assert_eq!(texts(&node), ["late"; 3]);
    let id = node
        .cli("service ps -q --filter desired-state=running web")
        .ok();
    let id = id.lines().next().expect("it has tasks").to_owned();
    let netns = format!("/run/netns/ipvsmesh-{}-{id}", node.instance);
    // one that hangs: its clients wait, and nobody else is sent there
    drop(clients);
    let pid = e2e::sh(
        None,
        &format!(
            "for p in $(pidof whoami); do [ /proc/$p/ns/net -ef {netns} ] && echo $p; done; true"
        ),
    );
    e2e::sh(None, &format!("kill -STOP {}", pid.ok())).ok();
    until("it is replaced", 90, || {
        let all = node.cli("service ps --no-trunc web").ok();
        let said = all.contains("task: unhealthy container");
        (said && node.running("web").len() == 3).then_some(())
    });
    let ids = node
        .cli("service ps -q --filter desired-state=running web")
        .ok();
    assert!(!ids.contains(&id));
    let url = format!("http://{HOST_IP}:8080/");
    let answers = node.answers(|line| node.from_outside(line), &url, 9);
    assert_eq!((answers.hosts.len(), answers.failed), (3, 0), "{answers:?}");
}

#[test]
fn a_global_service_is_updated_under_load() {
    let node = Node::started();
    node.whoami(
        "web",
        &format!("--mode global --publish 8080:80 --update-order start-first {QUICK}"),
    );
    let mut clients = clients(&node);
    phase(&mut clients, "global update", || {
        node.cli("service update --args '--port 80 --text two' web")
            .ok();
    });
    assert_eq!(texts(&node), ["two"]);
}
