//! Stacks from compose files.

use e2e::{
    HOST_IP, Node,
    docker::{Engine, IMAGE, PATIENCE},
    until,
};

/// A directory with these files in it.
fn files(node: &Node, files: &[(&str, &str)]) -> String {
    let dir = format!("/tmp/{}-stack", node.instance);
    std::fs::create_dir_all(&dir).expect("/tmp");
    for (name, text) in files {
        std::fs::write(format!("{dir}/{name}"), text).expect("/tmp");
    }
    dir
}

fn ids(node: &Node, stack: &str) -> String {
    node.cli(&format!(
        "stack ps --quiet --filter desired-state=running {stack}"
    ))
    .ok()
}

const COMPOSE: &str = "
services:
  web:
    command: bash -c 'cat /run/secrets/key /run/configs/page; exec whoami --port 80'
    environment: {COLOUR: \"${COLOUR:-red}\"}
    configs: [page]
    secrets: [{source: key, mode: 0400}]
    ports: [\"8080:80\"]
    networks: {front: {aliases: [shop]}}
    depends_on: [db]
    deploy: {replicas: 2}
    x-ipvsmesh: {runtime: process, scheduler: wlc, drain-timeout: 1s}
  db:
    command: whoami --port 5432
    networks: [front]
    x-ipvsmesh: {runtime: process, probe: \"tcp:5432\"}
networks:
  front: {internal: true}
configs:
  page: {file: page.html}
secrets:
  key: {environment: KEY}
";

#[test]
fn a_stack_of_processes_is_deployed_changed_and_removed() {
    let node = Node::started();
    let dir = files(
        &node,
        &[
            ("compose.yml", COMPOSE),
            ("page.html", "hello\n"),
            (".env", "KEY=hush\n"),
        ],
    );
    let deploy =
        |options: &str| node.cli(&format!("stack deploy -c {dir}/compose.yml {options} app"));
    let planned = deploy("--dry-run").ok();
    for line in [
        "+ network app_front\n    + Driver: \"overlay\"",
        "+ secret app_key\n",
        "+ config app_page\n",
        "+ service app_web\n",
        "    + Labels[ipvsmesh.scheduler]: \"wlc\"\n",
        "5 to create, 0 to change, 0 to remove, 0 as they are",
    ] {
        assert!(planned.contains(line), "no {line:?} in\n{planned}");
    }
    assert!(!planned.contains("aHVzaA"), "{planned}");
    assert_eq!(node.cli("network ls --quiet").ok(), "", "nothing was done");

    let said = deploy("--detach=false --quiet").ok();
    let expected = "Creating network app_front\nCreating secret app_key\nCreating config app_page\n\
                    Creating service app_db\nCreating service app_web";
    assert_eq!(said, expected);
    let url = format!("http://{HOST_IP}:8080/");
    let answers = node.answers(|line| node.from_outside(line), &url, 4);
    assert_eq!((answers.failed, answers.hosts.len()), (0, 2), "{answers:?}");
    let said = node.cli("service logs --raw app_web").ok();
    assert!(said.contains("hush") && said.contains("hello"), "{said}");
    let named = "for name in shop web app_web db; do getent hosts $name > /dev/null || echo $name is unknown; done";
    assert_eq!(node.sh_in_task("app_db.1", named).ok(), "");
    node.cli("stack ls").fails(0, &["NAME", "app", "2"]);
    node.cli("stack services app")
        .fails(0, &["app_web", "2/2", "*:8080->80/tcp"]);
    node.cli("stack ps app").fails(0, &["app_web.2", "Running"]);

    // again, and nothing is replaced
    let before = ids(&node, "app");
    let said = deploy("").ok();
    assert_eq!(said.matches("Unchanged service app_").count(), 2, "{said}");
    let said = deploy("--dry-run").ok();
    assert_eq!(said, "0 to create, 0 to change, 0 to remove, 4 as they are");
    assert_eq!(ids(&node, "app"), before);

    // changes are told to the key
    let deploy_blue = |options: &str| {
        node.on_host(&format!(
            "COLOUR=blue ipvsmesh --instance {} stack deploy -c {dir}/compose.yml {options} app",
            node.instance
        ))
    };
    let planned = deploy_blue("--dry-run").ok();
    let expected = "~ service app_web\n    ~ TaskTemplate.ContainerSpec.Env[0]: \"COLOUR=red\" -> \"COLOUR=blue\"\n\
                    0 to create, 1 to change, 0 to remove, 3 as they are";
    assert_eq!(planned, expected);
    deploy_blue("--detach=false --quiet").fails(0, &["Updating service app_web (id: "]);
    let shown = node.inspect("app_web").to_string();
    assert!(shown.contains("COLOUR=blue"), "{shown}");

    // what is in a config or a secret cannot change
    files(&node, &[("page.html", "other\n")]);
    deploy("--dry-run").fails(
        1,
        &[
            "failed to update config app_page",
            "another name",
            "only updates to Labels",
        ],
    );
    files(&node, &[("page.html", "hello\n"), (".env", "KEY=other\n")]);
    deploy("").fails(1, &["failed to update secret app_key"]);
    files(&node, &[(".env", "KEY=hush\n")]);

    // what is in the file no more
    let less = COMPOSE.replace("    depends_on: [db]\n", "");
    let (begin, rest) = less.split_once("  db:\n").expect("it is there");
    let (_, end) = rest.split_once("networks:\n  front").expect("it is there");
    files(
        &node,
        &[("compose.yml", &format!("{begin}networks:\n  front{end}"))],
    );
    deploy("--prune --dry-run").fails(0, &["- service app_db\n", "1 to remove"]);
    deploy("").ok();
    node.cli("stack services app").fails(0, &["app_db"]);
    deploy("--prune").fails(0, &["Removing service app_db"]);

    let said = node.cli("stack rm app").ok();
    let expected = "Removing service app_web\nRemoving secret app_key\nRemoving config app_page\nRemoving network app_front";
    assert_eq!(said, expected);
    node.cli("stack rm app")
        .fails(0, &["Nothing found in stack: app"]);
    assert_eq!(node.cli("network ls --quiet").ok(), "");
}

#[test]
fn who_depends_waits_and_what_is_wrong_is_told_before_anything_is_done() {
    let node = Node::started();
    let compose = |text: &str| {
        let dir = files(&node, &[("compose.yml", text)]);
        move |rest: &str| format!("stack {rest} -c {dir}/compose.yml app")
    };
    let wrong =
        compose("services:\n  web:\n    image: web\n    colour: red\n    ports: [\"x:80\"]\n");
    node.cli(&wrong("deploy")).fails(
        1,
        &[
            "compose.yml:4: services.web.colour: ",
            "services.web.ports[0]: ",
        ],
    );
    let external = compose(
        "services: {web: {image: web, networks: [back]}}\nnetworks: {back: {external: true}}",
    );
    node.cli(&external("deploy")).fails(
        1,
        &["network \"back\" is declared as external, but could not be found"],
    );
    let config = compose("services: {web: {image: \"web:${TAG:-1}\"}}");
    node.cli(&config("config").replace(" app", ""))
        .fails(0, &["image: web:1"]);

    let order = compose(
        "services:
  last:
    command: sleep 10000
    depends_on: {first: {condition: service_completed_successfully}}
    x-ipvsmesh: {runtime: process}
  first:
    command: sleep 2
    restart: \"no\"
    x-ipvsmesh: {runtime: process}
",
    );
    node.cli(&order("deploy")).ok();
    let tasks = node.cli("service ps app_first").ok();
    assert!(tasks.contains("Complete"), "it was waited for:\n{tasks}");
    node.cli("stack rm app").ok();
    let order = order("deploy");
    let dir = format!("/tmp/{}-stack/compose.yml", node.instance);
    let text = std::fs::read_to_string(&dir).expect("it is there");
    std::fs::write(&dir, text.replace("sleep 2", "false")).expect("/tmp");
    node.cli(&order).fails(
        1,
        &[
            "service app_last was not created: it depends on app_first",
            "did not end well",
        ],
    );
}

#[test]
fn a_stack_of_containers_is_deployed_by_us_and_understood_by_docker() {
    let engine = Engine::shared();
    let mut node = engine.node();
    node.start();
    let text = format!(
        "
services:
  web:
    image: {IMAGE}
    hostname: shop
    ports: [\"8080:80\"]
    volumes: [\"./www:/www:ro\"]
    tmpfs: /scratch:size=1m
    configs: [{{source: page, target: /etc/page}}]
    secrets: [key]
    deploy: {{replicas: 2, resources: {{limits: {{memory: 64m}}}}}}
configs:
  page: {{content: \"hello\\n\"}}
secrets:
  key: {{file: key.txt}}
"
    );
    let dir = files(&node, &[("compose.yml", &text), ("key.txt", "hush")]);
    std::fs::create_dir_all(format!("{dir}/www")).expect("/tmp");
    let deploy = format!("stack deploy --detach=false --quiet -c {dir}/compose.yml app");
    node.cli(&deploy).ok();
    let seen =
        node.cli("exec app_web.1 -- sh -c 'cat /etc/page /run/secrets/key; ls -d /www; hostname'");
    assert_eq!(seen.ok(), "hello\nhush/www\nshop");
    let url = format!("http://{HOST_IP}:8080/");
    until("it answers", PATIENCE, || {
        (node.answers(|line| node.from_outside(line), &url, 2).failed == 0).then_some(())
    });
    let before = ids(&node, "app");
    node.cli(&deploy).fails(0, &["Unchanged service app_web"]);
    assert_eq!(ids(&node, "app"), before);
    let socket = format!("unix://{}", node.socket());
    let docker = |line: &str| node.on_host(&format!("docker --host {socket} {line}"));
    docker("stack ls").fails(0, &["app"]);
    docker("stack services app").fails(0, &["app_web", "2/2"]);
    docker("stack ps app").fails(0, &["app_web.1", "Running"]);
    docker("stack rm app").fails(0, &["Removing service app_web", "Removing secret app_key"]);
    until("nothing is left", PATIENCE, || {
        engine.containers(&node, true).is_empty().then_some(())
    });
}

#[test]
fn docker_deploys_changes_and_removes_a_stack_by_itself() {
    let engine = Engine::shared();
    let mut node = engine.node();
    node.start();
    let socket = format!("unix://{}", node.socket());
    let docker = |line: &str| node.on_host(&format!("docker --host {socket} {line}"));
    let web = format!(
        "  web:
    image: {IMAGE}
    ports: [\"8080:80\"]
    networks: {{front: {{aliases: [shop]}}}}
    configs: [{{source: page, target: /etc/page}}]
    secrets: [key]
    healthcheck: {{test: [CMD, sh, \"-c\", \"exit 0\"], interval: 1s}}
    deploy: {{replicas: 1, update_config: {{order: start-first}}}}
"
    );
    let other = format!("  other:\n    image: {IMAGE}\n    networks: [front]\n");
    let rest =
        "networks:\n  front:\nconfigs:\n  page: {file: ./page}\nsecrets:\n  key: {file: ./key}\n";
    let compose = |services: &str| format!("version: \"3.8\"\nservices:\n{services}{rest}");
    let both = compose(&format!("{web}{other}"));
    let dir = files(
        &node,
        &[("compose.yml", &both), ("page", "hello\n"), ("key", "hush")],
    );
    let deploy = format!("stack deploy -c {dir}/compose.yml");
    docker(&format!("{deploy} app")).fails(
        0,
        &[
            "Creating network app_front",
            "Creating secret app_key",
            "Creating config app_page",
            "Creating service app_web",
        ],
    );
    until("both run", PATIENCE, || {
        (ids(&node, "app").lines().count() == 2
            && node.running("app_web").len() == 1
            && node.running("app_other").len() == 1)
            .then_some(())
    });
    let seen = node.cli("exec app_web.1 -- cat /etc/page /run/secrets/key");
    assert_eq!(seen.ok(), "hello\nhush");
    // ours finds it as it would have made it, but for what the two do not say alike
    let before = ids(&node, "app");
    docker(&format!("{deploy} app")).fails(0, &["Updating service app_web (id: "]);
    assert_eq!(ids(&node, "app"), before, "nothing was replaced");
    node.cli(&format!("stack deploy -c {dir}/compose.yml --dry-run app"))
        .fails(0, &["0 to create, 0 to change, 0 to remove, 4 as they are"]);

    files(&node, &[("compose.yml", &compose(&web))]);
    docker(&format!("{deploy} --prune app")).fails(0, &["Removing service app_other"]);
    docker("stack rm app").fails(0, &["Removing network app_front"]);
    until("nothing is left", PATIENCE, || {
        engine.containers(&node, true).is_empty().then_some(())
    });
    docker("stack ls").ok();
    assert_eq!(node.cli("secret ls --quiet").ok(), "");
}
