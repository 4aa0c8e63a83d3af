//! Schedulers, weights, affinity and connection limits, each changed while connections
//! are open.

use e2e::{Answers, Connection, HOST_IP, Node, until};

const URL: &str = "http://192.0.2.1:8080/";

fn ask(node: &Node, count: u32) -> Answers {
    node.answers(|line| node.from_outside(line), URL, count)
}

fn open(node: &Node) -> Connection {
    Connection::open(&node.outside, &format!("{HOST_IP}:8080"))
}

#[test]
fn scheduler_and_weights_change_while_connections_stay() {
    let node = Node::started();
    node.whoami(
        "web",
        "--replicas 2 --publish 8080:80 --scheduler wrr --weight 1=3,2=1",
    );
    let answers = ask(&node, 8);
    assert_eq!(
        (answers.hosts["web.1"], answers.hosts["web.2"]),
        (6, 2),
        "{answers:?}"
    );
    let services = node.in_ingress("ipvsadm -Ln").ok();
    assert!(services.contains("wrr"), "{services}");

    let mut kept = open(&node);
    let tasks = node.running("web");
    for (change, scheduler) in [
        ("--scheduler lc", " lc"),
        ("--scheduler sh", " sh"),
        ("--scheduler mh", " mh"),
        ("--scheduler sed --weight 2", " sed"),
        ("--scheduler nq", " nq"),
        ("--scheduler dh", " dh"),
        ("--scheduler wlc", " wlc"),
    ] {
        node.cli(&format!("service update --quiet {change} web"))
            .ok();
        let services = node.in_ingress("ipvsadm -Ln").ok();
        assert!(services.contains(scheduler), "{change}: {services}");
        assert_eq!(ask(&node, 2).failed, 0, "{change}");
        kept.lives();
    }
    assert_eq!(node.running("web"), tasks, "no task was replaced");
    // no new connections to a task with weight 0
    node.cli("service update --quiet --scheduler rr --weight 1=0 web")
        .ok();
    assert_eq!(
        ask(&node, 4).hosts.into_keys().collect::<Vec<_>>(),
        ["web.2"]
    );
    kept.lives();
}

#[test]
fn a_scheduler_that_hashes_goes_on_when_its_choice_leaves() {
    let node = Node::started();
    for scheduler in ["sh", "mh"] {
        let name = format!("web-{scheduler}");
        node.whoami(
            &name,
            &format!("--replicas 3 --publish 8080:80 --scheduler {scheduler}"),
        );
        let answers = ask(&node, 4);
        assert_eq!((answers.failed, answers.hosts.len()), (0, 1), "{answers:?}");
        let slot = answers
            .hosts
            .keys()
            .next()
            .unwrap()
            .rsplit('.')
            .next()
            .unwrap()
            .to_owned();
        node.cli(&format!("service update --quiet --weight {slot}=0 {name}"))
            .ok();
        let answers = ask(&node, 4);
        assert_eq!((answers.failed, answers.hosts.len()), (0, 1), "{answers:?}");
        node.cli(&format!("service rm {name}")).ok();
    }
}

#[test]
fn affinity_keeps_a_client_with_its_task() {
    let node = Node::started();
    node.from_outside("ip addr add 192.0.2.9/24 dev eth0; ip addr add 198.51.100.9/32 dev eth0")
        .ok();
    node.on_host("ip route add 198.51.100.9/32 dev eth0").ok();
    let from = |ip: &str, count: u32| {
        let run = |line: &str| {
            node.from_outside(&line.replace("curl", &format!("curl --interface host!{ip}")))
        };
        node.answers(run, URL, count)
    };
    node.whoami(
        "web",
        "--replicas 3 --publish 8080:80 --affinity client-ip,1m",
    );
    let one = from("192.0.2.2", 6);
    assert_eq!((one.failed, one.hosts.len()), (0, 1), "{one:?}");
    // another client has another task
    let two = from("192.0.2.9", 6);
    assert_eq!((two.failed, two.hosts.len()), (0, 1), "{two:?}");
    assert_ne!(one.hosts.keys().next(), two.hosts.keys().next());

    // off and on, live
    node.cli("service update --quiet --affinity none web").ok();
    assert_eq!(ask(&node, 6).hosts.len(), 3);
    node.cli("service update --quiet --affinity client-ip,90s,/24 web")
        .ok();
    let services = node.in_ingress("ipvsadm -Ln").ok();
    assert!(
        services.contains("persistent 90 mask 255.255.255.0"),
        "{services}"
    );
    let three = from("192.0.2.2", 3);
    let four = from("192.0.2.9", 3);
    assert_eq!(three.hosts.len(), 1, "{three:?}");
    assert_eq!(three.hosts.keys().next(), four.hosts.keys().next());
    let other = from("198.51.100.9", 3);
    assert_eq!(other.hosts.len(), 1, "{other:?}");
    assert_ne!(other.hosts.keys().next(), four.hosts.keys().next());
}

#[test]
fn affinity_ends_after_its_timeout() {
    let mut node = Node::new();
    // it begins when the client's last connection is forgotten; those of TCP wait for two
    // minutes after their end
    node.arguments = vec!["--udp-timeout".to_owned(), "1".to_owned()];
    node.start();
    node.whoami(
        "web",
        "--replicas 2 --publish 8080:80/udp --affinity client-ip,8s",
    );
    let ask = || {
        let line = format!("echo hi | socat -T2 - UDP4:{HOST_IP}:8080");
        let said = node.from_outside(&line).ok();
        let host = said.split_whitespace().next();
        host.expect("it is answered").to_owned()
    };
    let first = ask();
    assert_eq!([ask(), ask()], [first.clone(), first.clone()]);
    until("the client moves to another task", 90, || {
        std::thread::sleep(std::time::Duration::from_secs(12));
        (ask() != first).then_some(())
    });
}

#[test]
fn a_task_takes_no_more_connections_than_its_limit() {
    let node = Node::started();
    node.whoami("web", "--replicas 2 --publish 8080:80 --connection-limit 1");
    let (mut first, mut second) = (open(&node), open(&node));
    assert_ne!(first.host, second.host);
    let refused = format!("curl -sS --max-time 3 {URL}");
    node.from_outside(&refused).fails(7, &[]);
    node.cli("service update --quiet --connection-limit 0 web")
        .ok();
    until("new connections are taken again", 10, || {
        (node.from_outside(&refused).code == 0).then_some(())
    });
    first.lives();
    second.lives();
}

#[test]
fn what_the_kernel_cannot_do_is_refused_and_nothing_changes() {
    let node = Node::started();
    node.cli("service create --detach --scheduler random --runtime process -- whoami")
        .fails(2, &["random", "rr, wrr"]);
    node.cli(
        "service create --detach --label ipvsmesh.scheduler=random --runtime process -- whoami",
    )
    .fails(1, &["random", "rr, wrr"]);
    for wrong in [
        "--weight 70000",
        "--affinity ip",
        "--connection-limit 1:2",
        "--drain-timeout 5",
    ] {
        node.cli(&format!(
            "service create --detach {wrong} --runtime process -- whoami"
        ))
        .fails(2, &[]);
    }
    assert_eq!(node.cli("service ls -q").ok(), "");
}
