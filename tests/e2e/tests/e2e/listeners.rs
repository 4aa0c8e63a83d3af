//! Published ports as listeners: on one host address, as ranges, beside each other,
//! of every protocol, on the nodes that have a task.

use e2e::{HOST_IP, Load, Node, OUTSIDE_IP};

/// Another address of the host.
const SECOND_IP: &str = "192.0.2.3";

fn hosts(node: &Node, url: &str) -> Vec<String> {
    let answers = node.answers(|line| node.from_outside(line), url, 2);
    assert_eq!(answers.failed, 0, "{url}: {answers:?}");
    assert_eq!(answers.clients.iter().collect::<Vec<_>>(), [OUTSIDE_IP]);
    answers.hosts.into_keys().collect()
}

#[test]
fn a_port_answers_on_the_host_address_that_was_asked_for_and_no_other() {
    let node = Node::started();
    node.on_host(&format!("ip addr add {SECOND_IP}/24 dev eth0"))
        .ok();
    node.whoami("one", &format!("--publish {HOST_IP}:8080:80"));
    node.whoami("two", &format!("--publish {SECOND_IP}:8080:80"));
    node.whoami("inner", "--publish 127.0.0.1:9090:80");
    assert_eq!(hosts(&node, &format!("http://{HOST_IP}:8080/")), ["one.1"]);
    assert_eq!(
        hosts(&node, &format!("http://{SECOND_IP}:8080/")),
        ["two.1"]
    );

    let inner = node
        .on_host("curl -sS --max-time 3 http://127.0.0.1:9090/")
        .ok();
    assert!(inner.contains("inner.1"), "{inner}");
    for ip in [HOST_IP, SECOND_IP] {
        let line = format!("curl -sS --max-time 3 http://{ip}:9090/");
        node.from_outside(&line).fails(7, &[]);
        node.on_host(&line).fails(7, &[]);
        node.sh_in_task("one.1", &line).fails(7, &[]);
    }
    node.on_host("curl -sS --max-time 3 http://127.0.0.1:8080/")
        .fails(7, &[]);
    // every address is in the way of one, and one of every
    let create = "service create --detach --name no --runtime process --publish";
    node.cli(&format!("{create} 8080:80 -- whoami"))
        .fails(1, &["8080", "service one", "service two"]);
    node.cli(&format!("{create} 127.0.0.1:9090:80 -- whoami"))
        .fails(1, &["127.0.0.1:9090/tcp", "service inner"]);
    // given back, it is free, and nothing is left of it
    node.cli("service rm one two inner").ok();
    node.whoami("all", "--publish 8080:80");
    assert_eq!(
        hosts(&node, &format!("http://{SECOND_IP}:8080/")),
        ["all.1"]
    );
    let rules = node.on_host("iptables-save -t nat").ok();
    assert!(!rules.contains(&format!("-d {SECOND_IP}")), "{rules}");
}

/// The clash that source addresses which are kept make possible: one client, one source
/// port, two ports that lead to the same port of the same task.
#[test]
fn one_source_port_may_be_used_towards_two_ports_of_one_target() {
    let node = Node::started();
    node.whoami(
        "web",
        &format!("--publish 8080:80 --publish 8081:80 --publish {HOST_IP}:8082:80"),
    );
    let request = r"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let line = format!(
        "for port in 8080 8081 8082; do
           (for i in 1 2 3; do printf '{request}'; sleep 1; done) |
             socat -t2 - TCP4:{HOST_IP}:$port,sourceport=40000,reuseaddr > /tmp/{}.$port &
         done; wait; cat /tmp/{0}.*; rm /tmp/{0}.*",
        node.instance
    );
    let said = node.from_outside(&line).ok();
    assert_eq!(said.matches("Hostname: web.1").count(), 9, "{said}");
    let clients = said.matches(&format!("RemoteAddr: {OUTSIDE_IP}:")).count();
    assert_eq!(clients, 9, "the client's address is kept: {said}");
}

#[test]
fn a_range_is_one_ipvs_service_and_no_rule() {
    let node = Node::started();
    let rules = |node: &Node| node.on_host("iptables-save").ok().lines().count();
    node.whoami("first", "--publish 8080:80");
    let before = rules(&node);
    node.cli(
        "service create --quiet --name many --runtime process --publish 7000-7199:7000-7199 -- \
         bash -c 'for p in 7000 7100 7199; do whoami --port $p & done; wait'",
    )
    .ok();
    assert_eq!(rules(&node), before);
    let services = node.in_ingress("ipvsadm -Ln").ok();
    // two of each family
    assert_eq!(services.matches("FWM").count(), 4, "{services}");
    for port in [7000, 7100, 7199] {
        let url = format!("http://{HOST_IP}:{port}/");
        assert_eq!(hosts(&node, &url), ["many.1"], "{port}");
    }
    let refused = format!("curl -sS --max-time 3 http://{HOST_IP}:7200/");
    node.from_outside(&refused).fails(7, &[]);
    let listed = node.cli("service ls").ok();
    assert!(listed.contains("*:7000-7199->7000-7199/tcp"), "{listed}");
    node.cli("service rm many").ok();
    let refused = format!("curl -sS --max-time 3 http://{HOST_IP}:7000/");
    node.from_outside(&refused).fails(7, &[]);
}

#[test]
fn sctp_is_published_and_balanced() {
    let node = Node::started();
    node.cli(
        "service create --quiet --name assoc --replicas 2 --runtime process --publish 8088:80/sctp -- \
         socat SCTP4-LISTEN:80,fork,reuseaddr 'SYSTEM:echo $SOCAT_PEERADDR at $(hostname)'",
    )
    .ok();
    // reads until the task has said all, however long that takes
    let line = |to: &str| format!("for i in 1 2 3 4; do timeout 20 socat -u SCTP4:{to} -; done");
    let said = node.from_outside(&line(&format!("{HOST_IP}:8088"))).ok();
    for task in ["assoc.1", "assoc.2"] {
        let answer = format!("{OUTSIDE_IP} at {task}");
        assert_eq!(said.matches(&answer).count(), 2, "{said}");
    }
    node.whoami("client", "");
    let said = node.sh_in_task("client.1", &line("assoc:80")).ok();
    let own = node.address("client.1");
    for task in ["assoc.1", "assoc.2"] {
        let answer = format!("{own} at {task}");
        assert_eq!(said.matches(&answer).count(), 2, "{said}");
    }
}

#[test]
fn a_host_port_is_there_while_a_task_is_on_the_node() {
    let node = Node::started();
    node.whoami(
        "web",
        "--replicas 2 --publish published=8085,target=80,mode=host",
    );
    let url = format!("http://{HOST_IP}:8085/");
    assert_eq!(hosts(&node, &url), ["web.1", "web.2"]);
    let set = || node.on_host("ipset save | grep -c '^add .* 8085$'").out;
    // of each family
    assert_eq!(set().trim(), "2");
    node.cli("service scale web=0").ok();
    e2e::until("the host refuses by itself", 10, || {
        (set().trim() == "0").then_some(())
    });
    node.from_outside(&format!("curl -sS --max-time 3 {url}"))
        .fails(7, &[]);
    let mode = node.inspect("web")["Endpoint"]["Ports"][0]["PublishMode"].clone();
    assert_eq!(mode, "host");
}

#[test]
fn ports_come_and_go_while_others_serve() {
    let node = Node::started();
    node.whoami("web", "--publish 8080:80");
    let new = format!("http://{HOST_IP}:8081/");
    let outside = format!("nsenter --net=/run/netns/{}", node.outside);
    let mut load = Load::start("the other port", &outside, 4, &format!("{HOST_IP}:8080"));
    node.cli("service update --quiet --publish-add 8081:80 web")
        .ok();
    assert_eq!(hosts(&node, &new), ["web.1"]);
    node.cli("service update --quiet --publish-rm 8081:80 web")
        .ok();
    node.from_outside(&format!("curl -sS --max-time 3 {new}"))
        .fails(7, &[]);
    let report = load.report("ports come and go");
    assert_eq!(report.failed, 0, "{}", report.text);
}
