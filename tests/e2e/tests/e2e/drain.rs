//! Tasks that leave, and tasks that die: what becomes of their connections.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use e2e::{Connection, HOST_IP, Node, sh, until};

fn task_netns(node: &Node, id: &str) -> String {
    format!("ipvsmesh-{}-{id}", node.instance)
}

/// The ids of the tasks that shall run.
fn ids(node: &Node, service: &str) -> Vec<String> {
    let line = format!("service ps -q --filter desired-state=running {service}");
    node.cli(&line).ok().lines().map(str::to_owned).collect()
}

/// Whether the command of this task runs.
fn serves(node: &Node, id: &str) -> bool {
    let netns = task_netns(node, id);
    sh(Some(&netns), "ss -Hltn sport = :80 | grep -q .").code == 0
}

/// A task that shall run only to connect from.
fn client(node: &Node) -> String {
    node.cli("service create --quiet --name client --runtime process -- sleep 10000")
        .ok();
    node.wait_running("client", 1);
    let id = node.cli("service ps -q client").ok();
    task_netns(node, &id)
}

/// Connections that together reach so many tasks.
fn reach(netns: &str, address: &str, tasks: usize) -> Vec<Connection> {
    let all: Vec<_> = (0..tasks)
        .map(|_| Connection::open(netns, address))
        .collect();
    let hosts: BTreeSet<_> = all.iter().map(|c| &c.host).collect();
    assert_eq!(hosts.len(), tasks, "round robin reaches all: {hosts:?}");
    all
}

#[test]
fn open_connections_go_on_until_they_end_and_new_ones_go_elsewhere() {
    let node = Node::started();
    node.whoami(
        "web",
        "--replicas 3 --publish 8080:80 --label ipvsmesh.drain-timeout=10m",
    );
    node.wait_running("web", 3);
    let client = client(&node);
    let vip = node.vip("web");
    let ids = ids(&node, "web");
    let mut open = reach(&client, &format!("{vip}:80"), 3);
    open.extend(reach(&node.outside, &format!("{HOST_IP}:8080"), 3));

    node.cli("service scale --detach web=1").ok();
    until("two take no new connections", 30, || {
        let all = node.in_router("ipvsadm -Ln").ok();
        let idle = all.lines().filter(|line| line.contains("Masq    0"));
        // of each family
        (idle.count() == 4).then_some(())
    });
    let kept = until("one of them stays", 30, || {
        let running = node.running("web");
        (running.len() == 1).then(|| running[0].clone())
    });
    for url in [format!("http://{HOST_IP}:8080/"), format!("http://{vip}/")] {
        let answers = node.answers(|line| node.on_host(line), &url, 4);
        let hosts: Vec<_> = answers.hosts.keys().collect();
        assert_eq!((answers.failed, hosts), (0, vec![&kept]), "{url}");
    }
    // longer than it takes to count connections a few times
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        open.iter_mut().for_each(Connection::lives);
    }
    assert!(ids.iter().all(|id| serves(&node, id)), "nobody was stopped");

    // one of a leaving task's two connections ends: the other one holds it
    let (mut staying, leaving): (Vec<_>, Vec<_>) = open
        .into_iter()
        .partition(|connection| connection.host == kept);
    let mut leaving: Vec<_> = leaving.into_iter().map(Some).collect();
    let first = leaving[0].as_ref().map(|c| c.host.clone());
    let of_first = |c: &Option<Connection>| c.as_ref().map(|c| c.host.clone()) == first;
    assert_eq!(leaving.iter().filter(|c| of_first(c)).count(), 2);
    leaving[0].take().expect("it was open").close();
    std::thread::sleep(Duration::from_secs(2));
    assert!(ids.iter().all(|id| serves(&node, id)), "one is still open");
    leaving.iter_mut().flatten().for_each(Connection::lives);
    // and with it the task ends, but not the other one
    for connection in &mut leaving {
        if of_first(connection) {
            connection.take().expect("it is open").close();
        }
    }
    until("it ends with its last connection", 30, || {
        (ids.iter().filter(|id| serves(&node, id)).count() == 2).then_some(())
    });
    leaving.iter_mut().flatten().for_each(Connection::lives);
    staying.iter_mut().for_each(Connection::lives);
    leaving.into_iter().flatten().for_each(Connection::close);
    until("so does the other", 30, || {
        (ids.iter().filter(|id| serves(&node, id)).count() == 1).then_some(())
    });
    staying.iter_mut().for_each(Connection::lives);
}

#[test]
fn a_connection_that_stays_is_cut_at_the_timeout_and_not_before() {
    let node = Node::started();
    node.whoami(
        "web",
        "--replicas 1 --publish 8080:80 --label ipvsmesh.drain-timeout=12s",
    );
    node.wait_running("web", 1);
    let mut kept = Connection::open(&node.outside, &format!("{HOST_IP}:8080"));
    let begun = Instant::now();
    node.cli("service scale --detach web=0").ok();
    while begun.elapsed() < Duration::from_secs(9) {
        assert!(!kept.is_over(), "cut after {:?}", begun.elapsed());
        kept.lives();
        std::thread::sleep(Duration::from_millis(500));
    }
    // its task is stopped, though it answered all the time
    kept.wait_over(40);
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(12), "cut after {took:?}");

    // none at all where no time is given, nor where the service is removed
    for (name, timeout, port, leave) in [
        ("none", "0", 8081, "service scale --detach none=0"),
        ("gone", "10m", 8082, "service rm gone"),
    ] {
        node.whoami(
            name,
            &format!("--publish {port}:80 --label ipvsmesh.drain-timeout={timeout}"),
        );
        node.wait_running(name, 1);
        let id = node.cli(&format!("service ps -q {name}")).ok();
        let mut kept = Connection::open(&node.outside, &format!("{HOST_IP}:{port}"));
        node.cli(leave).ok();
        until("the task is stopped", 30, || {
            (!serves(&node, &id)).then_some(())
        });
        // at the latest when it says something
        kept.send("/");
        kept.wait_over(20);
    }
}

#[test]
fn connections_to_the_tasks_own_address_are_waited_for() {
    let node = Node::started();
    node.whoami(
        "web",
        "--replicas 1 --endpoint-mode dnsrr --label ipvsmesh.drain-timeout=10m",
    );
    node.wait_running("web", 1);
    let client = client(&node);
    let id = node.cli("service ps -q web").ok();
    let address = node.address("web.1");
    let mut kept = Connection::open(&client, &format!("{address}:80"));
    node.cli("service scale --detach web=0").ok();
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        kept.lives();
    }
    assert!(serves(&node, &id), "it waits");
    kept.close();
    until("it ends with the connection", 30, || {
        (!serves(&node, &id)).then_some(())
    });
}

#[test]
fn a_client_that_has_said_all_gets_the_rest() {
    let node = Node::started();
    let server = "cat > /dev/null; sleep 8; echo late";
    node.cli(&format!(
        "service create --quiet --name slow --publish 8080:80 --label ipvsmesh.drain-timeout=10m --runtime process -- socat -t60 TCP-LISTEN:80,fork,reuseaddr SYSTEM:'{server}'"
    ))
    .ok();
    node.wait_running("slow", 1);
    let line = format!("echo all | socat -t60 - TCP4:{HOST_IP}:8080");
    let said = std::thread::scope(|scope| {
        let asking = scope.spawn(|| node.from_outside(&line));
        until("its client has said all", 20, || {
            let line = "ss -Htn state close-wait sport = :80 | grep -q .";
            (node.sh_in_task("slow.1", line).code == 0).then_some(())
        });
        node.cli("service scale --detach slow=0").ok();
        asking.join().expect("it does not panic")
    });
    assert_eq!(said.ok(), "late");
    until("the task ends", 30, || {
        node.in_ingress("ipvsadm -Ln")
            .ok()
            .lines()
            .all(|line| !line.contains("Masq"))
            .then_some(())
    });
}

#[test]
fn udp_from_a_fixed_port_moves_to_a_living_task_at_once() {
    let node = Node::started();
    node.whoami(
        "echo",
        "--replicas 2 --publish 8080:80 --publish 8080:80/udp --label ipvsmesh.drain-timeout=10m",
    );
    node.wait_running("echo", 2);
    let client = client(&node);
    let vip = node.vip("echo");
    let published = (&node.outside, format!("{HOST_IP}:8080"));
    let ways = [published, (&client, format!("{vip}:80"))];
    // the same flows each time: their ports are fixed
    let ask = || {
        let mut hosts = Vec::new();
        for ((netns, address), port) in ways.iter().flat_map(|way| [(way, 5000), (way, 5001)]) {
            let to = format!("UDP4:{address},sourceport={port},reuseaddr");
            let said = sh(Some(netns), &format!("echo hi | socat -t2 - {to}")).out;
            hosts.push(said.split(' ').next().unwrap_or_default().to_owned());
        }
        hosts
    };
    // a connection to each keeps both tasks while they drain
    let mut open = reach(&node.outside, &format!("{HOST_IP}:8080"), 2);
    let before = ask();
    assert!(
        before[0] != before[1] && before[2] != before[3],
        "{before:?}"
    );
    assert_eq!(ask(), before, "they stick");

    node.cli("service scale --detach echo=1").ok();
    let kept = until("one of them stays", 30, || {
        let running = node.running("echo");
        (running.len() == 1).then(|| running[0].clone())
    });
    until("all flows have moved", 20, || {
        ask().iter().all(|host| *host == kept).then_some(())
    });
    // while the task that they left drains on
    open.iter_mut().for_each(Connection::lives);
}

#[test]
fn a_drain_goes_on_under_the_next_daemon_with_the_same_end() {
    let mut node = Node::started();
    node.whoami(
        "web",
        "--replicas 2 --publish 8080:80 --label ipvsmesh.drain-timeout=30s",
    );
    node.wait_running("web", 2);
    let ids = ids(&node, "web");
    let mut open = reach(&node.outside, &format!("{HOST_IP}:8080"), 2);
    let begun = Instant::now();
    node.cli("service scale --detach web=1").ok();
    until("it drains", 20, || {
        let all = node.in_ingress("ipvsadm -Ln").ok();
        all.contains("Masq    0").then_some(())
    });
    node.kill();
    while begun.elapsed() < Duration::from_secs(15) {
        open.iter_mut().for_each(Connection::lives);
        std::thread::sleep(Duration::from_millis(500));
    }
    let again = Instant::now();
    node.start();
    while begun.elapsed() < Duration::from_secs(25) {
        open.iter_mut().for_each(Connection::lives);
        std::thread::sleep(Duration::from_millis(500));
    }
    let cut = until("the leaving one's connection is cut", 60, || {
        open.iter_mut().position(Connection::is_over)
    });
    assert!(begun.elapsed() >= Duration::from_secs(30));
    // counted anew it would be later
    let late = again.elapsed();
    assert!(
        late < Duration::from_secs(30),
        "the time began anew: {late:?}"
    );
    open[1 - cut].lives();
    until("its task is gone", 20, || {
        (ids.iter().filter(|id| serves(&node, id)).count() == 1).then_some(())
    });
    open[1 - cut].lives();
}

#[test]
fn clients_of_a_killed_task_are_told_at_once() {
    let node = Node::started();
    node.whoami(
        "web",
        "--replicas 1 --publish 8080:80 --restart-delay 1000s",
    );
    let client = client(&node);
    // all processes of the task, its command, its shim alone
    for victims in ["all", "command", "shim"] {
        node.cli("service update --detach --force web").ok();
        let id = until("a new task serves", 60, || {
            let id = node
                .cli("service ps -q --filter desired-state=running web")
                .ok();
            (node.running("web").len() == 1 && serves(&node, &id)).then_some(id)
        });
        let vip = node.vip("web");
        let ways = [
            (client.clone(), format!("{vip}:80")),
            (node.outside.clone(), format!("{HOST_IP}:8080")),
        ];
        let mut idle: Vec<_> = ways
            .iter()
            .map(|(at, to)| Connection::open(at, to))
            .collect();
        let kill = || {
            let pids = sh(None, &format!("ip netns pids {}", task_netns(&node, &id))).ok();
            let shims = sh(None, &format!("pgrep -f '[s]him .*{id}'")).ok();
            let chosen = pids.split_whitespace().filter(|pid| match victims {
                "all" => true,
                _ => shims.lines().any(|shim| shim == *pid) == (victims == "shim"),
            });
            let chosen: Vec<_> = chosen.collect();
            assert!(!chosen.is_empty(), "{victims}: {pids} {shims}");
            sh(None, &format!("kill -9 {}", chosen.join(" "))).ok();
        };
        let answers = std::thread::scope(|scope| {
            let waiting = ways.iter().map(|(at, to)| {
                let line = format!("curl -sS --max-time 50 'http://{to}/?wait=40'");
                scope.spawn(move || sh(Some(at), &line))
            });
            let waiting: Vec<_> = waiting.collect();
            until("they wait for answers", 20, || {
                let line = "ss -Htn state established sport = :80 | wc -l";
                (sh(Some(&task_netns(&node, &id)), line).ok() == "4").then_some(())
            });
            let killed = Instant::now();
            kill();
            let said: Vec<_> = waiting
                .into_iter()
                .map(|thread| thread.join().expect("it does not panic"))
                .collect();
            (said, killed.elapsed())
        });
        for said in &answers.0 {
            // reset, or closed without an answer; 28 would be the time-out
            assert!([52, 56].contains(&said.code), "{victims}: {said:?}");
        }
        assert!(
            answers.1 < Duration::from_secs(30),
            "{victims}: {answers:?}"
        );
        // who only writes later is told as well
        until("the task's end is known", 30, || {
            (node.running("web").is_empty()).then_some(())
        });
        for connection in &mut idle {
            connection.send("/");
            connection.wait_over(20);
        }
        // new ones are refused
        for (at, to) in &ways {
            sh(Some(at), &format!("curl -sS --max-time 5 http://{to}/")).fails(7, &[]);
        }
    }
}

#[test]
fn with_affinity_new_connections_leave_a_draining_task_too() {
    let node = Node::started();
    node.whoami(
        "web",
        "--replicas 2 --publish 8080:80 --affinity client-ip --drain-timeout 10m",
    );
    node.wait_running("web", 2);
    let at = format!("{HOST_IP}:8080");
    // two clients, two tasks: one of them is on the leaving one
    let clients = [node.outside.clone(), client(&node)];
    let mut open: Vec<_> = clients.iter().map(|c| Connection::open(c, &at)).collect();
    assert_ne!(open[0].host, open[1].host);
    for (c, first) in clients.iter().zip(&open) {
        for _ in 0..3 {
            let again = Connection::open(c, &at);
            assert_eq!(again.host, first.host);
            again.close();
        }
    }
    node.cli("service scale --detach web=1").ok();
    let kept = until("one stays", 30, || {
        let running = node.running("web");
        (running.len() == 1).then(|| running[0].clone())
    });
    until("one takes no new connections", 30, || {
        let services = node.in_ingress("ipvsadm -Ln").ok();
        services.contains("Masq    0").then_some(())
    });
    for c in &clients {
        let new = Connection::open(c, &at);
        assert_eq!(new.host, kept);
        new.close();
    }
    open.iter_mut().for_each(Connection::lives);
}
