//! The daemon may die at any moment.

use e2e::{HOST_IP, Node, until};

#[test]
fn traffic_and_names_go_on_without_the_daemon_and_it_adopts_them() {
    let mut node = Node::started();
    node.cli("network create --internal closed").ok();
    node.cli("network create --subnet 10.101.0.0/24 back").ok();
    node.whoami("vote", "--replicas 3 --publish 8080:80");
    // of everything that can be wanted, something
    node.whoami(
        "rest",
        "--network closed --network back --publish 8080:80/udp --publish 80",
    );
    node.whoami(
        "rr",
        "--network back --endpoint-mode dnsrr --publish 8081:80",
    );
    node.wait_running("vote", 3);
    let vip = node.vip("vote");
    let tasks = node.cli("service ps -q vote").ok();
    let kernel = |node: &Node| {
        format!(
            "{}{}{}{}",
            node.in_router("ipvsadm -Sn").ok(),
            node.in_ingress("ipvsadm -Sn").ok(),
            node.in_router("ip -o link | cut -d: -f1,2").ok(),
            node.on_host("iptables-save | grep -v '^#' | sed 's/\\[.*\\]//'")
                .ok()
        )
    };
    let before = kernel(&node);
    let netns = format!(
        "ipvsmesh-{}-{}",
        node.instance,
        tasks.lines().next().unwrap()
    );
    let url = format!("http://{HOST_IP}:8080/");

    node.kill();
    let answers = node.answers(|line| node.from_outside(line), &url, 9);
    assert_eq!((answers.failed, answers.hosts.len()), (0, 3), "{answers:?}");
    let named = e2e::sh(Some(&netns), "dig +short +tries=1 @10.100.0.1 vote").ok();
    assert_eq!(named, vip);

    node.start();
    node.wait_running("vote", 3);
    assert_eq!(node.cli("service ps -q vote").ok(), tasks, "the same tasks");
    assert_eq!(kernel(&node), before);
    let status = node.on_host(&format!(
        "curl -sS --unix-socket {} http://x/ipvsmesh/v1/status",
        node.socket()
    ));
    let status: serde_json::Value = serde_json::from_str(&status.ok()).expect("JSON");
    assert_eq!(
        status["counters"]["writes"], 0,
        "nothing differed: {status}"
    );
    let answers = node.answers(|line| node.from_outside(line), &url, 9);
    assert_eq!((answers.failed, answers.hosts.len()), (0, 3), "{answers:?}");
}

#[test]
fn a_task_that_died_meanwhile_is_replaced() {
    let mut node = Node::started();
    node.whoami("web", "--replicas 2 --publish 8080:80 --restart-delay 1s");
    node.wait_running("web", 2);
    let before = node
        .cli("service ps -q --filter desired-state=running web")
        .ok();
    node.kill();
    let victim = before.lines().next().unwrap();
    let pids = e2e::sh(
        None,
        &format!("ip netns pids ipvsmesh-{}-{victim}", node.instance),
    )
    .ok();
    e2e::sh(None, &format!("kill -9 {}", pids.replace('\n', " "))).ok();
    node.start();
    until("a new task runs", 40, || {
        let now = node
            .cli("service ps -q --filter desired-state=running web")
            .ok();
        (!now.contains(victim) && node.running("web").len() == 2).then_some(())
    });
    let answers = node.answers(|line| node.on_host(line), "http://127.0.0.1:8080/", 8);
    assert_eq!((answers.failed, answers.hosts.len()), (0, 2), "{answers:?}");
}

#[test]
fn drift_is_repaired() {
    let mut node = Node::started();
    node.whoami("web", "--replicas 2 --publish 8080:80");
    node.wait_running("web", 2);
    let works = |node: &Node| {
        let url = format!("http://{HOST_IP}:8080/");
        let answers = node.answers(|line| node.from_outside(line), &url, 2);
        (answers.failed == 0 && answers.hosts.len() == 2).then_some(())
    };
    for wreck in [
        format!(
            "nsenter --net=/run/netns/ipvsmesh-{}-ingress ipvsadm -C",
            node.instance
        ),
        format!("nsenter --net=/run/netns/{} iptables -t nat -F", node.host),
        format!("nsenter --net=/run/netns/{} iptables -F", node.host),
        format!(
            "nsenter --net=/run/netns/ipvsmesh-{}-ingress ipset flush",
            node.instance
        ),
        format!(
            "nsenter --net=/run/netns/ipvsmesh-{}-router ip route flush table main",
            node.instance
        ),
    ] {
        e2e::sh(None, &wreck).ok();
        until(&format!("healed after {wreck}"), 25, || works(&node));
    }
    // and with the daemon away when it happens
    node.kill();
    node.in_ingress("ipvsadm -C").ok();
    node.start();
    until("healed by the next daemon", 20, || works(&node));
}

#[test]
fn a_second_daemon_on_the_same_data_is_refused() {
    let node = Node::started();
    node.on_host(&format!("ipvsmeshd --instance {}", node.instance))
        .fails(1, &["in use", &node.instance]);
    node.cli("node ls").ok();
}

#[test]
fn a_namespace_whose_name_is_deleted_gets_it_again_and_stops_nothing() {
    let node = Node::started();
    node.whoami("web", "--replicas 2 --publish 8080:80");
    let ids = node.cli("service ps -q web").ok();
    let name = format!("ipvsmesh-{}-{}", node.instance, ids.lines().next().unwrap());
    e2e::sh(None, &format!("ip netns del {name}")).ok();
    // other tasks are attached and answer meanwhile
    node.cli("service scale web=3").ok();
    let url = format!("http://{HOST_IP}:8080/");
    let answers = node.answers(|line| node.from_outside(line), &url, 6);
    assert_eq!((answers.failed, answers.hosts.len()), (0, 3), "{answers:?}");
    until("it has its name again", 30, || {
        let said = e2e::sh(Some(&name), "ip -o addr show eth0");
        (said.code == 0 && said.out.contains("10.100.")).then_some(())
    });
    assert!(node.cli("service ps -q web").ok().contains(&ids));
}

/// A daemon that dies again and again, at any moment of what it is doing; with
/// IPVSMESH_LONG for longer.
#[test]
fn deaths_at_any_moment_leave_nothing_half_done() {
    let mut node = Node::started();
    node.whoami("steady", "--replicas 2 --publish 8080:80");
    let url = format!("http://{HOST_IP}:8080/");
    let times = match std::env::var_os("IPVSMESH_LONG") {
        Some(_) => 10,
        None => 1,
    };
    let rounds = [5, 1, 4, 0, 6, 3].into_iter().enumerate();
    let rounds: Vec<_> = std::iter::repeat_n(rounds, times).flatten().collect();
    for (time, (round, replicas)) in rounds.into_iter().enumerate() {
        if round % 2 == 0 && time < 6 {
            let name = format!("web{round}");
            node.cli(&format!(
                "service create --detach --name {name} --replicas {replicas} --publish {}:80 --runtime process -- whoami --port 80",
                8081 + round
            ))
            .ok();
        } else {
            let name = format!("web{}", round - round % 2);
            node.cli(&format!("service scale --detach {name}={replicas}"))
                .ok();
        }
        // from "nothing begun" to "nearly done"
        let moment = 230 * round as u64 + 7 * time as u64;
        std::thread::sleep(std::time::Duration::from_millis(moment));
        node.kill();
        let answers = node.answers(|line| node.from_outside(line), &url, 2);
        assert_eq!(answers.failed, 0, "round {round}: {answers:?}");
        node.start();
    }
    // web0 was scaled to 1, web2 to 0, web4 to 3
    for (name, count) in [("steady", 2), ("web0", 1), ("web2", 0), ("web4", 3)] {
        node.wait_running(name, count);
    }
    let instance = node.instance.clone();
    let count = |what: &str, line: &str, wanted: usize| {
        until(&format!("{wanted} {what}"), 30, || {
            let said = e2e::sh(None, line).out;
            (said.lines().count() == wanted).then_some(())
        });
    };
    let router = format!("nsenter --net=/run/netns/ipvsmesh-{instance}-router");
    let ingress = format!("nsenter --net=/run/netns/ipvsmesh-{instance}-ingress");
    count(
        "namespaces",
        &format!("ls /run/netns | grep '^ipvsmesh-{instance}-'"),
        6 + 2,
    );
    count(
        "veths of tasks",
        &format!("{router} ip -o link | grep ': t'"),
        6,
    );
    count(
        "routes to tasks",
        &format!("{router} ip route | grep ' dev t'"),
        6,
    );
    count(
        "cgroups",
        &format!("ls -d /sys/fs/cgroup/ipvsmesh-{instance}/*/"),
        6,
    );
    count(
        "shims",
        &format!("pgrep -f '[s]him /run/ipvsmesh-{instance}/'"),
        6,
    );
    count(
        "published ports of each family",
        &format!("{ingress} ipvsadm -Sn | grep -- '-A -f'"),
        2 * 3,
    );
    count(
        "their destinations",
        &format!("{ingress} ipvsadm -Sn | grep -- '-a -f'"),
        2 * 6,
    );
    count(
        "responders",
        &format!("pgrep -f '[-]-instance {instance} .* dns$'"),
        1,
    );
    for (port, tasks) in [(8081, 1), (8085, 3)] {
        let url = format!("http://{HOST_IP}:{port}/");
        let answers = node.answers(|line| node.from_outside(line), &url, 6);
        assert_eq!(
            (answers.failed, answers.hosts.len()),
            (0, tasks),
            "{port} {answers:?}"
        );
    }
}
