//! `ipvsmeshd --cleanup` leaves nothing, and touches nothing else.

use e2e::{Node, sh};

#[test]
fn clean_up_is_complete_and_touches_nothing_foreign() {
    let mut node = Node::new();
    // somebody else's things, some in names much like ours
    node.on_host(
        "iptables -N IPVSMESH-OTHERS; iptables -A FORWARD -p icmp -j ACCEPT
         iptables -t nat -A POSTROUTING -s 172.30.0.0/16 -j MASQUERADE
         ipset create ivmine hash:ip; ipset add ivmine 1.2.3.4
         ipvsadm -A -t 192.0.2.1:99 -s rr; ipvsadm -A -f 5 -s wlc
         ip link add dummy0 type dummy; sysctl -qw net.ipv4.ip_forward=0",
    )
    .ok();
    sh(None, &format!("ip netns add ipvsmeshine-{}", node.instance)).ok();
    let picture = |node: &Node| {
        node.on_host(
            "iptables-save | grep -v '^#' | sed 's/\\[.*\\]//' | sort; ipset save; ipvsadm -Sn
             ip -o addr | sed 's/ *valid.*//; s/ tentative//'; ip route; ip rule; cat /proc/sys/net/ipv4/ip_forward",
        )
        .ok()
    };
    let before = picture(&node);
    node.start();
    node.whoami("web", "--replicas 2 --publish 8080:80");
    node.wait_running("web", 2);
    node.stop();
    node.on_host(&format!("ipvsmeshd --instance {} --cleanup", node.instance))
        .ok();

    // chains of ours leave built-in tables behind that are empty
    let strip = |text: &str| {
        let lines = text
            .lines()
            .filter(|l| !l.starts_with(':') && !l.starts_with('*') && *l != "COMMIT");
        lines.collect::<Vec<_>>().join("\n")
    };
    assert_eq!(strip(&picture(&node)), strip(&before));
    let instance = &node.instance;
    let files = sh(
        None,
        &format!(
            "ls /run/netns | grep '^ipvsmesh-{instance}-'; mount | grep ipvsmesh-{instance}
             ls -d /run/ipvsmesh-{instance} /var/lib/ipvsmesh-{instance} /sys/fs/cgroup/ipvsmesh-{instance} 2>/dev/null"
        ),
    );
    assert_eq!(files.out.trim(), "");
    // the brackets keep the shell from finding itself
    let processes = sh(
        None,
        &format!("pgrep -af -- '[-]-instance {instance}'; pgrep -af '[/]run/ipvsmesh-{instance}'"),
    );
    assert_eq!(processes.out.trim(), "");
    sh(None, &format!("ip netns del ipvsmeshine-{instance}")).ok();
    // once more does no harm
    node.on_host(&format!("ipvsmeshd --instance {instance} --cleanup"))
        .ok();
}

#[test]
fn two_instances_live_side_by_side() {
    let (one, two) = (Node::started(), Node::started());
    for node in [&one, &two] {
        node.whoami("web", "--replicas 1 --publish 8080:80");
        node.wait_running("web", 1);
    }
    drop(one);
    two.from_outside("curl -sS --max-time 3 http://192.0.2.1:8080/")
        .ok();
}
