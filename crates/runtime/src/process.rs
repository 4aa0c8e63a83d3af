//! The process runtime: each task is a command of the host in namespaces of its
//! own, held by a shim.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, Write as _},
    num::NonZero,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::available_parallelism,
    time::Duration,
};

use jiff::Timestamp;
use model::{Health, Instance, RuntimeSpec, Task, TaskId};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    process::Command,
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, broadcast, mpsc},
    time::{Instant, sleep, timeout},
};

use crate::{
    Event, LogLine, LogOptions, Observed, Phase, Runtime, RuntimeError, Sandbox, TaskFiles,
    cgroup::Cgroup,
    failed, hand_out, identity,
    log::{self, Reader},
    protocol::{self, Ask, Condition, FILES, LOCK, ORDER, Order, REPORT, Report, SOCKET},
};

/// How long a shim may take to make its namespaces, on a machine with too much to do.
const PREPARE: Duration = Duration::from_secs(60);
/// How long a shim may take to answer; it starts the command meanwhile.
const ANSWER: Duration = Duration::from_secs(60);
/// How long a shim may take to end when it is told to, before it is killed.
const QUIT: Duration = Duration::from_secs(2);
/// How long processes may take to end when they are killed.
const KILL: Duration = Duration::from_secs(20);
/// How often it is looked whether something has happened that nobody tells.
const LOOK: Duration = Duration::from_millis(20);
/// How often a followed log is looked at.
const FOLLOW: Duration = Duration::from_millis(200);
/// Exit status of a task whose end nobody saw: that of one that was killed.
const DIED: i32 = 137;

/// The process runtime.
pub struct Process {
    /// What its own tasks need as well.
    inner: Arc<Inner>,
    program: PathBuf,
    /// So many shims are made or start their command at once, and no more: each takes the
    /// processors for a while before it answers, and is given up if that takes too long.
    working: Semaphore,
}

struct Inner {
    tasks: PathBuf,
    logs: PathBuf,
    cgroups: PathBuf,
    events: broadcast::Sender<Event>,
    /// Shims whose changes are being listened to.
    followed: Mutex<BTreeSet<TaskId>>,
}

/// Runs what may wait for a disk off the runtime's threads.
async fn blocking<T: Send + 'static>(
    what: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
) -> Result<T, RuntimeError> {
    match tokio::task::spawn_blocking(what).await {
        Ok(done) => done,
        Err(error) => Err(RuntimeError::Sandbox(error.to_string())),
    }
}

/// What this process ignores, under `nohup` or as a shell's background job, each
/// command would ignore as well: exec keeps it so. A handler that does nothing is
/// the same to us, and exec takes it away.
fn ignore_by_handlers() {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    let ignored = ignored.unwrap_or_default();
    // those above are the C library's own
    for number in 1..=31 {
        // the standard library ignores this one, and gives it back by itself
        let pipe = number == nix::sys::signal::Signal::SIGPIPE as i32;
        if ignored >> (number - 1) & 1 == 1 && !pipe {
            // stays when what is given back is dropped
            let _ = signal(SignalKind::from_raw(number));
        }
    }
}

/// The names in a directory that are tasks'.
fn task_ids(dir: &Path) -> Result<BTreeSet<TaskId>, RuntimeError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries.map_err(failed("list", dir))?,
    };
    let mut ids = BTreeSet::new();
    for entry in entries {
        let name = entry.map_err(failed("list", dir))?.file_name();
        // other names are nobody's business
        ids.extend(name.to_str().and_then(|name| name.parse().ok()));
    }
    Ok(ids)
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
            // environments and logs may hold secrets
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(failed("make", dir))?;
        }
        let (events, _) = broadcast::channel(1024);
        Ok(Self {
            inner: Arc::new(Inner {
                tasks,
                logs,
                cgroups: instance.cgroup(),
                events,
                followed: Mutex::new(BTreeSet::new()),
            }),
            program,
            working: Semaphore::new(2 * available_parallelism().map_or(1, NonZero::get)),
        })
    }

    /// By which it tells of changes.
    pub(crate) fn sender(&self) -> broadcast::Sender<Event> {
        self.inner.events.clone()
    }

    /// Starts a shim, which holds the lock from now on, and waits for its sandbox.
    async fn spawn(&self, dir: &Path, lock: File) -> Result<Report, RuntimeError> {
        ignore_by_handlers();
        let mut child = Command::new(&self.program)
            .arg("shim")
            .arg(dir)
            // what the daemon is told is not for its tasks' shims
            .env_clear()
            .stdin(lock)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed("run", &self.program))?;
        let (mut answer, mut in_time) = (String::new(), true);
        if let Some(out) = child.stdout.take() {
            let mut out = BufReader::new(out);
            // what cannot be read is no answer
            in_time = timeout(PREPARE, out.read_line(&mut answer)).await.is_ok();
        }
        let why = match serde_json::from_str::<Result<Report, String>>(&answer) {
            Ok(Ok(report)) => {
                // so that it is no zombie when it ends
                tokio::spawn(async move { child.wait().await });
                return Ok(report);
            }
            Ok(Err(why)) => why,
            Err(_) if in_time => format!("{} did not become a shim", self.program.display()),
            Err(_) => format!(
                "{} did not become a shim in {} s",
                self.program.display(),
                PREPARE.as_secs()
            ),
        };
        // it may have ended by itself
        let _ = child.kill().await;
        Err(RuntimeError::Sandbox(why))
    }
}

impl Inner {
    fn dir(&self, task: &TaskId) -> PathBuf {
        self.tasks.join(task.as_str())
    }

    fn cgroup(&self, task: &TaskId) -> Cgroup {
        Cgroup::new(self.cgroups.join(task.as_str()))
    }

    fn log_path(&self, task: &TaskId) -> PathBuf {
        self.logs.join(format!("{task}.log"))
    }

    /// What the shim wrote last, and whether it still lives.
    fn report(&self, task: &TaskId) -> Option<(Report, bool)> {
        let text = fs::read(self.dir(task).join(REPORT)).ok()?;
        let report: Report = serde_json::from_slice(&text).ok()?;
        let lives = identity::lives(&report.identity);
        Some((report, lives))
    }

    /// What there is of a task.
    fn look(&self, task: &TaskId) -> Observed {
        let task = task.clone();
        let died = |error: &str, at| Phase::Exited {
            code: DIED,
            error: error.to_owned(),
            rejected: false,
            at,
        };
        let (phase, identity) = match self.report(&task) {
            Some((report, true)) => (phase(report.condition), Some(report.identity)),
            Some((report, false)) => match report.condition {
                exited @ Condition::Exited { .. } => (phase(exited), None),
                Condition::Prepared | Condition::Running { .. } => {
                    let booted = identity::boot_id().unwrap_or_default();
                    let error = if booted == report.identity.boot_id {
                        "the shim died, and the command with it"
                    } else {
                        "the machine was started anew"
                    };
                    (died(error, self.last_seen(&task)), None)
                }
            },
            // the command may run on, and must be removed
            None if !self.dir(&task).exists() && self.cgroup(&task).exists() => {
                let at = self.last_seen(&task);
                (died("the task's directory was deleted", at), None)
            }
            None => (Phase::Gone, None),
        };
        Observed {
            task,
            phase,
            identity,
        }
    }

    /// Whether nothing more comes into the task's log.
    fn ended(&self, task: &TaskId) -> bool {
        matches!(self.look(task).phase, Phase::Exited { .. } | Phase::Gone)
    }

    /// When a dead shim wrote last: the same at each look.
    fn last_seen(&self, task: &TaskId) -> Timestamp {
        let report = fs::metadata(self.dir(task).join(REPORT));
        let at = report.and_then(|report| report.modified());
        at.ok()
            .and_then(|at| Timestamp::try_from(at).ok())
            .unwrap_or(Timestamp::UNIX_EPOCH)
    }

    async fn ask(&self, task: &TaskId, ask: &Ask, limit: Duration) -> Result<Report, RuntimeError> {
        let fail = |source| RuntimeError::Shim {
            task: task.clone(),
            source,
        };
        let talk = async {
            let mut stream = UnixStream::connect(self.dir(task).join(SOCKET)).await?;
            stream.write_all(&protocol::line(ask)).await?;
            let mut answer = String::new();
            BufReader::new(stream).read_line(&mut answer).await?;
            Ok::<Report, io::Error>(serde_json::from_str(&answer)?)
        };
        match timeout(limit, talk).await {
            Ok(answered) => answered.map_err(fail),
            Err(_) => Err(fail(io::ErrorKind::TimedOut.into())),
        }
    }

    fn followed(&self) -> MutexGuard<'_, BTreeSet<TaskId>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of a shim's changes until it is gone.
    fn follow(self: &Arc<Self>, task: &TaskId) {
        if !self.followed().insert(task.clone()) {
            return;
        }
        let (this, task) = (self.clone(), task.clone());
        tokio::spawn(async move {
            while this.report(&task).is_some_and(|(_, lives)| lives) {
                // until it ends, or gives us up
                let _ = this.watch(&task).await;
                sleep(LOOK).await;
            }
            this.followed().remove(&task);
            let Observed {
                task,
                phase,
                identity,
            } = this.look(&task);
            this.tell(&task, phase);
            // made again meanwhile, by one who saw it followed still
            if identity.is_some() {
                this.follow(&task);
            }
        });
    }

    async fn watch(&self, task: &TaskId) -> io::Result<()> {
        let mut stream = UnixStream::connect(self.dir(task).join(SOCKET)).await?;
        stream.write_all(&protocol::line(&Ask::Watch)).await?;
        let mut lines = BufReader::new(stream).lines();
        while let Some(line) = lines.next_line().await? {
            let report: Report = serde_json::from_str(&line)?;
            self.tell(task, phase(report.condition));
        }
        Ok(())
    }

    fn tell(&self, task: &TaskId, phase: Phase) {
        let task = task.clone();
        // nobody may be listening
        let _ = self.events.send(Event { task, phase });
    }

    /// The lock of a task's directory; `None`: a shim has it.
    fn lock(dir: &Path) -> Result<Option<File>, RuntimeError> {
        let path = dir.join(LOCK);
        let open = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let file = open.map_err(failed("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(failed("lock", &path)(source)),
        }
    }

    /// Kills and removes what runs of a task, though its shim be dead.
    async fn clear_cgroup(&self, task: &TaskId) -> Result<(), RuntimeError> {
        let cgroup = self.cgroup(task);
        let end = Instant::now() + KILL;
        loop {
            let result = cgroup.kill().and_then(|()| cgroup.remove());
            match result {
                Ok(()) => return Ok(()),
                Err(source) if Instant::now() > end => {
                    let task = task.clone();
                    return Err(RuntimeError::Remains { task, source });
                }
                Err(_) => sleep(LOOK).await,
            }
        }
    }

    /// The sandbox of a shim that another daemon, or an earlier call, began; or
    /// the lock to begin one, where there is none or it does not come to be one.
    async fn begun(&self, task: &TaskId) -> Result<Result<Sandbox, File>, RuntimeError> {
        let end = Instant::now() + PREPARE;
        loop {
            if let Some(lock) = Self::lock(&self.dir(task))? {
                return Ok(Err(lock));
            }
            if let Some((report, true)) = self.report(task) {
                return Ok(Ok(sandbox(report)));
            }
            if Instant::now() > end {
                return Err(RuntimeError::Sandbox(format!(
                    "a shim was started for it and does not come up: see what holds {}",
                    self.dir(task).join(LOCK).display()
                )));
            }
            sleep(LOOK).await;
        }
    }
}

fn sandbox(report: Report) -> Sandbox {
    Sandbox {
        netns: format!("/proc/{}/ns/net", report.identity.pid).into(),
        identity: report.identity,
    }
}

fn phase(condition: Condition) -> Phase {
    match condition {
        Condition::Prepared => Phase::Prepared,
        Condition::Running { pid } => Phase::Running {
            pid,
            health: Health::None,
        },
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

/// Writes a file that every user may read, if it may enter the directory.
fn write(path: &Path, text: &[u8]) -> Result<(), RuntimeError> {
    let write = || {
        let mut file = File::create(path)?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(text)
    };
    write().map_err(failed("write", path))
}

impl Runtime for Process {
    async fn prepare(&self, task: &Task, files: &TaskFiles) -> Result<Sandbox, RuntimeError> {
        let (inner, id) = (&self.inner, &task.id);
        let dir = inner.dir(id);
        fs::create_dir_all(&dir).map_err(failed("make", &dir))?;
        let lock = match inner.begun(id).await? {
            Ok(sandbox) => {
                inner.follow(id);
                return Ok(sandbox);
            }
            Err(lock) => lock,
        };
        // the semaphore is never closed
        let _turn = self.working.acquire().await.ok();
        // the rest of one that was interrupted or died
        inner.clear_cgroup(id).await?;
        for name in [REPORT, SOCKET] {
            let path = dir.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("delete", &path)(error));
                }
                _ => {}
            }
        }
        let RuntimeSpec::Process(process) = &task.spec.runtime else {
            return Err(RuntimeError::Sandbox("it is no process".to_owned()));
        };
        let order = Order {
            hostname: files.hostname.clone(),
            process: process.clone(),
            log: inner.log_path(id),
            cgroup: inner.cgroups.join(id.as_str()),
        };
        write(&dir.join(ORDER), &protocol::line(&order))?;
        for (name, text) in FILES.into_iter().zip([files.resolv_conf(), files.hosts()]) {
            write(&dir.join(name), text.as_bytes())?;
        }
        hand_out::write_for_process(&dir, &files.files)?;
        let report = self.spawn(&dir, lock).await?;
        inner.follow(id);
        Ok(sandbox(report))
    }

    async fn start(&self, task: &TaskId) -> Result<(), RuntimeError> {
        // it has its time from when its turn has come
        let _turn = self.working.acquire().await;
        self.inner.ask(task, &Ask::Start, ANSWER).await.map(drop)
    }

    async fn observe(&self) -> Result<Vec<Observed>, RuntimeError> {
        let inner = self.inner.clone();
        let all = blocking(move || {
            let mut ids = task_ids(&inner.tasks)?;
            ids.extend(task_ids(&inner.cgroups)?);
            Ok(ids.iter().map(|id| inner.look(id)).collect::<Vec<_>>())
        })
        .await?;
        for observed in &all {
            if observed.identity.is_some() {
                self.inner.follow(&observed.task);
            }
        }
        Ok(all)
    }

    async fn look(&self, task: &TaskId) -> Result<Option<Observed>, RuntimeError> {
        let (inner, id) = (self.inner.clone(), task.clone());
        let observed = blocking(move || {
            let exists = inner.dir(&id).exists() || inner.cgroups.join(id.as_str()).exists();
            Ok(exists.then(|| inner.look(&id)))
        })
        .await?;
        if observed.as_ref().is_some_and(|o| o.identity.is_some()) {
            self.inner.follow(task);
        }
        Ok(observed)
    }

    async fn stop(
        &self,
        task: &TaskId,
        signal: Option<&str>,
        grace: Duration,
    ) -> Result<(), RuntimeError> {
        let signal = signal.unwrap_or("SIGTERM");
        let number =
            protocol::signal(signal).ok_or_else(|| RuntimeError::Signal(signal.to_owned()))?;
        let ask = Ask::Stop {
            signal: number as i32,
            grace_ms: u64::try_from(grace.as_millis()).unwrap_or(u64::MAX),
        };
        match self.inner.ask(task, &ask, ANSWER).await {
            Err(_) if self.inner.look(task).identity.is_none() => {
                // nobody would keep the time of grace
                let cgroup = self.inner.cgroup(task);
                let source = match cgroup.kill() {
                    Ok(()) => return Ok(()),
                    Err(source) => source,
                };
                let task = task.clone();
                Err(RuntimeError::Remains { task, source })
            }
            done => done.map(drop),
        }
    }

    async fn remove(&self, task: &TaskId) -> Result<(), RuntimeError> {
        let inner = &self.inner;
        let dir = inner.dir(task);
        if !dir.exists() {
            return inner.clear_cgroup(task).await;
        }
        let mut held = Inner::lock(&dir)?;
        let told = held.is_none() && inner.ask(task, &Ask::Quit, QUIT).await.is_ok();
        let begin = Instant::now();
        while held.is_none() {
            let waited = begin.elapsed();
            if !told || waited > QUIT {
                // the shim as well: one that hangs, or is just being started
                let killed = inner.cgroup(task).kill();
                if waited > KILL {
                    let task = task.clone();
                    let source = killed
                        .err()
                        .unwrap_or_else(|| io::ErrorKind::TimedOut.into());
                    return Err(RuntimeError::Remains { task, source });
                }
            }
            sleep(LOOK).await;
            held = Inner::lock(&dir)?;
        }
        inner.clear_cgroup(task).await?;
        blocking(move || match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &dir)(error))
            }
            _ => Ok(()),
        })
        .await
    }

    async fn forget(&self, task: &TaskId) -> Result<(), RuntimeError> {
        let path = self.inner.log_path(task);
        blocking(move || log::delete(&path).map_err(failed("delete", &path))).await
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    fn logs(
        &self,
        task: &TaskId,
        options: LogOptions,
    ) -> mpsc::Receiver<Result<LogLine, RuntimeError>> {
        let (lines, receiver) = mpsc::channel(256);
        let (inner, task) = (self.inner.clone(), task.clone());
        tokio::spawn(async move {
            let path = inner.log_path(&task);
            let mut reader = Reader::new(&path, options);
            loop {
                // before reading: what it said until then is in the log
                let ended = !options.follow || inner.ended(&task);
                let read = tokio::task::spawn_blocking(move || (reader.read(), reader)).await;
                let Ok((read, back)) = read else { return };
                reader = back;
                let read = match read.map_err(failed("read", &path)) {
                    Ok(read) => read,
                    Err(error) => {
                        // who asked may be gone
                        let _ = lines.send(Err(error)).await;
                        return;
                    }
                };
                for line in read {
                    if lines.send(Ok(line)).await.is_err() {
                        return;
                    }
                }
                if ended {
                    return;
                }
                tokio::select! {
                    () = lines.closed() => return,
                    () = sleep(FOLLOW) => {}
                }
            }
        });
        receiver
    }
}
