//! The stock `docker` command with our socket in the place of Docker's.

use e2e::{
    Node, Said,
    docker::{Engine, IMAGE, PATIENCE},
    until,
};

/// `docker` against a node's socket.
fn docker(node: &Node, line: &str) -> Said {
    let socket = node.socket();
    node.on_host(&format!("export DOCKER_HOST=unix://{socket}; {line}"))
}

#[test]
fn what_is_not_of_services_is_done_by_the_engine() {
    let engine = Engine::shared();
    let mut node = engine.node();
    node.start();
    let docker = |line: &str| docker(&node, line);
    let name = format!("plain-{}", node.instance);

    let version = docker("docker version --format '{{.Server.Version}}'").ok();
    assert_eq!(
        version,
        engine.docker("version --format '{{.Server.Version}}'").ok()
    );
    assert!(docker("docker version").ok().contains("ipvsmesh"));
    let info = docker("docker info").ok();
    for words in ["Swarm: active", "Is Manager: true", "Storage Driver"] {
        assert!(info.contains(words), "{info}");
    }

    // a container's life; streams in both directions, ended by either side
    let run = format!("docker run --network none --name {name}");
    docker(&format!("{run} -d {IMAGE} sleep 1000")).ok();
    let said = docker(&format!(
        "seq 20000 | docker exec -i {name} cat | md5sum; seq 20000 | md5sum"
    ));
    let sums: Vec<_> = said.out.lines().collect();
    assert!(sums.len() == 2 && sums[0] == sums[1], "{said:?}");
    let said = docker(&format!(
        "echo to the first process | docker run --network none -i --rm {IMAGE} cat"
    ));
    assert_eq!(said.ok(), "to the first process");
    let said = docker(&format!(
        "script -qec \"docker exec -it {name} sh -c 'echo a terminal; exit 7'\" /dev/null"
    ));
    assert!(
        said.code == 7 && said.out.contains("a terminal"),
        "{said:?}"
    );

    // bodies in both directions
    docker(&format!(
        "f=$(mktemp); head -c 3000000 /dev/urandom > $f; docker cp $f {name}:/tmp/x && \
         docker cp {name}:/tmp/x $f.back && cmp $f $f.back"
    ))
    .ok();
    let built = docker(&format!(
        "d=$(mktemp -d); printf 'FROM {IMAGE}\\nCOPY x /x\\nRUN cat /x > /y\\n' > $d/Dockerfile; \
         echo hello > $d/x; DOCKER_BUILDKIT=0 docker build --network none -t built:{0} $d && \
         docker run --network none --rm built:{0} cat /y && docker rmi built:{0}",
        node.instance
    ))
    .ok();
    assert!(
        built.contains("Successfully tagged") && built.contains("\nhello\n"),
        "{built}"
    );

    assert!(docker("docker ps").ok().contains(&name));
    docker(&format!("docker stop -t 0 {name} && docker rm {name}")).ok();
    let gone = docker(&format!("docker inspect {name}"));
    gone.fails(1, &["No such object"]);
    docker("docker logs nobody").fails(1, &["No such container: nobody"]);
    docker("docker swarm init").fails(1, &["part of an ipvsmesh already"]);
    let version = node.cli("version --format '{{.Client.Version}}'").ok();
    let said = node.cli("version").ok();
    let (_, server) = said.split_once("Server:").expect("the daemon's");
    assert!(
        server.contains(&format!("Version:      {version}\n")),
        "{said}"
    );
    assert!(server.contains("Docker: "), "{said}");
}

#[test]
fn networks_and_events_of_both_are_one_list() {
    let engine = Engine::shared();
    let mut node = engine.node();
    node.start();
    let docker = |line: &str| docker(&node, line);
    let (ours, theirs) = ("back", format!("plain-{}", node.instance));
    docker(&format!(
        "docker network create -d overlay {ours} && docker network create -d bridge {theirs}"
    ))
    .ok();
    let listed = docker("docker network ls --format '{{.Name}} {{.Driver}}'").ok();
    for line in [format!("{ours} ipvsmesh"), format!("{theirs} bridge")] {
        assert_eq!(
            listed.lines().filter(|l| **l == line).count(),
            1,
            "{listed}"
        );
    }
    // each is where it belongs, and nowhere else
    let own = node.cli("network ls").ok();
    assert!(own.contains(ours) && !own.contains(&theirs), "{own}");
    let engines = engine.docker("network ls").ok();
    assert!(
        engines.contains(&theirs) && !engines.contains(ours),
        "{engines}"
    );
    let inspected = docker(&format!(
        "docker network inspect -f '{{{{.Driver}}}}' {ours} {theirs}"
    ));
    assert_eq!(inspected.ok(), "ipvsmesh\nbridge");
    docker(&format!("docker run --rm --network {theirs} {IMAGE} id")).ok();
    let refused = docker(&format!("docker network connect {ours} nobody"));
    refused.fails(1, &["only tasks of services", "ipvsmesh.service"]);
    docker(&format!("docker network rm {ours} {theirs}")).ok();
    docker("docker network inspect back").fails(1, &["No such network: back"]);

    // docker's client says until when in whole seconds, rounded down
    std::thread::sleep(std::time::Duration::from_secs(1));
    let events = docker(
        "docker events --since 10m --until 0s --format '{{.Type}} {{.Action}} {{.Actor.Attributes.name}}'",
    )
    .ok();
    let at = |line: &str| {
        let found = events.lines().position(|l| l.trim() == line);
        found.unwrap_or_else(|| panic!("{line} is not in:\n{events}"))
    };
    assert!(at("network create back") < at(&format!("network create {theirs}")));
    assert!(at(&format!("network create {theirs}")) < at("network remove back"));
    let one =
        docker("docker events --since 10m --until 0s --filter type=network --filter event=remove")
            .ok();
    assert_eq!(
        one.lines()
            .filter(|line| line.contains("name=back"))
            .count(),
        1,
        "{one}"
    );
    assert!(!one.contains(" container "), "{one}");
}

#[test]
fn a_service_lives_as_dockers_own_command_says() {
    let engine = Engine::shared();
    let mut node = engine.node();
    node.start();
    let docker = |line: &str| docker(&node, line);
    docker("docker network create -d overlay --label a=b front").ok();
    let said = docker(&format!(
        "docker service create --name web --network front --replicas 2 -p 8080:80 \
         --env A=b --update-order start-first --update-monitor 1s --limit-memory 64m {IMAGE}"
    ));
    assert!(said.out.contains("verify: Service converged"), "{said:?}");
    node.wait_running("web", 2);
    let answers = node.answers(
        |line| node.from_outside(line),
        &format!("http://{}:8080/", e2e::HOST_IP),
        6,
    );
    assert_eq!((answers.failed, answers.hosts.len()), (0, 2), "{answers:?}");

    let pretty = docker("docker service inspect --pretty web").ok();
    for words in [
        "Name:\t\tweb",
        "Replicas:\t2",
        "PublishedPort = 8080",
        "Update order:      start-first",
    ] {
        assert!(pretty.contains(words), "{words:?}:\n{pretty}");
    }
    let scaled = docker("docker service scale web=3").ok();
    assert!(scaled.contains("verify: Service converged"), "{scaled}");
    node.wait_running("web", 3);
    // it ends at whichever it sees first: that all run for long enough, which it then
    // says, or that the update is completed
    docker("docker service update --env-add B=c --replicas 1 web").ok();
    let state = || docker("docker service inspect -f {{.UpdateStatus.State}} web").ok();
    until("the update is completed", PATIENCE, || {
        (state() == "completed").then_some(())
    });
    // others use the same Engine
    let own = format!(
        "docker ps -q --filter label=ipvsmesh.instance=ipvsmesh-{} --latest",
        node.instance
    );
    let env = docker(&format!("docker exec $({own}) env")).ok();
    assert!(env.contains("A=b") && env.contains("B=c"), "{env}");
    let back = docker("docker service rollback web");
    assert!(back.out.contains("rollback: "), "{back:?}");
    node.wait_running("web", 3);
    docker("docker service update --force --detach web").ok();
    let tasks = docker("docker service ps web").ok();
    for words in ["web.1", IMAGE, "Running", "CURRENT STATE"] {
        assert!(tasks.contains(words), "{words}:\n{tasks}");
    }
    let logs = until("its log is shown", PATIENCE, || {
        let logs = docker("timeout 5 docker service logs -f web").out;
        logs.contains("web.1.").then_some(logs)
    });
    assert!(logs.contains("@") && logs.contains("|"), "{logs}");

    let clash = docker(&format!(
        "docker service create --detach --name web {IMAGE}"
    ));
    clash.fails(1, &["service with name web already exists"]);
    docker("docker service inspect nobody").fails(1, &["no such service: nobody"]);
    docker("docker node ps self").ok();
    docker("docker service rm web nobody").fails(1, &["nobody"]);
    assert_eq!(docker("docker service ls -q").ok(), "");

    // as people would have it for good
    let context = format!("mesh-{}", node.instance);
    let socket = format!("unix://{}", node.socket());
    let listed = node.on_host(&format!(
        "docker context create {context} --docker host={socket} > /dev/null; \
         docker --context {context} network ls; docker context rm {context} > /dev/null"
    ));
    assert!(listed.ok().contains("front"));
}
