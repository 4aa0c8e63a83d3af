//! A task's shim: a small process that holds the task's namespaces, starts its
//! command when told to, and owns its log and its exit status. It depends on
//! nobody: the daemon may come and go.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read, Write as _},
    os::unix::{
        fs::MetadataExt as _,
        net::{UnixListener, UnixStream},
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use caps::{CapSet, Capability};
use jiff::Timestamp;
use model::ProcessIdentity;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::signal::{Signal, kill},
    unistd::{Gid, Pid, Uid, User, sethostname, setsid},
};

use crate::{
    log::{Log, LogStream},
    protocol::{Ask, Condition, FAILURE, ORDER, Order, REPORT, Report, SOCKET},
};

/// Why a shim ended.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct ShimError {
    what: String,
    #[source]
    source: io::Error,
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> ShimError {
    let what = what.into();
    move |source| ShimError { what, source }
}

/// What docker leaves a container's root.
const CAPABILITIES: &[Capability] = &[
    Capability::CAP_AUDIT_WRITE,
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_MKNOD,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_NET_RAW,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_SETUID,
    Capability::CAP_SYS_CHROOT,
];

/// The shim's `main`: `ipvsmeshd shim DIR`. Must be called while the process has
/// one thread. Returns when it is told to quit.
///
/// # Errors
/// The sandbox cannot be made; the reason is in the directory's `failure` too.
pub fn shim_main(dir: &Path) -> Result<(), ShimError> {
    let run = run(dir);
    if let Err(error) = &run {
        let _ = fs::write(dir.join(FAILURE), format!("{error}: {}", error.source));
    }
    run
}

fn run(dir: &Path) -> Result<(), ShimError> {
    let text = fs::read(dir.join(ORDER)).map_err(failed("cannot read the task's order"))?;
    let order: Order = serde_json::from_slice(&text)
        .map_err(|error| failed("cannot read the task's order")(error.into()))?;
    // a session of its own: nobody's terminal or death reaches it
    let _ = setsid();
    enter_cgroup(&order.cgroup)?;
    isolate(dir, &order.hostname)?;
    let identity = own_identity().map_err(failed("cannot read /proc/self"))?;

    // from here on there are threads
    let log =
        Log::open(&order.log).map_err(failed(format!("cannot open {}", order.log.display())))?;
    let socket = dir.join(SOCKET);
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).map_err(failed("cannot make the control socket"))?;
    let (sender, asks) = mpsc::channel();
    let shim = Shim {
        dir: dir.to_owned(),
        order,
        log: Arc::new(Mutex::new(log)),
        report: Report {
            identity,
            condition: Condition::Prepared,
        },
        watchers: Vec::new(),
        stopping: false,
    };
    shim.record()?;
    let accepting = sender.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let sender = accepting.clone();
            thread::spawn(move || serve(&stream, &sender));
        }
    });
    shim.serve(&sender, &asks);
    Ok(())
}

/// Reads one connection's requests.
fn serve(stream: &UnixStream, sender: &mpsc::Sender<Input>) {
    let Ok(reading) = stream.try_clone() else {
        return;
    };
    for line in BufReader::new(reading).lines() {
        let Some(ask) = line.ok().and_then(|line| serde_json::from_str(&line).ok()) else {
            return;
        };
        let Ok(answer) = stream.try_clone() else {
            return;
        };
        if sender.send(Input::Ask(ask, answer)).is_err() {
            return;
        }
    }
}

/// What happens to a shim.
enum Input {
    Ask(Ask, UnixStream),
    /// The command ended, with this status or error.
    Exited(i32, String),
    /// The time to stop is over.
    Kill,
}

struct Shim {
    dir: PathBuf,
    order: Order,
    log: Arc<Mutex<Log>>,
    report: Report,
    watchers: Vec<UnixStream>,
    stopping: bool,
}

impl Shim {
    /// Everything happens here, one after the other, on the first thread: the
    /// command's parent must not end before the command does.
    fn serve(mut self, sender: &mpsc::Sender<Input>, inputs: &mpsc::Receiver<Input>) {
        while let Ok(input) = inputs.recv() {
            match input {
                Input::Ask(Ask::Start, stream) => {
                    if self.report.condition == Condition::Prepared {
                        self.start(sender);
                    }
                    self.answer(stream);
                }
                Input::Ask(Ask::Stop { signal, grace_ms }, stream) => {
                    self.stop(signal, grace_ms, sender);
                    self.answer(stream);
                }
                Input::Ask(Ask::Status, stream) => self.answer(stream),
                Input::Ask(Ask::Watch, stream) => {
                    if let Ok(watcher) = stream.try_clone() {
                        self.watchers.push(watcher);
                    }
                    self.answer(stream);
                }
                Input::Ask(Ask::Quit, stream) => {
                    kill_all(&self.order.cgroup);
                    self.answer(stream);
                    return;
                }
                Input::Exited(code, error) => {
                    // what it started goes with it
                    kill_all(&self.order.cgroup);
                    let at = Timestamp::now();
                    self.change(Condition::Exited {
                        code,
                        error,
                        rejected: false,
                        at,
                    });
                }
                Input::Kill => {
                    if let Condition::Running { .. } = self.report.condition {
                        kill_all(&self.order.cgroup);
                    }
                }
            }
        }
    }

    fn answer(&self, mut stream: UnixStream) {
        // who asked may be gone
        let _ = stream.write_all(&self.line());
    }

    fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(&self.report).unwrap_or_default();
        line.push(b'\n');
        line
    }

    fn change(&mut self, condition: Condition) {
        self.report.condition = condition;
        // the directory is gone only when the task is
        let _ = self.record();
        let line = self.line();
        self.watchers
            .retain_mut(|watcher| watcher.write_all(&line).is_ok());
    }

    fn record(&self) -> Result<(), ShimError> {
        let beside = self.dir.join("shim.new");
        fs::write(&beside, self.line())
            .and_then(|()| fs::rename(&beside, self.dir.join(REPORT)))
            .map_err(failed("cannot write the task's report"))
    }

    fn start(&mut self, sender: &mpsc::Sender<Input>) {
        match self.spawn() {
            Ok(mut child) => {
                let pid = child.id();
                for (stream, kind) in [
                    (child.stdout.take().map(Source::Out), LogStream::Stdout),
                    (child.stderr.take().map(Source::Err), LogStream::Stderr),
                ] {
                    if let Some(stream) = stream {
                        let log = self.log.clone();
                        thread::spawn(move || copy(stream, kind, &log));
                    }
                }
                let sender = sender.clone();
                thread::spawn(move || {
                    let (code, error) = match child.wait() {
                        Ok(status) => match (status.code(), status.signal()) {
                            (Some(0), _) => (0, String::new()),
                            (Some(code), _) => (code, format!("task: non-zero exit ({code})")),
                            (None, signal) => {
                                let signal = signal.unwrap_or(0);
                                (128 + signal, format!("task: killed by signal {signal}"))
                            }
                        },
                        Err(error) => (255, error.to_string()),
                    };
                    let _ = sender.send(Input::Exited(code, error));
                });
                self.change(Condition::Running { pid });
            }
            Err(error) => {
                let at = Timestamp::now();
                self.change(Condition::Exited {
                    code: 127,
                    error,
                    rejected: true,
                    at,
                });
            }
        }
    }

    fn spawn(&self) -> Result<Child, String> {
        let spec = &self.order.process;
        let Some((program, arguments)) = spec.command.split_first() else {
            return Err("the command is empty".to_owned());
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOSTNAME", &self.order.hostname)
            .env("HOME", "/root")
            .current_dir(spec.dir.as_deref().unwrap_or("/"))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(user) = &spec.user {
            let (uid, gid, home) = look_up(user)?;
            command
                .uid(uid.as_raw())
                .gid(gid.as_raw())
                .env("HOME", home);
        }
        for variable in &spec.env {
            match variable.split_once('=') {
                Some((key, value)) => drop(command.env(key, value)),
                None => drop(command.env(variable, "")),
            }
        }
        command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                format!("program {program} not found: give its path, or install it")
            }
            _ => format!("cannot run {program}: {error}"),
        })
    }

    fn stop(&mut self, signal: i32, grace_ms: u64, sender: &mpsc::Sender<Input>) {
        let Condition::Running { pid } = self.report.condition else {
            return;
        };
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        let signal = Signal::try_from(signal).unwrap_or(Signal::SIGTERM);
        // the command's process group was made for it
        let _ = kill(Pid::from_raw(-pid.cast_signed()), signal);
        let sender = sender.clone();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(grace_ms));
            let _ = sender.send(Input::Kill);
        });
    }
}

enum Source {
    Out(std::process::ChildStdout),
    Err(std::process::ChildStderr),
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Out(out) => out.read(buffer),
            Self::Err(err) => err.read(buffer),
        }
    }
}

/// Lines longer than this are logged in pieces.
const LONGEST_LINE: u64 = 16 << 10;

fn copy(stream: Source, kind: LogStream, log: &Mutex<Log>) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader
            .by_ref()
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)
        {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                let mut log: MutexGuard<'_, Log> =
                    log.lock().unwrap_or_else(PoisonError::into_inner);
                // a full disk must not stop the task
                let _ = log.write(kind, &line);
            }
        }
    }
}

/// Goes into a cgroup of its own, which the command will share.
fn enter_cgroup(cgroup: &Path) -> Result<(), ShimError> {
    fs::create_dir_all(cgroup).map_err(failed(format!(
        "cannot make cgroup {}; cgroup version 2 must be mounted at /sys/fs/cgroup",
        cgroup.display()
    )))?;
    let task = cgroup.join("task");
    let shim = cgroup.join("shim");
    for dir in [&task, &shim] {
        fs::create_dir_all(dir).map_err(failed(format!("cannot make cgroup {}", dir.display())))?;
    }
    fs::write(task.join("cgroup.procs"), "0").map_err(failed("cannot enter the task's cgroup"))
}

/// Kills everything in the task's cgroup but the shim itself, which leaves it.
fn kill_all(cgroup: &Path) {
    let _ = fs::write(cgroup.join("shim/cgroup.procs"), "0");
    let task = cgroup.join("task");
    if fs::write(task.join("cgroup.kill"), "1").is_err() {
        // before Linux 5.14
        for pid in fs::read_to_string(task.join("cgroup.procs"))
            .unwrap_or_default()
            .lines()
        {
            if let Ok(pid) = pid.parse() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}

/// Namespaces for network, mounts and host name; our files over those in /etc;
/// fewer capabilities.
fn isolate(dir: &Path, hostname: &str) -> Result<(), ShimError> {
    let namespaces = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS;
    unshare(namespaces).map_err(|errno| failed("cannot make namespaces")(errno.into()))?;
    let none = None::<&str>;
    // later mounts of the host are seen, ours are not seen by it
    mount(none, "/", none, MsFlags::MS_SLAVE | MsFlags::MS_REC, none)
        .map_err(|errno| failed("cannot separate mounts")(errno.into()))?;
    for name in ["resolv.conf", "hosts"] {
        // where the file is a symbolic link, the file it leads to
        let target = fs::canonicalize(Path::new("/etc").join(name));
        let Ok(target) = target else { continue };
        mount(Some(&dir.join(name)), &target, none, MsFlags::MS_BIND, none)
            .map_err(|errno| failed(format!("cannot put {name} into place"))(errno.into()))?;
    }
    // /sys shows the network namespace in which it was mounted; the cgroups
    // below it must stay reachable
    let _ = mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none);
    let _ = mount(
        Some("cgroup2"),
        "/sys/fs/cgroup",
        Some("cgroup2"),
        MsFlags::empty(),
        none,
    );
    sethostname(hostname).map_err(|errno| failed("cannot set the host name")(errno.into()))?;
    for capability in caps::all() {
        if !CAPABILITIES.contains(&capability) {
            // one that this kernel does not know is not there to be dropped
            let _ = caps::drop(None, CapSet::Bounding, capability);
        }
    }
    Ok(())
}

fn look_up(user: &str) -> Result<(Uid, Gid, String), String> {
    let (name, group) = user
        .split_once(':')
        .map_or((user, None), |(u, g)| (u, Some(g)));
    let known = match name.parse::<u32>() {
        Ok(uid) => User::from_uid(Uid::from_raw(uid)),
        Err(_) => User::from_name(name),
    };
    let known = known.map_err(|errno| format!("cannot look up user {name}: {errno}"))?;
    let uid = match (&known, name.parse::<u32>()) {
        (Some(user), _) => user.uid,
        (None, Ok(uid)) => Uid::from_raw(uid),
        (None, Err(_)) => return Err(format!("user {name} is not known on this node")),
    };
    let gid = match group {
        None => known
            .as_ref()
            .map_or_else(|| Gid::from_raw(uid.as_raw()), |user| user.gid),
        Some(group) => match group.parse::<u32>() {
            Ok(gid) => Gid::from_raw(gid),
            Err(_) => nix::unistd::Group::from_name(group)
                .ok()
                .flatten()
                .map(|group| group.gid)
                .ok_or_else(|| format!("group {group} is not known on this node"))?,
        },
    };
    let home = known.map_or_else(|| "/".to_owned(), |user| user.dir.display().to_string());
    Ok((uid, gid, home))
}

fn own_identity() -> io::Result<ProcessIdentity> {
    identity(std::process::id())
}

/// The identity of a living process.
pub(crate) fn identity(pid: u32) -> io::Result<ProcessIdentity> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // the name in parentheses may hold anything; field 22 is the 20th after it
    let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
    let start_time = after
        .split(' ')
        .nth(19)
        .and_then(|field| field.parse().ok());
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(ProcessIdentity {
        pid,
        start_time: start_time.ok_or(io::ErrorKind::InvalidData)?,
        boot_id: boot_id.trim().to_owned(),
        netns_inode: File::open(format!("/proc/{pid}/ns/net"))?.metadata()?.ino(),
    })
}
