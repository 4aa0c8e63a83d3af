//! Established TCP connections of published ports, which go past the host's rules.

use std::{thread::sleep, time::Duration};

use e2e::{Connection, HOST_IP, HOST_IP6, Node, until};

struct Flows<'a> {
    node: &'a Node,
    table: String,
}

impl Flows<'_> {
    fn of(node: &Node) -> Flows<'_> {
        Flows {
            node,
            table: format!("ipvsmesh-{}", node.instance),
        }
    }

    /// What `nft` says of our table; empty where there is none.
    fn shown(&self) -> String {
        let shown = format!("nft list table inet {} 2>/dev/null || true", self.table);
        self.node.on_host(&shown).ok()
    }

    /// Packets that rules of the host have seen towards the mesh.
    fn filtered(&self) -> u64 {
        let chain = format!("{}-FWD", self.table.to_uppercase());
        let count = format!(
            "(iptables -vxnL {chain}; ip6tables -vxnL {chain}) | awk '$1 ~ /^[0-9]+$/ {{ n += $1 }} END {{ print n }}'"
        );
        self.node
            .on_host(&count)
            .ok()
            .trim()
            .parse()
            .expect("a count")
    }

    /// Tracked connections by the host's word for one that goes past it.
    fn tracked(&self) -> String {
        self.node
            .on_host("grep dport=8080 /proc/net/nf_conntrack")
            .ok()
    }
}

#[test]
fn established_connections_go_past_the_hosts_rules() {
    let node = Node::started();
    node.whoami("web", "--publish 8080:80");
    let flows = Flows::of(&node);
    for address in [HOST_IP.to_owned(), format!("[{HOST_IP6}]")] {
        let mut kept = Connection::open(&node.outside, &format!("{address}:8080"));
        // the second packet of an established connection is the first that goes by it
        kept.lives();
        let before = flows.filtered();
        for _ in 0..20 {
            kept.lives();
        }
        assert_eq!(flows.filtered(), before, "{}", flows.shown());
        assert!(flows.tracked().contains("[OFFLOAD]"), "{}", flows.tracked());
        kept.close();
    }
    // what begins is filtered
    let before = flows.filtered();
    Connection::open(&node.outside, &format!("{HOST_IP}:8080")).close();
    assert!(flows.filtered() > before);
}

#[test]
fn an_idle_connection_is_given_back_and_lives_on() {
    let node = Node::started();
    // whose seconds are the host's: usually 30
    node.on_host("sysctl -qw net.netfilter.nf_flowtable_tcp_timeout=2")
        .ok();
    node.whoami("web", "--publish 8080:80");
    let flows = Flows::of(&node);
    let mut kept = Connection::open(&node.outside, &format!("{HOST_IP}:8080"));
    kept.lives();
    kept.lives();
    assert!(flows.tracked().contains("[OFFLOAD]"), "{}", flows.tracked());
    until("it is given back", 60, || {
        (!flows.tracked().contains("[OFFLOAD]")).then_some(())
    });
    // ipv4 2 tcp 6 431999 ESTABLISHED ...
    let tracked = flows.tracked();
    let mut words = tracked.split_whitespace();
    let seconds: u64 = words.nth(4).unwrap().parse().unwrap();
    assert!(seconds > 400_000, "{tracked}");
    kept.lives();
    kept.lives();
    assert!(flows.tracked().contains("[OFFLOAD]"), "{}", flows.tracked());
}

#[test]
fn the_flowtable_is_healed_and_goes_where_it_is_not_wanted() {
    let mut node = Node::started();
    node.whoami("web", "--publish 8080:80");
    let link = node
        .on_host("ip -o link | grep -o 'ivm[^@:]*' | head -1")
        .ok();
    let whole = Flows::of(&node).shown();
    let link = link.trim();
    for part in [
        "eth0",
        link,
        "hook ingress",
        "ct status dnat flow add @published",
    ] {
        assert!(whole.contains(part), "{part}: {whole}");
    }
    let mut kept = Connection::open(&node.outside, &format!("{HOST_IP}:8080"));
    let table = Flows::of(&node).table;
    node.on_host("nft add table inet theirs").ok();
    for harm in [
        format!("delete table inet {table}"),
        format!("flush chain inet {table} forward"),
        format!("add rule inet {table} forward drop"),
        "flush ruleset; nft add table inet theirs".to_owned(),
    ] {
        kept.lives();
        node.on_host(&format!("nft {harm}")).ok();
        until(&harm, 30, || {
            (Flows::of(&node).shown() == whole).then_some(())
        });
        kept.lives();
    }
    // a link that comes is taken in at the next full look, and one that goes is no harm
    node.on_host(
        "ip link add late type dummy; ip addr add 198.51.100.1/24 dev late; ip link set late up",
    )
    .ok();
    until("a new link", 90, || {
        Flows::of(&node).shown().contains("late").then_some(())
    });
    kept.lives();
    node.on_host("ip link del late").ok();
    until("it is gone", 90, || {
        (Flows::of(&node).shown() == whole).then_some(())
    });
    kept.lives();
    // damaged while nobody looks
    node.kill();
    node.on_host(&format!("nft flush chain inet {table} forward"))
        .ok();
    node.start();
    until("a new daemon", 30, || {
        (Flows::of(&node).shown() == whole).then_some(())
    });
    // a connection outlives its end
    kept.lives();
    node.kill();
    node.arguments.push("--no-flowtable".to_owned());
    node.start();
    until("no table", 30, || {
        Flows::of(&node).shown().is_empty().then_some(())
    });
    let before = Flows::of(&node).filtered();
    kept.lives();
    sleep(Duration::from_millis(100));
    assert!(Flows::of(&node).filtered() > before);
    assert!(node.on_host("nft list tables").ok().contains("theirs"));
}

#[test]
fn a_damaged_flowtable_is_cleaned_up() {
    let mut node = Node::started();
    let flush = format!("nft flush chain inet {} forward", Flows::of(&node).table);
    until("the first pass", 30, || {
        (!Flows::of(&node).shown().is_empty()).then_some(())
    });
    node.kill();
    node.on_host(&flush).ok();
    node.on_host(&format!("ipvsmeshd --instance {} --cleanup", node.instance))
        .ok();
    assert_eq!(Flows::of(&node).shown(), "");
}

#[test]
fn a_client_by_a_link_that_is_none_of_its_goes_on_too() {
    let node = Node::started();
    node.on_host("sysctl -qw net.netfilter.nf_flowtable_tcp_timeout=2")
        .ok();
    node.whoami("web", "--publish 8080:80");
    // as Docker has them: no way out, and containers on it
    let inner = format!("{}-inner", node.host);
    node.on_host(&format!(
        "ip link add br9 type bridge && ip addr add 198.51.100.1/24 dev br9 && ip link set br9 up
         ip netns add {inner} && ip link add v9 type veth peer name eth0 netns {inner} && ip link set v9 master br9 up
         ip -n {inner} addr add 198.51.100.2/24 dev eth0 && ip -n {inner} link set eth0 up
         ip -n {inner} route add default via 198.51.100.1"
    ))
    .ok();
    let flows = Flows::of(&node);
    assert!(!flows.shown().contains("br9"), "{}", flows.shown());
    let mut kept = Connection::open(&inner, &format!("{HOST_IP}:8080"));
    for _ in 0..3 {
        for _ in 0..10 {
            kept.lives();
        }
        sleep(Duration::from_secs(4));
    }
    // requests pass the host's rules
    let before = flows.filtered();
    kept.lives();
    assert!(flows.filtered() > before);
    drop(kept);
    e2e::sh(None, &format!("ip netns del {inner}")).ok();
}
