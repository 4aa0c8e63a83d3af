//! Beside other people's firewalls: Docker's, strict hosts, reloads, and the older back
//! end of iptables.

use e2e::{HOST_IP, Node, OUTSIDE_IP, until};

fn answers_from_everywhere(node: &Node) {
    let url = format!("http://{HOST_IP}:8080/");
    let outside = node.answers(|line| node.from_outside(line), &url, 4);
    assert_eq!((outside.failed, outside.hosts.len()), (0, 2), "{outside:?}");
    assert_eq!(outside.clients.iter().collect::<Vec<_>>(), [OUTSIDE_IP]);
    for url in [url.as_str(), "http://127.0.0.1:8080/"] {
        let own = node.answers(|line| node.on_host(line), url, 2);
        assert_eq!(own.failed, 0, "{url}: {own:?}");
    }
    let inside = node.answers(|line| node.sh_in_task("web.1", line), "http://web/", 4);
    assert_eq!((inside.failed, inside.hosts.len()), (0, 2), "{inside:?}");
    // and tasks have their way out
    node.sh_in_task("web.1", &format!("ping -c1 -W2 {OUTSIDE_IP}"))
        .ok();
}

/// What dockerd 20.10 and a strict host have.
#[test]
fn forward_drop_rp_filter_and_bridge_netfilter() {
    let mut node = Node::new();
    node.on_host(
        "modprobe br_netfilter; iptables -P FORWARD DROP
         iptables -N DOCKER-USER; iptables -A DOCKER-USER -j RETURN; iptables -A FORWARD -j DOCKER-USER
         iptables -A FORWARD -m conntrack --ctstate INVALID -j DROP
         for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 1 > $f; done
         sysctl -qw net.bridge.bridge-nf-call-iptables=1",
    )
    .ok();
    node.start();
    node.whoami("web", "--replicas 2 --publish 8080:80");
    answers_from_everywhere(&node);
    // dockerd comes up later, and puts its chain first
    node.on_host("iptables -I FORWARD -j DOCKER-USER; iptables -P FORWARD DROP")
        .ok();
    answers_from_everywhere(&node);
}

/// A firewall that is reloaded writes its own tables anew, and ours are gone.
#[test]
fn a_firewall_reload_is_survived() {
    let node = Node::started();
    node.whoami("web", "--replicas 2 --publish 8080:80");
    node.on_host("printf '*filter\\n:INPUT ACCEPT\\n:FORWARD DROP\\n:OUTPUT ACCEPT\\n-A INPUT -i lo -j ACCEPT\\nCOMMIT\\n*nat\\n:PREROUTING ACCEPT\\n:OUTPUT ACCEPT\\n:POSTROUTING ACCEPT\\nCOMMIT\\n*raw\\n:PREROUTING ACCEPT\\nCOMMIT\\n' | iptables-restore")
        .ok();
    let line = format!("curl -sS --max-time 1 http://{HOST_IP}:8080/");
    until("the port answers again", 40, || {
        (node.from_outside(&line).code == 0).then_some(())
    });
    answers_from_everywhere(&node);
    let rules = node.on_host("iptables-save").ok();
    assert!(
        rules.contains("-A INPUT -i lo -j ACCEPT") && rules.contains(":FORWARD DROP"),
        "{rules}"
    );
}

/// The host's `iptables` is the legacy one.
#[test]
fn iptables_legacy() {
    let mut node = Node::new();
    let dir = format!("/tmp/{}-legacy", node.instance);
    node.on_host(&format!(
        "mkdir {dir}; for p in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
           ln -s $(command -v xtables-legacy-multi) {dir}/$p; done"
    ))
    .ok();
    node.path = Some(dir.clone());
    node.start();
    node.whoami("web", "--replicas 2 --publish 8080:80");
    answers_from_everywhere(&node);
    assert!(
        node.in_router("iptables-legacy-save")
            .ok()
            .contains("--map-mark")
    );
    assert_eq!(node.in_router("nft list ruleset").ok(), "");
    node.on_host("iptables-legacy -t nat -F").ok();
    let line = format!("curl -sS --max-time 1 http://{HOST_IP}:8080/");
    until("the port answers again", 40, || {
        (node.from_outside(&line).code == 0).then_some(())
    });
    node.stop();
    let cleanup = format!(
        "PATH={dir}:$PATH ipvsmeshd --instance {} --cleanup; rm -r {dir}",
        node.instance
    );
    node.on_host(&cleanup).ok();
    assert!(
        !node
            .on_host("iptables-legacy-save")
            .ok()
            .contains("IPVSMESH")
    );
}
