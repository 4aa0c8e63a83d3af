//! Bad input is refused before anything changes, saying what is wrong.

use e2e::{Node, sh};

#[test]
fn wrong_words_are_usage_errors() {
    let node = Node::started();
    let create = |rest: &str| format!("service create --detach {rest}");
    let run = "--runtime process -- whoami --port 80";
    for (arguments, words) in [
        (create(&format!("--name bad_ {run}")), vec!["bad_"]),
        (create(&format!("--name 'a b' {run}")), vec!["a b"]),
        (
            create(&format!("--name {} {run}", "x".repeat(64))),
            vec!["63"],
        ),
        (create(&format!("--publish 99999:80 {run}")), vec!["99999"]),
        (create(&format!("--publish 0:80 {run}")), vec!["port"]),
        (create(&format!("--publish 80:80/icmp {run}")), vec!["icmp"]),
        (create(&format!("--replicas -1 {run}")), vec!["-1"]),
        (create(&format!("--replicas x {run}")), vec!["x"]),
        (
            create(&format!("--endpoint-mode magic {run}")),
            vec!["magic"],
        ),
        (create("--name nothing --runtime process"), vec!["COMMAND"]),
        ("service scale web".to_owned(), vec!["web"]),
        ("service scale web=-1".to_owned(), vec!["-1"]),
        (
            "network create --subnet 10.0.0.0/99 x".to_owned(),
            vec!["10.0.0.0/99"],
        ),
        ("network create 'no good'".to_owned(), vec!["no good"]),
        ("nonsense".to_owned(), vec!["nonsense"]),
    ] {
        node.cli(&arguments).fails(2, &words);
    }
    assert_eq!(node.cli("service ls -q").ok(), "");
}

#[test]
fn what_the_mesh_refuses_changes_nothing() {
    let node = Node::started();
    node.cli("network create --subnet 10.101.0.0/24 back").ok();
    node.whoami("web", "--replicas 1 --network back");
    let run = "--runtime process -- whoami --port 80";
    for (arguments, words) in [
        (
            format!("service create --detach --name web {run}"),
            vec!["web"],
        ),
        (
            format!("service create --detach --name WEB {run}"),
            vec!["WEB", "exists"],
        ),
        (
            format!("service create --detach --name x --network nowhere {run}"),
            vec!["nowhere"],
        ),
        ("service rm nothere".to_owned(), vec!["nothere"]),
        ("service scale nothere=2".to_owned(), vec!["nothere"]),
        ("service inspect nothere".to_owned(), vec!["nothere"]),
        ("network rm nothere".to_owned(), vec!["nothere"]),
        ("network create back".to_owned(), vec!["back"]),
        (
            "network create --subnet 10.101.0.128/25 other".to_owned(),
            vec!["10.101.0", "back"],
        ),
        (
            "network create --subnet 192.0.2.0/25 clash".to_owned(),
            vec!["192.0.2.0"],
        ),
        (
            "service create --detach --name img Nginx".to_owned(),
            vec!["Nginx", "lower case"],
        ),
    ] {
        node.cli(&arguments).fails(1, &words);
    }
    assert_eq!(node.cli("service ls -q").ok().lines().count(), 1);
}

#[test]
fn without_a_daemon_the_cli_says_so() {
    sh(None, "ipvsmesh --instance nobody service ls")
        .fails(1, &["ipvsmesh-nobody", "ipvsmeshd", "running"]);
}

#[test]
fn a_damaged_store_is_refused_and_kept() {
    let mut node = Node::started();
    node.whoami("web", "--replicas 1");
    node.stop();
    let dir = format!("/var/lib/ipvsmesh-{}", node.instance);
    let file = sh(
        None,
        &format!("ls {dir}/*.redb {dir}/*.db 2>/dev/null | head -1"),
    )
    .ok();
    sh(
        None,
        &format!("cp {file} /tmp/kept; head -c 3000 /dev/urandom > {file}; cp {file} /tmp/damaged"),
    )
    .ok();
    let start = format!("ipvsmeshd --instance {}", node.instance);
    node.on_host(&format!("timeout 20 {start}"))
        .fails(1, &[&file, "damaged"]);
    sh(None, &format!("cmp {file} /tmp/damaged")).ok();
    sh(None, &format!("cp /tmp/kept {file}")).ok();
    node.start();
    node.wait_running("web", 1);
}

#[test]
fn missing_programs_are_named() {
    let node = Node::new();
    let start = format!("ipvsmeshd --instance {}", node.instance);
    // a machine without anything in /usr/sbin
    node.on_host(&format!(
        "unshare --mount sh -c 'mount -t tmpfs none /usr/sbin; exec timeout 20 {start}'"
    ))
    .fails(1, &["iptables-restore", "apt install iptables"]);
    node.on_host(&format!(
        "setpriv --reuid 65534 --clear-groups timeout 20 {start}"
    ))
    .fails(1, &["root"]);
}
