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
    assert_eq!(addresses.len(), 2, "{addresses:?}");
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
                &format!("curl -sS --max-time 3 http://{service}/"),
            )
            .ok();
        let seen = e2e::Answers::parse(&said).clients;
        assert!(
            seen.iter().all(|client| client.starts_with(start)),
            "{service} saw {seen:?}"
        );
    }
    // it is found on both, by an address of each
    let vips = node.inspect("both")["Endpoint"]["VirtualIPs"]
        .as_array()
        .map_or(0, Vec::len);
    assert_eq!(vips, 2);
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
