//! IPv6: names, VIPs, published ports and isolation, in the same commands.

use e2e::{Answers, HOST_IP6, Node, OUTSIDE_IP6, sh, until};

fn address6(node: &Node, task: &str) -> String {
    let all = node.in_task(task, "hostname -I").ok();
    let mut all = all.split_whitespace();
    let six = all.find(|address| address.contains(':'));
    six.expect("a task on a dual-stack network has an IPv6 address")
        .to_owned()
}

#[test]
fn names_and_vips_answer_by_ipv6_and_keep_the_clients_address() {
    let node = Node::started();
    node.cli("network create back").ok();
    node.whoami("vote", "--replicas 3 --network back");
    node.whoami("client", "--network back");
    let vip = node.vip6("vote");
    let said = node.in_task("client.1", "dig +short AAAA vote").ok();
    assert_eq!(said, vip);
    let run = |line: &str| node.sh_in_task("client.1", &line.replace("curl", "curl -6"));
    let answers = node.answers(run, "http://vote/", 9);
    assert_eq!(answers.failed, 0, "{answers:?}");
    assert!(
        answers.hosts.len() == 3 && answers.hosts.values().all(|n| *n == 3),
        "{answers:?}"
    );
    let own = format!("[{}]", address6(&node, "client.1"));
    assert_eq!(answers.clients.iter().collect::<Vec<_>>(), [&own]);
    // UDP, ping, and itself
    let line = format!("for i in 1 2 3; do echo hi | socat -T2 - UDP6:[{vip}]:80; done");
    let said = node.sh_in_task("client.1", &line).ok();
    assert!(said.contains("vote.1") && said.contains("vote.3"), "{said}");
    node.in_task("client.1", &format!("ping -6 -c1 -W2 {vip}"))
        .ok();
    node.cli("service scale --quiet vote=1").ok();
    let run = |line: &str| node.sh_in_task("vote.1", &line.replace("curl", "curl -6"));
    let answers = node.answers(run, "http://vote/", 3);
    assert_eq!((answers.failed, answers.hosts.len()), (0, 1), "{answers:?}");
    // the host has a way to it
    node.on_host(&format!("curl -sS -g --max-time 3 http://[{vip}]/"))
        .ok();
}

#[test]
fn a_port_answers_by_ipv6_from_everywhere() {
    let node = Node::started();
    node.whoami(
        "web",
        "--replicas 2 --publish 8080:80 --publish 8080:80/udp",
    );
    let url = format!("'http://[{HOST_IP6}]:8080/'");
    let curl = |line: &str| line.replace("curl", "curl -g");
    let outside = node.answers(|line| node.from_outside(&curl(line)), &url, 4);
    assert_eq!((outside.failed, outside.hosts.len()), (0, 2), "{outside:?}");
    let seen: Vec<_> = outside.clients.iter().collect();
    assert_eq!(seen, [&format!("[{OUTSIDE_IP6}]")]);
    let own = node.answers(|line| node.on_host(&curl(line)), &url, 2);
    assert_eq!((own.failed, own.hosts.len()), (0, 2), "{own:?}");
    assert_eq!(
        own.clients.iter().collect::<Vec<_>>(),
        [&format!("[{HOST_IP6}]")]
    );
    for url in ["'http://[::1]:8080/'", "http://localhost:8080/"] {
        let local = node.answers(|line| node.on_host(&curl(line)), url, 2);
        assert_eq!((local.failed, local.hosts.len()), (0, 2), "{url} {local:?}");
    }
    let url = format!("http://[{HOST_IP6}]:8080/");
    let task = node.answers(|line| node.sh_in_task("web.1", &curl(line)), &url, 4);
    assert_eq!(
        (task.failed, task.hosts.len()),
        (0, 2),
        "itself included: {task:?}"
    );
    let line = format!("for i in 1 2; do echo hi | socat -T2 - UDP6:[{HOST_IP6}]:8080; done");
    let said = node.from_outside(&line).ok();
    assert!(
        said.contains("web.1") && said.contains("web.2") && said.contains(OUTSIDE_IP6),
        "{said}"
    );
    // ::1 still is the host's own for all else
    node.on_host("ping -6 -c1 -W2 ::1").ok();
}

#[test]
fn one_ipv6_host_address_is_one_listener() {
    let node = Node::started();
    node.whoami("inner", "--publish [::1]:9090:80");
    node.whoami("outer", &format!("--publish [{HOST_IP6}]:9090:80"));
    let ask = |url: &str| format!("curl -sS -g --max-time 3 {url}");
    let inner = node.on_host(&ask("http://[::1]:9090/")).ok();
    assert!(inner.contains("inner.1"), "{inner}");
    let outer = node
        .from_outside(&ask(&format!("http://[{HOST_IP6}]:9090/")))
        .ok();
    assert!(outer.contains("outer.1"), "{outer}");
    node.from_outside(&ask("http://192.0.2.1:9090/"))
        .fails(7, &[]);
}

#[test]
fn isolation_holds_for_ipv6() {
    let node = Node::started();
    for network in ["red", "blue"] {
        node.cli(&format!("network create {network}")).ok();
        node.whoami(&format!("web-{network}"), &format!("--network {network}"));
    }
    let (vip, task) = (node.vip6("web-blue"), address6(&node, "web-blue.1"));
    for address in [&vip, &task] {
        let line = format!("curl -sS -g --max-time 3 http://[{address}]/");
        node.sh_in_task("web-red.1", &line).fails(7, &[]);
        // a neighbour that routes the ranges here reaches nothing
        node.from_outside(&format!("ip -6 route replace {address}/128 via {HOST_IP6}"))
            .ok();
        let said = node.from_outside(&line);
        assert_ne!(said.code, 0, "{address} answered: {}", said.out);
    }
    // a source that is not the task's own
    let id = node
        .cli("service ps -q --filter desired-state=running web-blue")
        .ok();
    let netns = format!("ipvsmesh-{}-{id}", node.instance);
    let forged = format!("{}:77", vip.rsplit_once("::").unwrap().0.to_owned() + ":");
    sh(
        Some(&netns),
        &format!("ip addr add {forged}/128 dev eth0 nodad"),
    )
    .ok();
    let line = format!("curl -sS -g --max-time 2 http://[{vip}]/");
    let said = sh(
        Some(&netns),
        &line.replace("curl", &format!("curl --interface host!{forged}")),
    );
    assert_ne!(said.code, 0, "a forged source was answered: {}", said.out);
    // the gateway did not answer the forged address either, and is asked again in a while
    until("the task's own address is answered", 20, || {
        (sh(Some(&netns), &line).code == 0).then_some(())
    });
    // without tasks it refuses at once
    node.cli("service scale --quiet web-blue=0").ok();
    node.on_host(&line).fails(7, &[]);
}

#[test]
fn a_network_without_ipv6_has_none() {
    let node = Node::started();
    node.cli("network create --ipv6=false plain").ok();
    node.whoami("web", "--network plain --publish 8080:80");
    assert_eq!(node.in_task("web.1", "dig +short AAAA web").ok(), "");
    assert!(!node.in_task("web.1", "hostname -I").ok().contains(':'));
    let shown = node.cli("network inspect plain").ok();
    assert!(shown.contains("\"EnableIPv6\": false"), "{shown}");
    let answers = Answers::parse(
        &node
            .from_outside("curl -sS --max-time 3 http://192.0.2.1:8080/")
            .ok(),
    );
    assert_eq!(answers.hosts.len(), 1);
    let create = "service create --detach --runtime process --network plain";
    node.cli(&format!("{create} --publish [::1]:80:80 -- whoami"))
        .fails(1, &["::1", "--ipv6"]);
    node.cli("network create --subnet fd00:1::/64 wrong")
        .fails(1, &["fd00:1::/64", "task pool"]);
}

#[test]
fn a_mesh_may_be_made_without_ipv6_or_with_a_chosen_prefix() {
    let mut node = Node::new();
    node.arguments = vec!["--ipv6-prefix".to_owned(), "none".to_owned()];
    node.start();
    node.whoami("web", "");
    assert_eq!(
        node.in_router("ip6tables-save | grep -c ^-A").out.trim(),
        "0"
    );
    // it may come later, and is the same from then on
    node.stop();
    node.arguments[1] = "fd12:3456:789a::/48".to_owned();
    node.start();
    node.cli("network create six").ok();
    node.whoami("two", "--network six");
    assert!(node.vip6("two").starts_with("fd12:3456:789a:2000:"));
    node.stop();
    let said = node.on_host(&format!(
        "timeout 20 ipvsmeshd --instance {} --ipv6-prefix fd12:3456:789b::/48",
        node.instance
    ));
    said.fails(1, &["cannot be changed", "--ipv6-prefix"]);
    node.arguments.clear();
    node.start();
}
