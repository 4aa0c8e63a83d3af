//! What names say right after a change, and how they spread.

use e2e::Node;

/// Answers of `dig +short`, sorted; the status where there are none.
fn dig(node: &Node, name: &str) -> Vec<String> {
    let line = format!("dig +tries=1 +time=3 +nocookie {name}");
    let said = node.in_task("client.1", &line).ok();
    let is_answer = |line: &&str| line.contains("\tIN\tA\t");
    let answers = said.lines().filter(is_answer);
    let mut all: Vec<_> = answers
        .filter_map(|line| line.split_whitespace().last())
        .map(str::to_owned)
        .collect();
    all.sort();
    if all.is_empty() {
        let status = said
            .split("status: ")
            .nth(1)
            .and_then(|rest| rest.split(',').next());
        all.push(status.unwrap_or("silence").to_owned());
    }
    all
}

#[test]
fn nothing_is_stale_from_the_first_question_after_a_change() {
    let node = Node::started();
    // nobody else is asked there, so that a name that is gone is so at once
    node.cli("network create --internal closed").ok();
    node.whoami("client", "--replicas 1 --network closed");
    node.whoami("vote", "--replicas 3 --network closed");
    node.wait_running("client", 1);
    let tasks = || dig(&node, "tasks.vote");
    let vip = node.vip("vote");
    for _ in 0..2 {
        node.cli("service update --quiet --endpoint-mode dnsrr vote")
            .ok();
        let now = dig(&node, "vote");
        assert!(now.len() == 3 && !now.contains(&vip), "{now:?}");
        assert_eq!(now, tasks());
        let reverse = node
            .in_task("client.1", &format!("dig +tries=1 -x {vip}"))
            .ok();
        assert!(reverse.contains("NXDOMAIN"), "{reverse}");
        node.cli("service update --quiet --endpoint-mode vip vote")
            .ok();
        assert_eq!(dig(&node, "vote"), [node.vip("vote")]);
        assert_eq!(tasks().len(), 3);
    }
    node.cli("service update --quiet --endpoint-mode dnsrr vote")
        .ok();
    node.cli("service scale vote=1").ok();
    assert_eq!(dig(&node, "vote").len(), 1);
    assert_eq!(dig(&node, "vote.3"), ["NXDOMAIN"]);
    node.cli("service scale vote=0").ok();
    for name in ["vote", "tasks.vote"] {
        assert_eq!(
            dig(&node, name),
            ["NOERROR"],
            "{name} exists, and has nothing"
        );
    }
    assert_eq!(dig(&node, "vote.1"), ["NXDOMAIN"]);
    node.cli("service rm vote").ok();
    for name in ["vote", "tasks.vote", "vote.closed", "vote.1"] {
        assert_eq!(dig(&node, name), ["NXDOMAIN"], "{name}");
    }
    // another one of that name begins anew
    node.whoami("vote", "--replicas 1 --network closed");
    assert_eq!(dig(&node, "vote"), [node.vip("vote")]);
}

#[test]
fn a_task_that_is_unwell_or_leaves_has_no_name() {
    let node = Node::started();
    node.whoami("client", "--replicas 1");
    // goes on for a while after it is told to stop
    node.cli("service create --quiet --name slow --replicas 2 --endpoint-mode dnsrr --stop-grace-period 60s --runtime process -- whoami --port 80 --linger 20")
        .ok();
    node.wait_running("client", 1);
    assert_eq!(dig(&node, "slow").len(), 2);
    node.cli("service scale --detach slow=1").ok();
    let now = e2e::until("the leaving one has no name", 5, || {
        let now = dig(&node, "slow");
        (now.len() == 1).then_some(now)
    });
    assert_eq!(dig(&node, "slow.1"), now);
    let sick = "--probe http:80/,interval=1s,retries=1,timeout=1s --restart-condition none";
    node.whoami(
        "sick",
        &format!("--replicas 1 --endpoint-mode dnsrr {sick}"),
    );
    assert_eq!(dig(&node, "sick").len(), 1);
    let pid = node.cli("service ps -q sick").ok();
    let line = format!(
        "for pid in $(ip netns pids ipvsmesh-{}-{pid}); do [ \"$(cat /proc/$pid/comm)\" = whoami ] && kill -STOP $pid; done; true",
        node.instance
    );
    e2e::sh(None, &line).ok();
    e2e::until("it has no name any more", 20, || {
        (dig(&node, "sick") == ["NOERROR"]).then_some(())
    });
    let line = line.replace("-STOP", "-CONT");
    e2e::sh(None, &line);
}

#[test]
fn one_address_an_answer_spreads_clients() {
    let node = Node::started();
    node.whoami("client", "--replicas 1");
    node.whoami("rr", "--replicas 3 --endpoint-mode dnsrr --dns-answers 1");
    node.wait_running("client", 1);
    let line = "dig +tries=1 +time=3 +nocookie rr";
    let said = node.in_task("client.1", line).ok();
    assert!(
        said.contains("ANSWER: 1,") && said.contains("\t0\tIN\tA"),
        "{said}"
    );
    // by libc, which sorts what it gets
    let curl = |line: &str| node.sh_in_task("client.1", line);
    let answers = node.answers(curl, "http://rr/", 60);
    assert_eq!((answers.failed, answers.hosts.len()), (0, 3), "{answers:?}");
    // 20 each; 5 is four standard deviations away
    assert!(
        answers.hosts.values().all(|count| *count > 5),
        "{answers:?}"
    );
    // it may be changed while tasks run
    node.cli("service update --quiet --dns-answers 0 --dns-ttl 5s rr")
        .ok();
    let said = node.in_task("client.1", line).ok();
    assert!(
        said.contains("ANSWER: 3,") && said.contains("\t5\tIN\tA"),
        "{said}"
    );
}
