//! The process runtime: each task is a command of the host in namespaces of its
//! own, held by a shim.

use std::{
    fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    str::FromStr as _,
    time::Duration,
};

use model::{Instance, ProcessIdentity, RuntimeSpec, Task, TaskId};
use nix::sys::signal::{Signal, kill};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    sync::broadcast,
};

use crate::{
    Event, Observed, Phase, Runtime, RuntimeError, Sandbox, TaskFiles, log,
    protocol::{Ask, Condition, FAILURE, ORDER, Order, REPORT, Report, SOCKET},
    shim,
};

/// How long a shim may take to make its namespaces, on a slow machine.
const PREPARE: Duration = Duration::from_secs(20);
/// How long a shim may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// The process runtime.
pub struct Process {
    tasks: PathBuf,
    logs: PathBuf,
    cgroup: PathBuf,
    program: PathBuf,
    events: broadcast::Sender<Event>,
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RuntimeError {
    let path = path.to_owned();
    move |source| RuntimeError::File {
        action,
        path,
        source,
    }
}

impl Process {
    /// A runtime whose shims are `program shim DIR`.
    ///
    /// # Errors
    /// Its directories cannot be made.
    pub fn new(instance: &Instance, program: PathBuf) -> Result<Self, RuntimeError> {
        let tasks = instance.run_dir().join("tasks");
        let logs = instance.data_dir().join("logs");
        for dir in [&tasks, &logs] {
            fs::create_dir_all(dir).map_err(failed("make", dir))?;
        }
        let (events, _) = broadcast::channel(1024);
        Ok(Self {
            tasks,
            logs,
            cgroup: instance.cgroup(),
            program,
            events,
        })
    }

    fn dir(&self, task: &TaskId) -> PathBuf {
        self.tasks.join(task.as_str())
    }

    /// What the shim's file says, if the shim still lives.
    fn report(&self, task: &TaskId) -> Option<(Report, bool)> {
        let text = fs::read(self.dir(task).join(REPORT)).ok()?;
        let report: Report = serde_json::from_slice(&text).ok()?;
        let lives = lives(&report.identity);
        Some((report, lives))
    }

    async fn ask(&self, task: &TaskId, ask: &Ask) -> Result<Report, RuntimeError> {
        let fail = |source| RuntimeError::Shim {
            task: task.clone(),
            source,
        };
        let talk = async {
            let mut stream = UnixStream::connect(self.dir(task).join(SOCKET)).await?;
            let mut line = serde_json::to_vec(ask)?;
            line.push(b'\n');
            stream.write_all(&line).await?;
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer).await?;
            Ok::<Report, io::Error>(serde_json::from_str(&answer)?)
        };
        match tokio::time::timeout(ANSWER, talk).await {
            Ok(answered) => answered.map_err(fail),
            Err(_) => Err(fail(io::ErrorKind::TimedOut.into())),
        }
    }

    /// Tells of the shim's changes until it ends.
    fn follow(&self, task: &TaskId) {
        let (task, socket, events) = (
            task.clone(),
            self.dir(task).join(SOCKET),
            self.events.clone(),
        );
        tokio::spawn(async move {
            let Ok(mut stream) = UnixStream::connect(&socket).await else {
                return;
            };
            if stream.write_all(b"\"watch\"\n").await.is_err() {
                return;
            }
            let mut lines = BufReader::new(stream).lines();
            let mut last = None;
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(report) = serde_json::from_str::<Report>(&line) else {
                    break;
                };
                let phase = phase(report.condition);
                last = Some(phase.clone());
                // nobody may be listening
                let _ = events.send(Event {
                    task: task.clone(),
                    phase,
                });
            }
            if !matches!(last, Some(Phase::Exited { .. })) {
                let _ = events.send(Event {
                    task,
                    phase: Phase::Gone,
                });
            }
        });
    }

    fn sandbox(&self, report: &Report) -> Sandbox {
        let netns = format!("/proc/{}/ns/net", report.identity.pid).into();
        Sandbox {
            netns,
            identity: report.identity.clone(),
        }
    }
}

/// Whether exactly this process still lives.
fn lives(identity: &ProcessIdentity) -> bool {
    shim::identity(identity.pid).is_ok_and(|now| now == *identity)
}

fn phase(condition: Condition) -> Phase {
    match condition {
        Condition::Prepared => Phase::Prepared,
        Condition::Running { pid } => Phase::Running { pid },
        Condition::Exited {
            code,
            error,
            rejected,
            at,
        } => Phase::Exited {
            code,
            error,
            rejected,
            at,
        },
    }
}

impl Runtime for Process {
    async fn prepare(&self, task: &Task, files: &TaskFiles) -> Result<Sandbox, RuntimeError> {
        if let Some((report, true)) = self.report(&task.id) {
            return Ok(self.sandbox(&report));
        }
        let dir = self.dir(&task.id);
        // the rest of one that was interrupted
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).map_err(failed("make", &dir))?;
        let RuntimeSpec::Process(process) = &task.spec.runtime;
        let order = Order {
            hostname: files.hostname.clone(),
            process: process.clone(),
            log: self.log_path(&task.id),
            cgroup: self.cgroup.join(task.id.as_str()),
        };
        let order = serde_json::to_vec(&order)
            .map_err(|error| failed("write", &dir.join(ORDER))(error.into()))?;
        for (name, text) in [
            (ORDER, order.as_slice()),
            ("resolv.conf", files.resolv_conf.as_bytes()),
            ("hosts", files.hosts.as_bytes()),
        ] {
            fs::write(dir.join(name), text).map_err(failed("write", &dir.join(name)))?;
        }
        let mut child = Command::new(&self.program)
            .arg("shim")
            .arg(&dir)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed("run", &self.program))?;
        let end = tokio::time::Instant::now() + PREPARE;
        loop {
            if let Some((report, true)) = self.report(&task.id) {
                // reaps it should it end while the daemon lives
                std::thread::spawn(move || {
                    let _ = child.wait();
                });
                self.follow(&task.id);
                return Ok(self.sandbox(&report));
            }
            let ended = child.try_wait().ok().flatten();
            if ended.is_some() || tokio::time::Instant::now() > end {
                let _ = child.kill();
                let _ = child.wait();
                let why = fs::read_to_string(dir.join(FAILURE))
                    .unwrap_or_else(|_| format!("the shim did not come up ({ended:?})"));
                return Err(RuntimeError::Sandbox(why));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn start(&self, task: &TaskId) -> Result<(), RuntimeError> {
        self.ask(task, &Ask::Start).await.map(drop)
    }

    async fn observe(&self) -> Result<Vec<Observed>, RuntimeError> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.tasks)
            .map_err(failed("list", &self.tasks))?
            .flatten()
        {
            let Some(task) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            let (phase, identity) = match self.report(&task) {
                Some((report, true)) => (phase(report.condition), Some(report.identity)),
                Some((
                    Report {
                        condition: exited @ Condition::Exited { .. },
                        ..
                    },
                    false,
                )) => (phase(exited), None),
                _ => (Phase::Gone, None),
            };
            all.push(Observed {
                task,
                phase,
                identity,
            });
        }
        Ok(all)
    }

    async fn stop(&self, task: &TaskId, signal: &str, grace: Duration) -> Result<(), RuntimeError> {
        let known = signal
            .parse::<i32>()
            .ok()
            .and_then(|n| Signal::try_from(n).ok());
        let named = || Signal::from_str(&format!("SIG{}", signal.trim_start_matches("SIG"))).ok();
        let signal = known
            .or_else(named)
            .ok_or_else(|| RuntimeError::Signal(signal.to_owned()))?;
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.ask(
            task,
            &Ask::Stop {
                signal: signal as i32,
                grace_ms,
            },
        )
        .await
        .map(drop)
    }

    async fn remove(&self, task: &TaskId) -> Result<(), RuntimeError> {
        let dir = self.dir(task);
        if let Some((report, true)) = self.report(task) {
            if self.ask(task, &Ask::Quit).await.is_err() {
                let pid = nix::unistd::Pid::from_raw(report.identity.pid.cast_signed());
                let _ = kill(pid, Signal::SIGKILL);
            }
            for _ in 0..500 {
                if !lives(&report.identity) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        let cgroup = self.cgroup.join(task.as_str());
        // of a shim that was killed, the command may be left
        let _ = fs::write(cgroup.join("cgroup.kill"), "1");
        for _ in 0..500 {
            let emptied =
                ["task", "shim", "."]
                    .iter()
                    .all(|part| match fs::remove_dir(cgroup.join(part)) {
                        Err(error) => error.kind() == io::ErrorKind::NotFound || *part == ".",
                        Ok(()) => true,
                    });
            let _ = fs::remove_dir(&cgroup);
            if emptied && !cgroup.exists() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &dir)(error))
            }
            _ => Ok(()),
        }
    }

    async fn forget(&self, task: &TaskId) -> Result<(), RuntimeError> {
        let path = self.log_path(task);
        log::delete(&path).map_err(failed("delete", &path))
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        for entry in fs::read_dir(&self.tasks).into_iter().flatten().flatten() {
            if let Some(task) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
                && self.report(&task).is_some_and(|(_, lives)| lives)
            {
                self.follow(&task);
            }
        }
        self.events.subscribe()
    }

    fn log_path(&self, task: &TaskId) -> PathBuf {
        self.logs.join(format!("{task}.log"))
    }
}
