//! `inspect` of each kind of thing, and that it names what is wrong.

use e2e::{HOST_IP, Node, until};
use serde_json::Value;

fn json(node: &Node, target: &str) -> Value {
    let text = node.cli(&format!("inspect --format json {target}")).ok();
    serde_json::from_str(&text).expect("inspect prints JSON")
}

/// Waits until a target's problems have one with all of these words.
fn names(node: &Node, target: &str, words: &[&str]) {
    until(&format!("inspect {target} says {words:?}"), 20, || {
        let shown = json(node, target);
        let problems = shown["problems"].as_array().expect("a list").iter();
        let mut problems = problems.filter_map(Value::as_str);
        problems
            .any(|problem| words.iter().all(|word| problem.contains(word)))
            .then_some(())
    });
}

/// No part that is compared says anything but `ok` or `unused`.
fn all_agrees(value: &Value, path: &str) {
    match value {
        Value::Object(fields) => {
            if let Some(verdict) = fields.get("verdict") {
                let fine = [Some("ok"), Some("unused")].contains(&verdict.as_str());
                assert!(fine, "{path}: {value}");
            }
            fields
                .iter()
                .for_each(|(key, value)| all_agrees(value, &format!("{path}.{key}")));
        }
        Value::Array(all) => all.iter().for_each(|value| all_agrees(value, path)),
        _ => {}
    }
}

#[test]
fn what_is_just_being_made_is_no_problem() {
    let node = Node::started();
    node.whoami("vote", "--publish 8080:80");
    for replicas in [4, 1, 4, 1] {
        let said = node.on_host(&format!(
            "export IPVSMESH_INSTANCE={}; ipvsmesh service scale vote={replicas} > /dev/null & \
             while kill -0 $! 2> /dev/null; do ipvsmesh inspect vote || exit; done; wait $!",
            node.instance
        ));
        let said = said.ok();
        assert!(said.contains("VIP"), "{said}");
        for word in ["is missing", "is not ours", "differs"] {
            assert!(!said.contains(word), "{word}:\n{said}");
        }
    }
}

#[test]
fn each_kind_of_thing_is_shown() {
    let node = Node::started();
    node.cli("network create back").ok();
    node.whoami(
        "vote",
        "--replicas 2 --network back --publish 8080:80 --publish 127.0.0.1:9090:80 --affinity client-ip,10m",
    );
    node.whoami("back", "--replicas 1 --network back");
    node.wait_running("vote", 2);
    let answers = node.answers(
        |line| node.from_outside(line),
        &format!("http://{HOST_IP}:8080/"),
        6,
    );
    assert_eq!(answers.failed, 0);

    // a service
    let service = json(&node, "vote");
    all_agrees(&service, "vote");
    assert_eq!(
        (
            &service["kind"],
            service["problems"].as_array().map(Vec::len)
        ),
        (&"service".into(), Some(0)),
        "{service}"
    );
    let ports = service["ports"].as_array().expect("ports");
    let port = ports
        .iter()
        .find(|port| port["listener"] == "8080/tcp")
        .expect("8080");
    let balanced = &port["service"];
    assert_eq!(balanced["settings"]["kernel"], "rr persistent 600 s /32");
    assert_eq!(balanced["traffic"]["connections"], 6);
    assert!(
        balanced["timeouts"]["kernel"]
            .as_str()
            .expect("text")
            .starts_with("tcp 432000 s")
    );
    let to = balanced["destinations"].as_array().expect("destinations");
    assert_eq!(to.len(), 2);
    assert!(to.iter().all(|to| to["state"] == "running"
        && to["task"].as_str().is_some_and(|t| t.starts_with("vote."))));
    let counted: u64 = to
        .iter()
        .filter_map(|to| to["traffic"]["connections"].as_u64())
        .sum();
    assert_eq!(counted, 6);
    assert!(
        port["rule"]["packets"].as_u64() >= Some(6),
        "{}",
        port["rule"]
    );
    let seen_by = service["names"][0]["seen_by"].to_string();
    assert!(
        seen_by.contains("vote") && seen_by.contains("back"),
        "{seen_by}"
    );
    let listens = service["tasks"][0]["listens"][0]
        .as_str()
        .expect("it listens")
        .to_owned();
    assert!(listens.starts_with("80/tcp whoami (pid "), "{listens}");

    // parts of it
    let vip = node.vip("vote");
    let shown = json(&node, &vip);
    assert_eq!(
        (&shown["kind"], &shown["name"]),
        (&"vip".into(), &"vote".into())
    );
    assert_eq!(shown["ports"], serde_json::json!([]));
    let shown = json(&node, "127.0.0.1:9090");
    assert_eq!(shown["kind"], "port");
    let ports = shown["ports"].as_array().expect("ports");
    assert!(
        !ports.is_empty()
            && ports
                .iter()
                .all(|port| port["listener"] == "127.0.0.1:9090/tcp"),
        "{shown}"
    );
    let shown = json(&node, "vote.1");
    all_agrees(&shown, "vote.1");
    let tasks = shown["tasks"].as_array().expect("tasks");
    assert_eq!((&shown["kind"], tasks.len()), (&"task".into(), 1));
    let inside: Vec<_> = tasks[0]["inside"]
        .as_array()
        .expect("parts")
        .iter()
        .filter_map(|part| part["what"].as_str())
        .collect();
    assert!(
        inside.contains(&"link eth0")
            && inside
                .iter()
                .any(|what| what.starts_with("route to 0.0.0.0/0")),
        "{inside:?}"
    );
    let to = shown["vips"][0]["service"]["destinations"]
        .as_array()
        .expect("destinations");
    assert_eq!(to.len(), 1);
    assert_eq!(
        json(&node, &node.address("vote.2"))["tasks"][0]["name"],
        "vote.2"
    );

    // a network of the same name as a service
    assert_eq!(json(&node, "back")["kind"], "service");
    let network = json(&node, "--type network back");
    all_agrees(&network, "network");
    assert_eq!(
        (&network["kind"], &network["subnets"][0]["used"]),
        (&"network".into(), &3.into())
    );
    assert_eq!(network["services"].as_array().map(Vec::len), Some(2));
    assert_eq!(network["tasks"].as_array().map(Vec::len), Some(3));

    // a node
    let shown = json(&node, "self");
    all_agrees(&shown, "self");
    assert_eq!(
        (&shown["kind"], &shown["problems"]),
        (&"node".into(), &serde_json::json!([])),
        "{shown}"
    );
    let of: Vec<_> = shown["processes"]
        .as_array()
        .expect("processes")
        .iter()
        .filter_map(|one| one["what"].as_str())
        .collect();
    assert!(
        of.starts_with(&["daemon", "responder", "task back.1"]),
        "{of:?}"
    );
    assert_eq!(shown["namespaces"].as_array().map(Vec::len), Some(5));

    // for people, and by templates
    let text = node.cli("inspect self").ok();
    assert!(
        text.ends_with("No problems: the kernel has what is wanted."),
        "{text}"
    );
    let by_template = "inspect --format '{{.Name}} {{range .Tasks}}{{.State}} {{end}}' vote";
    assert_eq!(node.cli(by_template).ok(), "vote running running");
    node.cli("inspect 8081")
        .fails(1, &["no service publishes port 8081"]);
    node.cli("inspect nothing").fails(1, &["nothing not found"]);
    // it ends with its reader
    let watched = node.cli("inspect --watch 8080 | grep -m2 ^TASKS");
    assert_eq!(watched.ok(), "TASKS\nTASKS");
}

#[test]
fn what_is_wrong_is_named_with_the_next_step() {
    let node = Node::started();
    node.whoami(
        "vote",
        "--replicas 1 --publish 8080:80 --publish 8081:81 --probe none --drain-timeout 60s",
    );
    node.wait_running("vote", 1);
    names(
        &node,
        "vote",
        &["vote.1 is unreachable on port 81/tcp", "--publish"],
    );
    assert!(
        node.cli("inspect 8081")
            .ok()
            .contains("nothing in it listens there")
    );
    assert!(
        !node.cli("inspect 8080").ok().contains("unreachable"),
        "only of this port"
    );

    // somebody else's program
    let program = "exec socat TCP-LISTEN:8080,reuseaddr,fork SYSTEM:true";
    let program = node
        .on_host(&format!("{program} > /dev/null 2>&1 & echo $!"))
        .ok();
    names(&node, "8080", &["8080/tcp socat", "publish another port"]);
    node.on_host(&format!("kill {program}")).ok();

    // a task that is told to leave while somebody is connected
    let open = "exec socat -u TCP:127.0.0.1:8080 OPEN:/dev/null";
    let open = node
        .on_host(&format!(
            "sleep 60 | {open} > /dev/null 2>&1 & sleep 1; pgrep -n socat"
        ))
        .ok();
    node.cli("service update --quiet --detach --force vote")
        .ok();
    names(&node, "vote", &["vote.1 is draining", "--drain-timeout"]);
    node.on_host(&format!("kill {open}")).ok();

    // what differs, until it is repaired
    node.wait_running("vote", 1);
    until("a missing entry is named", 20, || {
        node.in_ingress("ipset flush ports").ok();
        let text = node.cli("inspect 8080").ok();
        (text.contains("MISSING") && text.contains("set entry is missing")).then_some(())
    });
    until("a changed sysctl is named", 20, || {
        node.in_router("sysctl -qw net.ipv4.vs.conntrack=1").ok();
        let text = node.cli("inspect self").ok();
        text.contains("router: sysctl net/ipv4/vs/conntrack differs: wanted 0, the kernel has 1")
            .then_some(())
    });
    until("all is repaired", 20, || {
        let text = node.cli("inspect self").ok();
        text.contains("No problems").then_some(())
    });
}
