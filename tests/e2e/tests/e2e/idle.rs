//! Connections that nobody uses for a while.

use std::time::{Duration, Instant};

use e2e::{Connection, HOST_IP, Node};

#[test]
fn idle_clients_of_a_removed_service_are_told_though_they_do_not_ask() {
    let node = Node::started();
    node.whoami("web", "--publish 8080:80 --publish 127.0.0.1:8081:80");
    let client = node.whoami("client", "");
    let vip = node.vip("web");
    let task = node.cli(&format!("service ps -q {client}")).ok();
    let netns = format!("ipvsmesh-{}-{task}", node.instance);
    let mut by_port = Connection::open(&node.outside, &format!("{HOST_IP}:8080"));
    by_port.lives();
    assert_eq!(by_port.host, "web.1");
    let mut by_vip = Connection::open(&netns, &format!("{vip}:80"));
    by_vip.lives();
    node.cli("service rm web").ok();
    by_port.wait_over(10);
    by_vip.wait_over(10);
    // its name and ports are free meanwhile, and at the end nothing of it is left
    node.whoami("web", "--publish 8080:80");
    Connection::open(&node.outside, &format!("{HOST_IP}:8080")).lives();
}

#[test]
fn an_idle_connection_lives_for_days_by_default() {
    let node = Node::started();
    node.whoami("web", "--publish 8080:80");
    for said in [
        node.in_ingress("ipvsadm -L --timeout").ok(),
        node.in_router("ipvsadm -L --timeout").ok(),
    ] {
        assert!(said.contains("432000 120 300"), "{said}");
    }
}

#[test]
fn past_its_timeout_a_connection_is_reset_and_does_not_hang() {
    let mut node = Node::new();
    node.arguments = vec!["--tcp-timeout".to_owned(), "2".to_owned()];
    node.start();
    node.whoami("web", "--publish 8080:80");
    let mut used = Connection::open(&node.outside, &format!("{HOST_IP}:8080"));
    let mut idle = Connection::open(&node.outside, &format!("{HOST_IP}:8080"));
    // one that is used more often lives on
    for _ in 0..12 {
        used.lives();
        std::thread::sleep(Duration::from_millis(500));
    }
    let begun = Instant::now();
    assert_eq!(idle.ask(), None, "the time-out is set, and it is over");
    idle.wait_over(10);
    // a hanging one would be given up by TCP after minutes
    assert!(
        begun.elapsed() < Duration::from_secs(15),
        "{:?}",
        begun.elapsed()
    );
    // a new one is taken at once
    Connection::open(&node.outside, &format!("{HOST_IP}:8080")).lives();
}
