//! Static services: servers that are not the mesh's.

use e2e::{HOST_IP, HOST_IP6, Node, OUTSIDE_IP, OUTSIDE_IP6, until};

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
