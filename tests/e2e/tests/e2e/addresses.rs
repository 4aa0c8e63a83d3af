//! Networks, subnets, and a task on two of them.

use e2e::Node;

#[test]
fn a_task_on_two_networks_speaks_from_the_right_address() {
    let node = Node::started();
    node.cli("network create --subnet 10.101.0.0/24 red").ok();
    node.cli("network create --subnet 10.101.1.0/24 blue").ok();
    node.whoami("red-web", "--replicas 1 --network red");
    node.whoami("blue-web", "--replicas 1 --network blue");
    node.whoami("both", "--replicas 1 --network red --network blue");
    for service in ["red-web", "blue-web", "both"] {
        node.wait_running(service, 1);
    }
    let addresses = node.in_task("both.1", "hostname -I").ok();
    let addresses: Vec<_> = addresses.split_whitespace().collect();
    // of each family one on each
    assert_eq!(addresses.len(), 4, "{addresses:?}");
    assert!(
        node.in_task("both.1", "ls /sys/class/net")
            .ok()
            .lines()
            .count()
            <= 2
    );
    for (service, start) in [("red-web", "10.101.0."), ("blue-web", "10.101.1.")] {
        let said = node
            .in_task(
                "both.1",
                &format!("curl -4 -sS --max-time 3 http://{service}/"),
            )
            .ok();
        let seen = e2e::Answers::parse(&said).clients;
        assert!(
            seen.iter().all(|client| client.starts_with(start)),
            "{service} saw {seen:?}"
        );
    }
    let six = |service: &str| {
        let line = format!("curl -6 -sS --max-time 3 http://{service}/");
        let said = node.in_task("both.1", &line).ok();
        let seen = e2e::Answers::parse(&said).clients.into_iter().next();
        let seen = seen.expect("it was answered");
        assert!(addresses.contains(&seen.trim_matches(['[', ']'])), "{seen}");
        seen
    };
    assert_ne!(six("red-web"), six("blue-web"));
    // it is found on both, by an address of each
    let vips = node.inspect("both")["Endpoint"]["VirtualIPs"]
        .as_array()
        .map_or(0, Vec::len);
    assert_eq!(vips, 4);
    for client in ["red-web.1", "blue-web.1"] {
        node.in_task(client, "curl -sS --max-time 3 http://both/")
            .ok();
    }
}

#[test]
fn networks_are_listed_inspected_and_removed_as_dockers() {
    let node = Node::started();
    let id = node
        .cli("network create --label tier=back --subnet 10.102.0.0/24 back")
        .ok();
    let listed = node.cli("network ls").ok();
    assert!(
        listed.contains("back") && listed.contains(&id[..12]),
        "{listed}"
    );
    let shown: serde_json::Value =
        serde_json::from_str(&node.cli("network inspect back").ok()).expect("JSON");
    assert_eq!(shown[0]["Name"], "back");
    assert_eq!(shown[0]["Id"], id.as_str());
    assert_eq!(shown[0]["Labels"]["tier"], "back");
    assert_eq!(shown[0]["IPAM"]["Config"][0]["Subnet"], "10.102.0.0/24");

    node.whoami("web", "--replicas 1 --network back");
    node.cli("network rm back").fails(1, &["back", "web"]);
    node.cli("service rm web").ok();
    e2e::until("the network is free", 20, || {
        (node.cli("network rm back").code == 0).then_some(())
    });
    assert!(!node.cli("network ls").ok().contains("back"));
}

#[test]
fn the_pools_are_the_users_choice_once() {
    let mut node = Node::new();
    let start = format!("timeout 20 ipvsmeshd --instance {}", node.instance);
    for (pools, code, words) in [
        ("--task-pool 10.0.0.0/99", 2, ["10.0.0.0/99", "--task-pool"]),
        (
            "--task-pool 172.20.0.1/16",
            1,
            ["host bits", "172.20.0.0/16"],
        ),
        ("--vip-pool 192.0.0.0/16", 1, ["192.0.2.0/24", "eth0"]),
        (
            "--vip-pool 172.20.0.0/16 --task-pool 172.20.8.0/24",
            1,
            ["overlaps", "task pool"],
        ),
    ] {
        node.on_host(&format!("{start} {pools}"))
            .fails(code, &words);
    }
    let pools = "--task-pool 172.20.0.0/16 --vip-pool 172.21.0.0/16 --node-pool 172.22.0.0/16";
    node.arguments = pools.split(' ').map(str::to_owned).collect();
    node.start();
    node.whoami("web", "--replicas 2 --publish 8080:80");
    assert!(
        node.vip("web").starts_with("172.21."),
        "{}",
        node.vip("web")
    );
    let own = node.in_task("web.1", "hostname -I").ok();
    assert!(own.starts_with("172.20."), "{own}");
    let answers = node.answers(|line| node.on_host(line), "http://127.0.0.1:8080/", 4);
    assert_eq!((answers.failed, answers.hosts.len()), (0, 2), "{answers:?}");
    assert!(
        answers
            .clients
            .iter()
            .all(|client| client.starts_with("172.22.")),
        "{answers:?}"
    );

    node.stop();
    node.on_host(&format!("{start} --vip-pool 10.200.0.0/16"))
        .fails(1, &["172.21.0.0/16", "cannot be changed"]);
    // and without any it goes on with those it has
    node.arguments.clear();
    node.start();
    node.wait_running("web", 2);
}
