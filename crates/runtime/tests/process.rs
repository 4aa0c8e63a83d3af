//! The process runtime with real shims on the real kernel. Each test has a
//! machine of its own, as far as that can be seen: `/run`, `/var/lib` and `/etc`
//! are its own, and cgroup version 2 is at `/sys/fs/cgroup` whatever the host has
//! there. Needs root.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test fails so")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
        process::CommandExt as _,
    },
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use ipvsmesh_runtime::{
    LogOptions, LogStream, Observed, Phase, Process, Runtime as _, RuntimeError, TaskFiles,
};
use jiff::Timestamp;
use model::{
    DesiredState, Instance, NodeId, ProcessSpec, RestartPolicy, RuntimeSpec, ServiceId, Task,
    TaskId, TaskSpec,
};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        signal::{Signal, kill, killpg},
        statfs::{CGROUP2_SUPER_MAGIC, statfs},
    },
    unistd::Pid,
};

const SHIM: &str = env!("CARGO_BIN_EXE_runtime-test-shim");
const RESOLV_CONF: &str = "nameserver 10.100.0.1\noptions ndots:0\n";
const HOSTS: &str =
    "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n10.100.0.7\tvote.1\n";
/// Longer than anything takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn attach(what: &str, to: &str, kind: Option<&str>, flags: MsFlags) {
    fs::create_dir_all(to).unwrap();
    let mounted = mount(Some(what), to, kind, flags, None::<&str>);
    mounted.unwrap_or_else(|error| panic!("cannot mount {what} at {to} (are you root?): {error}"));
}

/// Some of the machine for a test, and a runtime on it.
struct Machine {
    instance: Instance,
    runtime: Process,
}

/// Runs a test on a machine of its own.
fn on_machine(test: impl AsyncFnOnce(&Machine)) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    // of this thread, and of those that it starts
    unshare(CloneFlags::CLONE_NEWNS).expect("these tests need root");
    // apart from the host's; shared again, as systemd has it: what a shim mounts
    // must not be seen outside of it
    for kind in [MsFlags::MS_PRIVATE, MsFlags::MS_SHARED] {
        attach("none", "/", None, MsFlags::MS_REC | kind);
    }
    if statfs("/sys/fs/cgroup").unwrap().filesystem_type() != CGROUP2_SUPER_MAGIC {
        attach(
            "cgroup2",
            "/sys/fs/cgroup",
            Some("cgroup2"),
            MsFlags::empty(),
        );
    }
    let accounts = ["passwd", "group"].map(|name| {
        let path = Path::new("/etc").join(name);
        (path.clone(), fs::read(&path).unwrap())
    });
    for dir in ["/run", "/var/lib", "/etc"] {
        attach("tmpfs", dir, Some("tmpfs"), MsFlags::empty());
    }
    for (path, text) in accounts {
        fs::write(path, text).unwrap();
    }
    fs::write("/etc/resolv.conf", "nameserver 192.0.2.53\n").unwrap();
    fs::write("/etc/hosts", "192.0.2.1 host\n").unwrap();

    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let instance: Instance = format!("t{}x{number}", std::process::id() % 10_000)
        .parse()
        .unwrap();
    let machine = Machine {
        runtime: Process::new(&instance, SHIM.into()).unwrap(),
        instance,
    };
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let tested = catch_unwind(AssertUnwindSafe(|| tokio.block_on(test(&machine))));
    // what a test leaves is removed, and nothing may be left then
    let left = tokio.block_on(async {
        for observed in machine.runtime.observe().await.unwrap() {
            machine.runtime.remove(&observed.task).await.unwrap();
        }
        machine.left()
    });
    let _ = fs::remove_dir(machine.instance.cgroup());
    if let Err(failed) = tested {
        resume_unwind(failed);
    }
    assert!(left.is_empty(), "left over: {left:#?}");
}

fn task(command: &[&str]) -> Task {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let mut random = [0; 16];
    random[..4].copy_from_slice(&std::process::id().to_be_bytes());
    random[4..8].copy_from_slice(&NUMBER.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    Task {
        id: TaskId::from_random(random),
        service: ServiceId::from_random(random),
        service_name: "vote".parse().unwrap(),
        slot: 1,
        node: NodeId::from_random(random),
        spec: TaskSpec {
            runtime: RuntimeSpec::Process(ProcessSpec {
                command: command.iter().map(|&word| word.to_owned()).collect(),
                stop_grace: PATIENCE,
                ..ProcessSpec::default()
            }),
            networks: Vec::new(),
            restart: RestartPolicy::default(),
            force_update: 0,
        },
        attachments: Vec::new(),
        desired: DesiredState::Running,
        created: Timestamp::now(),
        not_before: None,
        elsewhere: None,
    }
}

fn shell(script: &str) -> Task {
    task(&["sh", "-c", script])
}

fn with(mut task: Task, change: impl FnOnce(&mut ProcessSpec)) -> Task {
    let RuntimeSpec::Process(spec) = &mut task.spec.runtime else {
        panic!("it is a process");
    };
    change(spec);
    task
}

fn files() -> TaskFiles {
    TaskFiles {
        hostname: "vote.1".to_owned(),
        addresses: vec!["10.100.0.7".parse().unwrap()],
        nameservers: vec!["10.100.0.1".parse().unwrap()],
        files: Vec::new(),
        registry_auth: None,
    }
}

fn lives(pid: u32) -> bool {
    // a zombie does not
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    !status.is_empty() && !status.contains("State:\tZ")
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = look().await {
            return value;
        }
        assert!(Instant::now() < end, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Machine {
    /// Another daemon's runtime on the same machine.
    fn again(&self) -> Process {
        Process::new(&self.instance, SHIM.into()).unwrap()
    }

    async fn prepare(&self, task: &Task) -> Observed {
        let sandbox = self.runtime.prepare(task, &files()).await.unwrap();
        let observed = self.look(&task.id).await.unwrap();
        assert_eq!(observed.phase, Phase::Prepared);
        assert_eq!(observed.identity.as_ref(), Some(&sandbox.identity));
        observed
    }

    async fn start(&self, task: &Task) -> u32 {
        self.prepare(task).await;
        self.runtime.start(&task.id).await.unwrap();
        match self.look(&task.id).await.unwrap().phase {
            Phase::Running { pid, .. } => pid,
            other => panic!("it does not run: {other:?}"),
        }
    }

    async fn look(&self, id: &TaskId) -> Option<Observed> {
        let all = self.runtime.observe().await.unwrap();
        all.into_iter().find(|observed| observed.task == *id)
    }

    /// Waits for its end: exit status and error.
    async fn end(&self, id: &TaskId) -> (i32, String) {
        until("the task ends", async || match self.look(id).await?.phase {
            Phase::Exited { code, error, .. } => Some((code, error)),
            _ => None,
        })
        .await
    }

    /// Runs a task to its end: exit status and standard output.
    async fn run(&self, task: &Task) -> (i32, String) {
        self.prepare(task).await;
        self.runtime.start(&task.id).await.unwrap();
        let (code, _) = self.end(&task.id).await;
        (code, self.output(&task.id).await)
    }

    async fn output(&self, id: &TaskId) -> String {
        let mut lines = self.runtime.logs(id, LogOptions::default());
        let mut text = String::new();
        while let Some(line) = lines.recv().await {
            text.push_str(&line.unwrap().log);
        }
        text
    }

    /// Waits until its log has this.
    async fn says(&self, id: &TaskId, word: &str) {
        until(word, async || {
            self.output(id).await.contains(word).then_some(())
        })
        .await;
    }

    fn dir(&self, id: &TaskId) -> PathBuf {
        self.instance.run_dir().join("tasks").join(id.as_str())
    }

    fn processes(&self, id: &TaskId) -> Vec<u32> {
        let dir = self.instance.cgroup().join(id.as_str()).join("task");
        let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Everything that there is of this machine's tasks but their logs.
    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        let names = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten();
        left.extend(names(self.instance.run_dir().join("tasks")).map(|e| e.path()));
        left.extend(
            names(self.instance.cgroup())
                .filter(|e| e.path().is_dir())
                .map(|e| e.path()),
        );
        let prefix = self.instance.prefix();
        for process in names("/proc".into()) {
            // whose parent is gone waits for the machine's first process, as a zombie
            let pid = process
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            if !pid.is_some_and(lives) {
                continue;
            }
            let cmdline = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let shim = String::from_utf8_lossy(&cmdline).contains(&format!("/run/{prefix}/"));
            let cgroup = fs::read_to_string(process.path().join("cgroup")).unwrap_or_default();
            if shim || cgroup.contains(&format!("/{prefix}/")) {
                left.push(process.path());
            }
        }
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        left.extend(
            mounts
                .lines()
                .filter(|line| line.contains(&prefix))
                .map(PathBuf::from),
        );
        left.iter().map(|path| path.display().to_string()).collect()
    }
}

#[test]
fn a_task_runs_in_its_prepared_sandbox_and_tells_its_end() {
    on_machine(async |machine| {
        let mut events = machine.runtime.events();
        let task = shell("echo out; echo err >&2; readlink /proc/self/ns/net; exit 3");
        let sandbox = machine.runtime.prepare(&task, &files()).await.unwrap();
        let inode = fs::metadata(&sandbox.netns).unwrap().ino();
        assert_eq!(inode, sandbox.identity.netns_inode);
        assert_ne!(inode, fs::metadata("/proc/self/ns/net").unwrap().ino());
        // nothing of the user runs yet
        assert!(machine.processes(&task.id).is_empty());

        let mut told = async || tokio::time::timeout(PATIENCE, events.recv()).await;
        let first = told().await.expect("an event in time").unwrap();
        assert_eq!((&first.task, first.phase), (&task.id, Phase::Prepared));
        machine.runtime.start(&task.id).await.unwrap();
        let mut phases = Vec::new();
        while !matches!(phases.last(), Some(Phase::Exited { .. })) {
            let event = told().await.expect("an event in time").unwrap();
            assert_eq!(event.task, task.id);
            phases.push(event.phase);
        }
        assert!(matches!(phases[0], Phase::Running { .. }), "{phases:?}");
        let Phase::Exited {
            code,
            error,
            rejected,
            at,
        } = &phases[1]
        else {
            panic!("{phases:?}")
        };
        assert_eq!(
            (*code, error.as_str(), *rejected),
            (3, "task: non-zero exit (3)", false)
        );
        let age = Timestamp::now().duration_since(*at);
        assert!(age.as_secs().abs() < 60, "{at}");
        // the log is complete when the end is told
        let output = machine.output(&task.id).await;
        let mut lines: Vec<_> = output.lines().collect();
        // the two outputs are read one after the other, in docker as well
        lines.sort_unstable();
        assert_eq!(lines, ["err", &format!("net:[{inode}]"), "out"]);
        // and starting it again does nothing
        machine.runtime.start(&task.id).await.unwrap();
        assert_eq!(machine.end(&task.id).await.0, 3);
    });
}

#[test]
fn the_command_sees_our_files_and_no_more_rights_than_dockers() {
    on_machine(async |machine| {
        let script = "cat /etc/resolv.conf /etc/hosts; hostname; ls /sys/class/net; pwd; umask
            env | sort; cut -d: -f3 /proc/self/cgroup | tail -1; ls /proc/self/fd | wc -l
            grep -E 'CapInh|CapPrm|CapBnd|CapAmb|SigBlk' /proc/self/status
            readlink /proc/self/fd/0; cat /proc/self/oom_score_adj
            ls /sys/fs/cgroup/cgroup.procs; cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
        let task = with(shell(script), |spec| {
            spec.env = ["COLOR=red", "EMPTY=", "HOME"].map(str::to_owned).to_vec();
            spec.dir = Some("/usr".to_owned());
        });
        let (code, output) = machine.run(&task).await;
        let group = format!("/{}/{}/task", machine.instance.prefix(), task.id);
        let rights = "00000000a80425fb";
        let expected = format!(
            "{RESOLV_CONF}{HOSTS}vote.1\nlo\n/usr\n0022\nCOLOR=red\nEMPTY=\nHOSTNAME=vote.1\n\
             PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nPWD=/usr\n"
        );
        assert!(output.starts_with(&expected), "{output}");
        assert!(output.contains(&group), "{output}");
        // 0, 1, 2 and the listing's own
        assert!(output.contains("\n4\n"), "{output}");
        for (name, value) in [
            ("CapInh", "0000000000000000"),
            ("CapPrm", rights),
            ("CapBnd", rights),
            ("CapAmb", "0000000000000000"),
            ("SigBlk", "0000000000000000"),
        ] {
            assert!(
                output.contains(&format!("{name}:\t{value}\n")),
                "{name}: {output}"
            );
        }
        let end = "/dev/null\n0\n/sys/fs/cgroup/cgroup.procs\n0\n";
        assert!(output.ends_with(end), "{output}");
        assert_eq!(code, 0);
        // the host is as it was
        assert_eq!(fs::read("/etc/hosts").unwrap(), b"192.0.2.1 host\n");
    });
}

#[test]
fn the_command_runs_as_the_user_that_is_asked() {
    on_machine(async |machine| {
        fs::write("/etc/passwd", "web:x:1033:1034::/srv/web:/bin/sh\n").unwrap();
        fs::write("/etc/group", "www:x:1034:\nlogs:x:1040:web\n").unwrap();
        let script = "id -u; id -g; id -G; echo $HOME; grep CapPrm /proc/self/status; echo by name > /dev/stdout";
        for (user, expected) in [
            ("web", "1033\n1034\n1034 1040\n/srv/web\n"),
            ("1033:1040", "1033\n1040\n1040\n/srv/web\n"),
            ("77", "77\n77\n77\n/\n"),
        ] {
            let task = with(shell(script), |spec| spec.user = Some(user.to_owned()));
            let (code, output) = machine.run(&task).await;
            let expected = format!("{expected}CapPrm:\t0000000000000000\nby name\n");
            assert_eq!((code, output), (0, expected), "{user}");
        }
    });
}

#[test]
fn what_cannot_run_is_rejected_with_the_reason() {
    on_machine(async |machine| {
        fs::write("/run/script", "#!/no/such/interpreter\n").unwrap();
        fs::set_permissions("/run/script", fs::Permissions::from_mode(0o755)).unwrap();
        fs::write("/run/text", "text").unwrap();
        let plain = |command: &str| task(&[command]);
        let cases = [
            (
                plain("/no/such/program"),
                127,
                "program /no/such/program not found",
            ),
            (plain("no-such-program"), 127, "/usr/local/bin"),
            (plain(""), 127, "not found"),
            (task(&[]), 126, "empty"),
            (plain("/run/script"), 127, "interpreter"),
            (plain("/run/text"), 126, "not executable"),
            (plain("/run"), 126, "no file"),
            (plain("nul\0byte"), 126, "nul"),
            (
                with(shell("true"), |spec| spec.dir = Some("/no/dir".to_owned())),
                126,
                "working directory /no/dir",
            ),
            (
                with(shell("true"), |spec| {
                    spec.user = Some("nobody-there".to_owned())
                }),
                126,
                "nobody-there",
            ),
            (
                with(shell("true"), |spec| {
                    spec.user = Some("0:no-group".to_owned())
                }),
                126,
                "no-group",
            ),
        ];
        for (task, expected, words) in cases {
            machine.prepare(&task).await;
            machine.runtime.start(&task.id).await.unwrap();
            let phase = machine.look(&task.id).await.unwrap().phase;
            let Phase::Exited {
                code,
                error,
                rejected: true,
                ..
            } = phase
            else {
                panic!("{phase:?}")
            };
            assert_eq!(code, expected, "{error}");
            assert!(error.contains(words), "{error}");
            machine.runtime.remove(&task.id).await.unwrap();
        }
    });
}

#[test]
fn a_sandbox_is_made_once_whoever_asks() {
    on_machine(async |machine| {
        let task = shell("echo once; exec sleep 1000");
        let first = machine.runtime.prepare(&task, &files()).await.unwrap();
        assert_eq!(
            machine.runtime.prepare(&task, &files()).await.unwrap(),
            first
        );
        let other = machine.again();
        assert_eq!(other.prepare(&task, &files()).await.unwrap(), first);
        other.start(&task.id).await.unwrap();
        assert_eq!(other.prepare(&task, &files()).await.unwrap(), first);
        machine.runtime.start(&task.id).await.unwrap();
        machine.says(&task.id, "once").await;
        assert_eq!(machine.output(&task.id).await, "once\n");
        assert_eq!(machine.processes(&task.id).len(), 1);

        // two daemons at once, as when one was killed in the middle
        let task = shell("true");
        let files = files();
        let (one, two) = tokio::join!(
            machine.runtime.prepare(&task, &files),
            other.prepare(&task, &files)
        );
        assert_eq!(one.unwrap(), two.unwrap());
    });
}

#[test]
fn stop_asks_then_kills() {
    on_machine(async |machine| {
        let polite =
            shell("trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done");
        // its child is in another session and group, and ignores the signal as well
        let stubborn =
            shell("trap '' TERM; setsid sleep 1000 & echo ready; while :; do sleep 0.05; done");
        for task in [&polite, &stubborn] {
            machine.start(task).await;
            machine.says(&task.id, "ready").await;
        }
        let begin = Instant::now();
        let (long, short) = (Duration::from_secs(1000), Duration::from_millis(600));
        machine
            .runtime
            .stop(&polite.id, Some("TERM"), long)
            .await
            .unwrap();
        machine
            .runtime
            .stop(&stubborn.id, Some("SIGTERM"), long)
            .await
            .unwrap();
        assert_eq!(
            machine.end(&polite.id).await,
            (5, "task: non-zero exit (5)".to_owned())
        );
        assert!(machine.output(&polite.id).await.contains("bye"));
        assert!(matches!(
            machine.look(&stubborn.id).await.unwrap().phase,
            Phase::Running { .. }
        ));
        // the time can be shortened, and not made longer again
        machine
            .runtime
            .stop(&stubborn.id, Some("15"), short)
            .await
            .unwrap();
        machine
            .runtime
            .stop(&stubborn.id, Some("SIGTERM"), long)
            .await
            .unwrap();
        assert!(machine.processes(&stubborn.id).len() >= 2);
        let (code, error) = machine.end(&stubborn.id).await;
        assert_eq!(
            (code, error.as_str()),
            (137, "task: killed by signal 9 SIGKILL")
        );
        assert!(begin.elapsed() >= short, "{:?}", begin.elapsed());
        until("its child is dead", async || {
            machine.processes(&stubborn.id).is_empty().then_some(())
        })
        .await;

        // what has ended, or never was, is stopped without complaint
        for id in [&polite.id, &shell("").id] {
            machine
                .runtime
                .stop(id, Some("SIGTERM"), short)
                .await
                .unwrap();
        }
        let wrong = machine
            .runtime
            .stop(&polite.id, Some("SIGSTOPP"), short)
            .await;
        assert!(wrong.unwrap_err().to_string().contains("SIGSTOPP"));
    });
}

#[test]
fn a_command_has_no_signal_blocked() {
    on_machine(async |machine| {
        // not by a shell, which unblocks them
        let task = task(&["grep", "SigBlk", "/proc/self/status"]);
        let ended = machine.run(&task).await;
        assert_eq!(ended, (0, "SigBlk:\t0000000000000000\n".to_owned()));
    });
}

#[test]
fn another_signal_is_sent_though_one_was() {
    on_machine(async |machine| {
        let task = shell(
            "trap 'echo term' TERM; trap 'echo usr1; exit 0' USR1; echo ready; while :; do sleep 0.05; done",
        );
        machine.start(&task).await;
        machine.says(&task.id, "ready").await;
        let grace = Duration::from_secs(1000);
        for _ in 0..3 {
            machine
                .runtime
                .stop(&task.id, Some("SIGTERM"), grace)
                .await
                .unwrap();
        }
        machine.says(&task.id, "term").await;
        machine
            .runtime
            .stop(&task.id, Some("SIGUSR1"), grace)
            .await
            .unwrap();
        assert_eq!(machine.end(&task.id).await.0, 0);
        // the shell says in between that its child was killed: the signal is the group's
        let output = machine.output(&task.id).await;
        assert_eq!(output.matches("term").count(), 1, "{output}");
        assert!(output.contains("usr1"), "{output}");
    });
}

#[test]
fn tasks_and_their_stopping_go_on_without_the_daemon() {
    on_machine(async |machine| {
        let task = shell(
            "grep SigIgn /proc/self/status; trap 'echo asked' TERM; while :; do sleep 0.05; done",
        );
        // it ignores what it would under nohup, or as a script's background job
        let mut daemon = Command::new("sh")
            .args(["-c", "trap '' HUP INT QUIT; exec \"$@\"", "sh", SHIM])
            .args(["daemon", &machine.instance.to_string()])
            .arg(serde_json::to_string(&task).unwrap())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let out = BufReader::new(daemon.stdout.take().unwrap());
        let lines: Vec<_> = out.lines().take(2).map(Result::unwrap).collect();
        assert_eq!(lines, ["started", "stopping"]);
        // as by Ctrl-C in a terminal, then as by systemd
        let group = Pid::from_raw(daemon.id().cast_signed());
        for signal in [Signal::SIGINT, Signal::SIGKILL] {
            // it may have no process any more
            let _ = killpg(group, signal);
        }
        daemon.wait().unwrap();

        let observed = machine.look(&task.id).await.unwrap();
        let Phase::Running { pid, .. } = observed.phase else {
            panic!("{observed:?}")
        };
        let identity = observed.identity.unwrap();
        assert!(lives(pid) && lives(identity.pid));
        // its own session, and nothing of the daemon's
        let stat = fs::read_to_string(format!("/proc/{}/stat", identity.pid)).unwrap();
        let session = stat.rsplit_once(") ").unwrap().1.split(' ').nth(3).unwrap();
        assert_eq!(session, identity.pid.to_string());
        let shims: Vec<_> = fs::read_dir(format!("/proc/{}/fd", identity.pid))
            .unwrap()
            // a connection may just have been closed
            .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
            .collect();
        assert!(shims.len() < 12, "{shims:?}");
        assert!(
            shims[1].ends_with("null") && shims[2].ends_with("null"),
            "{shims:?}"
        );
        // the next daemon hears of the end that the one before asked for
        let mut events = machine.runtime.events();
        let ended = tokio::time::timeout(PATIENCE, async {
            loop {
                let event = events.recv().await.unwrap();
                if let Phase::Exited { code, .. } = event.phase {
                    return code;
                }
            }
        });
        assert_eq!(ended.await.expect("the event in time"), 137);
        let output = machine.output(&task.id).await;
        assert!(output.contains("asked"), "{output}");
        // the C library's own signals, above 31, do not matter
        let ignored = output.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let ignored = u64::from_str_radix(ignored.unwrap().trim(), 16).unwrap();
        assert_eq!(ignored & 0x7fff_ffff, 0, "{output}");
    });
}

#[test]
fn an_end_while_no_daemon_lives_is_not_lost() {
    on_machine(async |machine| {
        let task = shell("sleep 0.3; exit 9");
        machine.start(&task).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let other = machine.again();
        let all = other.observe().await.unwrap();
        assert!(
            matches!(all[0].phase, Phase::Exited { code: 9, .. }),
            "{all:?}"
        );
        assert!(all[0].identity.is_some(), "the namespace is kept");
    });
}

#[test]
fn when_the_shim_dies_the_task_does_and_it_is_told() {
    on_machine(async |machine| {
        let mut events = machine.runtime.events();
        let task = shell("setsid sleep 1000 & echo ready; exec sleep 1000");
        let pid = machine.start(&task).await;
        machine.says(&task.id, "ready").await;
        let shim = machine.look(&task.id).await.unwrap().identity.unwrap().pid;
        send(shim, Signal::SIGKILL);
        let error = tokio::time::timeout(PATIENCE, async {
            loop {
                let event = events.recv().await.unwrap();
                if let Phase::Exited {
                    code: 137, error, ..
                } = event.phase
                {
                    return error;
                }
            }
        });
        let error = error.await.expect("the event in time");
        assert!(error.contains("shim died"), "{error}");
        until("the command dies with its shim", async || {
            (!lives(pid)).then_some(())
        })
        .await;
        let observed = machine.look(&task.id).await.unwrap();
        assert_eq!(observed.identity, None);
        // the same at each look
        assert_eq!(machine.look(&task.id).await.unwrap(), observed);
        // its child is contained still
        assert_eq!(machine.processes(&task.id).len(), 1);
        machine.runtime.remove(&task.id).await.unwrap();
        assert_eq!(machine.left(), [""; 0]);
    });
}

#[test]
fn one_that_died_is_prepared_afresh() {
    on_machine(async |machine| {
        let task = shell("setsid sleep 1000 & echo ready; sleep 1000");
        machine.start(&task).await;
        machine.says(&task.id, "ready").await;
        let before = machine.look(&task.id).await.unwrap().identity.unwrap();
        send(before.pid, Signal::SIGKILL);
        machine.end(&task.id).await;
        let after = machine
            .runtime
            .prepare(&task, &files())
            .await
            .unwrap()
            .identity;
        assert_ne!(before, after);
        assert_eq!(machine.look(&task.id).await.unwrap().phase, Phase::Prepared);
        // of the one before nothing is left
        assert!(machine.processes(&task.id).is_empty());
    });
}

#[test]
fn a_shim_that_is_asked_to_end_ends_its_task_first() {
    on_machine(async |machine| {
        // as systemd does at shutdown
        let task = with(
            shell("trap 'echo hup; exit 6' HUP; echo ready; while :; do sleep 0.05; done"),
            |spec| spec.stop_signal = Some("SIGHUP".to_owned()),
        );
        machine.start(&task).await;
        machine.says(&task.id, "ready").await;
        let idle = shell("true");
        machine.prepare(&idle).await;
        for id in [&task.id, &idle.id] {
            let shim = machine.look(id).await.unwrap().identity.unwrap().pid;
            send(shim, Signal::SIGTERM);
            until("the shim ends", async || (!lives(shim)).then_some(())).await;
        }
        let observed = machine.look(&task.id).await.unwrap();
        assert!(
            matches!(observed.phase, Phase::Exited { code: 6, .. }),
            "{observed:?}"
        );
        assert_eq!(observed.identity, None);
        assert!(machine.output(&task.id).await.contains("hup"));
    });
}

#[test]
fn another_process_with_the_same_pid_is_not_taken_for_the_shim() {
    on_machine(async |machine| {
        let task = shell("exec sleep 1000");
        machine.start(&task).await;
        let path = machine.dir(&task.id).join("shim.json");
        let honest = fs::read_to_string(&path).unwrap();
        let report: serde_json::Value = serde_json::from_str(&honest).unwrap();
        for (field, other, error) in [
            ("start_time", 1.into(), "shim died"),
            ("netns_inode", 1.into(), "shim died"),
            ("pid", 1.into(), "shim died"),
            ("boot_id", "earlier".into(), "started anew"),
        ] {
            let mut forged = report.clone();
            forged["identity"][field] = other;
            fs::write(&path, forged.to_string()).unwrap();
            let observed = machine.look(&task.id).await.unwrap();
            assert_eq!(observed.identity, None, "{field}");
            let (code, said) = machine.end(&task.id).await;
            assert_eq!(code, 137);
            assert!(said.contains(error), "{field}: {said}");
        }
        fs::write(&path, honest).unwrap();
        assert!(machine.look(&task.id).await.unwrap().identity.is_some());
    });
}

#[test]
fn damaged_directories_are_seen_and_removed() {
    on_machine(async |machine| {
        // all of it deleted under a living shim
        let deleted = shell("exec sleep 1000");
        let pid = machine.start(&deleted).await;
        fs::remove_dir_all(machine.dir(&deleted.id)).unwrap();
        let (code, error) = machine.end(&deleted.id).await;
        assert_eq!(code, 137);
        assert!(error.contains("deleted"), "{error}");
        machine.runtime.remove(&deleted.id).await.unwrap();
        assert!(!lives(pid));

        // a report that is no JSON, a directory that was just made, a foreign name
        let garbled = shell("exec sleep 1000");
        machine.start(&garbled).await;
        fs::write(machine.dir(&garbled.id).join("shim.json"), "{").unwrap();
        let empty = shell("true");
        fs::create_dir(machine.dir(&empty.id)).unwrap();
        fs::create_dir(machine.instance.run_dir().join("tasks/lost+found")).unwrap();
        let all = machine.runtime.observe().await.unwrap();
        assert_eq!(all.len(), 2, "{all:?}");
        assert!(
            all.iter().all(|observed| observed.phase == Phase::Gone),
            "{all:?}"
        );
        machine.prepare(&empty).await;
        for task in [&garbled, &empty] {
            machine.runtime.remove(&task.id).await.unwrap();
        }
        fs::remove_dir(machine.instance.run_dir().join("tasks/lost+found")).unwrap();
        assert_eq!(machine.left(), [""; 0]);
    });
}

#[test]
fn remove_takes_all_but_the_log_and_forget_that_too() {
    on_machine(async |machine| {
        let task =
            shell("setsid sleep 1000 & trap '' TERM; echo ready; while :; do sleep 0.05; done");
        machine.start(&task).await;
        machine.says(&task.id, "ready").await;
        machine.runtime.remove(&task.id).await.unwrap();
        assert_eq!(machine.left(), [""; 0]);
        assert_eq!(machine.output(&task.id).await, "ready\n");
        assert_eq!(machine.look(&task.id).await, None);
        machine.runtime.forget(&task.id).await.unwrap();
        assert_eq!(machine.output(&task.id).await, "");
        // again, and of one that never was
        for id in [&task.id, &shell("").id] {
            machine.runtime.remove(id).await.unwrap();
            machine.runtime.forget(id).await.unwrap();
        }
        let error = machine.runtime.start(&task.id).await.unwrap_err();
        assert!(matches!(error, RuntimeError::Shim { .. }), "{error}");
    });
}

#[test]
fn a_shim_that_hangs_is_removed() {
    on_machine(async |machine| {
        let task = shell("exec sleep 1000");
        machine.start(&task).await;
        let shim = machine.look(&task.id).await.unwrap().identity.unwrap().pid;
        // it takes the connection and the request, and says nothing
        send(shim, Signal::SIGSTOP);
        machine.runtime.remove(&task.id).await.unwrap();
        assert_eq!(machine.left(), [""; 0]);
    });
}

#[test]
fn a_log_can_be_followed_to_its_end() {
    on_machine(async |machine| {
        let task = shell("for i in 1 2 3; do echo $i; sleep 0.3; done; echo last >&2; printf torn");
        machine.start(&task).await;
        machine.says(&task.id, "1\n").await;
        let options = LogOptions {
            tail: Some(1),
            follow: true,
            since: None,
        };
        let mut followed = machine.runtime.logs(&task.id, options);
        let mut all = Vec::new();
        let reading = async {
            while let Some(line) = followed.recv().await {
                all.push(line.unwrap());
            }
        };
        tokio::time::timeout(PATIENCE, reading)
            .await
            .expect("it ends with the task");
        let last: Vec<_> = all.iter().rev().take(2).rev().collect();
        assert_eq!(
            (last[0].log.as_str(), last[0].stream),
            ("last\n", LogStream::Stderr)
        );
        assert_eq!(
            (last[1].log.as_str(), last[1].stream),
            ("torn", LogStream::Stdout)
        );
        let since = LogOptions {
            since: Some(last[0].time),
            ..LogOptions::default()
        };
        let mut lines = machine.runtime.logs(&task.id, since);
        assert_eq!(lines.recv().await.unwrap().unwrap().log, "last\n");
        // none is in the log of a task that never was
        let mut none = machine.runtime.logs(&shell("").id, options);
        assert!(none.recv().await.is_none());
    });
}

#[test]
fn a_talkative_task_is_logged_in_full() {
    on_machine(async |machine| {
        let (code, output) = machine.run(&shell("seq 1 100000")).await;
        assert_eq!(code, 0);
        let lines: Vec<u32> = output.lines().map(|line| line.parse().unwrap()).collect();
        assert!(
            lines.iter().copied().eq(1..=100_000),
            "{} lines",
            lines.len()
        );
    });
}

#[test]
fn our_files_stay_though_the_host_replaces_its_own() {
    on_machine(async |machine| {
        let task = shell("while read _; do :; done < /dev/null; exec sleep 1000");
        let pid = machine.start(&task).await;
        let seen = |name: &str| fs::read_to_string(format!("/proc/{pid}/root/etc/{name}"));
        assert_eq!(seen("resolv.conf").unwrap(), RESOLV_CONF);
        for round in 0..3 {
            for (name, ours) in [("resolv.conf", RESOLV_CONF), ("hosts", HOSTS)] {
                let (beside, path) = (format!("/etc/{name}.new"), format!("/etc/{name}"));
                fs::write(&beside, format!("round {round}\n")).unwrap();
                fs::rename(&beside, &path).unwrap();
                until("our file is back", async || {
                    seen(name).is_ok_and(|text| text == ours).then_some(())
                })
                .await;
                assert_eq!(
                    fs::read_to_string(&path).unwrap(),
                    format!("round {round}\n")
                );
            }
        }
        // deleted, and made again later: nothing is in the way of who does so
        fs::remove_file("/etc/hosts").unwrap();
        tokio::time::sleep(Duration::from_millis(1200)).await;
        assert!(!Path::new("/etc/hosts").exists() && seen("hosts").is_err());
        symlink("hosts.new", "/etc/hosts").unwrap();
        fs::write("/etc/hosts.new", "anew\n").unwrap();
        until("our file is back", async || {
            seen("hosts").is_ok_and(|text| text == HOSTS).then_some(())
        })
        .await;
    });
}

#[test]
fn resolvers_of_the_host_are_out_of_sight() {
    on_machine(async |machine| {
        // as with systemd-resolved; and a link that leads nowhere
        fs::create_dir_all("/run/systemd/resolve").unwrap();
        fs::write(
            "/run/systemd/resolve/stub-resolv.conf",
            "nameserver 127.0.0.53\n",
        )
        .unwrap();
        fs::write("/run/systemd/resolve/io.systemd.Resolve", "a socket").unwrap();
        fs::create_dir("/run/nscd").unwrap();
        fs::write("/run/nscd/socket", "a socket").unwrap();
        fs::remove_file("/etc/resolv.conf").unwrap();
        symlink(
            "../run/systemd/resolve/stub-resolv.conf",
            "/etc/resolv.conf",
        )
        .unwrap();
        fs::remove_file("/etc/hosts").unwrap();
        symlink("/run/none/hosts", "/etc/hosts").unwrap();
        let script = "cat /etc/resolv.conf /etc/hosts; ls /run/systemd/resolve /run/nscd";
        let (code, output) = machine.run(&shell(script)).await;
        let listed = "/run/nscd:\n\n/run/systemd/resolve:\nstub-resolv.conf\n";
        assert_eq!((code, output), (0, format!("{RESOLV_CONF}{HOSTS}{listed}")));
        let host = fs::read_to_string("/etc/resolv.conf").unwrap();
        assert_eq!(host, "nameserver 127.0.0.53\n");
    });
}

#[test]
fn a_long_host_name_is_cut() {
    on_machine(async |machine| {
        let task = shell("hostname");
        let long = TaskFiles {
            hostname: format!("{}.{}", "a".repeat(63), "b".repeat(25)),
            ..files()
        };
        machine.runtime.prepare(&task, &long).await.unwrap();
        machine.runtime.start(&task.id).await.unwrap();
        machine.end(&task.id).await;
        assert_eq!(
            machine.output(&task.id).await,
            format!("{}.\n", "a".repeat(63))
        );
    });
}

#[test]
fn what_prevents_a_sandbox_is_said() {
    on_machine(async |machine| {
        let task = shell("true");
        for (program, words) in [
            ("/bin/true", "did not become a shim"),
            ("/no/daemon", "/no/daemon"),
        ] {
            let broken = Process::new(&machine.instance, program.into()).unwrap();
            let error = broken
                .prepare(&task, &files())
                .await
                .unwrap_err()
                .to_string();
            assert!(error.contains(words), "{error}");
        }
        attach("tmpfs", "/sys/fs/cgroup", Some("tmpfs"), MsFlags::empty());
        let error = machine
            .runtime
            .prepare(&task, &files())
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("cgroup version 2 is not mounted"), "{error}");
        nix::mount::umount("/sys/fs/cgroup").unwrap();
        // and the next try is not hindered by those before
        machine.prepare(&task).await;
    });
}

#[test]
fn the_shims_socket_takes_no_nonsense() {
    use std::{io::Write as _, os::unix::net::UnixStream};
    on_machine(async |machine| {
        let task = shell("exec sleep 1000");
        machine.start(&task).await;
        let connect = || UnixStream::connect(machine.dir(&task.id).join("control.sock")).unwrap();
        let endless = [b'x'; 100_000];
        for nonsense in [
            "\n".as_bytes(),
            b"{}\n",
            b"\"explode\"\n",
            b"\xff\n",
            &endless,
        ] {
            let mut stream = connect();
            // it may hang up in the middle
            let _ = stream.write_all(nonsense);
            let mut answer = String::new();
            assert!(
                !matches!(BufReader::new(&stream).read_line(&mut answer), Ok(1..)),
                "{answer}"
            );
        }
        // many that say nothing
        let idle: Vec<_> = (0..200).map(|_| connect()).collect();
        drop(idle);
        // a request in two pieces, and two in one
        let mut stream = connect();
        stream.write_all(b"\"sta").unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        stream.write_all(b"tus\"\n\"status\"\n").unwrap();
        let answers: Vec<_> = BufReader::new(&stream)
            .lines()
            .take(2)
            .map(Result::unwrap)
            .collect();
        assert!(
            answers[0].contains("running") && answers[0] == answers[1],
            "{answers:?}"
        );
        // a watcher that never reads is given up
        let mut deaf = connect();
        for _ in 0..3000 {
            if deaf.write_all(b"\"status\"\n").is_err() {
                break;
            }
        }
        let mut look = connect();
        look.write_all(b"\"status\"\n").unwrap();
        let mut answer = String::new();
        BufReader::new(&look).read_line(&mut answer).unwrap();
        assert!(answer.contains("running"), "{answer}");
    });
}

/// Pages of a process in kB, shared ones by their share.
fn memory(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with("Pss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_shim_is_small_and_has_one_thread() {
    on_machine(async |machine| {
        let mut sizes = Vec::new();
        for _ in 0..10 {
            let task = shell("echo ready; exec sleep 1000");
            machine.start(&task).await;
            machine.says(&task.id, "ready").await;
            sizes.push(machine.look(&task.id).await.unwrap().identity.unwrap().pid);
        }
        for pid in &sizes {
            let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
            assert_eq!(threads, 1);
        }
        let sizes: Vec<_> = sizes.into_iter().map(memory).collect();
        println!("PSS of 10 shims: {sizes:?} kB");
        assert!(sizes.iter().all(|size| *size < 2048), "{sizes:?} kB");
    });
}

/// A small generator: the same numbers in each run, so that a failure repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

#[test]
fn nothing_is_left_after_a_storm() {
    on_machine(async |machine| {
        let scripts = [
            "exec sleep 1000",
            "sleep 1000 & setsid sleep 1000 & wait",
            "trap '' TERM; while :; do sleep 0.05; done",
            "exit 0",
            "kill -9 $$",
            "while :; do echo talk; sleep 0.01; done",
        ];
        let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut tasks: Vec<Task> = Vec::new();
        let before = descriptors();
        for step in 0..250 {
            if tasks.len() < 4 || (tasks.len() < 25 && random.below(3) == 0) {
                tasks.push(shell(scripts[random.below(scripts.len())]));
                let task = tasks.last().unwrap();
                machine.runtime.prepare(task, &files()).await.unwrap();
                continue;
            }
            let at = random.below(tasks.len());
            let task = &tasks[at];
            let shim = machine
                .look(&task.id)
                .await
                .and_then(|observed| observed.identity);
            match (random.below(8), shim) {
                (0, Some(shim)) => {
                    let signals = [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGSTOP];
                    send(shim.pid, signals[random.below(3)]);
                }
                (1, _) => {
                    for pid in machine.processes(&task.id) {
                        // it may just have ended
                        let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
                    }
                }
                (2, _) => {
                    machine.runtime.remove(&task.id).await.unwrap();
                    tasks.remove(at);
                }
                (3, _) if step % 5 == 0 => {
                    // whatever was half done
                    let _ = fs::remove_dir_all(machine.dir(&task.id));
                }
                (4, _) => {
                    let grace = Duration::from_millis(random.below(100) as u64);
                    let stop = machine.runtime.stop(&task.id, Some("SIGTERM"), grace);
                    // a shim that was stopped does not answer: nobody waits for it
                    let _ = tokio::time::timeout(Duration::from_millis(200), stop).await;
                }
                _ => {
                    let start = machine.runtime.start(&task.id);
                    let _ = tokio::time::timeout(Duration::from_millis(200), start).await;
                }
            }
        }
        let begin = Instant::now();
        let removals = tasks.iter().map(|task| machine.runtime.remove(&task.id));
        for removal in removals {
            removal.await.unwrap();
        }
        println!("{} removed in {:?}", tasks.len(), begin.elapsed());
        assert_eq!(machine.left(), [""; 0]);
        until("followers end and close their files", async || {
            (descriptors() <= before + 2).then_some(())
        })
        .await;
    });
}
