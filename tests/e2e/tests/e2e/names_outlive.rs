//! Names are answered whatever becomes of the daemon.

use std::path::PathBuf;

use e2e::{Node, sh, until};

/// How the responder says it is.
fn status(node: &Node) -> serde_json::Value {
    let line = format!(
        "echo status | socat -t 5 - UNIX-CONNECT:/run/ipvsmesh-{}/dns.sock",
        node.instance
    );
    serde_json::from_str(&sh(None, &line).out).unwrap_or_default()
}

/// Asks in one go, and says how many questions failed of how many.
const ASK: &str = "failed=0; asked=0
    while [ ! -e /tmp/INSTANCE.enough ]; do
        asked=$((asked + 1))
        dig +short +tries=1 +time=3 vote | grep -q ^10.200. || failed=$((failed + 1))
    done
    echo failed $failed of $asked";

#[test]
fn names_are_answered_while_the_daemon_is_dead_restarted_and_upgraded() {
    let mut node = Node::started();
    node.whoami("vote", "--replicas 2");
    node.wait_running("vote", 2);
    let first = status(&node);
    let enough = PathBuf::from(format!("/tmp/{}.enough", node.instance));
    let line = ASK.replace("INSTANCE", &node.instance);
    let pid = node.cli("service ps -q vote").ok();
    let netns = format!(
        "ipvsmesh-{}-{}",
        node.instance,
        pid.lines().next().unwrap_or_default()
    );
    let resolv = node.in_task("vote.1", "cat /etc/resolv.conf").ok();
    let server = resolv
        .split_whitespace()
        .nth(1)
        .unwrap_or_default()
        .to_owned();
    let line = line.replace("dig ", &format!("dig @{server} "));
    let asking = std::thread::spawn(move || sh(Some(&netns), &line).ok());

    node.kill();
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(status(&node)["pid"], first["pid"], "it outlives the daemon");
    node.start();
    until("the new daemon has found it", 20, || {
        let names = status(&node);
        (names["revision"].as_u64() >= first["revision"].as_u64()).then_some(())
    });
    assert_eq!(
        status(&node)["pid"],
        first["pid"],
        "and the same build goes on with it"
    );

    // another build: the same program in another file
    let dir = format!("/tmp/{}.bin", node.instance);
    sh(None, &format!("mkdir {dir}; cp $(which ipvsmeshd) {dir}/")).ok();
    node.path = Some(dir.clone());
    node.stop();
    node.start();
    until("an upgraded daemon has another one", 30, || {
        let now = status(&node);
        let other = now["pid"].is_u64() && now["pid"] != first["pid"];
        (other && now["revision"].as_u64() > Some(0) && now["answered"].as_u64() > Some(3))
            .then_some(())
    });
    let old = format!("/proc/{}", first["pid"]);
    until("the old one is gone", 10, || {
        (!PathBuf::from(&old).exists()).then_some(())
    });
    std::fs::write(&enough, "").expect("/tmp");
    let said = asking.join().expect("it asks");
    let words: Vec<_> = said.split_whitespace().collect();
    assert_eq!(words[1], "0", "{said}");
    assert!(words[3].parse::<u32>().unwrap_or(0) >= 10, "{said}");
    let _ = std::fs::remove_file(&enough);
    let _ = std::fs::remove_dir_all(dir);
}

#[test]
fn a_responder_that_died_is_started_again_and_its_questions_are_counted() {
    let node = Node::started();
    node.whoami("vote", "--replicas 1");
    node.wait_running("vote", 1);
    let first = status(&node)["pid"].as_u64().expect("it runs");
    sh(None, &format!("kill -9 {first}")).ok();
    until("another one answers", 20, || {
        let said = node.in_task("vote.1", "dig +short +tries=1 +time=1 vote");
        said.out.contains(&node.vip("vote")).then_some(())
    });
    assert_ne!(status(&node)["pid"].as_u64(), Some(first));
    let before = status(&node);
    for _ in 0..5 {
        node.in_task("vote.1", "dig +short +tries=1 +time=3 vote")
            .ok();
    }
    node.in_task("vote.1", "dig +short +tcp +tries=1 +time=3 vote.7")
        .ok();
    let after = status(&node);
    let more = |key: &str| after[key].as_u64().unwrap_or(0) - before[key].as_u64().unwrap_or(0);
    assert_eq!(
        ["queries", "answered", "denied", "tcp"].map(more),
        [6, 5, 1, 1]
    );
}
