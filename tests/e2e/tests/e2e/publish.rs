//! Published ports.

use e2e::{HOST_IP, Node, OUTSIDE_IP, until};

#[test]
fn a_port_answers_from_everywhere_and_keeps_the_clients_address() {
    let node = Node::started();
    node.whoami("vote", "--replicas 3 --publish 8080:80");
    node.wait_running("vote", 3);

    let url = format!("http://{HOST_IP}:8080/");
    let outside = node.answers(|line| node.from_outside(line), &url, 9);
    assert_eq!((outside.failed, outside.hosts.len()), (0, 3), "{outside:?}");
    assert!(outside.hosts.values().all(|n| *n == 3), "{outside:?}");
    assert_eq!(outside.clients.iter().collect::<Vec<_>>(), [OUTSIDE_IP]);

    let own = node.answers(|line| node.on_host(line), &url, 3);
    assert_eq!((own.failed, own.hosts.len()), (0, 3), "{own:?}");
    assert_eq!(own.clients.iter().collect::<Vec<_>>(), [HOST_IP]);

    let local = node.answers(|line| node.on_host(line), "http://127.0.0.1:8080/", 3);
    assert_eq!((local.failed, local.hosts.len()), (0, 3), "{local:?}");

    let fwm = node.in_ingress("ipvsadm -Ln").ok();
    // of each family
    assert_eq!(fwm.matches("FWM").count(), 2, "{fwm}");
    assert_eq!(fwm.matches(":80 ").count(), 6, "{fwm}");
    assert_eq!(
        node.in_ingress("cat /proc/sys/net/ipv4/vs/conntrack").ok(),
        "0"
    );
}

#[test]
fn udp_and_tcp_share_a_number() {
    let node = Node::started();
    node.whoami(
        "echo",
        "--replicas 2 --publish 5353:80/udp --publish 5353:80/tcp",
    );
    node.wait_running("echo", 2);
    let line = format!("for i in 1 2 3 4; do echo hi | socat -T2 - UDP4:{HOST_IP}:5353; done");
    let said = node.from_outside(&line).ok();
    assert!(said.contains("echo.1") && said.contains("echo.2"), "{said}");
    assert!(said.contains(OUTSIDE_IP), "the client's address: {said}");
    node.from_outside(&format!("curl -sS --max-time 3 http://{HOST_IP}:5353/"))
        .ok();
}

#[test]
fn a_dnsrr_service_may_publish() {
    let node = Node::started();
    node.whoami("rr", "--replicas 2 --endpoint-mode dnsrr --publish 8080:80");
    node.wait_running("rr", 2);
    let url = format!("http://{HOST_IP}:8080/");
    let answers = node.answers(|line| node.from_outside(line), &url, 4);
    assert_eq!((answers.failed, answers.hosts.len()), (0, 2), "{answers:?}");
}

#[test]
fn an_automatic_port_is_shown_and_answers() {
    let node = Node::started();
    node.whoami("auto", "--replicas 1 --publish 80");
    node.wait_running("auto", 1);
    let port = node.inspect("auto")["Endpoint"]["Ports"][0]["PublishedPort"]
        .as_u64()
        .unwrap();
    assert!((30_000..=32_767).contains(&port), "{port}");
    node.from_outside(&format!("curl -sS --max-time 3 http://{HOST_IP}:{port}/"))
        .ok();
}

#[test]
fn conflicts_are_refused_naming_the_holder() {
    let node = Node::started();
    node.whoami("first", "--replicas 1 --publish 8080:80");
    node.cli("service create --detach --name second --publish 8080:80 --runtime process -- whoami --port 80")
        .fails(1, &["8080", "first"]);
    assert_eq!(
        node.cli("service ls -q").ok().lines().count(),
        1,
        "nothing was made"
    );

    let mut holder = std::process::Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", node.host))
        .args(["whoami", "--port", "9191"])
        .spawn()
        .expect("whoami is on the PATH");
    until("the other process listens", 10, || {
        node.on_host("ss -ltn | grep -q :9191")
            .out
            .is_empty()
            .then_some(())?;
        (node.on_host("ss -ltn | grep :9191").code == 0).then_some(())
    });
    node.cli("service create --detach --name third --publish 9191:80 --runtime process -- whoami --port 80")
        .fails(1, &["9191", "whoami", &holder.id().to_string()]);
    holder.kill().expect("it is ours");
    holder.wait().expect("it is ours");

    // given back, the port is free at once
    node.cli("service rm first").ok();
    node.whoami("fourth", "--replicas 1 --publish 8080:80");
}
