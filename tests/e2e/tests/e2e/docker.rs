//! Tasks in containers of a real Docker Engine.

use e2e::{
    HOST_IP, Node, OUTSIDE_IP,
    docker::{BARE, Engine, IMAGE, PATIENCE},
    until,
};

fn started(engine: &Engine) -> Node {
    let mut node = engine.node();
    node.start();
    node
}

/// Makes a service of [`IMAGE`] and waits for it.
fn create(node: &Node, name: &str, options: &str, command: &str) {
    create_of(node, IMAGE, name, options, command);
}

fn create_of(node: &Node, image: &str, name: &str, options: &str, command: &str) {
    node.cli(&format!(
        "service create --quiet --name {name} --restart-delay 1s {options} {image} {command}"
    ))
    .ok();
}

/// Waits until each of so many tasks answers on port 8080.
fn all_answer(node: &Node, tasks: usize) {
    until(&format!("{tasks} tasks answer"), PATIENCE, || {
        let url = format!("http://{HOST_IP}:8080/");
        let count = 2 * u32::try_from(tasks).unwrap_or(1);
        let answers = node.answers(|line| node.from_outside(line), &url, count);
        (answers.failed == 0 && answers.hosts.len() == tasks).then_some(())
    });
}

#[test]
fn containers_answer_by_port_vip_and_name_and_see_who_asks() {
    let engine = Engine::shared();
    let node = started(engine);
    node.cli("network create back").ok();
    create(
        &node,
        "vote",
        "--replicas 3 --network back --publish 8080:80",
        "",
    );
    let url = format!("http://{HOST_IP}:8080/");
    let answers = node.answers(|line| node.from_outside(line), &url, 9);
    assert_eq!((answers.failed, answers.hosts.len()), (0, 3), "{answers:?}");
    assert_eq!(
        answers.clients.into_iter().collect::<Vec<_>>(),
        [OUTSIDE_IP]
    );

    // what the first process sees, before anything else
    let look =
        "sh -c 'ip -o addr; ip route; cat /etc/resolv.conf /etc/hosts; hostname; exec sleep 10000'";
    create(
        &node,
        "client",
        "--network back --hostname here --host db:192.0.2.7",
        look,
    );
    let seen = until("it has said what it sees", PATIENCE, || {
        let said = node.cli("service logs --raw client").out;
        said.contains("here\n").then_some(said)
    });
    let address = seen.lines().find_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let mine = words.get(1) == Some(&"eth0") && words.get(2) == Some(&"inet");
        mine.then(|| words[3].split('/').next().unwrap_or_default().to_owned())
    });
    let address = address.unwrap_or_else(|| panic!("no eth0:\n{seen}"));
    for word in [
        "default via 10.100.",
        "nameserver 10.100.",
        "options ndots:0",
        "192.0.2.7\tdb",
        &format!("{address}\there"),
    ] {
        assert!(seen.contains(word), "no {word:?} in\n{seen}");
    }
    for line in ["search", "127.0.0.11", "8.8.8.8"] {
        assert!(!seen.contains(line), "{line} in\n{seen}");
    }
    assert!(seen.contains("inet6 fd"), "an IPv6 address:\n{seen}");

    for url in [
        format!("http://{}/", node.vip("vote")),
        "http://vote/".to_owned(),
    ] {
        let ask = format!("for i in 1 2 3 4 5 6; do wget -q -O - {url} || echo FAILED; done");
        let said = node.cli(&format!("exec client.1 -- sh -c '{ask}'")).ok();
        let answers = e2e::Answers::parse(&said);
        assert_eq!((answers.failed, answers.hosts.len()), (0, 3), "{said}");
        // by name it may be the IPv6 VIP
        let mine = |client: &String| *client == address || client.starts_with("[fd");
        assert!(answers.clients.iter().all(mine), "{answers:?}");
    }
    node.cli("exec client.1 -- sh -c 'exit 7'").fails(7, &[]);
    let all = engine.containers(&node, true);
    assert_eq!(all.len(), 4, "one a task: {all:?}");
    all_answer(&node, 3);

    node.cli("service rm vote client").ok();
    until("nothing is left of them", PATIENCE, || {
        engine.containers(&node, true).is_empty().then_some(())
    });
    let netns = format!("ls /run/netns | grep '^ipvsmesh-{}-'", node.instance);
    assert_eq!(
        e2e::sh(None, &netns).out.lines().count(),
        2,
        "router and ingress"
    );
    assert_eq!(node.in_router("ip -o link | grep -c ': t'").out.trim(), "0");
}

#[test]
fn what_is_said_of_a_container_is_what_it_gets() {
    let engine = Engine::shared();
    let node = started(engine);
    create(
        &node,
        "web",
        "--env COLOR=blue --user web --workdir /tmp --container-label shape=round --init --read-only \
         --limit-memory 64m --limit-cpu 0.5 --limit-pids 50 --cap-drop ALL --cap-add NET_ADMIN \
         --mount type=bind,source=/etc,target=/host,readonly --mount type=tmpfs,target=/scratch,tmpfs-size=1m \
         --mount type=volume,source=kept,target=/kept --stop-signal SIGINT --ulimit nofile=100:200 \
         --health-cmd true --health-interval 1s --log-opt max-size=1m --log-driver json-file",
        "sleep 10000",
    );
    let names = engine.containers(&node, false);
    let [task] = &names[..] else {
        panic!("not one container: {names:?}");
    };
    let text = engine.docker(&format!("inspect {task}")).ok();
    let all: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let (config, host) = (&all[0]["Config"], &all[0]["HostConfig"]);
    assert_eq!(config["User"], "web");
    assert_eq!(config["Labels"]["shape"], "round");
    assert_eq!(config["StopSignal"], "SIGINT");
    assert_eq!(host["Memory"], 64 << 20);
    assert_eq!(host["NanoCpus"], 500_000_000);
    assert_eq!(host["PidsLimit"], 50);
    assert_eq!(host["Ulimits"][0]["Soft"], 100);
    assert_eq!(host["RestartPolicy"]["Name"], "no");
    assert_eq!(host["LogConfig"]["Config"]["max-size"], "1m");
    let inside = |line: &str| node.cli(&format!("exec web.1 -- {line}"));
    assert_eq!(inside("hostname").ok(), "web.1");
    let seen = inside("sh -c 'id -u; echo $COLOR; pwd; ls /host/passwd; touch /x || echo read-only; touch /scratch/x /kept/x'").out;
    for word in ["7\n", "blue\n", "/tmp\n", "/host/passwd\n", "read-only\n"] {
        assert!(seen.contains(word), "no {word:?} in\n{seen}");
    }
    let shown = node.inspect("web");
    let container = &shown["Spec"]["TaskTemplate"]["ContainerSpec"];
    assert_eq!(container["Mounts"].as_array().map(Vec::len), Some(3));
    assert_eq!(container["Healthcheck"]["Test"][1], "true");
    assert!(
        node.cli("service inspect --pretty web")
            .ok()
            .contains("64MiB")
    );
    // docker's own client takes it all back
    let socket = format!("unix://{}", node.socket());
    node.on_host(&format!(
        "docker --host {socket} service scale --detach web=2"
    ))
    .ok();
    until("two run", PATIENCE, || {
        (node.running("web").len() == 2).then_some(())
    });
    node.cli("service rm web").ok();
    engine.docker("volume rm kept");

    // of an image that has nothing, as no user that it knows
    let options = "--user 1234 --read-only --cap-drop ALL --workdir /new --env PATH=/nowhere:/ --publish 8080:80";
    create_of(&node, BARE, "bare", options, "whoami --port 80");
    all_answer(&node, 1);
}

#[test]
fn what_cannot_run_is_rejected_with_the_reason() {
    let engine = Engine::shared();
    let node = started(engine);
    let says = |name: &str, line: &str, words: &[&str]| {
        node.cli(&format!(
            "service create --detach --name {name} --restart-condition none {line}"
        ))
        .ok();
        let ps = format!("service ps --no-trunc {name}");
        let tasks = until(&format!("{name} is rejected"), PATIENCE, || {
            let tasks = node.cli(&ps).ok();
            tasks.contains("Rejected").then_some(tasks)
        });
        for word in words {
            assert!(tasks.contains(word), "no {word:?} in\n{tasks}");
        }
        node.cli(&format!("service rm {name}")).ok();
    };
    let missing = "No such image: registry.invalid/none:1: it cannot be pulled";
    says("none", "registry.invalid/none:1", &[missing]);
    says(
        "never",
        "--pull never none:2",
        &["No such image: none:2", "--pull never"],
    );
    says(
        "program",
        &format!("{IMAGE} /no/such/program"),
        &["stat /no/such/program: no such file or directory"],
    );
    says(
        "word",
        &format!("--init {IMAGE} nothing"),
        &["executable file not found in $PATH"],
    );
    says("bare", BARE, &["no command specified"]);
    let mount = "--mount type=bind,source=/no/such/dir,target=/x";
    says("mount", &format!("{mount} {IMAGE}"), &["/no/such/dir"]);
    until("nothing is left of them", PATIENCE, || {
        engine.containers(&node, true).is_empty().then_some(())
    });
}

#[test]
fn without_docker_tasks_in_containers_say_so_and_others_run() {
    let mut node = Node::new();
    node.arguments = vec!["--docker-socket".to_owned(), "/no/docker.sock".to_owned()];
    node.start();
    node.cli(&format!("service create --name web {IMAGE}"))
        .fails(
            1,
            &["service web does not come up", "Docker is not available"],
        );
    let tasks = node.cli("service ps --no-trunc web").ok();
    for words in ["Preparing", "Docker is not available", "/no/docker.sock"] {
        assert!(tasks.contains(words), "{words}:\n{tasks}");
    }
    let events = "events --since 10m --until 0s --filter type=task";
    let told = node.cli(events).ok();
    let told = told.lines().filter(|line| line.contains("/no/docker.sock"));
    assert_eq!(told.count(), 1, "it is told once, though tried again");
    let inspected = node.cli("inspect web").ok();
    let problem = "task web.1 preparing: Docker is not available";
    assert!(inspected.contains(problem), "{inspected}");
    node.whoami("other", "--publish 8080:80");
    all_answer(&node, 1);
}

/// Ids of the containers that a service's tasks run in.
fn ids(engine: &Engine, node: &Node) -> Vec<String> {
    let label = format!("label=ipvsmesh.instance=ipvsmesh-{}", node.instance);
    let listed = engine.docker(&format!("ps --quiet --no-trunc --filter {label}"));
    let listed = listed.ok();
    let mut ids: Vec<_> = listed.lines().map(str::to_owned).collect();
    ids.sort();
    ids
}

#[test]
fn a_killed_daemon_finds_its_containers_again() {
    let engine = Engine::shared();
    let mut node = started(engine);
    create(&node, "web", "--replicas 2 --publish 8080:80", "");
    let (before, tasks) = (ids(engine, &node), node.cli("service ps -q web").ok());
    assert_eq!(before.len(), 2);
    node.kill();
    let url = format!("http://{HOST_IP}:8080/");
    let answers = node.answers(|line| node.from_outside(line), &url, 6);
    assert_eq!((answers.failed, answers.hosts.len()), (0, 2), "{answers:?}");
    node.start();
    node.wait_running("web", 2);
    all_answer(&node, 2);
    assert_eq!(ids(engine, &node), before);
    assert_eq!(node.cli("service ps -q web").ok(), tasks);
    // one that died while nobody looked
    node.kill();
    engine.docker(&format!("kill {}", before[0])).ok();
    node.start();
    until("it is replaced", PATIENCE, || {
        let now = ids(engine, &node);
        (now.len() == 2 && !now.contains(&before[0])).then_some(())
    });
    all_answer(&node, 2);
    assert!(
        ids(engine, &node).contains(&before[1]),
        "the other one was left alone"
    );
}

#[test]
fn what_is_done_to_containers_by_hand_is_mended_and_others_are_not_touched() {
    let engine = Engine::shared();
    let node = started(engine);
    create(&node, "web", "--replicas 2 --publish 8080:80", "");
    let foreign = format!("foreign-{}", node.instance);
    let run = format!("run --detach --network none --name {foreign} {IMAGE} sleep 10000");
    engine.docker(&run).ok();
    for wreck in ["kill", "rm --force", "restart --time 1", "stop --time 1"] {
        let before = ids(engine, &node);
        assert_eq!(before.len(), 2, "{wreck}");
        engine.docker(&format!("{wreck} {}", before[0]));
        until(&format!("mended after {wreck}"), PATIENCE, || {
            let now = ids(engine, &node);
            (now.len() == 2 && !now.contains(&before[0])).then_some(())
        });
        all_answer(&node, 2);
        assert!(
            ids(engine, &node).contains(&before[1]),
            "{wreck} touched another"
        );
    }
    node.cli("service scale web=3").ok();
    all_answer(&node, 3);

    let cleaned = {
        let (instance, socket) = (node.instance.clone(), engine.socket());
        let mut node = node;
        node.kill();
        let said = node.on_host(&format!(
            "ipvsmeshd --instance {instance} --cleanup --docker-socket {socket}"
        ));
        said.ok();
        let left = engine.containers(&node, true);
        let names = e2e::sh(
            None,
            &format!("ls /run/netns | grep '^ipvsmesh-{instance}-'"),
        );
        (left, names.out)
    };
    assert_eq!(cleaned, (Vec::new(), String::new()));
    let running = engine.docker("ps --format '{{.Names}}'").ok();
    assert!(running.contains(&foreign), "{running}");
    engine.docker(&format!("rm --force {foreign}")).ok();
}

#[test]
fn logs_are_followed_and_a_stop_signal_has_its_time() {
    let engine = Engine::shared();
    let node = started(engine);
    let script = "sh -c 'trap \"echo asked; sleep 1; echo done; exit 0\" USR1; echo begun; while true; do sleep 0.2; done'";
    create(
        &node,
        "talker",
        "--stop-signal SIGUSR1 --stop-grace-period 30s",
        script,
    );
    let followed = std::thread::scope(|scope| {
        let following = scope.spawn(|| node.cli("service logs --follow --raw talker"));
        until("it has begun", PATIENCE, || {
            let said = node.cli("service logs talker").out;
            (said.contains("talker.1.") && said.contains("| begun")).then_some(())
        });
        node.cli("service scale talker=0").ok();
        until("it has ended", PATIENCE, || {
            ids(engine, &node).is_empty().then_some(())
        });
        node.cli("service rm talker").ok();
        following.join().expect("it does not panic").ok()
    });
    assert_eq!(followed, "begun\nasked\ndone");
}

/// A container's first process.
fn pid_of(engine: &Engine, container: &str) -> String {
    let line = format!("inspect --format '{{{{.State.Pid}}}}' {container}");
    engine.docker(&line).ok()
}

#[test]
fn tasks_serve_while_docker_is_away_and_those_that_it_takes_are_replaced() {
    let mut engine = Engine::started(&["--live-restore", "--init", "--no-new-privileges"]);
    let mut node = started(&engine);
    create(&node, "web", "--replicas 2 --publish 8080:80", "");
    // a process that ends is sent nothing, before Docker can say that and how it ended;
    // after 10 s the daemon waits for Docker no more, which a slow machine may take
    let destinations = || {
        let table = node.in_ingress("ipvsadm -Sn").ok();
        table.lines().filter(|line| line.starts_with("-a ")).count()
    };
    let both = destinations();
    until("how it ended is told", 5 * PATIENCE, || {
        let before = ids(&engine, &node);
        let pid = pid_of(&engine, &before[0]);
        engine.signal("STOP");
        let stopped = std::time::Instant::now();
        e2e::sh(None, &format!("kill -9 {pid}")).ok();
        until("it is no destination", PATIENCE, || {
            (2 * destinations() == both).then_some(())
        });
        engine.signal("CONT");
        let soon = stopped.elapsed().as_secs() < 8;
        let end = until("it is replaced", PATIENCE, || {
            let now = ids(&engine, &node);
            let replaced = now.len() == 2 && !now.contains(&before[0]);
            replaced.then(|| node.cli("service ps --no-trunc web").ok())
        });
        assert!(!soon || end.contains("(137)"), "{end}");
        all_answer(&node, 2);
        soon.then_some(())
    });

    let before = ids(&engine, &node);
    let tasks = node.cli("service ps -q web").ok();
    let pid = pid_of(&engine, &before[0]);
    engine.kill();
    // longer than the daemon waits between looks at everything
    std::thread::sleep(std::time::Duration::from_secs(12));
    all_answer(&node, 2);
    node.kill();
    node.start();
    node.wait_running("web", 2);
    all_answer(&node, 2);
    assert_eq!(node.cli("service ps -q web").ok(), tasks, "the same tasks");
    e2e::sh(None, &format!("kill -9 {pid}")).ok();
    until("its death is seen without Docker", PATIENCE, || {
        let said = node.cli("service ps --no-trunc web").ok();
        said.contains("while Docker did not answer").then_some(())
    });
    let waits = until("the next one waits for Docker", PATIENCE, || {
        let said = node.cli("service ps --no-trunc web").ok();
        assert!(!said.contains("Rejected"), "{said}");
        let line = said.lines().find(|line| line.contains("Preparing"))?;
        let why = "Docker is not available";
        line.contains(why).then(|| line.to_owned())
    });
    engine.start();
    until("it is replaced", PATIENCE, || {
        let now = ids(&engine, &node);
        (now.len() == 2 && !now.contains(&before[0])).then_some(())
    });
    all_answer(&node, 2);
    let id = waits.split_whitespace().next().expect("an ID");
    let said = node.cli("service ps --no-trunc web").ok();
    let line = said.lines().find(|line| line.starts_with(id));
    assert!(
        line.is_some_and(|line| line.contains("Running") && !line.contains("not available")),
        "{id} was not given up:\n{said}"
    );
    assert!(
        ids(&engine, &node).contains(&before[1]),
        "the other one was left alone"
    );
    // one without live-restore takes what it finds with it
    let before = ids(&engine, &node);
    engine.set_options(&[]);
    engine.kill();
    engine.start();
    until("all are replaced", PATIENCE, || {
        let now = ids(&engine, &node);
        (now.len() == 2 && !now.iter().any(|id| before.contains(id))).then_some(())
    });
    all_answer(&node, 2);
}

/// Deaths of everything, in an order that the seed makes; with IPVSMESH_LONG for longer.
#[test]
fn a_storm_of_deaths_leaks_nothing() {
    let engine = Engine::shared();
    let mut node = started(engine);
    create(&node, "web", "--replicas 2 --publish 8080:80", "");
    let steps = match std::env::var_os("IPVSMESH_LONG") {
        Some(_) => 60,
        None => 8,
    };
    let mut seed = 7u64;
    let mut below = |n: usize| {
        // Knuth's
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(seed >> 33).unwrap_or(0) % n
    };
    for step in 0..steps {
        let all = engine.containers(&node, true);
        let victim = all
            .get(below(all.len().max(1)))
            .cloned()
            .unwrap_or_default();
        match below(6) {
            0 => {
                node.kill();
                node.start();
            }
            1 => drop(engine.docker(&format!("kill {victim}"))),
            2 => drop(engine.docker(&format!("rm --force {victim}"))),
            3 => drop(node.cli(&format!("service scale --detach web={}", 1 + below(4)))),
            4 => drop(node.cli(&format!(
                "service update --detach --env-add STEP={step} web"
            ))),
            _ => {
                let pid = engine.docker(&format!("inspect --format '{{{{.State.Pid}}}}' {victim}"));
                let pid: u32 = pid.out.trim().parse().unwrap_or(0);
                if pid > 1 {
                    e2e::sh(None, &format!("kill -9 {pid}"));
                }
            }
        }
        let pause = u64::try_from(below(2500)).unwrap_or(0);
        std::thread::sleep(std::time::Duration::from_millis(pause));
    }
    node.cli("service scale --detach web=2").ok();
    all_answer(&node, 2);
    let counted = |node: &Node| {
        let netns = format!("ls /run/netns | grep '^ipvsmesh-{}-'", node.instance);
        let count = |said: e2e::Said| said.out.lines().count();
        (
            engine.containers(node, false).len(),
            count(e2e::sh(None, &netns)),
            count(node.in_router("ip -o link | grep ': t'")),
            count(node.in_router("ip route | grep ' dev t'")),
        )
    };
    until("two tasks' things are there and no more", PATIENCE, || {
        (counted(&node) == (2, 4, 2, 2)).then_some(())
    });
    node.cli("service rm web").ok();
    until("nothing is left", PATIENCE, || {
        let left = engine.containers(&node, true).len();
        ((left, counted(&node)) == (0, (0, 2, 0, 0))).then_some(())
    });
}
