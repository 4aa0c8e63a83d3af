//! The mesh's names on the host itself.

use e2e::{Node, OUTSIDE_IP};

/// Where a host asks its own node's responder: the first address of the VIPs' range.
const STUB: &str = "10.200.0.0";

#[test]
fn the_host_asks_the_stub_and_reaches_what_it_is_told() {
    let node = Node::started();
    node.cli("network create --ipv6=false back").ok();
    node.whoami("vote", "--replicas 2 --network back");
    node.wait_running("vote", 2);
    let vip = node.vip("vote");
    let dig = |question: &str| {
        let line = format!("dig +short +tries=1 +time=3 @{STUB} {question}");
        node.on_host(&line).ok()
    };
    assert_eq!(dig("vote.back"), vip);
    assert_eq!(dig("+tcp vote.back.ipvsmesh"), vip);
    assert_eq!(dig(&format!("-x {vip}")), "vote.back.");
    // by libc and a resolv.conf of the host's, as docs say
    let with = |line: &str| {
        let file = format!("/tmp/{}.resolv", node.host);
        std::fs::write(&file, format!("nameserver {STUB}\n")).expect("/tmp");
        let line = format!("unshare --mount sh -c 'mount --bind {file} /etc/resolv.conf; {line}'");
        let said = node.on_host(&line);
        let _ = std::fs::remove_file(&file);
        said
    };
    let getent = with("getent ahostsv4 vote.back.ipvsmesh").ok();
    assert!(getent.contains(&vip), "{getent}");
    let curl = with("curl -sS --max-time 5 http://vote.back.ipvsmesh/").ok();
    assert!(curl.contains("Hostname: vote."), "{curl}");

    // nobody else may
    node.from_outside(&format!("ip route add {STUB} via 192.0.2.1"))
        .ok();
    let outside = node.from_outside(&format!("dig +short +tries=1 +time=2 @{STUB} vote.back"));
    assert!(
        !outside.out.contains(&vip),
        "{OUTSIDE_IP} was told: {outside:?}"
    );
}
