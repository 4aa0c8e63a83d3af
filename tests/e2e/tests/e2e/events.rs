//! What the mesh did, and why, is told.

use std::{
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use e2e::{Node, sh, until};

/// `ipvsmesh events` that goes on, into a file.
struct Listener(Child, String);

impl Listener {
    fn start(node: &Node, options: &str) -> Self {
        let file = format!("/tmp/{}.events", node.instance);
        let line = format!(
            "exec ipvsmesh --instance {} events {options} > {file}",
            node.instance
        );
        let child = Command::new("bash")
            .args(["-c", &line])
            .stdin(Stdio::null())
            .spawn()
            .expect("bash is installed");
        Self(child, file)
    }

    /// Waits for a line with all of these words.
    fn sees(&self, words: &[&str]) {
        until(&format!("an event with {words:?}"), 40, || {
            let text = std::fs::read_to_string(&self.1).unwrap_or_default();
            let fits = |line: &str| words.iter().all(|word| line.contains(word));
            let found = text.lines().any(fits);
            found.then_some(())
        });
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(&self.1).unwrap_or_default());
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_file(&self.1);
    }
}

#[test]
fn what_the_mesh_does_is_told_with_its_reason() {
    let node = Node::started();
    let all = Listener::start(&node, "--since 1h");
    all.sees(&[" daemon start "]);
    node.whoami(
        "vote",
        "--replicas 2 --publish 8080:80 --probe tcp:80 --restart-delay 100ms",
    );
    all.sees(&[" service create ", "name=vote"]);
    all.sees(&[" task running ", "name=vote.2"]);
    all.sees(&[" task health_status: healthy ", "name=vote.1"]);
    all.sees(&[" destination add ", "name=vote.2", "weight=1"]);

    // what others change is repaired, and told
    node.in_ingress("ipset flush ports").ok();
    all.sees(&[
        " datapath repair ",
        "place=ingress",
        "of set ports was missing",
    ]);

    // a task that dies
    let task = node.cli("service ps -q vote").ok();
    let task = task.lines().next().unwrap_or_default();
    let line = format!(
        "for p in $(ip netns pids ipvsmesh-{}-{task}); do
             grep -qx whoami /proc/$p/comm && kill -9 $p; done; true",
        node.instance
    );
    sh(None, &line).ok();
    all.sees(&[" destination remove ", "name=vote.1", "killed by signal 9"]);
    all.sees(&[" task failed ", "name=vote.1", "exitCode=137"]);

    // the responder
    let line = format!("ipvsmesh-{}/dns.sock", node.instance);
    let status = sh(
        None,
        &format!("echo status | socat -t 5 - UNIX-CONNECT:/run/{line}"),
    )
    .ok();
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    sh(None, &format!("kill -9 {}", status["pid"])).ok();
    all.sees(&[" responder start ", "reason=none answered"]);

    node.wait_running("vote", 2);
    node.cli("service scale vote=1").ok();
    all.sees(&[" service update ", "replicas.new=1", "replicas.old=2"]);
    all.sees(&[" destination drain ", "name=vote.2", "scaled down"]);
    all.sees(&[" task remove ", "name=vote.2"]);
    node.cli("service update --quiet --detach --update-monitor 1s --env-add A=b vote")
        .ok();
    all.sees(&[" service update ", "updatestate.new=completed"]);
    all.sees(&[
        " destination drain ",
        "name=vote.1",
        "replaced by an update",
    ]);
    node.cli("service rm vote").ok();
    all.sees(&[" service remove ", "name=vote"]);

    // docker's own client reads them; it says until when in whole seconds, rounded down
    sleep(Duration::from_secs(1));
    let docker = |words: &str| {
        let line = format!(
            "docker -H unix://{} events --since 1h --until 0s {words}",
            node.socket()
        );
        sh(None, &line).ok()
    };
    let services =
        docker("--filter type=service --format '{{.Action}} {{.Actor.Attributes.name}}'");
    let services: Vec<_> = services.lines().collect();
    assert_eq!(services.first(), Some(&"create vote"));
    assert_eq!(services.last(), Some(&"remove vote"));
    // and print them as ours does
    let ours = node
        .cli("events --since 1h --until 0s --filter service=vote --filter type=task")
        .ok();
    assert_eq!(docker("--filter service=vote --filter type=task"), ours);
    assert!(ours.lines().count() > 8, "{ours}");
}
