//! What makes the command pleasant, and the stock `docker` CLI against our socket.

use std::time::Instant;

use e2e::{Node, until};

#[test]
fn the_docker_cli_lists_services_tasks_nodes_and_networks() {
    let node = Node::started();
    node.cli("network create back").ok();
    node.whoami("vote", "--replicas 2 --network back --publish 8080:80");
    node.wait_running("vote", 2);
    let docker = |arguments: &str| {
        let socket = format!("unix://{}", node.socket());
        node.on_host(&format!("docker -H {socket} {arguments}"))
            .ok()
    };
    let services = docker("service ls");
    for word in ["vote", "replicated", "2/2", "*:8080->80/tcp"] {
        assert!(services.contains(word), "{services}");
    }
    let tasks = docker("service ps vote");
    assert!(
        tasks.contains("vote.1") && tasks.contains("Running"),
        "{tasks}"
    );
    assert!(docker("network ls").contains("back"));
    assert!(docker("node ls").contains("Ready"));
    let pretty = docker("service inspect --pretty vote");
    assert!(
        pretty.contains("vote") && pretty.contains("PublishedPort"),
        "{pretty}"
    );
    docker("service scale --detach vote=3");
    node.wait_running("vote", 3);
    docker("node update --availability drain --label-add disk=ssd self");
    node.wait_running("vote", 0);
    assert!(node.cli("node ls").ok().contains("Drain"));
    assert!(docker("node ls --filter node.label=disk=ssd").contains("Drain"));
    node.cli("node update --availability active self").ok();
    node.wait_running("vote", 3);
    docker("service update --detach --constraint-add node.labels.disk!=ssd vote");
    node.wait_running("vote", 0);
    node.cli("inspect vote").fails(
        0,
        &["no node takes new tasks of it", "node.labels.disk!=ssd"],
    );
    docker("node update --label-rm disk self");
    node.wait_running("vote", 3);
    docker(
        "service update --detach --replicas-max-per-node 1 \
         --placement-pref-add spread=node.labels.rack vote",
    );
    node.wait_running("vote", 1);
    assert!(docker("service ls").contains("1/3 (max 1 per node)"));
    node.cli("inspect vote")
        .fails(0, &["has as many as it may", "--replicas-max-per-node"]);
    node.cli("service update --detach --replicas-max-per-node 0 vote")
        .ok();
    node.wait_running("vote", 3);
    let pretty = docker("service inspect --pretty vote");
    assert!(pretty.contains("node.labels.rack"), "{pretty}");
    docker("service rm vote");
    assert_eq!(node.cli("service ls -q").ok(), "");
}

/// What a shell would offer for the last word of a line.
fn offered(node: &Node, line: &str) -> Vec<String> {
    // as bash presses the key: our own script, sourced, and its function called
    let press = format!(
        "source <(ipvsmesh completion bash); line='ipvsmesh --instance {} {line}'; \
         COMP_LINE=$line COMP_POINT=${{#line}}; read -ra COMP_WORDS <<< \"$line\"; \
         [[ $line == *' ' ]] && COMP_WORDS+=(''); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
         COMP_TYPE=9 COMP_KEY=9; spec=$(complete -p ipvsmesh); \
         function=$(sed 's/.*-F \\([^ ]*\\).*/\\1/' <<< \"$spec\"); \
         $function ipvsmesh \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\" 2>/dev/null; \
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        node.instance
    );
    let said = node.on_host(&press).ok();
    said.lines().map(str::to_owned).collect()
}

#[test]
fn shells_complete_commands_options_and_names() {
    let node = Node::started();
    node.cli("network create back").ok();
    node.whoami("vote", "--network back");
    // more than two: by chance, two may have an order that nobody made
    for name in ["voyage", "vouch", "vowel"] {
        node.whoami(name, "");
    }
    // a key that was pressed while the daemon had much to do may offer nothing
    let offers = |line: &str, expected: &[&str]| {
        until(&format!("{line} offers {expected:?}"), 60, || {
            let begun = Instant::now();
            let said = offered(&node, line);
            println!("{line}: {said:?} after {:?}", begun.elapsed());
            (said == expected).then_some(())
        });
    };
    offers("service rm vo", &["vote", "vouch", "vowel", "voyage"]);
    offers("exec vote", &["vote.1"]);
    offers("service create --network ba", &["back"]);
    offers("service scale vot", &["vote"]);
    offers("network inspect ba", &["back"]);
    offers("service rollb", &["rollback"]);
    offers("service ps --no-t", &["--no-trunc"]);
}

#[test]
fn templates_are_filled_and_mistyped_names_are_guessed() {
    let node = Node::started();
    node.whoami("vote", "--replicas 2");
    let ls = "service ls --format";
    assert_eq!(
        node.cli(&format!("{ls} '{{{{.Name}}}} {{{{.Replicas}}}}'"))
            .ok(),
        "vote 2/2"
    );
    let inspect = "service inspect vote --format";
    let said = node.cli(&format!(
        "{inspect} '{{{{json .Spec.Mode}}}} {{{{.Spec.Name | upper}}}}'"
    ));
    assert_eq!(said.ok(), "{\"Replicated\":{\"Replicas\":2}} VOTE");
    node.cli(&format!("{ls} '{{{{.Name'"))
        .fails(2, &["--format"]);
    node.cli(&format!("{ls} '{{{{.Nosuch}}}}'"))
        .fails(1, &["Nosuch"]);
    node.cli("service rm vtoe")
        .fails(1, &["service vtoe not found", "did you mean vote?"]);
    node.cli("service crate x").fails(2, &["create"]);
    node.cli("service ls --qiuet").fails(2, &["--quiet"]);
}

#[test]
fn what_is_refused_of_one_is_done_for_the_others() {
    let node = Node::started();
    node.whoami("vote", "");
    node.whoami("web", "");
    let said = node.cli("service scale nosuch=2 vote=2");
    let said = said.fails(1, &["service nosuch not found"]);
    assert!(said.out.contains("vote scaled to 2"), "{said:?}");
    let said = node.cli("service inspect nosuch vote --format '{{.Spec.Name}}'");
    let said = said.fails(1, &["service nosuch not found"]);
    assert_eq!(said.out.trim(), "vote");
    let said = node.cli("service ps --quiet vote nosuch");
    let said = said.fails(1, &["service nosuch not found"]);
    assert_eq!(said.out.lines().count(), 2, "{said:?}");
    let said = node.cli("service rm none vote nosuch web");
    let said = said.fails(1, &["service none not found", "service nosuch not found"]);
    assert_eq!(said.out.trim(), "vote\nweb");
    assert_eq!(node.cli("service ls --quiet").ok(), "");
}

#[test]
fn the_manual_has_a_page_a_command() {
    let node = Node::started();
    let line = "man=$(mktemp -d); ipvsmesh man $man && ls $man && \
                man --warnings --encoding=utf8 $man/ipvsmesh-service-create.1 2>&1; rm -r $man";
    let said = node.on_host(line).ok();
    for word in [
        "ipvsmesh.1",
        "ipvsmesh-service-update.1",
        "ipvsmesh-inspect.1",
    ] {
        assert!(said.contains(word), "{said}");
    }
}
