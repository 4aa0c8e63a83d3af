//! The command itself: wrong words without a daemon, right ones against a mesh
//! in memory.
#![allow(clippy::unwrap_used, reason = "a test fails so")]

#[path = "../../../crates/api/tests/fake/mod.rs"]
mod fake;

use std::process::{Command, Stdio};

use fake::Served;
use serde_json::Value;

/// Runs `ipvsmesh`; gives its exit code, output and errors.
fn ipvsmesh(host: &str, line: &str) -> (i32, String, String) {
    let words = line.split_whitespace().map(|word| word.replace('~', " "));
    let output = Command::new(env!("CARGO_BIN_EXE_ipvsmesh"))
        .args(words)
        .env("IPVSMESH_HOST", host)
        .env_remove("IPVSMESH_INSTANCE")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// A mesh, and the command on it.
struct Mesh(Served);

impl Mesh {
    fn start() -> Self {
        Self(Served::start())
    }

    fn run(&self, line: &str) -> (i32, String, String) {
        ipvsmesh(&format!("unix://{}", self.0.socket.display()), line)
    }

    fn ok(&self, line: &str) -> String {
        let (code, out, err) = self.run(line);
        assert_eq!((code, err.as_str()), (0, ""), "{line}: {out}");
        out
    }

    fn fails(&self, line: &str) -> String {
        let (code, _, err) = self.run(line);
        assert_eq!(code, 1, "{line}: {err}");
        err
    }
}

#[test]
fn wrong_words_are_usage_errors_and_reach_no_daemon() {
    let long = "x".repeat(64);
    for (line, words) in [
        ("service create --name bad_ x", "bad_"),
        ("service create --name a~b x", "\"a b\" for \"--name\""),
        (&format!("service create --name {long} x"), "63"),
        ("service create --publish 99999:80 x", "99999"),
        ("service create --publish 0:80 x", "port"),
        ("service create --publish 80:80/icmp x", "icmp"),
        ("service create --publish -1:80 x", "-1"),
        (
            "service create --replicas -1 x",
            "invalid argument \"-1\" for \"--replicas\": use a whole number, 0 or more",
        ),
        (
            "service create --replicas 2 --mode global x",
            "replicated mode",
        ),
        ("service create --publish ::1:8080:80 x", "brackets"),
        ("service create --publish [::1:8080:80 x", "brackets"),
        ("service create --publish 1-2:1-3 x", "differ in length"),
        (
            "service create --publish target=1-2,published=5 x",
            "differ in length",
        ),
        (
            "service create --publish target=1,mode=x x",
            "ingress or host",
        ),
        (
            "service create --scheduler magic x",
            "invalid argument \"magic\" for \"--scheduler\": scheduler \"magic\" is not known",
        ),
        ("service create --weight -1 x", "\"-1\" for \"--weight\""),
        ("service create --affinity cookie x", "client-ip,1h,/24"),
        ("service create --connection-limit 5:10 x", "UPPER[:LOWER]"),
        ("service create --drain-timeout 5 x", "such as 30s"),
        ("service create --weight 1 --weight 2 x", "multiple"),
        (
            "service create --scheduler rr --label ipvsmesh.scheduler=wrr x",
            "--scheduler rr and --label ipvsmesh.scheduler=wrr contradict each other",
        ),
        (
            "service update --weight 2 --label-add ipvsmesh.weight=3 web",
            "--weight 2 and --label-add ipvsmesh.weight=3",
        ),
        ("service update --affinity x web", "--affinity"),
        ("service update --rollback --weight 2 web", "--rollback"),
        ("network create --ipv6=maybe x", "--ipv6"),
        (
            "network create --ipv6=false --subnet fd00::/64 x",
            "--ipv6=false",
        ),
        (
            "network create --subnet 10.1.0.0/24 --subnet 10.2.0.0/24 x",
            "both IPv4",
        ),
        ("service create --replicas x x", "\"x\""),
        ("service create --replicas 1.5 x", "1.5"),
        ("service create --endpoint-mode magic x", "use vip or dnsrr"),
        ("service create --mode job x", "use replicated or global"),
        ("service create --restart-delay 5 x", "500ms"),
        ("service create --restart-condition now x", "on-failure"),
        ("service create --env =x x", "KEY=VALUE"),
        ("service create --label =x x", "KEY=VALUE"),
        ("service create --runtime magic x", "process or docker"),
        ("service create --name nothing --runtime process", "COMMAND"),
        ("service create --nosuch x", "--nosuch"),
        ("service scale web", "SERVICE=REPLICAS"),
        ("service scale web=-1", "web=-1"),
        ("service scale", "SERVICE=REPLICAS"),
        ("service update --replicas -1 web", "-1"),
        ("service update --args 'open web", "quotation"),
        ("service update --rollback --force web", "--rollback"),
        ("service logs --tail x web", "all"),
        ("service ls --filter name", "KEY=VALUE"),
        ("service ls --format yaml", "use table, json"),
        ("service inspect --pretty --format json web", "--pretty"),
        ("service inspect", "SERVICE"),
        ("trace --from host", "--to"),
        ("trace --from host --to web --port 0", "--port"),
        ("trace --from host --to web --timeout 61", "--timeout"),
        ("network create --subnet 10.0.0.0/99 x", "10.0.0.0/99"),
        ("network create no~good", "\"no good\" for \"<NAME>\""),
        ("network create", "NAME"),
        ("exec web.1", "COMMAND"),
        ("--host tcp://1.2.3.4 service ls", "unix:///PATH"),
        ("--instance Bad service ls", "a-z"),
        ("nonsense", "nonsense"),
        ("service nonsense", "nonsense"),
    ] {
        let (code, out, err) = ipvsmesh("/nonexistent/mesh.sock", line);
        assert_eq!((code, out.as_str()), (2, ""), "{line}: {err}");
        assert!(err.contains(words), "{line} does not say {words:?}: {err}");
    }
}

#[test]
fn a_daemon_that_is_away_is_named() {
    for line in [
        "service ls",
        "network ls",
        "inspect web",
        "exec web.1 -- true",
        "service logs web",
    ] {
        let (code, out, err) = ipvsmesh("/nonexistent/mesh.sock", line);
        assert_eq!((code, out.as_str()), (1, ""), "{line}");
        assert_eq!(
            err,
            "Error: cannot reach ipvsmeshd at /nonexistent/mesh.sock: no such file; is it running? start it: systemctl start ipvsmeshd\n",
            "{line}"
        );
    }
    // a typed instance is stronger than a host from the environment
    let (_, _, err) = ipvsmesh("/nonexistent/mesh.sock", "--instance nobody service ls");
    assert!(err.contains("/run/ipvsmesh-nobody/ipvsmesh.sock"), "{err}");
    // the command's own version needs no daemon
    let (code, out, _) = ipvsmesh("/nonexistent/mesh.sock", "version");
    assert!(code == 1 && out.starts_with("Client:\n Version:"), "{out}");
}

#[test]
fn help_and_version_are_no_errors() {
    for (line, words) in [
        ("--help", "ipvsmesh service create"),
        ("service create --help", "--restart-max-attempts"),
        (
            "service create --help",
            "--affinity client-ip,1h \\\n      --connection-limit",
        ),
        ("service update --help", "--affinity none vote"),
        ("network create --help", "--ipv6=false"),
        ("exec --help", "ipvsmesh exec client.1"),
        ("--version", "ipvsmesh "),
    ] {
        let (code, out, err) = ipvsmesh("", line);
        // examples are to be copied: a line that is too long would be folded
        assert!(!out.contains("--publish\n"), "{line}: {out}");
        assert_eq!((code, err.as_str()), (0, ""), "{line}");
        assert!(out.contains(words), "{line}: {out}");
    }
}

#[test]
fn the_life_of_a_service() {
    let mesh = Mesh::start();
    assert_eq!(mesh.ok("service ls -q"), "");
    mesh.ok("network create back");
    let id = mesh.ok("service create --name vote --replicas 3 --network back --publish 8080:80 --runtime process -- whoami --port 80");
    assert_eq!(id.trim().len(), 25);

    let listed = mesh.ok("service ls");
    let row = format!(
        "{}   vote      replicated   3/3        whoami    *:8080->80/tcp\n",
        &id[..12]
    );
    assert!(listed.ends_with(&row), "{listed}");
    let tasks = mesh.ok("service ps vote");
    assert_eq!(tasks.lines().count(), 4);
    for slot in 1..=3 {
        assert!(
            tasks.contains(&format!(
                "   vote.{slot}    whoami    one       Running         Running "
            )),
            "{tasks}"
        );
    }
    let ids = mesh.ok("service ps -q vote --filter desired-state=running");
    assert_eq!(ids.lines().map(str::len).collect::<Vec<_>>(), [25, 25, 25]);

    assert_eq!(mesh.ok("service scale vote=5"), "vote scaled to 5\n");
    assert!(mesh.ok("service ls").contains("5/5"));
    assert_eq!(
        mesh.ok("service update --env-add A=1 --publish-add 8081:80 vote"),
        "vote\n"
    );
    let json: serde_json::Value = serde_json::from_str(&mesh.ok("service inspect vote")).unwrap();
    let spec = &json[0]["Spec"];
    assert_eq!(
        spec["TaskTemplate"]["ContainerSpec"]["Env"],
        serde_json::json!(["A=1"])
    );
    assert_eq!(json[0]["Endpoint"]["Ports"].as_array().unwrap().len(), 2);
    // the replaced ones are drawn below those in their place
    assert_eq!(mesh.ok("service ps vote").matches(" \\_ vote.").count(), 5);
    assert_eq!(mesh.ok("service rollback vote"), "vote\n");
    assert!(
        mesh.ok("service inspect --pretty vote")
            .contains("PublishedPort = 8080")
    );
    assert_eq!(
        mesh.ok("service inspect --format json vote")
            .lines()
            .count(),
        1
    );
    assert!(mesh.ok("inspect vote").starts_with("vote ("));
    assert!(mesh.ok("inspect --format json vote.1").starts_with('{'));
    let way = mesh.ok("trace --from vote.1 --to vote --port 80");
    assert!(way.starts_with("vote.1 -> vote\n"), "{way}");
    // the exit status says whether it arrived
    let (code, json, _) = mesh.run("trace --from vote.1 --to vote --format json");
    assert!(
        code == 1 && json.contains("\"arrived\":false"),
        "{code} {json}"
    );

    assert!(
        mesh.fails("network rm back")
            .starts_with("Error response from daemon: ")
    );
    assert_eq!(mesh.ok("service rm vote"), "vote\n");
    assert_eq!(mesh.ok("network rm back"), "back\n");
    assert_eq!(mesh.ok("network ls -q"), "");
}

#[test]
fn options_are_set_changed_and_shown() {
    let mesh = Mesh::start();
    mesh.ok("service create --name web --replicas 2 --runtime process --scheduler wrr --weight 1=3 --affinity client-ip,1h -- x");
    let tasks = mesh.ok("service ps web");
    assert!(
        tasks.contains("scheduler=wrr weight=3 affinity=client-ip,1h\n"),
        "{tasks}"
    );
    assert!(
        tasks.contains("scheduler=wrr weight=1 affinity=client-ip,1h\n"),
        "{tasks}"
    );
    mesh.ok("service update --affinity none --drain-timeout 1m web");
    let shown = mesh.ok("service inspect --pretty web");
    for line in [
        "\nOptions:\n",
        "\n Affinity:         none\n",
        "\n Drain timeout:    1m\n",
        "\n Scheduler:        wrr\n",
        "\n Weight:           1=3\n",
    ] {
        assert!(shown.contains(line), "no {line:?} in {shown}");
    }
    mesh.ok("service update --label-rm ipvsmesh.affinity web");
    let shown = mesh.ok("service inspect --pretty web");
    assert!(!shown.contains("Affinity"), "{shown}");
}

#[test]
fn a_thousand_ports_are_one_line() {
    let mesh = Mesh::start();
    mesh.ok("service create --name web --publish 10000-10998:20000-20998/udp --publish 80:80 --runtime process -- x");
    let line = "   *:80->80/tcp, *:10000-10998->20000-20998/udp\n";
    assert!(mesh.ok("service ls").ends_with(line));
    let shown = mesh.ok("service inspect --pretty web");
    assert!(shown.contains(" PublishedPort = 10000-10998\n"), "{shown}");
    mesh.ok("service update --publish-rm 10001-10998:20001-20998/udp web");
    assert!(
        mesh.ok("service ls")
            .ends_with("   *:80->80/tcp, *:10000->20000/udp\n")
    );
}

#[test]
fn a_service_that_cannot_come_up_is_a_failure_with_the_reason() {
    let mesh = Mesh::start();
    let (code, out, err) =
        mesh.run("service create --name broken --runtime process -- /no/such/program");
    assert_eq!(code, 1, "{err}");
    // it is there, and its id is known
    assert_eq!(out.trim().len(), 25);
    for words in [
        "broken",
        "broken.1 rejected",
        "/no/such/program",
        "service logs",
        "service rm broken",
    ] {
        assert!(err.contains(words), "no {words:?} in {err}");
    }
    assert!(mesh.ok("service ps --no-trunc broken").contains("Rejected"));
    // nobody waits for it here
    mesh.ok("service create --detach --name other --runtime process -- /no/such/program");
    mesh.ok("service create -d=true --name another --runtime process -- /no/such/program");
}

#[test]
fn logs_go_where_they_came_from() {
    let mesh = Mesh::start();
    mesh.ok("service create --name talker --replicas 2 --runtime process -- sh");
    let (code, out, err) = mesh.run("service logs talker");
    assert_eq!(code, 0);
    assert_eq!((out.lines().count(), err.lines().count()), (4, 2));
    let first = out.lines().next().unwrap();
    assert!(
        first.starts_with("talker.1.") && first.ends_with("@one    | hello from talker.1"),
        "{first}"
    );
    let (_, out, err) = mesh.run("service logs --raw --tail 1 talker.2");
    assert_eq!((out.as_str(), err.as_str()), ("bye from talker.2\n", ""));
    let (_, out, _) = mesh.run("service logs -t talker.2");
    assert!(
        out.starts_with("1970-01-01T00:00:01.000000000Z talker.2."),
        "{out}"
    );
    assert_eq!(
        mesh.fails("service logs nothere"),
        "Error: no such task or service: nothere\n"
    );
}

#[test]
fn events_are_printed_as_docker_prints_them() {
    let mesh = Mesh::start();
    mesh.ok("service create --quiet --name vote --replicas 2 --runtime process -- whoami");
    mesh.ok("service rm vote");
    let all = mesh.ok("events --since 1h --until 0s");
    for words in [
        " service create ",
        " task running ",
        " destination add ",
        " service remove ",
        "(name=vote.2, node=one, reason=started, service=vote",
    ] {
        assert!(all.contains(words), "{words:?} is not in\n{all}");
    }
    let added = "events --since 1h --until 0s -f type=destination -f event=add -f event=remove";
    assert_eq!(mesh.ok(added).lines().count(), 4, "{}", mesh.ok(added));
    let one = "events --since 1h --until 0s -f task=vote.1 -f event=create --format";
    assert_eq!(
        mesh.ok(&format!(
            "{one} {{{{.Type}}}}~{{{{.Actor.Attributes.name}}}}"
        )),
        "task vote.1\n"
    );
    let json: Value = serde_json::from_str(&mesh.ok(&format!("{one} json"))).unwrap();
    assert_eq!(json["Actor"]["Attributes"]["service"], "vote");
    // what was before is told only to who asks for it
    assert_eq!(mesh.ok("events --since 0s --until 0s"), "");
    assert!(mesh.fails("events -f color=red").contains("color"));
}

#[test]
fn what_the_daemon_refuses_is_said_in_its_words() {
    let mesh = Mesh::start();
    mesh.ok("service create --detach --name web --publish 8080:80 --runtime process -- x");
    mesh.ok("service create --detach --name all --mode global --runtime process -- x");
    for (line, words) in [
        (
            "service create --detach --name web --runtime process -- x",
            "already exists",
        ),
        (
            "service create --detach --name two --publish 8080:80 --runtime process -- x",
            "8080",
        ),
        (
            "service create --detach --network nowhere --runtime process -- x",
            "network nowhere not found",
        ),
        (
            "service create --detach --label ipvsmesh.x=1 --runtime process -- x",
            "ipvsmesh.x",
        ),
        (
            "service create --detach --stop-signal NO --runtime process -- x",
            "StopSignal",
        ),
        ("service create --detach --name img Nginx", "lower case"),
        (
            "service create --detach --label ipvsmesh.weight=x --runtime process -- x",
            "Labels: weight \"x\" is not valid",
        ),
        ("service scale all=2", "all is global"),
        ("service scale nothere=2", "service nothere not found"),
        (
            "service update --network-add nowhere web",
            "network nowhere not found",
        ),
        ("service rollback web", "previous"),
        ("service rm nothere", "service nothere not found"),
        ("service ps nothere", "service nothere not found"),
        ("service ls --filter color=red", "color"),
        ("network create --subnet 10.0.0.0/8 big", "10.0.0.0/8"),
        ("node inspect nothere", "node nothere not found"),
        ("exec web.1 -- true", "no sandbox here"),
        ("exec web.9 -- true", "task web.9 not found"),
        ("inspect nothere", "nothere"),
    ] {
        let err = mesh.fails(line);
        assert!(err.contains(words), "{line} does not say {words:?}: {err}");
    }
    assert_eq!(mesh.ok("service ls -q").lines().count(), 2);
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let mesh = Mesh::start();
    let line = format!(
        "{} -H {} node inspect self | true; exit ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_ipvsmesh"),
        mesh.0.socket.display()
    );
    let output = Command::new("bash").args(["-c", &line]).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(errors, "");
    // `true` may live just long enough to take it all
    assert!([0, 141].contains(&output.status.code().unwrap()));
}
