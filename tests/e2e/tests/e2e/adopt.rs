//! Containers of others, which ask by their labels to belong to a service.

use std::{thread::sleep, time::Duration};

use e2e::{
    HOST_IP, Load, Node, OUTSIDE_IP, Said,
    docker::{Engine, IMAGE, PATIENCE},
    sh, until,
};

/// A project of docker-compose, in a directory.
struct Project<'a> {
    engine: &'a Engine,
    dir: String,
}

impl<'a> Project<'a> {
    fn new(engine: &'a Engine, node: &Node) -> Self {
        let dir = format!("/tmp/{}-proj", node.instance);
        let file = format!(
            "version: \"3.7\"
services:
  app:
    image: {IMAGE}
    labels:
      ipvsmesh.service: web
      ipvsmesh.port: \"80\"
      ipvsmesh.publish: \"8080\"
"
        );
        std::fs::create_dir_all(&dir).expect("/tmp");
        std::fs::write(format!("{dir}/docker-compose.yml"), file).expect("/tmp");
        Self { engine, dir }
    }

    fn compose(&self, line: &str) -> Said {
        let (host, dir) = (self.engine.host(), &self.dir);
        sh(
            None,
            &format!(
                "cd {dir} && DOCKER_HOST={host} COMPOSE_HTTP_TIMEOUT=300 docker-compose {line}"
            ),
        )
    }
}

fn listed(node: &Node, service: &str) -> Option<String> {
    let said = node.cli("service ls").ok();
    let mut lines = said.lines().skip(1);
    let line = lines.find(|line| line.split_whitespace().nth(1) == Some(service));
    line.map(str::to_owned)
}

fn wait_listed(node: &Node, service: &str, words: &[&str]) {
    until(&format!("{service}: {words:?}"), PATIENCE, || {
        let line = listed(node, service)?;
        words.iter().all(|word| line.contains(word)).then_some(())
    });
}

#[test]
fn compose_scales_behind_one_port() {
    let mut node = Node::new();
    let engine = Engine::beside(&node, &[]);
    node.arguments = vec!["--docker-socket".to_owned(), engine.socket()];
    node.start();
    let project = Project::new(&engine, &node);
    project.compose("up -d --scale app=3").ok();
    wait_listed(&node, "web", &["adopted", "3/3", "8080->80/tcp", IMAGE]);

    let url = format!("http://{HOST_IP}:8080/");
    // what runs is a destination a moment later, and nobody waits for it
    let all_three_answer = |node: &Node| {
        until("all three answer", PATIENCE, || {
            let answers = node.answers(|line| node.from_outside(line), &url, 6);
            (answers.failed == 0 && answers.hosts.len() == 3).then_some(())
        });
    };
    all_three_answer(&node);
    let all = |run: &dyn Fn(&str) -> Said, url: &str, what: &str| {
        let answers = node.answers(run, url, 9);
        let look = || {
            let host = node.on_host("iptables-save -c; ip route; ipset list").out;
            format!("{}\n{host}", node.in_ingress("ipvsadm -Ln").out)
        };
        assert_eq!(
            (answers.failed, answers.hosts.len()),
            (0, 3),
            "{what}: {answers:?}\n{}",
            look()
        );
        answers.clients.into_iter().collect::<Vec<_>>()
    };
    let outside = all(&|line| node.from_outside(line), &url, "outside");
    assert_eq!(outside, [OUTSIDE_IP], "who asks is seen");
    all(&|line| node.on_host(line), &url, "host");
    all(
        &|line| node.on_host(line),
        "http://127.0.0.1:8080/",
        "loopback",
    );

    // a container on the same bridge, and one on another one
    let name = format!("{}-proj_default", node.instance);
    for network in [name.as_str(), "bridge"] {
        let ask = format!("for i in 1 2 3; do wget -q -O - {url} || echo FAILED; done");
        let said = engine.docker(&format!(
            "run --rm --network {network} {IMAGE} sh -c '{ask}'"
        ));
        let answers = e2e::Answers::parse(&said.ok());
        assert_eq!(
            (answers.failed, answers.hosts.len()),
            (0, 3),
            "{network}: {answers:?}"
        );
    }

    // a task of the mesh by VIP and name, whose address is seen
    node.whoami("client", "");
    let vip = node.vip("web");
    let own = node.address("client.1");
    for url in [format!("http://{vip}/"), "http://web/".to_owned()] {
        let seen = all(&|line| node.sh_in_task("client.1", line), &url, "a task");
        assert_eq!(seen, [own.as_str()], "{url}");
    }
    all(
        &|line| node.on_host(line),
        &format!("http://{vip}/"),
        "the host, by VIP",
    );

    // fewer, and none: the VIP stays
    project.compose("up -d --scale app=1").ok();
    wait_listed(&node, "web", &["1/1"]);
    node.cli("service rm web")
        .fails(1, &["ipvsmesh.service=web"]);
    project.compose("stop -t 1").ok();
    wait_listed(&node, "web", &["0/0"]);
    assert_eq!(node.vip("web"), vip);
    // the daemon does not see how they come back
    node.kill();
    project.compose("up -d --scale app=3").ok();
    node.start();
    wait_listed(&node, "web", &["3/3"]);
    assert_eq!(node.vip("web"), vip);
    all_three_answer(&node);

    // its health check decides
    let run = format!(
        "run -d --name sick --label ipvsmesh.service=sick --label ipvsmesh.publish=8081:80 \
         --health-cmd 'cat /tmp/well' --health-interval 1s --health-retries 1 {IMAGE}"
    );
    engine.docker(&run).ok();
    wait_listed(&node, "sick", &["0/1", "8081->80/tcp"]);
    let ask = format!("curl -sS --max-time 5 http://{HOST_IP}:8081/");
    node.from_outside(&ask).fails(7, &[]);
    engine.docker("exec sick sh -c 'echo > /tmp/well'").ok();
    wait_listed(&node, "sick", &["1/1"]);
    until("it answers", 30, || {
        (node.from_outside(&ask).code == 0).then_some(())
    });
    engine.docker("exec sick busybox rm /tmp/well").ok();
    until("it gets no connections", PATIENCE, || {
        (node.from_outside(&ask).code == 7).then_some(())
    });
    engine.docker("rm -f sick").ok();

    project.compose("down -t 1").ok();
    until("the service is gone", PATIENCE, || {
        listed(&node, "web").is_none().then_some(())
    });
    until("so are its rules", 30, || {
        let rules = node.on_host("iptables-save; ipset list -n").out;
        let left = ["CONNMARK", "FARSNAT", "guests"];
        (!left.iter().any(|word| rules.contains(word))).then_some(())
    });
    let _ = std::fs::remove_dir_all(&project.dir);
}

#[test]
fn the_engine_may_die_beside_containers_of_others() {
    let mut node = Node::new();
    let mut engine = Engine::beside(&node, &["--live-restore"]);
    node.arguments = vec!["--docker-socket".to_owned(), engine.socket()];
    node.start();
    for name in ["one", "two"] {
        let labels = "--label ipvsmesh.service=web --label ipvsmesh.publish=8080:80";
        let run = format!("run -d --restart always --name {name} {labels} {IMAGE}");
        engine.docker(&run).ok();
    }
    let all_serve = |node: &Node, what: &str| {
        until(what, PATIENCE, || {
            let url = format!("http://{HOST_IP}:8080/");
            let answers = node.answers(|line| node.from_outside(line), &url, 6);
            let listed = listed(node, "web")?.contains("2/2");
            (listed && answers.failed == 0 && answers.hosts.len() == 2).then_some(())
        });
    };
    all_serve(&node, "both serve");
    let vip = node.vip("web");

    let outside = format!("nsenter --net=/run/netns/{}", node.outside);
    let mut load = Load::start("the port", &outside, 4, &format!("{HOST_IP}:8080"));
    let mut whole = |phase: &str| {
        let report = load.report(phase);
        assert_eq!(report.failed, 0, "{}", report.text);
    };
    engine.kill();
    // it is asked again meanwhile
    sleep(Duration::from_secs(5));
    whole("without an Engine");
    engine.start();
    sleep(Duration::from_secs(5));
    whole("with the next one");
    drop(load);
    all_serve(&node, "both still serve");

    // one without live-restore ends what it finds, and starts it anew
    let began = |engine: &Engine| {
        let format = "'{{.State.StartedAt}}'";
        let said = engine.docker(&format!("inspect --format {format} one two"));
        said.ok()
    };
    let before = began(&engine);
    engine.set_options(&[]);
    engine.kill();
    engine.start();
    until("they are started again", PATIENCE, || {
        let now = began(&engine);
        let again = now
            .lines()
            .zip(before.lines())
            .all(|(now, then)| now != then);
        again.then_some(())
    });
    all_serve(&node, "both serve again");
    assert_eq!(node.vip("web"), vip);
}
