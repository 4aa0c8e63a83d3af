//! DNS, judged by `dig` and `getent`.

use e2e::{Node, until};

#[test]
fn names_resolve_as_documented() {
    let node = Node::started();
    node.cli("network create --ipv6=false back").ok();
    node.whoami("vote", "--replicas 3 --network back");
    node.whoami("rr", "--replicas 2 --network back --endpoint-mode dnsrr");
    node.wait_running("vote", 3);
    node.wait_running("rr", 2);
    let dig = |question: &str| {
        let said = node
            .in_task("vote.1", &format!("dig +short +tries=1 +time=3 {question}"))
            .ok();
        let mut lines: Vec<_> = said.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let vip = node.vip("vote");
    let only = |address: &str| vec![address.to_owned()];
    assert_eq!(dig("vote"), only(&vip));
    assert_eq!(dig("VOTE"), only(&vip), "case does not matter");
    assert_eq!(dig("vote.back"), only(&vip));
    assert_eq!(dig("+tcp vote"), only(&vip));
    let tasks = dig("tasks.vote");
    assert_eq!(tasks.len(), 3);
    let first = node.in_task("vote.1", "hostname -I").ok();
    assert_eq!(dig("vote.1"), only(&first));
    assert!(tasks.contains(&first));
    assert_eq!(dig(&format!("-x {vip}")), ["vote.back."]);
    assert_eq!(dig(&format!("-x {first}")), ["vote.1.back."]);
    assert_eq!(dig("rr").len(), 2);
    assert!(dig("AAAA vote").is_empty());
    let nodata = node.in_task("vote.1", "dig AAAA vote").ok();
    assert!(nodata.contains("NOERROR"), "{nodata}");
    let getent = node.in_task("vote.1", "getent ahostsv4 vote").ok();
    assert!(getent.contains(&vip), "{getent}");

    node.cli("service rm rr").ok();
    until("the name is gone", 10, || {
        dig("rr").is_empty().then_some(())
    });
}

#[test]
fn only_running_tasks_are_named() {
    let node = Node::started();
    node.whoami("rr", "--replicas 3 --endpoint-mode dnsrr");
    node.whoami("client", "--replicas 1");
    node.wait_running("rr", 3);
    node.wait_running("client", 1);
    let count = || {
        let said = node
            .in_task("client.1", "dig +short +tries=1 +time=3 rr")
            .ok();
        said.lines().count()
    };
    assert_eq!(count(), 3);
    node.cli("service scale rr=1").ok();
    node.wait_running("rr", 1);
    until("one is left", 10, || (count() == 1).then_some(()));
    node.cli("service scale rr=0").ok();
    node.wait_running("rr", 0);
    until("none is left", 10, || (count() == 0).then_some(()));
    let said = node.in_task("client.1", "dig rr").ok();
    assert!(said.contains("NOERROR"), "the name exists: {said}");
}

#[test]
fn everything_else_is_forwarded_to_the_hosts_servers() {
    let node = Node::started();
    node.whoami("web", "--replicas 1");
    node.wait_running("web", 1);
    // nobody answers there yet: an honest failure, not a lie and not silence
    let said = node
        .in_task("web.1", "dig +tries=1 +time=8 example.com")
        .ok();
    assert!(
        said.contains("SERVFAIL") || said.contains("REFUSED"),
        "{said}"
    );
    let mut upstream = std::process::Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", node.host))
        .args(["dnsmasq", "--no-daemon", "--no-resolv", "--no-hosts"])
        .args(["--listen-address=127.0.0.1", "--bind-interfaces"])
        .arg("--address=/example.test/198.51.100.7")
        .spawn()
        .expect("dnsmasq is installed");
    for question in ["example.test", "+tcp www.example.test"] {
        until("the host's server is asked", 20, || {
            let said = node.in_task("web.1", &format!("dig +short +tries=1 {question}"));
            (said.out.trim() == "198.51.100.7").then_some(())
        });
    }
    upstream.kill().expect("it is ours");
    upstream.wait().expect("it is ours");
}
