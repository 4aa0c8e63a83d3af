//! The life of a service: create, list, scale, update, remove.

use e2e::{Node, until};

#[test]
fn create_scale_and_remove() {
    let node = Node::started();
    node.cli("network create back").ok();
    node.whoami("vote", "--replicas 3 --network back --publish 8080:80");
    node.wait_running("vote", 3);

    let listed = node.cli("service ls").ok();
    for word in ["vote", "replicated", "3/3", "*:8080->80/tcp"] {
        assert!(listed.contains(word), "{listed}");
    }
    let tasks = node.cli("service ps vote").ok();
    for task in ["vote.1", "vote.2", "vote.3"] {
        assert!(tasks.contains(task), "{tasks}");
    }

    node.cli("service scale vote=5").ok();
    node.wait_running("vote", 5);
    let answers = node.answers(|line| node.on_host(line), "http://127.0.0.1:8080/", 20);
    assert_eq!((answers.hosts.len(), answers.failed), (5, 0), "{answers:?}");

    node.cli("service scale vote=1").ok();
    node.wait_running("vote", 1);
    let answers = node.answers(|line| node.on_host(line), "http://127.0.0.1:8080/", 4);
    assert_eq!((answers.hosts.len(), answers.failed), (1, 0), "{answers:?}");

    node.cli("service rm vote").ok();
    assert_eq!(node.cli("service ls -q").ok(), "");
    until("the tasks' namespaces are gone", 30, || {
        let names = e2e::sh(None, "ls /run/netns").ok();
        let prefix = format!("ipvsmesh-{}-", node.instance);
        let left = names
            .lines()
            .filter(|name| name.starts_with(&prefix))
            .count();
        // the router and the ingress namespace stay
        (left == 2).then_some(())
    });
    assert_eq!(node.in_ingress("ipvsadm -Ln | grep -c FWM").out.trim(), "0");
    assert_eq!(node.in_router("ipvsadm -Ln | grep -c FWM").out.trim(), "0");
    node.cli("network rm back").ok();
}

#[test]
fn scale_to_zero_refuses_at_once_and_back() {
    let node = Node::started();
    node.whoami("web", "--replicas 1 --publish 8080:80");
    node.wait_running("web", 1);
    node.cli("service scale web=0").ok();
    node.wait_running("web", 0);
    // at once: a time-out would be curl's 28
    let refused = node.from_outside("curl -sS --max-time 3 http://192.0.2.1:8080/");
    refused.fails(7, &[]);
    node.cli("service scale web=2").ok();
    node.wait_running("web", 2);
    let url = "http://192.0.2.1:8080/";
    let answers = node.answers(|line| node.from_outside(line), url, 4);
    assert_eq!((answers.hosts.len(), answers.failed), (2, 0), "{answers:?}");
}

#[test]
fn update_replaces_tasks_and_keeps_vip_and_port() {
    let node = Node::started();
    node.whoami("web", "--replicas 2 --publish 8080:80 --env COLOR=red");
    node.wait_running("web", 2);
    let vip = node.vip("web");
    let before = node
        .cli("service ps -q --filter desired-state=running web")
        .ok();

    node.cli("service update --env-add COLOR=blue --publish-add 8081:80 web")
        .ok();
    until("both tasks are new", 60, || {
        let now = node
            .cli("service ps -q --filter desired-state=running web")
            .ok();
        let fresh = now.lines().all(|id| !before.contains(id));
        (fresh && node.running("web").len() == 2).then_some(())
    });
    assert_eq!(node.vip("web"), vip);
    for port in [8080, 8081] {
        let url = format!("http://127.0.0.1:{port}/");
        let answers = node.answers(|line| node.on_host(line), &url, 4);
        assert_eq!(
            (answers.hosts.len(), answers.failed),
            (2, 0),
            "{port} {answers:?}"
        );
    }

    node.cli("service update --publish-rm 8080:80 web").ok();
    until("8080 is closed", 20, || {
        (node
            .on_host("curl -s --max-time 2 http://127.0.0.1:8080/")
            .code
            == 7)
            .then_some(())
    });
    assert_eq!(
        node.on_host("curl -s --max-time 2 http://127.0.0.1:8081/")
            .code,
        0
    );
}

#[test]
fn a_killed_task_is_replaced() {
    let node = Node::started();
    node.whoami("web", "--replicas 2 --publish 8080:80 --restart-delay 1s");
    node.wait_running("web", 2);
    let before = node
        .cli("service ps -q --filter desired-state=running web")
        .ok();
    let victim = e2e::sh(
        None,
        &format!(
            "ip netns pids ipvsmesh-{}-{}",
            node.instance,
            before.lines().next().unwrap()
        ),
    )
    .ok();
    // every process in the namespace: the command and its shim
    e2e::sh(None, &format!("kill -9 {}", victim.replace('\n', " "))).ok();
    until("a new task runs", 40, || {
        let now = node
            .cli("service ps -q --filter desired-state=running web")
            .ok();
        let changed = now.lines().filter(|id| !before.contains(id)).count() == 1;
        (changed && node.running("web").len() == 2).then_some(())
    });
    let answers = node.answers(|line| node.on_host(line), "http://127.0.0.1:8080/", 8);
    assert_eq!((answers.hosts.len(), answers.failed), (2, 0), "{answers:?}");
    let history = node.cli("service ps web").ok();
    assert!(history.contains(" \\_ "), "{history}");
}

#[test]
fn a_command_that_is_not_there_is_rejected_with_the_reason() {
    let node = Node::started();
    node.cli(
        "service create --detach --name broken --restart-condition none --runtime process -- /no/such/program",
    )
    .ok();
    until("the task says why", 30, || {
        let tasks = node.cli("service ps --no-trunc broken").ok();
        (tasks.contains("/no/such/program") && tasks.contains("Rejected")).then_some(())
    });
}

#[test]
fn who_presses_ctrl_c_waits_no_longer_and_the_mesh_goes_on() {
    let node = Node::started();
    // nothing listens there, so that it never serves
    let said = node.on_host(&format!(
        "timeout --preserve-status --signal INT 5 ipvsmesh --instance {} service create --name web \
         --probe tcp:81 --runtime process -- sleep 1000",
        node.instance
    ));
    assert_eq!(said.code, 0, "{said:?}");
    let words = "Operation continuing in background.\nUse `ipvsmesh service ps ";
    assert!(said.err.contains(words), "{said:?}");
    assert!(node.cli("service ls").ok().contains("web"));
}

#[test]
fn each_task_finds_what_placeholders_stand_for() {
    let node = Node::started();
    node.cli(
        "service create --quiet --name web --replicas 2 --label tier=front \
         --env 'ME={{.Service.Name}}-{{.Task.Slot}}-{{index .Service.Labels \"tier\"}}' \
         --runtime process -- sh -c 'echo I am $ME; exec sleep 1000'",
    )
    .ok();
    until("both have said who they are", 20, || {
        let said = node.cli("service logs --raw web").out;
        let mut lines: Vec<_> = said.lines().collect();
        lines.sort_unstable();
        (lines == ["I am web-1-front", "I am web-2-front"]).then_some(())
    });
    node.cli("service update --env-add 'ME={{.Task.Colour}}' web")
        .fails(1, &["template \"ME={{.Task.Colour}}\" is not valid"]);
}

#[test]
fn logs_are_kept_and_prefixed() {
    let node = Node::started();
    node.cli(
        "service create --quiet --name talker --replicas 2 --runtime process -- sh -c 'echo hello; echo oops >&2; sleep 1000'",
    )
    .ok();
    node.wait_running("talker", 2);
    let logs = until("both have spoken", 20, || {
        let said = node.cli("service logs talker");
        let all = format!("{}{}", said.out, said.err);
        (all.matches("hello").count() == 2 && all.matches("oops").count() == 2).then_some(all)
    });
    assert!(
        logs.contains("talker.1") && logs.contains("talker.2"),
        "{logs}"
    );
    let raw = node.cli("service logs --raw --tail 1 talker").ok();
    assert!(!raw.contains("talker.1"), "{raw}");
}

#[test]
fn followed_logs_have_later_lines_and_later_tasks_and_end_with_the_service() {
    let node = Node::started();
    node.cli(
        "service create --quiet --name ticker --runtime process -- sh -c 'echo begun; while sleep 1; do echo tick; done'",
    )
    .ok();
    let followed = std::thread::scope(|scope| {
        let following = scope.spawn(|| node.cli("service logs --follow --tail 0 ticker"));
        node.cli("service scale ticker=2").ok();
        until("the second has ticked", 20, || {
            let said = node.cli("service logs ticker.2").ok();
            said.contains("tick\n").then_some(())
        });
        node.cli("service rm ticker").ok();
        following.join().expect("it does not panic").ok()
    });
    let of = |task: &str, word: &str| {
        let mut lines = followed.lines();
        lines.any(|line| line.starts_with(task) && line.ends_with(word))
    };
    assert!(of("ticker.1.", "| tick"), "{followed}");
    assert!(of("ticker.2.", "| begun"), "{followed}");
    assert!(of("ticker.2.", "| tick"), "{followed}");
}

#[test]
fn exec_runs_in_the_tasks_namespace() {
    let node = Node::started();
    node.whoami("web", "--replicas 1");
    node.wait_running("web", 1);
    assert!(
        node.in_task("web.1", "ip -4 addr show eth0")
            .ok()
            .contains("10.100.")
    );
    assert_eq!(node.in_task("web.1", "hostname").ok(), "web.1");
    assert_eq!(node.in_task("web.1", "sh -c 'exit 7'").code, 7);
    node.in_task("web.9", "true").fails(1, &["web.9"]);
    let resolv = node.in_task("web.1", "cat /etc/resolv.conf").ok();
    assert!(resolv.contains("nameserver 10.100."), "{resolv}");
    assert!(
        node.in_task("web.1", "cat /etc/hosts")
            .ok()
            .contains("web.1")
    );
}

#[test]
fn inspect_shows_the_whole_way() {
    let node = Node::started();
    node.whoami("vote", "--replicas 2 --publish 8080:80");
    node.wait_running("vote", 2);
    let shown = until("nothing differs", 20, || {
        let shown = node.cli("inspect vote").ok();
        (!shown.to_lowercase().contains("differs")).then_some(shown)
    });
    let vip = node.vip("vote");
    for word in ["vote", vip.as_str(), "8080", "rr", "0x"] {
        assert!(shown.contains(word), "no {word:?} in\n{shown}");
    }
    let json = node.cli("inspect --format json vote").ok();
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert!(json.is_object() || json.is_array());
}

#[test]
fn inspect_names_what_all_services_share_and_somebody_changed() {
    let node = Node::started();
    node.whoami("vote", "--replicas 1");
    let instance = &node.instance;
    for (wreck, words) in [
        (
            "nsenter --net=/run/netns/ipvsmesh-INSTANCE-router iptables -t mangle -F",
            "router: iptables mangle chain PREROUTING is missing",
        ),
        (
            "ip link set ivm0-INSTANCE mtu 1400",
            "host: link ivm0-INSTANCE differs",
        ),
    ] {
        let (wreck, words) = (
            wreck.replace("INSTANCE", instance),
            words.replace("INSTANCE", instance),
        );
        // it is repaired as soon as the kernel tells of it
        let line = format!(
            "(for i in $(seq 40); do {wreck}; sleep 0.05; done) & ipvsmesh --instance {instance} inspect vote; wait"
        );
        until(&words, 60, || {
            node.on_host(&line).ok().contains(&words).then_some(())
        });
    }
    until("all is well again", 30, || {
        let shown = node.cli("inspect vote").ok();
        shown.contains("No problems").then_some(())
    });
}
