//! Tasks that call their own service, and are balanced to themselves now and then.

use std::collections::BTreeMap;

use e2e::{HOST_IP, HOST_IP6, Node, Said};

/// A service of three, and the addresses by which it calls itself: its VIPs and its
/// published port, each for URLs, with its port, and as socat has the family.
fn calls_itself(node: &Node) -> Vec<(String, u16, u8)> {
    node.whoami(
        "own",
        "--replicas 3 --publish 8080:80 --publish 8080:80/udp",
    );
    node.wait_running("own", 3);
    vec![
        (node.vip("own"), 80, 4),
        (format!("[{}]", node.vip6("own")), 80, 6),
        (HOST_IP.to_owned(), 8080, 4),
        (format!("[{HOST_IP6}]"), 8080, 6),
    ]
}

fn in_first(node: &Node, line: &str) -> Said {
    node.sh_in_task("own.1", line)
}

/// Who answered how often, of lines that begin with the host's name.
fn hosts(said: &str) -> BTreeMap<&str, u32> {
    let mut hosts = BTreeMap::new();
    for host in said
        .lines()
        .filter_map(|line| line.split_whitespace().next())
    {
        *hosts.entry(host).or_default() += 1;
    }
    hosts
}

fn three(each: u32) -> BTreeMap<&'static str, u32> {
    ["own.1", "own.2", "own.3"].map(|host| (host, each)).into()
}

#[test]
fn a_task_of_three_gets_every_answer_of_its_own_service() {
    let node = Node::started();
    for (address, port, _) in calls_itself(&node) {
        let url = format!("http://{address}:{port}/");
        let curl = |line: &str| in_first(&node, &line.replace("curl", "curl -g"));
        let answers = node.answers(curl, &url, 12);
        assert_eq!(answers.failed, 0, "{url} {answers:?}");
        assert_eq!(answers.hosts.len(), 3, "{url} {answers:?}");
        assert!(answers.hosts.values().all(|n| *n == 4), "{url} {answers:?}");
        // by the VIP the others see who asks, and it sees somebody else
        let clients = if port == 80 { 2 } else { 1 };
        assert_eq!(answers.clients.len(), clients, "{url} {answers:?}");
    }
    // nothing of that is tracked but by the host
    for netns in ["router", "ingress"] {
        let line = format!(
            "nsenter --net=/run/netns/ipvsmesh-{}-{netns} conntrack -C",
            node.instance
        );
        assert_eq!(e2e::sh(None, &line).ok(), "0", "{netns}");
    }
}

/// Also while IPVS, the host and the task still know the port's last connection.
#[test]
fn fixed_source_ports_get_every_answer_too() {
    let node = Node::started();
    for (address, port, family) in calls_itself(&node) {
        let ask = r#"printf "GET / HTTP/1.1\r\nHost: own\r\nConnection: close\r\n\r\n""#;
        let to = format!("TCP{family}:{address}:{port},sourceport=$from,reuseaddr");
        let line = format!(
            "for from in 40000 40001 40002 40000 40001 40002; do ({ask}; sleep 1) | socat -t5 - {to} | grep ^Hostname: | cut -d: -f2; done"
        );
        let said = in_first(&node, &line);
        let hosts = hosts(&said.out);
        let all: u32 = hosts.values().sum();
        assert_eq!((hosts.len(), all), (3, 6), "{address} {said:?}");
    }
}

#[test]
fn udp_of_three_is_answered_to_a_task_of_theirs() {
    let node = Node::started();
    for (address, port, family) in calls_itself(&node) {
        // fresh ports, and fixed ones; the second time to the same task
        let ask = |data: &str, option: &str| {
            let to = format!("UDP{family}:{address}:{port}{option}");
            format!("{data} | socat -T2 - {to} | head -c 40 | tr -d \"\\n\"; echo;")
        };
        let fresh = ask("echo hi", "").repeat(6);
        let said = in_first(&node, &fresh);
        assert_eq!(hosts(&said.out), three(2), "{address} {said:?}");
        let fixed: String = (5000..5003)
            .map(|own| ask("echo hi", &format!(",sourceport={own},reuseaddr")))
            .collect();
        let said = in_first(&node, &fixed.repeat(2));
        assert_eq!(hosts(&said.out), three(2), "{address} {said:?}");
        // several fragments there and back
        let data = "head -c 4000 /dev/zero";
        let long = format!("{data} | socat -b65536 -T2 - UDP{family}:{address}:{port} | wc -c;");
        let said = in_first(&node, &long.repeat(3));
        let whole = said
            .out
            .lines()
            .filter(|n| n.trim().parse::<u32>().is_ok_and(|n| n > 4000));
        assert_eq!(whole.count(), 3, "{address} {said:?}");
    }
}
