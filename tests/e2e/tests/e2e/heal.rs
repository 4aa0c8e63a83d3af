//! Whatever others wipe is made again, and what is theirs is left alone.

use std::time::{Duration, Instant};

use e2e::{HOST_IP, HOST_IP6, Node};

/// All of what is ours and not: to be the same before and after.
fn everything(node: &Node) -> String {
    // numbers, link-layer addresses and what the kernel makes by itself may differ
    let plain = "s/^[0-9]*: //; s/@if[0-9]*//; s/link\\/ether.*//; s/link-netns.*//; s/valid_lft.*//; s/proto kernel//; /fe80::/d; /^ *$/d";
    let saved = format!(
        "(iptables-save; ip6tables-save) | sed 's/\\[.*\\]//; /^#/d'; ipset save | sort
         (ip addr; ip route; ip -6 route) | sed '{plain}' | sort"
    );
    let balanced = format!("{saved}; ipvsadm -Sn | sort; ipvsadm -L --timeout");
    let all = [
        node.on_host(&saved),
        node.in_router(&balanced),
        node.in_ingress(&balanced),
    ];
    let all = all.map(e2e::Said::ok).join("\n--\n");
    // where a rule stands among others' is not ours to say
    let mut lines: Vec<_> = all.lines().collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[test]
fn whatever_is_wiped_is_made_again_and_the_foreign_stays() {
    let node = Node::started();
    node.whoami(
        "web",
        "--replicas 2 --publish 8080:80 --publish 127.0.0.1:9090:80 --affinity client-ip --connection-limit 100",
    );
    // of others
    node.on_host(
        "iptables -N THEIRS; iptables -A THEIRS -s 203.0.113.7 -j DROP; iptables -A FORWARD -j THEIRS
         iptables -t nat -A PREROUTING -p tcp --dport 4444 -j REDIRECT --to-ports 5555
         ipset create theirs hash:ip; ipset add theirs 203.0.113.1
         ip netns exec $(true) true 2>/dev/null; ipvsadm -A -t 203.0.113.9:80 -s rr; ipvsadm -a -t 203.0.113.9:80 -r 203.0.113.10 -m
         ip route add 203.0.113.0/24 dev eth0",
    );
    node.in_router("ipvsadm -A -t 203.0.113.9:80 -s lc").ok();
    node.in_ingress("ipvsadm -A -u 203.0.113.9:53 -s lc").ok();
    let before = everything(&node);
    assert!(
        before.contains("THEIRS") && before.contains("theirs"),
        "{before}"
    );

    let mark = node.in_ingress("ipvsadm -Sn | grep -m1 -- '-A -f'").ok();
    let mark = mark.split_whitespace().nth(2).unwrap().to_owned();
    let wipes: Vec<(&str, String)> = vec![
        ("router", "iptables -F; iptables -t mangle -F; iptables -t nat -F; ip6tables -t mangle -F".to_owned()),
        ("router", "ipvsadm -D -f 256; ipvsadm -D -f 258".to_owned()),
        ("ingress", format!("ipvsadm -D -f {mark}")),
        ("ingress", format!("ipvsadm -E -f {mark} -s wlc")),
        ("ingress", "ipvsadm --set 900 120 300".to_owned()),
        ("ingress", "for d in $(ipvsadm -Sn | grep -- '-a -f' | awk '{print $5}' | head -1); do ipvsadm -e -f ".to_owned() + &mark + " -r $d -m -w 7; done"),
        ("ingress", "ipset flush ports".to_owned()),
        ("ingress", "iptables -t mangle -F; ipset destroy".to_owned()),
        ("ingress", "ip route flush table main".to_owned()),
        ("router", "ipset flush vips-tcp; ipset flush same".to_owned()),
        ("router", "ip addr del $(ip -o -4 addr show dev lo | grep -o '10.100[^ ]*') dev lo".to_owned()),
        ("router", "ip route del local 10.200.0.0/14 dev lo table local".to_owned()),
        ("router", "sysctl -qw net.ipv4.vs.expire_nodest_conn=0 net.ipv4.ip_forward=0".to_owned()),
        ("ingress", "ip link del dn0".to_owned()),
        ("host", "iptables -t nat -F PREROUTING; iptables -t nat -A PREROUTING -p tcp --dport 4444 -j REDIRECT --to-ports 5555".to_owned()),
        ("host", "iptables -F IPVSMESH-".to_owned() + &node.instance.to_uppercase() + "-FWD"),
        ("host", "ip addr flush dev $(ip -o link | grep -o 'ivm[^@:]*' | head -1)".to_owned()),
        ("host", "ip link set $(ip -o link | grep -o 'ivm[^@:]*' | head -1) down".to_owned()),
    ];
    let mut report = String::new();
    for (place, wipe) in &wipes {
        let said = match *place {
            "host" => node.on_host(wipe),
            "router" => node.in_router(wipe),
            _ => node.in_ingress(wipe),
        };
        let begun = Instant::now();
        loop {
            let now = everything(&node);
            if now == before {
                break;
            }
            if begun.elapsed() > Duration::from_secs(25) {
                let lines: Vec<_> = before.lines().collect();
                let missing: Vec<_> = lines
                    .iter()
                    .filter(|l| !now.lines().any(|n| n == **l))
                    .collect();
                let extra: Vec<_> = now.lines().filter(|l| !lines.contains(l)).collect();
                panic!("{place}: {wipe}\n{said:?}\nmissing {missing:#?}\nextra {extra:#?}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        report.push_str(&format!(
            "{:>5} ms  {place}: {wipe}\n",
            begun.elapsed().as_millis()
        ));
    }
    println!("{report}");
    for url in [
        format!("http://{HOST_IP}:8080/"),
        format!("'http://[{HOST_IP6}]:8080/'"),
    ] {
        let run = |line: &str| node.from_outside(&line.replace("curl", "curl -g"));
        assert_eq!(node.answers(run, &url, 4).failed, 0, "{url}");
    }
}
