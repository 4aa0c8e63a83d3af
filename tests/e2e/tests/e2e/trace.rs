//! `ipvsmesh trace` names the station where a packet is lost: each is broken in turn,
//! and mended. The daemon leaves broken what is broken (`--no-repair`).

use e2e::{HOST_IP, Node, OUTSIDE_IP, Said, sh, until};

/// A node, and what of it is broken.
struct Bench {
    node: Node,
    begun: std::time::Instant,
}

/// What is done to a namespace, and undone.
struct Breakage {
    netns: String,
    breaks: String,
    mends: String,
}

impl Bench {
    fn new(resolv_conf: &str) -> Self {
        let mut node = Node::new();
        let file = format!("/tmp/{}.resolv", node.host);
        std::fs::write(&file, resolv_conf).expect("/tmp");
        node.arguments = vec!["--no-repair".to_owned(), "--resolv-conf".to_owned(), file];
        node.start();
        let begun = std::time::Instant::now();
        Self { node, begun }
    }

    fn resolv_conf(&self) -> String {
        self.node.arguments[2].clone()
    }

    fn router(&self) -> String {
        format!("ipvsmesh-{}-router", self.node.instance)
    }

    fn ingress(&self) -> String {
        format!("ipvsmesh-{}-ingress", self.node.instance)
    }

    /// The namespace of a service's only task.
    fn task(&self, service: &str) -> String {
        let id = self.node.cli(&format!("service ps -q {service}")).ok();
        let id = id.lines().next().unwrap_or_default();
        format!("ipvsmesh-{}-{id}", self.node.instance)
    }

    fn trace(&self, arguments: &str) -> Said {
        // what is lost is waited for in vain
        let line = format!("trace --timeout 0.6 --format json {arguments}");
        self.node.cli(&line)
    }

    fn arrives(&self, arguments: &str) -> serde_json::Value {
        let said = self.node.cli(&format!("trace --format json {arguments}"));
        assert_eq!(said.code, 0, "{arguments}: {said:?}");
        serde_json::from_str(&said.out).expect("a trace is JSON")
    }

    /// Where it is lost, and that all of these words are said of it.
    fn lost(&self, arguments: &str, station: &str, words: &[&str]) {
        let said = self.trace(arguments);
        let what = format!(
            "{arguments} at {station} {words:?}:\n{}{}",
            said.out, said.err
        );
        assert_eq!(said.code, 1, "{what}");
        let trace: serde_json::Value = serde_json::from_str(&said.out).expect(&what);
        assert_eq!(trace["arrived"], false, "{what}");
        let stations = trace["stations"].as_array().expect(&what);
        let lost: Vec<_> = stations
            .iter()
            .filter(|one| one["verdict"] == "lost")
            .collect();
        assert_eq!(lost.len(), 1, "{what}");
        assert_eq!(lost[0]["station"], station, "{what}");
        let text = lost[0]["what"].as_str().unwrap_or_default();
        for word in words {
            assert!(text.contains(word), "{word:?} {what}");
        }
        assert_ne!(lost[0]["next"], "", "{what}");
        println!(
            "{:>6.1} s {arguments}: {station}: {text}",
            self.begun.elapsed().as_secs_f32()
        );
    }

    /// Breaks, traces, mends.
    fn broken(&self, breakage: &Breakage, arguments: &str, station: &str, words: &[&str]) {
        let netns = Some(breakage.netns.as_str());
        sh(netns, &breakage.breaks).ok();
        self.lost(arguments, station, words);
        sh(netns, &format!("set -e; {}", breakage.mends)).ok();
    }

    /// Rules of a table that are gone.
    fn rules(&self, netns: &str, table: &str, chain: &str) -> Breakage {
        let file = format!("/tmp/{}.rules", self.node.instance);
        Breakage {
            netns: netns.to_owned(),
            breaks: format!("iptables-save -t {table} > {file}; iptables -t {table} -F {chain}"),
            mends: format!("iptables-restore < {file}"),
        }
    }

    /// A rule that drops.
    fn drop_rule(&self, netns: &str, chain: &str, rule: &str) -> Breakage {
        Breakage {
            netns: netns.to_owned(),
            breaks: format!("iptables -I {chain} {rule} -j DROP"),
            mends: format!("iptables -D {chain} {rule} -j DROP"),
        }
    }

    /// An entry of a set that is gone.
    fn entry(&self, netns: &str, set: &str, entry: &str) -> Breakage {
        let file = format!("/tmp/{}.set", self.node.instance);
        Breakage {
            netns: netns.to_owned(),
            breaks: format!("ipset save {set} > {file}; ipset del {set} {entry}"),
            mends: format!("ipset restore -exist < {file}"),
        }
    }

    /// Something done to an IPVS service and its first destination (`$mark`, `$to`).
    fn balanced(&self, netns: &str, mark: &str, what: &str) -> Breakage {
        let file = format!("/tmp/{}.ipvs", self.node.instance);
        let with = format!(
            "mark=$(({mark})); ipvsadm -Sn | grep -e \"-f $mark \" > {file}
             to=$(grep -m1 -e -a {file} | grep -o -e '-r [^ ]*' | cut -c4-)"
        );
        Breakage {
            netns: netns.to_owned(),
            breaks: format!("{with}; {what}"),
            mends: format!("ipvsadm -D -f $(({mark})) 2>&1 || true; ipvsadm -R < {file}"),
        }
    }

    /// A route that is another one, or none.
    fn route(&self, netns: &str, to: &str, what: &str) -> Breakage {
        let file = format!("/tmp/{}.route", self.node.instance);
        Breakage {
            netns: netns.to_owned(),
            breaks: format!("ip route show {to} > {file}; [ -s {file} ]; {what}"),
            mends: format!("ip route replace $(cat {file})"),
        }
    }

    fn link_down(&self, netns: &str, link: &str) -> Breakage {
        let file = format!("/tmp/{}.routes", self.node.instance);
        Breakage {
            netns: netns.to_owned(),
            breaks: format!("ip route show dev {link} > {file}; ip link set {link} down"),
            // those without a gateway come first, as they are shown
            mends: format!(
                "ip link set {link} up; grep -v via {file} > {file}.1 || true; grep via {file} >> {file}.1 || true
                 while read route; do ip route replace $route dev {link}; done < {file}.1"
            ),
        }
    }

    fn sysctl(&self, netns: &str, path: &str, value: &str) -> Breakage {
        let file = format!("/tmp/{}.sysctl", self.node.instance);
        Breakage {
            netns: netns.to_owned(),
            breaks: format!("cat /proc/sys/{path} > {file}; echo {value} > /proc/sys/{path}"),
            mends: format!("cat {file} > /proc/sys/{path}"),
        }
    }

    /// The mark of a service's VIP or of its published port.
    fn mark(&self, service: &str, pointer: &str) -> String {
        let all = self
            .node
            .cli(&format!("inspect --format json {service}"))
            .ok();
        let all: serde_json::Value = serde_json::from_str(&all).expect("JSON");
        let mark = all.pointer(pointer).and_then(|mark| mark.as_str());
        mark.expect("it has a mark").to_owned()
    }

    /// The program of a task's namespace.
    fn pid(&self, netns: &str, program: &str) -> String {
        let line = format!(
            "for p in $(ip netns pids {netns}); do grep -qx {program} /proc/$p/comm && echo $p; done; true"
        );
        sh(None, &line)
            .ok()
            .lines()
            .next()
            .expect("it runs")
            .to_owned()
    }

    /// While a process is stopped.
    fn stopped(&self, pid: &str, arguments: &str, station: &str, words: &[&str]) {
        sh(None, &format!("kill -STOP {pid}")).ok();
        self.lost(arguments, station, words);
        sh(None, &format!("kill -CONT {pid}")).ok();
    }

    fn responder(&self) -> String {
        let socket = format!("/run/ipvsmesh-{}/dns.sock", self.node.instance);
        let line = format!(
            "echo status | socat - UNIX-CONNECT:{socket} | grep -o 'pid\":[0-9]*' | cut -d: -f2"
        );
        sh(None, &line).ok()
    }
}

#[test]
fn every_station_of_the_way_to_a_vip_is_named_where_it_is_broken() {
    let bench = Bench::new("nameserver 127.0.0.9\n");
    let node = &bench.node;
    node.cli("network create --ipv6=false back").ok();
    node.cli("network create --ipv6=false apart").ok();
    node.whoami("web", "--network back");
    node.whoami("other", "--network apart");
    node.whoami("mortal", "--network back --restart-condition none");
    node.cli(
        "service create --quiet --name client --network back --runtime process -- sleep infinity",
    )
    .ok();
    node.cli("service create --quiet --name inner --network back --runtime process -- socat TCP4-LISTEN:80,bind=127.0.0.1,fork -").ok();

    let (router, web, client) = (bench.router(), bench.task("web"), bench.task("client"));
    let (vip, mark) = (node.vip("web"), bench.mark("web", "/vips/0/mark"));
    let (at, from) = (node.address("web.1"), node.address("client.1"));
    let link = |address: &str| {
        let line = format!("ip route get {address} | grep -o 'dev [^ ]*' | cut -c5-");
        node.in_router(&line).ok()
    };
    let to = "--from client.1 --to web";

    let trace = bench.arrives(to);
    assert_eq!(trace["to"], "web:80/tcp");
    assert_eq!(trace["destination"], format!("{vip}:80"));
    let stations = trace["stations"].as_array().unwrap();
    let names: Vec<_> = stations
        .iter()
        .map(|one| one["station"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["name", "client", "gateway", "mark", "ipvs", "task", "reply"],
        "{trace}"
    );
    assert!(stations.iter().all(|one| one["verdict"] == "ok"), "{trace}");
    assert!(
        trace
            .to_string()
            .contains(&format!("chose web.1 ({at}:80)")),
        "{trace}"
    );
    for arguments in [
        format!("--from {from} --to {vip}"),
        "--from client --to web.1".to_owned(),
        format!("--from host --to {vip}"),
        "--from host --to web.back".to_owned(),
        format!("--from host --to {at} --port 80"),
        "--udp --port 80 --from client.1 --to web".to_owned(),
    ] {
        bench.arrives(&arguments);
    }
    let shown = node.cli(&format!("trace {to}")).ok();
    println!("{shown}");
    assert!(shown.ends_with("It arrived."), "{shown}");

    // the router
    bench.broken(
        &bench.rules(&router, "mangle", "PREROUTING"),
        to,
        "mark",
        &["PREROUTING", "mangle"],
    );
    bench.broken(
        &bench.entry(&router, "vips-tcp", &vip),
        to,
        "mark",
        &["vips-tcp has no entry", &vip],
    );
    let gone = bench.balanced(&router, &mark, "ipvsadm -D -f $mark");
    bench.broken(&gone, to, "ipvs", &["missing", &mark]);
    let zero = bench.balanced(&router, &mark, "ipvsadm -e -f $mark -r $to -m -w 0");
    bench.broken(&zero, to, "ipvs", &["weight 0"]);
    let none = bench.balanced(&router, &mark, "ipvsadm -d -f $mark -r $to");
    bench.broken(&none, to, "ipvs", &["no destinations"]);
    // rp_filter drops what came by another link than the way back
    let back = bench.route(&router, &from, &format!("ip route replace {from} dev up0"));
    bench.broken(
        &back,
        &format!("--from client.1 --to {vip}"),
        "gateway",
        &["route", &from, "rp_filter"],
    );
    let wrong = bench.route(&router, &at, &format!("ip route replace {at} dev up0"));
    bench.broken(&wrong, to, "task", &["route", &at, "up0"]);
    let missing = bench.route(&router, &at, &format!("ip route del {at}"));
    bench.broken(&missing, to, "task", &["route", &at, "missing"]);
    bench.broken(&bench.link_down(&router, &link(&at)), to, "task", &["down"]);
    bench.broken(
        &bench.link_down(&router, &link(&from)),
        &format!("--from client.1 --to {vip}"),
        "gateway",
        &["down"],
    );
    bench.broken(
        &bench.drop_rule(&router, "FORWARD", &format!("-s {at}")),
        to,
        "reply",
        &["dropped", "FORWARD"],
    );

    // the task
    bench.broken(
        &bench.drop_rule(&web, "INPUT", "-p tcp"),
        to,
        "task",
        &["dropped", "INPUT"],
    );
    bench.broken(
        &bench.drop_rule(&web, "OUTPUT", "-p tcp"),
        to,
        "reply",
        &["dropped", "OUTPUT"],
    );
    let deaf = bench.route(&web, "default", "ip route del default");
    bench.broken(&deaf, to, "task", &["route", "missing"]);
    bench.lost(
        "--from client.1 --to web --port 81",
        "task",
        &["nothing listens on port 81/tcp", "80"],
    );
    bench.lost(
        "--udp --from client.1 --to web --port 81",
        "task",
        &["nothing listens on port 81/udp"],
    );
    bench.lost(
        "--from client.1 --to inner --port 80",
        "task",
        &["127.0.0.1:80 only"],
    );
    let pid = bench.pid(&web, "whoami");
    bench.stopped(&pid, to, "task", &["whoami", &pid, "is stopped"]);
    bench.stopped(
        &pid,
        "--udp --port 80 --from client.1 --to web",
        "task",
        &["datagram waits", "is stopped"],
    );

    // the client
    let lonely = bench.route(&client, "default", "ip route del default");
    bench.broken(
        &lonely,
        &format!("--from client.1 --to {vip}"),
        "client",
        &["route"],
    );
    bench.broken(
        &bench.drop_rule(&client, "OUTPUT", "-p tcp"),
        to,
        "client",
        &["dropped", "OUTPUT"],
    );

    // networks and names
    bench.lost(
        &format!("--from client.1 --to {} --port 80", node.vip("other")),
        "gateway",
        &["isolated", "back", "apart"],
    );
    bench.lost(
        "--from client.1 --to other",
        "name",
        &["not visible", "apart"],
    );
    bench.lost(
        "--from client.1 --to nosuch",
        "name",
        &["nosuch", "127.0.0.9"],
    );
    bench.lost(
        "--from client.1 --to www.example.test --port 80",
        "name",
        &["127.0.0.9", "nobody listens"],
    );
    std::fs::write(bench.resolv_conf(), "").expect("/tmp");
    until("the responder has no server", 10, || {
        let said = bench.trace("--from client.1 --to www.example.test");
        said.out.contains("names no server").then_some(())
    });
    let responder = bench.responder();
    bench.stopped(
        &responder,
        to,
        "name",
        &["responder", &responder, "is stopped"],
    );
    until("the responder answers again", 60, || {
        (bench.trace(to).code == 0).then_some(())
    });
    // it is started again within 2 s, so that it has to be killed again and again: by a
    // shell that starts nothing for that, as a slow machine would take as long
    let killed = format!(
        "timeout 60 bash -c 'while sleep 0.05; do for task in /proc/{}/task/*/children; do
           read -r -a all < $task; for pid in \"${{all[@]}}\"; do
           mapfile -d \"\" -t words < /proc/$pid/cmdline
           [ \"${{words[*]: -1}}\" = dns ] && kill -9 $pid; done; done; done' 2> /dev/null &
         loop=$!; sleep 0.5; ipvsmesh --instance {} trace --timeout 0.6 {to}; code=$?; kill $loop; exit $code",
        node.daemon().expect("it runs"),
        node.instance
    );
    until("a dead responder is named", 60, || {
        let said = node.on_host(&killed);
        said.out.contains("responder does not run").then_some(())
    });
    until("the responder answers again", 60, || {
        (bench.trace(to).code == 0).then_some(())
    });

    // nobody to choose
    sh(
        None,
        &format!("kill -9 {}", bench.pid(&bench.task("mortal"), "whoami")),
    )
    .ok();
    until("the task has ended", 20, || {
        node.running("mortal").is_empty().then_some(())
    });
    bench.lost(
        "--from client.1 --to mortal --port 80",
        "ipvs",
        &["mortal.1 has ended"],
    );
    node.cli("service scale --detach web=0").ok();
    until("the task has ended", 20, || {
        node.running("web").is_empty().then_some(())
    });
    bench.lost(
        "--from client.1 --to web --port 80",
        "ipvs",
        &["has no tasks"],
    );

    // what makes no sense
    let says = |arguments: &str, code: i32, words: &[&str]| {
        node.cli(&format!("trace {arguments}")).fails(code, words);
    };
    says("--from nobody --to web", 1, &["nobody"]);
    says(
        "--from client.1 --to 4711",
        1,
        &["no service publishes port 4711/tcp"],
    );
    says("--from client.1 --to web --port 0", 2, &["--port"]);
    says("--from client.1", 2, &["--to"]);
    println!("{:.1} s", bench.begun.elapsed().as_secs_f32());
}

#[test]
fn every_station_of_the_way_to_a_published_port_is_named_where_it_is_broken() {
    let bench = Bench::new("");
    let node = &bench.node;
    node.cli("network create --ipv6=false back").ok();
    node.whoami("web", "--network back --publish 8080:80 --publish 8081:81");
    node.cli(
        "service create --quiet --name client --network back --runtime process -- sleep infinity",
    )
    .ok();
    let (host, ingress, router) = (node.host.clone(), bench.ingress(), bench.router());
    let (at, mark) = (node.address("web.1"), bench.mark("web", "/ports/0/mark"));
    let chains = format!("IPVSMESH-{}", node.instance.to_uppercase());
    let set = format!("ivm-{}-tcp", node.instance);
    let (by_host, by_task) = ("--from host --to 8080", "--from client.1 --to 8080");
    let by_other = format!("--from {OUTSIDE_IP} --to 8080");

    let trace = bench.arrives(by_host);
    assert_eq!(trace["destination"], "127.0.0.1:8080");
    assert!(
        trace
            .to_string()
            .contains(&format!("chose web.1 ({at}:80)")),
        "{trace}"
    );
    let trace = bench.arrives(by_task);
    assert_eq!(trace["destination"], format!("{HOST_IP}:8080"));
    let trace = bench.arrives(&by_other);
    assert_eq!(trace["sent"], false, "{trace}");
    bench.arrives(&format!("--from host --to {HOST_IP}:8080"));
    println!("{}", node.cli(&format!("trace {by_task}")).ok());
    println!("{}", node.cli(&format!("trace {by_other}")).ok());

    // the host
    let firewall = bench.drop_rule(&host, "FORWARD", "");
    bench.broken(&firewall, by_task, "host", &["dropped", "FORWARD"]);
    bench.broken(&firewall, &by_other, "host", &["FORWARD", "before ours"]);
    let dnat = bench.rules(&host, "nat", &format!("{chains}-INGRESS"));
    bench.broken(&dnat, by_host, "host", &["nat", "INGRESS"]);
    bench.broken(&dnat, &by_other, "host", &["nat", "INGRESS"]);
    bench.broken(
        &bench.entry(&host, &set, "8080"),
        by_host,
        "host",
        &["has no entry 8080"],
    );
    bench.broken(
        &bench.sysctl(&host, "net/ipv4/ip_forward", "0"),
        by_task,
        "host",
        &["ip_forward"],
    );
    let link = format!("ivm0-{}", node.instance);
    let local = format!("net/ipv4/conf/{link}/route_localnet");
    bench.broken(
        &bench.sysctl(&host, &local, "0"),
        by_host,
        "host",
        &["route_localnet"],
    );
    bench.broken(&bench.link_down(&host, &link), by_host, "host", &["down"]);
    full_table(&bench, by_host);

    // the ingress namespace
    bench.broken(
        &bench.rules(&ingress, "mangle", "PREROUTING"),
        by_host,
        "mark",
        &["mangle"],
    );
    let entry = sh(
        Some(&ingress),
        "ipset save ports | grep -o '^add ports [^ ]*:8080' | cut -d' ' -f3",
    )
    .ok();
    bench.broken(
        &bench.entry(&ingress, "ports", &entry),
        by_task,
        "mark",
        &["ports has no entry"],
    );
    let gone = bench.balanced(&ingress, &mark, "ipvsadm -D -f $mark");
    bench.broken(&gone, by_host, "ipvs", &["missing", &mark]);
    let zero = bench.balanced(&ingress, &mark, "ipvsadm -e -f $mark -r $to -m -w 0");
    bench.broken(&zero, by_task, "ipvs", &["weight 0"]);
    // the answer has to be forwarded
    bench.broken(
        &bench.sysctl(&ingress, "net/ipv4/ip_forward", "0"),
        by_host,
        "reply",
        &["ip_forward"],
    );
    bench.broken(
        &bench.link_down(&ingress, "dn0"),
        by_host,
        "task",
        &["dn0", "down"],
    );

    // the task: what it refuses is tracked no more
    let words = &["nothing listens on port 81/tcp", "80"];
    bench.lost("--from host --to 8081", "task", words);
    bench.lost("--from client.1 --to 8081", "task", words);
    bench.lost(&format!("--from {OUTSIDE_IP} --to 8081"), "task", words);

    // the router
    let missing = bench.route(&router, &at, &format!("ip route del {at}"));
    bench.broken(&missing, by_host, "task", &["route", &at, "missing"]);
    bench.broken(&missing, &by_other, "task", &["route", &at, "missing"]);
    bench.broken(
        &bench.drop_rule(&router, "FORWARD", &format!("-d {at}")),
        by_host,
        "task",
        &["dropped", "FORWARD"],
    );

    bench.lost(
        &format!("--from {OUTSIDE_IP} --to {} --port 80", node.vip("web")),
        "host",
        &["VIPs are for tasks"],
    );
    bench.arrives(by_host);
    bench.arrives(by_task);
    println!("{:.1} s", bench.begun.elapsed().as_secs_f32());
}

/// Fills the host's table of connection tracking. How many it may have is one number for
/// the whole machine, but each namespace is counted for itself.
fn full_table(bench: &Bench, arguments: &str) {
    let file = format!("/tmp/{}.flows", bench.node.instance);
    let fill = format!(
        "max=$(cat /proc/sys/net/netfilter/nf_conntrack_max)
         seq 0 $((max + 9)) | awk '{{
           printf \"-I -s 198.18.%d.%d -d 198.19.0.1 -p tcp --sport %d --dport 9 -t 600 --state ESTABLISHED -u SEEN_REPLY,ASSURED\\n\",
             ($1 / 250) % 250, $1 % 250, 1024 + $1 / 62500 }}' > {file}
         conntrack -R {file} > /dev/null 2>&1 || true"
    );
    let full = Breakage {
        netns: bench.node.host.clone(),
        breaks: fill,
        mends: "conntrack -F".to_owned(),
    };
    bench.broken(&full, arguments, "host", &["connection tracking is full"]);
}
