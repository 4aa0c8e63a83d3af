//! `ipvsmesh doctor`, before there is a daemon and beside one.

use e2e::{Node, Said};

/// What it says of one thing: verdict, what was found, and the fix.
fn said<'a>(checks: &'a serde_json::Value, name: &str) -> (&'a str, &'a str, &'a str) {
    let all = checks.as_array().expect("a list");
    let one = all.iter().find(|one| one["name"] == name);
    let one = one.unwrap_or_else(|| panic!("{name} is not looked at: {checks}"));
    let text = |key: &str| one[key].as_str().expect("a text");
    (text("verdict"), text("found"), text("fix"))
}

fn json(said: &Said) -> serde_json::Value {
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

#[test]
fn a_machine_is_looked_at_with_a_daemon_and_without() {
    let mut node = Node::new();
    let looked = node.cli("doctor --format json");
    assert_eq!(looked.code, 0, "{looked:?}");
    let checks = json(&looked);
    for name in [
        "kernel",
        "ipv6",
        "iptables",
        "flowtable",
        "forwarding",
        "disk",
        "leftovers",
        "pools",
    ] {
        let (verdict, found, _) = said(&checks, name);
        assert_ne!(verdict, "failure", "{name}: {found}");
    }
    assert_eq!(said(&checks, "kernel").0, "ok");
    let text = node.cli("doctor");
    println!("{}", text.out);
    assert!(text.out.contains("can run the mesh"), "{text:?}");

    // ranges that are routed elsewhere
    node.on_host("ip route add 10.0.0.0/8 dev eth0").ok();
    let checks = json(&node.cli("doctor --format json").fails(1, &[]));
    let (verdict, found, fix) = said(&checks, "pools");
    assert_eq!(verdict, "failure");
    assert!(
        found.contains("overlaps a route") && fix.contains("--task-pool"),
        "{found} {fix}"
    );
    node.on_host("ip route del 10.0.0.0/8 dev eth0").ok();

    node.start();
    node.on_host("ip route add 10.101.3.0/24 dev eth0").ok();
    node.on_host("sysctl -qw net.ipv4.ip_forward=0").ok();
    let checks = json(&node.cli("doctor --format json").fails(1, &[]));
    let (verdict, found, _) = said(&checks, "pools");
    assert_eq!(verdict, "failure");
    assert!(found.contains("10.101.3.0/24 on eth0"), "{found}");
    node.on_host("ip route del 10.101.3.0/24 dev eth0").ok();

    // whose daemon died
    node.kill();
    let checks = json(&node.cli("doctor --format json"));
    let (verdict, found, fix) = said(&checks, "leftovers");
    assert_eq!(verdict, "warning");
    assert!(found.contains(&node.instance), "{found}");
    assert!(fix.contains("--cleanup"), "{fix}");
    node.start();

    // who is not root is told what was left out
    let nobody = node.on_host(&format!(
        "setpriv --reuid 65534 --regid 65534 --clear-groups ipvsmesh --instance {} doctor",
        node.instance
    ));
    assert!(nobody.out.contains("you are not root"), "{nobody:?}");
    assert!(nobody.out.contains("sudo ipvsmesh doctor"), "{nobody:?}");
}
