//! Images out of a real registry that asks who is there.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use e2e::{
    docker::{Engine, IMAGE, PATIENCE},
    until,
};

/// `user`, whose password is `secret` (bcrypt; what htpasswd writes).
const USERS: &str = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
/// Docker speaks plain HTTP with registries on the loopback.
const REGISTRY: &str = "127.0.0.1:5000";

/// A registry, and what a user who is logged in there has in the home directory.
struct Registry {
    dir: PathBuf,
    child: Child,
}

impl Registry {
    fn start() -> Self {
        let dir = PathBuf::from(format!("/tmp/registry{}", std::process::id()));
        fs::create_dir_all(&dir).expect("/tmp");
        let at = |name: &str| dir.join(name).display().to_string();
        fs::write(at("users"), USERS).expect("/tmp");
        let config = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"{REGISTRY}\"}}\nauth: {{htpasswd: {{realm: test, path: {}}}}}\n",
            at("data"),
            at("users")
        );
        fs::write(at("config.yml"), config).expect("/tmp");
        let child = Command::new("docker-registry")
            .args(["serve", &at("config.yml")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed");
        until("the registry answers", 60, || {
            let asked = e2e::sh(None, &format!("curl -s http://{REGISTRY}/v2/"));
            (asked.code == 0).then_some(())
        });
        Self { dir, child }
    }

    /// Where `docker login` writes.
    fn home(&self) -> String {
        self.dir.join("home").display().to_string()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(Path::new(&self.dir));
    }
}

#[test]
fn images_are_fetched_with_the_users_own_login_and_as_the_policy_says() {
    let engine = Engine::shared();
    let registry = Registry::start();
    let (image, home) = (format!("{REGISTRY}/shop/web:1"), registry.home());
    let push = || {
        engine
            .docker(&format!("--config {home} push --quiet {image}"))
            .ok();
        engine.docker(&format!("rmi {image}")).ok();
    };
    let login = format!("--config {home} login --username user --password secret {REGISTRY}");
    engine.docker(&login).ok();
    engine.docker(&format!("tag {IMAGE} {image}")).ok();
    push();

    let mut node = engine.node();
    node.start();
    let create = format!("service create --name web --restart-condition none {image}");
    node.cli(&create).fails(
        1,
        &["task web.1 rejected", "cannot be pulled", "credentials"],
    );
    let cli = |line: &str| {
        let instance = &node.instance;
        node.on_host(&format!(
            "DOCKER_CONFIG={home} ipvsmesh --instance {instance} {line}"
        ))
    };
    let nobody = node.on_host(&format!(
        "DOCKER_CONFIG=/nowhere ipvsmesh --instance {} service update --with-registry-auth web",
        node.instance
    ));
    nobody.fails(1, &["no login for the registry", "docker login"]);
    cli("service update --quiet --with-registry-auth --force web").ok();
    node.wait_running("web", 1);
    let shown = node.cli("service inspect web").ok();
    assert!(
        !shown.contains("secret") && !shown.contains("istry-"),
        "{shown}"
    );

    // another image by the same name
    let label = |value: &str| {
        format!(
            "echo FROM {IMAGE} | docker --host unix://{} build --quiet --label is={value} --tag {image} -",
            engine.socket()
        )
    };
    let runs = |value: &str| {
        let name = until("a container runs", PATIENCE, || {
            node.wait_running("web", 1);
            engine.containers(&node, false).pop()
        });
        let is = engine.docker(&format!(
            "inspect --format '{{{{.Config.Labels.is}}}}' {name}"
        ));
        assert_eq!(is.ok().trim(), value);
    };
    e2e::sh(None, &label("new")).ok();
    push();
    e2e::sh(None, &label("old")).ok();
    // the login is remembered
    node.cli("service update --quiet --force web").ok();
    runs("old");
    node.cli("service update --quiet --force --pull always web")
        .ok();
    runs("new");

    engine.docker(&format!("rmi --force {image}")).ok();
    node.cli("service rm web").ok();
    node.cli(&format!(
        "service create --pull never --restart-condition none {image}"
    ))
    .fails(1, &["this node does not have it", "--pull never"]);
}
