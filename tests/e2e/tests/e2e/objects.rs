//! Configs and secrets: by our command, by docker's own, and as files of tasks.

use e2e::{
    Node,
    docker::{Engine, IMAGE, PATIENCE},
    until,
};

/// Something that is found nowhere by accident.
const HUSH: &str = "hush-4711-hush";

fn make(node: &Node) {
    node.on_host(&format!(
        "printf {HUSH} | ipvsmesh --instance {} secret create --label app=shop key -",
        node.instance
    ))
    .ok();
    node.on_host(&format!(
        "echo colour=red > /tmp/{0}.conf; ipvsmesh --instance {0} config create shop.conf /tmp/{0}.conf",
        node.instance
    ))
    .ok();
}

/// That nothing tells what is in the secret but the store.
fn stays_secret(node: &Node) {
    for told in [
        node.cli("secret inspect key").out,
        node.cli("events --since 1h --until 0s --format json").out,
        node.daemon_log(),
        node.inspect("web").to_string(),
    ] {
        assert!(!told.contains(HUSH) && !told.contains("aHVzaC"), "{told}");
    }
    let found = node.on_host(&format!(
        "grep -rl {HUSH} /var/lib/ipvsmesh-{0} /run/ipvsmesh-{0} 2> /dev/null; true",
        node.instance
    ));
    // the task itself says it
    let known = |path: &&str| path.starts_with("/run/") || path.contains("/logs/");
    let elsewhere = found.out.lines().filter(|path| !known(path));
    assert_eq!(elsewhere.count(), 0, "{}", found.out);
    let mode = node.on_host(&format!(
        "stat -c %a /var/lib/ipvsmesh-{}/store.redb",
        node.instance
    ));
    assert_eq!(mode.ok(), "600");
}

fn files(node: &Node) -> String {
    let run = format!("/run/ipvsmesh-{}", node.instance);
    node.on_host(&format!("grep -rl {HUSH} {run}; true")).ok()
}

#[test]
fn processes_have_configs_and_secrets_as_files() {
    let node = Node::started();
    make(&node);
    node.cli("secret ls").fails(0, &["key", "DRIVER"]);
    // there before the first instruction
    node.cli(
        "service create --quiet --name web --secret source=key,mode=0400,uid=65534 --config shop.conf \
         --env SHOP=open --runtime process -- bash -c 'cat /run/secrets/key /run/configs/shop.conf; exec sleep 10000'",
    )
    .ok();
    until("it has read them", 20, || {
        let said = node.cli("service logs --raw web").out;
        (said.contains(HUSH) && said.contains("colour=red")).then_some(())
    });
    let look = "stat -c %a:%u /run/secrets/key; touch /run/secrets/x || echo read-only";
    let seen = node.sh_in_task("web.1", look);
    assert!(seen.out.contains("400:65534\nread-only"), "{seen:?}");
    assert!(
        !node
            .on_host("ls /run/secrets /run/configs")
            .out
            .contains("key")
    );
    stays_secret(&node);

    node.cli("secret rm key")
        .fails(1, &["secret 'key' is in use by the following service: web"]);
    node.cli("service create --name no --config source=shop.conf,target=/etc/x --runtime process -- true")
        .fails(1, &["relative target"]);
    node.cli("service create --name no --secret keys --runtime process -- true")
        .fails(1, &["did you mean key?"]);
    node.cli("service update --quiet --secret-rm key web").ok();
    let gone = node.sh_in_task("web.1", "test -e /run/secrets/key || echo gone");
    assert_eq!(gone.ok(), "gone");
    until("the file is gone with its task", 20, || {
        files(&node).is_empty().then_some(())
    });
    until("it may be removed", 20, || {
        (node.cli("secret rm key").code == 0).then_some(())
    });
    node.cli("config inspect --pretty shop.conf")
        .fails(0, &["colour=red"]);
}

#[test]
fn containers_have_configs_and_secrets_as_files() {
    let engine = Engine::shared();
    let mut node = engine.node();
    node.start();
    make(&node);
    node.cli(&format!(
        "service create --quiet --name web --read-only --user web --secret source=key,mode=0400,uid=7 \
         --config source=shop.conf,target=/etc/shop/shop.conf --config source=shop.conf,target=two {IMAGE} \
         sh -c 'cat /run/secrets/key /etc/shop/shop.conf /two; exec sleep 10000'"
    ))
    .ok();
    until("it has read them", PATIENCE, || {
        let said = node.cli("service logs --raw web").out;
        (said.contains(HUSH) && said.matches("colour=red").count() == 2).then_some(())
    });
    stays_secret(&node);
    let names = engine.containers(&node, false);
    let inspected = engine.docker(&format!("inspect {}", names.join(" "))).ok();
    assert!(!inspected.contains(HUSH));

    // docker's own client knows them, and makes its own
    let socket = format!("unix://{}", node.socket());
    let docker = |line: &str| node.on_host(&format!("docker --host {socket} {line}"));
    docker("secret ls").fails(0, &["key", "NAME"]);
    docker("config inspect --pretty shop.conf").fails(0, &["colour=red"]);
    docker("secret create other /etc/hostname").ok();
    docker("secret create --template-driver golang third /etc/hostname").fails(1, &["Templating"]);
    docker("service update --detach --secret-add other web").ok();
    until("the new task has both", PATIENCE, || {
        let seen = node.cli("exec web.1 -- ls /run/secrets").out;
        (seen.contains("key") && seen.contains("other")).then_some(())
    });
    docker("secret rm key").fails(1, &["in use by the following service: web"]);
    docker("service rm web").ok();
    until("nothing is left of it", PATIENCE, || {
        let gone = engine.containers(&node, true).is_empty();
        (gone && files(&node).is_empty()).then_some(())
    });
    docker("secret rm key other").ok();
    docker("config rm shop.conf").ok();
}
