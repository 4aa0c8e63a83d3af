//! A Docker Engine of a test's own, with its data, its containerd and its socket
//! in a directory; without a bridge, unless it is a node's own.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::{Node, Said, sh, until};

/// An image with `whoami` (its command) and busybox.
pub const IMAGE: &str = "web:1";

/// An image with a static `/whoami`, and nothing else, not even what it would run.
pub const BARE: &str = "bare:1";

/// How long Docker takes, at most, for what it does in a second on a real machine.
pub const PATIENCE: u64 = 180;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// An engine.
pub struct Engine {
    dir: PathBuf,
    /// The namespace that it is started in, where it has bridges and rules.
    netns: Option<String>,
    options: Vec<String>,
    child: Option<Child>,
}

impl Engine {
    /// One that all tests share: to start it takes long. It must not be stopped.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Engine> = OnceLock::new();
        SHARED.get_or_init(|| Self::started(&["--live-restore"]))
    }

    /// A running one with these options, [`IMAGE`] and [`BARE`].
    pub fn started(options: &[&str]) -> Self {
        Self::started_in(None, options)
    }

    /// One beside a node's daemon, with its default bridge and its rules.
    pub fn beside(node: &Node, options: &[&str]) -> Self {
        Self::started_in(Some(node.host.clone()), options)
    }

    fn started_in(netns: Option<String>, options: &[&str]) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = PathBuf::from(format!("/tmp/docker{}x{number}", std::process::id()));
        fs::create_dir_all(dir.join("root/bin")).expect("/tmp");
        let mut engine = Self {
            dir,
            netns,
            options: Vec::new(),
            child: None,
        };
        engine.set_options(options);
        engine.start();
        let root = engine.dir.join("root").display().to_string();
        sh(
            None,
            &format!(
                "set -e; cd {root}; mkdir -p tmp etc; cp $(which whoami) $(which busybox) bin/
                 for name in sh cat ls ip wget sleep hostname id env kill mount; do ln -s busybox bin/$name; done
                 echo 'root:x:0:0:root:/:/bin/sh' > etc/passwd
                 echo 'web:x:7:7:web:/:/bin/sh' >> etc/passwd
                 tar -c . | docker --host {} import -c 'ENV PATH=/bin' -c 'CMD [\"whoami\",\"--port\",\"80\"]' - {IMAGE}",
                engine.host()
            ),
        )
        .ok();
        sh(
            None,
            &format!(
                "tar -c -C {root}/bin whoami | docker --host {} import - {BARE}",
                engine.host()
            ),
        )
        .ok();
        engine
    }

    /// Its socket.
    pub fn socket(&self) -> String {
        self.dir.join("docker.sock").display().to_string()
    }

    /// What `DOCKER_HOST` is for it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket())
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Starts it, and waits until it answers. It gives its containerd 15 s and ends
    /// where those are not enough, as on a machine that has much to do.
    pub fn start(&mut self) {
        self.child = Some(self.spawn());
        until("the Docker Engine answers", PATIENCE, || {
            let child = self.child.as_mut()?;
            if matches!(child.try_wait(), Ok(Some(_))) {
                self.child = Some(self.spawn());
            }
            (self.docker("version").code == 0).then_some(())
        });
    }

    fn spawn(&self) -> Child {
        let path = |name: &str| self.dir.join(name).display().to_string();
        let log = || {
            let mut options = File::options();
            let file = options.append(true).create(true).open(path("log"));
            file.expect("/tmp")
        };
        let mut dockerd = match &self.netns {
            Some(name) => {
                let mut dockerd = Command::new("nsenter");
                dockerd.args([&format!("--net=/run/netns/{name}"), "dockerd"]);
                dockerd
            }
            None => {
                let mut dockerd = Command::new("dockerd");
                dockerd
                    .args(["--bridge=none", "--iptables=false", "--ip6tables=false"])
                    .args(["--ip-forward=false", "--ip-masq=false"]);
                dockerd
            }
        };
        dockerd
            .args(["--data-root", &path("data"), "--exec-root", &path("run")])
            .args(["--pidfile", &path("pid"), "--host", &self.host()])
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log());
        dockerd.spawn().expect("dockerd is installed")
    }

    /// What it is started with from the next time on.
    pub fn set_options(&mut self, options: &[&str]) {
        self.options = options.iter().map(|&option| option.to_owned()).collect();
    }

    /// Sends it a signal.
    pub fn signal(&self, name: &str) {
        let child = self.child.as_ref().expect("it runs");
        sh(None, &format!("kill -{name} {}", child.id())).ok();
    }

    /// `kill -9`; its containers go on.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it is ours");
            child.wait().expect("it is ours");
        }
        // who is killed does not delete it, and does not start over it
        let _ = fs::remove_file(self.dir.join("pid"));
    }

    /// Runs docker's own client on it.
    pub fn docker(&self, line: &str) -> Said {
        sh(None, &format!("docker --host {} {line}", self.host()))
    }

    /// A node whose tasks run on it, not started yet.
    pub fn node(&self) -> Node {
        let mut node = Node::new();
        node.arguments = vec!["--docker-socket".to_owned(), self.socket()];
        node
    }

    /// Names of a node's containers, of all or of those that run.
    pub fn containers(&self, node: &Node, all: bool) -> Vec<String> {
        let all = if all { "--all" } else { "" };
        let label = format!("label=ipvsmesh.instance=ipvsmesh-{}", node.instance);
        let listed = self.docker(&format!(
            "ps {all} --no-trunc --filter {label} --format '{{{{.Names}}}}'"
        ));
        listed.ok().lines().map(str::to_owned).collect()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let last: Vec<_> = log.lines().rev().take(15).collect();
            eprintln!("--- dockerd's last lines:");
            for line in last.iter().rev() {
                eprintln!("{line}");
            }
        }
        let all = self.docker("ps --all --quiet");
        if !all.out.trim().is_empty() {
            self.docker(&format!("rm --force {}", all.out.replace('\n', " ")));
        }
        self.kill();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
