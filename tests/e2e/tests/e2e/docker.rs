//! Tasks in containers of a real Docker Engine.

use e2e::{
    HOST_IP, Node, OUTSIDE_IP,
    docker::{Engine, IMAGE, PATIENCE},
    until,
};

fn started(engine: &Engine) -> Node {
    let mut node = engine.node();
    node.start();
    node
}

/// Makes a service of [`IMAGE`] and waits for it.
fn create(node: &Node, name: &str, options: &str, command: &str) {
    node.cli(&format!(
        "service create --quiet --name {name} --restart-delay 1s {options} {IMAGE} {command}"
    ))
    .ok();
}

/// Waits until each of so many tasks answers on port 8080.
fn all_answer(node: &Node, tasks: usize) {
    until(&format!("{tasks} tasks answer"), PATIENCE, || {
        let url = format!("http://{HOST_IP}:8080/");
        let count = 2 * u32::try_from(tasks).unwrap_or(1);
        let answers = node.answers(|line| node.from_outside(line), &url, count);
        (answers.failed == 0 && answers.hosts.len() == tasks).then_some(())
    });
}

#[test]
fn containers_answer_by_port_vip_and_name_and_see_who_asks() {
    let engine = Engine::shared();
    let node = started(engine);
    node.cli("network create back").ok();
    create(
        &node,
        "vote",
        "--replicas 3 --network back --publish 8080:80",
        "",
    );
    let url = format!("http://{HOST_IP}:8080/");
    let answers = node.answers(|line| node.from_outside(line), &url, 9);
    assert_eq!((answers.failed, answers.hosts.len()), (0, 3), "{answers:?}");
    assert_eq!(
        answers.clients.into_iter().collect::<Vec<_>>(),
        [OUTSIDE_IP]
    );

    // what the first process sees, before anything else
    let look =
        "sh -c 'ip -o addr; ip route; cat /etc/resolv.conf /etc/hosts; hostname; exec sleep 10000'";
    create(
        &node,
        "client",
        "--network back --hostname here --host db:192.0.2.7",
        look,
    );
    let seen = until("it has said what it sees", PATIENCE, || {
        let said = node.cli("service logs --raw client").out;
        said.contains("here\n").then_some(said)
    });
    let address = seen.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let mine = words.get(1) == Some(&"eth0") && words.get(2) == Some(&"inet");
        mine.then(|| words[3].split('/').next().unwrap_or_default().to_owned())
    });
    let address = address.unwrap_or_else(|| panic!("no eth0:\n{seen}"));
    for word in [
        "default via 10.100.",
        "nameserver 10.100.",
        "options ndots:0",
        "192.0.2.7\tdb",
        &format!("{address}\there"),
    ] {
        assert!(seen.contains(word), "no {word:?} in\n{seen}");
    }
    for line in ["search", "127.0.0.11", "8.8.8.8"] {
        assert!(!seen.contains(line), "{line} in\n{seen}");
    }
    assert!(seen.contains("inet6 fd"), "an IPv6 address:\n{seen}");

    for url in [
        format!("http://{}/", node.vip("vote")),
        "http://vote/".to_owned(),
    ] {
        let ask = format!("for i in 1 2 3 4 5 6; do wget -q -O - {url} || echo FAILED; done");
        let said = node.cli(&format!("exec client.1 -- sh -c '{ask}'")).ok();
        let answers = e2e::Answers::parse(&said);
        assert_eq!((answers.failed, answers.hosts.len()), (0, 3), "{said}");
        assert!(answers.clients.contains(&address), "{answers:?}");
    }
    node.cli("exec client.1 -- sh -c 'exit 7'").fails(7, &[]);
    // once a task runs, nothing but itself is left running
    until("the sandboxes have ended", PATIENCE, || {
        (engine.containers(&node, false).len() == 4).then_some(())
    });
    all_answer(&node, 3);

    node.cli("service rm vote client").ok();
    until("nothing is left of them", PATIENCE, || {
        engine.containers(&node, true).is_empty().then_some(())
    });
    let netns = format!("ls /run/netns | grep '^ipvsmesh-{}-'", node.instance);
    assert_eq!(
        e2e::sh(None, &netns).out.lines().count(),
        2,
        "router and ingress"
    );
    assert_eq!(node.in_router("ip -o link | grep -c ': t'").out.trim(), "0");
}
