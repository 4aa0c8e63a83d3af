//! VIPs: who is reached, whom they see, and who is kept out.

use e2e::{Answers, Node, sh, until};

#[test]
fn a_vip_spreads_over_all_tasks_and_keeps_the_clients_address() {
    let node = Node::started();
    node.cli("network create back").ok();
    node.whoami("vote", "--replicas 3 --network back");
    node.whoami("client", "--replicas 1 --network back");
    node.wait_running("vote", 3);
    node.wait_running("client", 1);
    let task = |line: &str| node.sh_in_task("client.1", &line.replace("curl", "curl -4"));
    let answers = node.answers(task, "http://vote/", 9);
    assert_eq!(answers.failed, 0, "{answers:?}");
    assert!(
        answers.hosts.values().all(|n| *n == 3) && answers.hosts.len() == 3,
        "{answers:?}"
    );
    let own = node.address("client.1");
    assert_eq!(
        answers.clients.iter().collect::<Vec<_>>(),
        [&own],
        "the true client address"
    );

    // marks and services are where the documentation says
    let vip = node.vip("vote");
    let services = node.in_router("ipvsadm -Ln").ok();
    assert!(
        services.contains("FWM") && services.contains("rr"),
        "{services}"
    );
    let set = node.in_router("ipset save vips-tcp").ok();
    assert!(
        set.contains(&format!("add vips-tcp {vip} skbmark 0x")),
        "{set}"
    );
    let mangle = node.in_router("iptables-save -t mangle").ok();
    assert!(
        mangle.contains("--map-set vips-tcp dst --map-mark"),
        "{mangle}"
    );
    // ping answers
    node.in_task("client.1", "ping -c1 -W2 vote").ok();
}

#[test]
fn udp_on_a_vip() {
    let node = Node::started();
    node.whoami("echo", "--replicas 2");
    node.whoami("client", "--replicas 1");
    node.wait_running("echo", 2);
    node.wait_running("client", 1);
    let line = "for i in 1 2 3 4; do echo hi | socat -T2 - UDP4:echo:80; done";
    let said = node.in_task("client.1", &format!("bash -c '{line}'")).ok();
    assert!(said.contains("echo.1") && said.contains("echo.2"), "{said}");
}

#[test]
fn hairpin_a_task_reaches_itself_by_its_vip() {
    let node = Node::started();
    node.whoami("solo", "--replicas 1 --publish 8080:80");
    node.wait_running("solo", 1);
    let answers = node.answers(
        |line| node.in_task("solo.1", &format!("bash -c '{line}'")),
        "http://solo/",
        3,
    );
    assert_eq!((answers.failed, answers.hosts.len()), (0, 1), "{answers:?}");
    let answers = node.answers(
        |line| node.in_task("solo.1", &format!("bash -c '{line}'")),
        "http://192.0.2.1:8080/",
        3,
    );
    assert_eq!(
        (answers.failed, answers.hosts.len()),
        (0, 1),
        "by its published port: {answers:?}"
    );
}

#[test]
fn the_host_reaches_vips_and_tasks_reach_the_outside() {
    let node = Node::started();
    node.whoami("web", "--replicas 2");
    node.wait_running("web", 2);
    let vip = node.vip("web");
    let answers = node.answers(|line| node.on_host(line), &format!("http://{vip}/"), 4);
    assert_eq!((answers.failed, answers.hosts.len()), (0, 2), "{answers:?}");

    let mut server = std::process::Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", node.outside))
        .args(["whoami", "--port", "9090"])
        .spawn()
        .expect("whoami is on the PATH");
    let reached = until("the outside server answers", 10, || {
        let said = node.in_task("web.1", "curl -sS --max-time 3 http://192.0.2.2:9090/");
        (said.code == 0).then_some(said.out)
    });
    server.kill().expect("it is ours");
    server.wait().expect("it is ours");
    let seen = Answers::parse(&reached).clients;
    assert!(
        seen.contains("192.0.2.1"),
        "by the host's address: {reached}"
    );
}

#[test]
fn networks_are_isolated_from_each_other() {
    let node = Node::started();
    for network in ["red", "blue"] {
        node.cli(&format!("network create {network}")).ok();
        node.whoami(
            &format!("web-{network}"),
            &format!("--replicas 1 --network {network}"),
        );
        node.wait_running(&format!("web-{network}"), 1);
    }
    let blue_vip = node.vip("web-blue");
    let blue_task = node.address("web-blue.1");
    for address in [&blue_vip, &blue_task] {
        let said = node.in_task(
            "web-red.1",
            &format!("curl -sS --max-time 3 http://{address}/"),
        );
        said.fails(7, &[]);
    }
    node.in_task("web-red.1", "curl -sS --max-time 3 http://web-blue/")
        .fails(6, &[]);
    // each reaches its own
    node.in_task("web-blue.1", "curl -sS --max-time 3 http://web-blue/")
        .ok();
}

#[test]
fn a_neighbour_that_routes_the_pools_here_reaches_nothing_unpublished() {
    let node = Node::started();
    node.whoami("web", "--replicas 1 --publish 8080:80");
    node.wait_running("web", 1);
    let vip = node.vip("web");
    let task = node.address("web.1");
    node.from_outside("ip route add 10.0.0.0/8 via 192.0.2.1")
        .ok();
    for address in [vip.as_str(), task.as_str(), "10.90.1.2"] {
        let said = node.from_outside(&format!("curl -sS --max-time 2 http://{address}:80/ 2>&1"));
        assert_ne!(said.code, 0, "{address} answered: {}", said.out);
        assert!(!said.out.contains("Hostname"), "{}", said.out);
    }
    // what is published answers
    node.from_outside("curl -sS --max-time 3 http://192.0.2.1:8080/")
        .ok();
}

#[test]
fn a_task_cannot_use_an_address_that_is_not_its_own() {
    let node = Node::started();
    node.whoami("web", "--replicas 2");
    node.wait_running("web", 2);
    let task = sh(None, "true");
    task.ok();
    let id = node
        .cli("service ps -q --filter desired-state=running web")
        .ok();
    let id = id.lines().next().unwrap().to_owned();
    let netns = format!("ipvsmesh-{}-{id}", node.instance);
    sh(Some(&netns), "ip addr add 10.100.15.77/32 dev eth0").ok();
    let vip = node.vip("web");
    let said = sh(
        Some(&netns),
        &format!("curl -sS --interface host!10.100.15.77 --max-time 2 http://{vip}/"),
    );
    assert_ne!(said.code, 0, "a forged source was answered: {}", said.out);
    // the gateway did not answer the forged address either, and is asked again in a while
    until("the task's own address is answered", 20, || {
        let line = format!("curl -sS --max-time 3 http://{vip}/");
        (sh(Some(&netns), &line).code == 0).then_some(())
    });
}

#[test]
fn an_internal_network_has_no_way_out_but_can_be_published() {
    let node = Node::started();
    node.cli("network create --internal closed").ok();
    node.whoami("db", "--replicas 2 --network closed --publish 8080:80");
    node.wait_running("db", 2);
    let out = node.in_task("db.1", "curl -sS --max-time 2 http://192.0.2.2:9/");
    out.fails(7, &[]);
    node.in_task("db.1", "ping -c1 -W1 192.0.2.2").fails(1, &[]);
    // nor to the host, whose ports are published for others
    for url in ["http://192.0.2.1:8080/", "http://192.0.2.1:9/"] {
        let line = format!("curl -sS --max-time 2 {url}");
        node.in_task("db.1", &line).fails(7, &[]);
    }
    node.in_task("db.1", "curl -sS --max-time 3 http://db/")
        .ok();
    let url = "http://192.0.2.1:8080/";
    let answers = node.answers(|line| node.from_outside(line), url, 4);
    assert_eq!((answers.failed, answers.hosts.len()), (0, 2), "{answers:?}");
}
