//! The stock `docker` CLI against our socket.

use e2e::Node;

#[test]
fn the_docker_cli_lists_services_tasks_nodes_and_networks() {
    let node = Node::started();
    node.cli("network create back").ok();
    node.whoami("vote", "--replicas 2 --network back --publish 8080:80");
    node.wait_running("vote", 2);
    let docker = |arguments: &str| {
        let socket = format!("unix:///run/ipvsmesh-{}/ipvsmesh.sock", node.instance);
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
    docker("service rm vote");
    assert_eq!(node.cli("service ls -q").ok(), "");
}
