//! Names outside of the mesh, asked of real servers.

use std::process::{Child, Command};

use e2e::{
    Node,
    docker::{Engine, IMAGE},
    until,
};

/// `dnsmasq` on the node's host, at an address of loopback; ends with this.
struct Server(Child);

impl Server {
    /// Knows `example.test` and everything under it, as `answer`.
    fn start(node: &Node, at: &str, answer: &str) -> Self {
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", node.host))
            .args(["dnsmasq", "--no-daemon", "--no-resolv", "--no-hosts"])
            .arg(format!("--listen-address={at}"))
            .arg("--bind-interfaces")
            .arg(format!("--address=/example.test/{answer}"))
            .arg(format!("--pid-file=/run/{}-{at}.pid", node.host))
            .spawn()
            .expect("dnsmasq is installed");
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn answers(node: &Node, task: &str, question: &str, want: &str) {
    until(&format!("{question} is {want}"), 20, || {
        let said = node.in_task(task, &format!("dig +short +tries=1 +nocookie {question}"));
        (said.out.trim() == want).then_some(())
    });
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
    let _server = Server::start(&node, "127.0.0.1", "198.51.100.7");
    for question in ["example.test", "+tcp www.example.test"] {
        answers(&node, "web.1", question, "198.51.100.7");
    }
}

#[test]
fn the_hosts_servers_are_followed_by_the_responder_alone() {
    let mut node = Node::new();
    let file = format!("/tmp/{}.resolv", node.host);
    let write = |text: &str| std::fs::write(&file, text).expect("/tmp");
    // as systemd-resolved has it
    write("nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n");
    node.arguments = vec!["--resolv-conf".to_owned(), file.clone()];
    node.start();
    node.cli("network create --internal closed").ok();
    node.whoami("web", "--replicas 1");
    node.whoami("inside", "--replicas 1 --network closed");
    node.wait_running("web", 1);
    node.wait_running("inside", 1);
    let stub = Server::start(&node, "127.0.0.53", "198.51.100.53");
    let _other = Server::start(&node, "127.0.0.9", "198.51.100.9");
    answers(&node, "web.1", "example.test", "198.51.100.53");
    // internal networks ask nobody
    let said = node.in_task("inside.1", "dig +tries=1 example.test").ok();
    assert!(said.contains("NXDOMAIN"), "{said}");
    answers(&node, "inside.1", "inside", &node.vip("inside"));

    let server = node.in_task("web.1", "cat /etc/resolv.conf").ok();
    let server = server
        .split_whitespace()
        .nth(1)
        .unwrap_or_default()
        .to_owned();
    let id = node.cli("service ps -q web").ok();
    let netns = format!("ipvsmesh-{}-{id}", node.instance);
    let dig = |name: &str| {
        let line = format!("dig @{server} +short +tries=1 +nocookie {name}");
        e2e::sh(Some(&netns), &line).out.trim().to_owned()
    };
    node.kill();
    write("nameserver 127.0.0.9\n");
    until("the other one is asked", 20, || {
        (dig("example.test") == "198.51.100.9").then_some(())
    });
    // a dead server first: the next one is asked
    drop(stub);
    write("nameserver 127.0.0.53\nnameserver 127.0.0.9\n");
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(dig("a.example.test"), "198.51.100.9");
    let _ = std::fs::remove_file(&file);
}

#[test]
fn a_containers_own_servers_are_asked_behind_ours() {
    let engine = Engine::shared();
    let mut node = engine.node();
    node.start();
    node.whoami("web", "--replicas 1");
    let _own = Server::start(&node, "127.0.0.54", "198.51.100.54");
    let _host = Server::start(&node, "127.0.0.1", "198.51.100.1");
    node.cli(&format!(
        "service create --quiet --name own --dns 127.0.0.54 --dns-search example.test --dns-option ndots:1 {IMAGE} sleep 10000"
    ))
    .ok();
    let resolv = node.in_task("own.1", "cat /etc/resolv.conf").ok();
    for words in [
        "nameserver 10.100.",
        "search example.test",
        "options ndots:1",
    ] {
        assert!(resolv.contains(words), "{resolv}");
    }
    assert!(!resolv.contains("127.0.0.54"), "{resolv}");
    let looked = |task: &str, name: &str| {
        let said = node.in_task(task, &format!("busybox nslookup -type=a {name}"));
        said.out
    };
    until("its own server is asked", 60, || {
        looked("own.1", "x.example.test")
            .contains("198.51.100.54")
            .then_some(())
    });
    assert!(
        looked("own.1", "web.ipvsmesh").contains(&node.vip("web")),
        "the mesh's names stay"
    );
    answers(&node, "web.1", "x.example.test", "198.51.100.1");
}
