//! Static services: servers that are not the mesh's.

use e2e::{HOST_IP, Node, OUTSIDE_IP, until};

/// Servers on the outside machine, each a program of its own with a name.
struct Servers<'a> {
    node: &'a Node,
}

impl<'a> Servers<'a> {
    fn start(node: &'a Node, ports: &[u16]) -> Self {
        let servers = Self { node };
        for port in ports {
            servers.one(*port);
        }
        servers
    }

    /// In a UTS namespace of its own, so that it has a name.
    fn one(&self, port: u16) {
        let line = format!(
            "unshare --uts sh -c 'hostname server{port}; exec whoami --port {port}' \
             >/dev/null 2>&1 & echo $! > /tmp/{}-{port}.pid",
            self.node.instance
        );
        self.node.from_outside(&line).ok();
        let url = format!("http://127.0.0.1:{port}/");
        until("the server answers", 20, || {
            (self.node.from_outside(&format!("curl -sS {url}")).code == 0).then_some(())
        });
    }

    fn stop(&self, port: u16) {
        let file = format!("/tmp/{}-{port}.pid", self.node.instance);
        self.node
            .from_outside(&format!("kill -9 $(cat {file}); rm {file}"))
            .ok();
    }
}

impl Drop for Servers<'_> {
    fn drop(&mut self) {
        let files = format!("/tmp/{}-*.pid", self.node.instance);
        self.node
            .from_outside(&format!("kill -9 $(cat {files}); rm -f {files}"));
    }
}

fn create(node: &Node, options: &str) -> e2e::Said {
    node.cli(&format!(
        "service create --quiet --name legacy --runtime static {options}"
    ))
}

#[test]
fn servers_of_others_answer_by_port_vip_and_name() {
    let node = Node::started();
    let _servers = Servers::start(&node, &[8081, 8082]);
    create(
        &node,
        &format!("--endpoint {OUTSIDE_IP}:8081 --endpoint {OUTSIDE_IP}:8082 --publish 8080:80"),
    )
    .ok();
    node.whoami("client", "");
    let rules = node.on_host("iptables-save -c; ip route; ipset list").out;
    let ipvs = node.in_ingress("ipvsadm -Ln").out;

    // by a published port: from another machine, from the host, and on loopback
    for (who, url) in [
        ("outside", format!("http://{HOST_IP}:8080/")),
        ("host", format!("http://{HOST_IP}:8080/")),
        ("host", "http://127.0.0.1:8080/".to_owned()),
    ] {
        let run = |line: &str| match who {
            "host" => node.on_host(line),
            _ => node.from_outside(line),
        };
        let answers = node.answers(run, &url, 6);
        assert_eq!(
            (answers.failed, answers.hosts.len()),
            (0, 2),
            "{who} {url}: {answers:?}\n{ipvs}\n{rules}"
        );
        // they answer whom they see, so that is the host
        assert_eq!(
            answers.clients.iter().collect::<Vec<_>>(),
            [HOST_IP],
            "{who} {url}"
        );
    }
    // by the VIP and the name: from the host and from a task
    let vip = format!("http://{}/", node.vip("legacy"));
    for url in [vip.as_str(), "http://legacy/", "http://tasks.legacy:8081/"] {
        let run = |line: &str| node.sh_in_task("client.1", line);
        let answers = node.answers(run, url, 4);
        assert_eq!(answers.failed, 0, "a task, {url}: {answers:?}");
    }
    let answers = node.answers(|line| node.on_host(line), &vip, 4);
    assert_eq!((answers.failed, answers.hosts.len()), (0, 2), "{answers:?}");
    // and a published port from a task
    let url = format!("http://{HOST_IP}:8080/");
    let answers = node.answers(|line| node.sh_in_task("client.1", line), &url, 4);
    assert_eq!((answers.failed, answers.hosts.len()), (0, 2), "{answers:?}");

    let shown = node.cli("service ps legacy").ok();
    for word in [
        "legacy.1",
        "legacy.2",
        &format!("{OUTSIDE_IP}:8081"),
        &format!("{OUTSIDE_IP}:8082"),
    ] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    let listed = node.cli("service ls").ok();
    assert!(
        listed.contains("static") && listed.contains("2/2"),
        "{listed}"
    );
    let inspected = node.cli("inspect legacy");
    assert_eq!(inspected.code, 0, "{}{}", inspected.out, inspected.err);

    // nothing is left of it
    node.cli("service rm legacy").ok();
    until("the rules are gone", 20, || {
        let rules = node.on_host("iptables-save; ipset list -n; ip route").out;
        let left = ["CONNMARK", "FARSNAT", "farports", "servers", ".255 "];
        (!left.iter().any(|word| rules.contains(word))).then_some(())
    });
}

#[test]
fn a_dead_server_gets_nothing_and_comes_back() {
    let node = Node::started();
    let servers = Servers::start(&node, &[8081, 8082]);
    // what cannot be is refused, and says why
    for (endpoint, word) in [
        ("127.0.0.1:80", "loopback"),
        (HOST_IP, "host's own address"),
        ("10.100.0.9:80", "own ranges"),
    ] {
        let said = create(&node, &format!("--endpoint {endpoint}"));
        assert!(said.code != 0 && said.err.contains(word), "{}", said.err);
    }
    create(
        &node,
        &format!("--endpoint {OUTSIDE_IP}:8081 --publish 8080:80 --probe tcp:8081,interval=1s,timeout=1s,retries=2"),
    )
    .ok();
    let url = format!("http://{HOST_IP}:8080/");
    let ask = |count| node.answers(|line| node.on_host(line), &url, count);
    assert_eq!(ask(2).failed, 0);
    servers.stop(8081);
    until("it is no destination any more", 30, || {
        let shown = node.in_ingress("ipvsadm -Ln").out;
        let weight = shown.lines().find(|line| line.contains(":8081"));
        weight?.contains("Masq    0").then_some(())
    });
    let shown = node.cli("service ps --no-trunc legacy").ok();
    assert!(shown.contains("unhealthy"), "{shown}");
    assert!(node.cli("service ls").ok().contains("0/1"));
    // refused at once, not waited for
    node.on_host(&format!("curl -sS --max-time 3 {url}"))
        .fails(7, &[]);
    servers.one(8081);
    until("it is one again", 30, || (ask(1).failed == 0).then_some(()));

    // another one is added, and the first one goes
    let change = format!("--endpoint-add {OUTSIDE_IP}:8082 --endpoint-rm {OUTSIDE_IP}:8081");
    node.cli(&format!(
        "service update --quiet --probe none --drain-timeout 1s {change} legacy"
    ))
    .ok();
    until("only the new one answers", 30, || {
        let answers = ask(2);
        (answers.failed == 0 && answers.hosts.keys().eq(["server8082"])).then_some(())
    });
    node.cli("service scale legacy=3")
        .fails(1, &["one task for each endpoint"]);

    // what others delete is made again, and a new daemon changes nothing
    node.on_host("iptables -t mangle -F; iptables -t mangle -X")
        .ok();
    until("it answers again", 40, || {
        (ask(1).failed == 0).then_some(())
    });
}

#[test]
fn a_stack_has_servers_of_others() {
    let node = Node::started();
    let _servers = Servers::start(&node, &[8081, 8082]);
    let file = format!("/tmp/{}-stack.yml", node.instance);
    let deploy = |endpoints: &str, options: &str| {
        let text = format!(
            "services: {{legacy: {{ports: [\"8080:80\"], x-ipvsmesh: \
             {{runtime: static, endpoints: [{endpoints}]}}}}}}"
        );
        std::fs::write(&file, text).expect("/tmp");
        node.cli(&format!("stack deploy -c {file} {options} app"))
    };
    let hosts = || {
        let url = format!("http://{HOST_IP}:8080/");
        let answers = node.answers(|line| node.from_outside(line), &url, 4);
        assert_eq!(answers.failed, 0, "{answers:?}");
        answers.hosts.into_keys().collect::<Vec<_>>()
    };
    let one = format!("{OUTSIDE_IP}:8081");
    let both = format!("{one}, {OUTSIDE_IP}:8082");
    deploy(&one, "--detach=false --quiet").ok();
    assert_eq!(hosts(), ["server8081"]);
    // one more is a change, and the same again is none
    let more = format!("~ Labels[ipvsmesh.endpoints]: \"{one}\" -> ");
    deploy(&both, "--dry-run").fails(0, &[&more, "1 to change"]);
    deploy(&both, "--detach=false --quiet").ok();
    assert_eq!(hosts(), ["server8081", "server8082"]);
    deploy(&both, "").fails(0, &["Unchanged service app_legacy"]);
    deploy("web:80", "").fails(1, &["endpoint \"web:80\" is not valid"]);
    node.cli("stack rm app").ok();
    std::fs::remove_file(&file).ok();
}
