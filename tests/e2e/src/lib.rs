//! The harness of the end-to-end tests. A "node" is a network namespace with a
//! daemon of its own in it (`--instance`), an "outside" machine is one more
//! namespace, joined to it by a veth. Judges are the tools that people use:
//! `ipvsadm`, `dig`, `curl`, `ip`, `ss`.
//!
//! It runs as root on a kernel with IPVS: `cargo xtask test` boots one.
#![forbid(unsafe_code)]

mod connection;
pub mod docker;
mod load;

use std::{
    fs::File,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

pub use connection::Connection;
pub use load::{Load, Report};

/// What a command said.
#[derive(Debug)]
pub struct Said {
    /// The command line.
    pub command: String,
    /// Exit status; 128 + signal where it was killed.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Its output, trimmed; panics where it failed.
    pub fn ok(self) -> String {
        assert_eq!(
            self.code, 0,
            "{} failed:\n{}{}",
            self.command, self.out, self.err
        );
        self.out.trim().to_owned()
    }

    /// Asserts that it failed with this status and said all of these.
    pub fn fails(self, code: i32, words: &[&str]) -> Self {
        let said = format!("{}{}", self.out, self.err);
        assert_eq!(self.code, code, "{}:\n{said}", self.command);
        for word in words {
            assert!(
                said.contains(word),
                "{} does not say {word:?}:\n{said}",
                self.command
            );
        }
        self
    }
}

/// Runs a shell line in a network namespace (`None`: in the machine's own).
pub fn sh(netns: Option<&str>, line: &str) -> Said {
    let mut command = match netns {
        // not `ip netns exec`: it hides mounts made inside from everyone else
        Some(name) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/run/netns/{name}"));
            command.args(["bash", "-c", line]);
            command
        }
        None => {
            let mut command = Command::new("bash");
            command.args(["-c", line]);
            command
        }
    };
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("bash and nsenter are installed");
    use std::os::unix::process::ExitStatusExt as _;
    let status = output.status;
    Said {
        command: line.to_owned(),
        code: status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Waits until the closure gives a value; panics with `what` after `seconds`.
pub fn until<T>(what: &str, seconds: u64, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(Instant::now() < end, "waited {seconds} s in vain: {what}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A machine with a daemon on it, and an outside machine beside it.
pub struct Node {
    /// The daemon's instance name.
    pub instance: String,
    /// Namespace that stands for the host.
    pub host: String,
    /// Namespace that stands for another machine on the host's network.
    pub outside: String,
    /// What the daemon is started with besides its instance's name.
    pub arguments: Vec<String>,
    /// A directory that comes first in the daemon's PATH.
    pub path: Option<String>,
    daemon: Option<Child>,
}

/// The host's address towards the outside machine.
pub const HOST_IP: &str = "192.0.2.1";
/// The outside machine's address.
pub const OUTSIDE_IP: &str = "192.0.2.2";
/// The host's IPv6 address towards the outside machine.
pub const HOST_IP6: &str = "2001:db8::1";
/// The outside machine's IPv6 address.
pub const OUTSIDE_IP6: &str = "2001:db8::2";

impl Default for Node {
    fn default() -> Self {
        Self::new()
    }
}

impl Node {
    /// A node without a daemon yet.
    pub fn new() -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let instance = format!("e{}x{number}", std::process::id() % 10_000);
        let (host, outside) = (format!("{instance}-host"), format!("{instance}-out"));
        sh(
            None,
            &format!(
                "set -e; ip netns add {host}; ip netns add {outside}
                 ip -n {host} link set lo up; ip -n {outside} link set lo up
                 ip -n {host} link add eth0 type veth peer name eth0 netns {outside}
                 ip -n {host} addr add {HOST_IP}/24 dev eth0; ip -n {host} link set eth0 up
                 ip -n {outside} addr add {OUTSIDE_IP}/24 dev eth0; ip -n {outside} link set eth0 up
                 ip -n {host} addr add {HOST_IP6}/64 dev eth0 nodad
                 ip -n {outside} addr add {OUTSIDE_IP6}/64 dev eth0 nodad"
            ),
        )
        .ok();
        Self {
            instance,
            host,
            outside,
            arguments: Vec::new(),
            path: None,
            daemon: None,
        }
    }

    /// A node with a running daemon.
    pub fn started() -> Self {
        let mut node = Self::new();
        node.start();
        node
    }

    /// Where the daemon's log goes.
    pub fn log(&self) -> PathBuf {
        format!("/tmp/{}.log", self.instance).into()
    }

    /// Starts the daemon and waits until it answers.
    pub fn start(&mut self) {
        let log = || {
            File::options()
                .append(true)
                .create(true)
                .open(self.log())
                .expect("/tmp")
        };
        let path = std::env::var("PATH").unwrap_or_default();
        let first = self.path.iter().cloned();
        let path: Vec<_> = first.chain([path]).collect();
        let child = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.host))
            .args(["ipvsmeshd", "--instance", &self.instance])
            .args(&self.arguments)
            .env("PATH", path.join(":"))
            .env("RUST_LOG", "info,ipvsmesh_daemon=debug")
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log())
            .spawn()
            .expect("ipvsmeshd is on the PATH");
        self.daemon = Some(child);
        until("the daemon answers", 30, || {
            let child = self.daemon.as_mut()?;
            if let Ok(Some(status)) = child.try_wait() {
                panic!("the daemon ended ({status}):\n{}", self.daemon_log());
            }
            (self.cli("node ls").code == 0).then_some(())
        });
    }

    /// The daemon's process, while it runs.
    pub fn daemon(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// `kill -9` to the daemon.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            child.kill().expect("it is ours");
            child.wait().expect("it is ours");
        }
    }

    /// SIGTERM to the daemon.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            sh(None, &format!("kill {}", child.id())).ok();
            child.wait().expect("it is ours");
        }
    }

    /// Its log so far.
    pub fn daemon_log(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Runs `ipvsmesh` with these arguments on the node.
    pub fn cli(&self, arguments: &str) -> Said {
        self.on_host(&format!(
            "ipvsmesh --instance {} {arguments}",
            self.instance
        ))
    }

    /// Runs a shell line on the node.
    pub fn on_host(&self, line: &str) -> Said {
        sh(Some(&self.host), line)
    }

    /// Runs a shell line on the outside machine.
    pub fn from_outside(&self, line: &str) -> Said {
        sh(Some(&self.outside), line)
    }

    /// Runs a shell line in the router namespace.
    pub fn in_router(&self, line: &str) -> Said {
        sh(Some(&format!("ipvsmesh-{}-router", self.instance)), line)
    }

    /// Runs a shell line in the ingress namespace.
    pub fn in_ingress(&self, line: &str) -> Said {
        sh(Some(&format!("ipvsmesh-{}-ingress", self.instance)), line)
    }

    /// Runs a command in a task by `ipvsmesh exec`.
    pub fn in_task(&self, task: &str, command: &str) -> Said {
        self.cli(&format!("exec {task} -- {command}"))
    }

    /// A task's IPv4 address.
    pub fn address(&self, task: &str) -> String {
        let all = self.in_task(task, "hostname -I").ok();
        let mut all = all.split_whitespace();
        let four = all.find(|address| address.contains('.'));
        four.expect("a task has an IPv4 address").to_owned()
    }

    /// The IPv6 VIP of a service's first network with one.
    pub fn vip6(&self, service: &str) -> String {
        let vips = self.inspect(service)["Endpoint"]["VirtualIPs"].clone();
        let vips = vips.as_array().expect("a service has VIPs").iter();
        let mut vips = vips.filter_map(|vip| vip["Addr"].as_str()?.split('/').next());
        let six = vips.find(|vip| vip.contains(':'));
        six.expect("the service has an IPv6 VIP").to_owned()
    }

    /// Runs a shell line in a task.
    pub fn sh_in_task(&self, task: &str, line: &str) -> Said {
        assert!(!line.contains('\''), "{line}");
        self.in_task(task, &format!("bash -c '{line}'"))
    }

    /// Makes a network and a service of `whoami` on port 80 and waits for it.
    pub fn whoami(&self, name: &str, options: &str) -> String {
        self.cli(&format!(
            "service create --quiet --name {name} {options} --runtime process -- whoami --port 80"
        ))
        .ok()
    }

    /// The service's JSON.
    pub fn inspect(&self, service: &str) -> serde_json::Value {
        let text = self.cli(&format!("service inspect {service}")).ok();
        let all: serde_json::Value = serde_json::from_str(&text).expect("service inspect is JSON");
        all[0].clone()
    }

    /// The service's first VIP.
    pub fn vip(&self, service: &str) -> String {
        let vip = self.inspect(service)["Endpoint"]["VirtualIPs"][0]["Addr"].clone();
        let vip = vip.as_str().expect("the service has a VIP");
        vip.split('/').next().unwrap_or_default().to_owned()
    }

    /// The tasks that run, as `vote.1` names.
    pub fn running(&self, service: &str) -> Vec<String> {
        let said = self.cli(&format!(
            "service ps --filter desired-state=running {service}"
        ));
        let lines = said
            .out
            .lines()
            .skip(1)
            .filter(|line| line.contains(" Running "));
        let running = lines.filter(|line| line.matches("Running").count() >= 2);
        running
            .filter_map(|line| line.split_whitespace().nth(1))
            .map(str::to_owned)
            .collect()
    }

    /// The path of the API's socket.
    pub fn socket(&self) -> String {
        format!("/run/ipvsmesh-{}/ipvsmesh.sock", self.instance)
    }

    /// Waits until so many tasks run.
    pub fn wait_running(&self, service: &str, count: usize) {
        until(&format!("{count} tasks of {service} run"), 120, || {
            (self.running(service).len() == count).then_some(())
        });
    }

    /// Who answers `count` requests made by this curl line: host name -> times.
    pub fn answers(&self, run: impl Fn(&str) -> Said, url: &str, count: u32) -> Answers {
        let line =
            format!("for i in $(seq {count}); do curl -sS --max-time 5 {url} || echo FAILED; done");
        Answers::parse(&run(&line).out)
    }
}

/// What a row of requests brought.
#[derive(Debug, Default)]
pub struct Answers {
    /// How often each host answered.
    pub hosts: std::collections::BTreeMap<String, u32>,
    /// The client addresses that were seen.
    pub clients: std::collections::BTreeSet<String>,
    /// How many requests failed.
    pub failed: u32,
}

impl Answers {
    /// Reads the answers of `whoami`, one after the other.
    pub fn parse(text: &str) -> Self {
        let mut answers = Self::default();
        for line in text.lines() {
            if let Some(host) = line.strip_prefix("Hostname: ") {
                *answers.hosts.entry(host.to_owned()).or_default() += 1;
            } else if let Some(peer) = line.strip_prefix("RemoteAddr: ") {
                let address = peer.rsplit_once(':').map_or(peer, |(address, _)| address);
                answers.clients.insert(address.to_owned());
            } else if line.contains("FAILED") {
                answers.failed += 1;
            }
        }
        answers
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.daemon_log();
            let tail: Vec<_> = log.lines().rev().take(60).collect();
            eprintln!("--- the daemon's last lines:");
            for line in tail.iter().rev() {
                eprintln!("{line}");
            }
        }
        self.kill();
        let cleaned = self.on_host(&format!(
            "ipvsmeshd --instance {} --cleanup {}",
            self.instance,
            self.arguments.join(" ")
        ));
        if cleaned.code != 0 {
            eprintln!("clean-up failed: {}{}", cleaned.out, cleaned.err);
        }
        sh(
            None,
            &format!("ip netns del {}; ip netns del {}", self.host, self.outside),
        );
        let _ = std::fs::remove_file(self.log());
    }
}
