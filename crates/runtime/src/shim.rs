//! A task's shim: a small process that holds the task's namespaces, starts its
//! command when told to, and owns its log and its exit status. It depends on
//! nobody: the daemon may come and go.
//!
//! It has one thread, which waits for all that can happen.

use std::{
    env,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::{
        fd::AsFd as _,
        unix::{
            net::{UnixListener, UnixStream},
            process::ExitStatusExt as _,
        },
    },
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, kill, killpg},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::{Pid, dup2_stdout, setsid},
};

use crate::{
    cgroup::{Cgroup, SHIM},
    identity, launch,
    log::{Lines, Log, LogStream},
    protocol::{self, Ask, Condition, Failure, ORDER, Order, REPORT, Report, SOCKET},
    sandbox::{self, Cover},
};

/// A request is much shorter.
const LONGEST_ASK: usize = 4096;
/// With more connections than this, the oldest is given up.
const PEERS: usize = 64;
/// So much is read of an output at once.
const CHUNK: usize = 8 << 10;
/// Of an output that somebody still writes after the command's end, so much is
/// read before the end is told.
const LAST_WORDS: usize = 1 << 20;
/// How soon what could not be done is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// The kernel's memory shortage shall hit the task first, which is only one.
const OOM_SCORE: &str = "-900";

/// Why a shim ended.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct ShimError {
    what: String,
    #[source]
    source: io::Error,
}

pub(crate) fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> ShimError {
    let what = what.into();
    move |source| ShimError { what, source }
}

/// The shim's `main`. [`crate::Process`] runs the program that it was given as
/// `PROGRAM shim DIR` (with an empty environment), and the shim runs itself once
/// more in the same way to become the command. The program's `main` calls this
/// and returns, before it starts a thread (so before any tokio runtime) and
/// before it opens a file, for all that are open are closed:
///
/// ```no_run
/// use std::process::ExitCode;
///
/// fn main() -> ExitCode {
///     let arguments: Vec<String> = std::env::args().skip(1).collect();
///     if let [role, dir] = arguments.as_slice()
///         && role == "shim"
///     {
///         return match ipvsmesh_runtime::shim_main(dir.as_ref()) {
///             Ok(()) => ExitCode::SUCCESS,
///             // the daemon was told why
///             Err(_) => ExitCode::FAILURE,
///         };
///     }
///     // ... what else the program does
///     ExitCode::SUCCESS
/// }
/// ```
///
/// Nothing else may write to standard output, which is the answer to the daemon.
/// Standard input is the lock of the task's directory, standard error is
/// `/dev/null`. Returns when it is told to quit and the command has ended; or, in
/// the process that was to become the command, when that failed.
///
/// # Errors
/// The sandbox cannot be made; who started it reads the reason from its output.
pub fn shim_main(dir: &Path) -> Result<(), ShimError> {
    if launch::is_launcher() {
        launch::launch(dir);
        return Ok(());
    }
    let prepared = Shim::prepare(dir);
    answer(&match &prepared {
        Ok(shim) => Ok(&shim.report),
        Err(error) => Err(format!("{error}: {}", error.source)),
    });
    prepared?.serve()
}

/// Tells the daemon, and lets go of its pipe: it may be gone by now.
fn answer(prepared: &Result<&Report, String>) {
    let mut out = io::stdout();
    let _ = out
        .write_all(&protocol::line(prepared))
        .and_then(|()| out.flush());
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = dup2_stdout(null);
    }
}

/// Closes what the daemon had open. (Its own files close by themselves; those
/// that it inherited do not.)
fn close_inherited() {
    let open = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten();
    let numbers: Vec<i32> = open
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    for number in numbers {
        // that of the listing itself is closed already
        let _ = nix::unistd::close(number);
    }
}

/// How the command has to end.
struct Stopping {
    signal: Signal,
    /// Is killed then; `None`: never.
    deadline: Option<Instant>,
}

/// Somebody at the other end of the socket.
struct Peer {
    stream: UnixStream,
    input: Vec<u8>,
    watches: bool,
    gone: bool,
}

impl Peer {
    /// What it asks, as far as it is complete; `None`: it is done, or mad.
    fn asks(&mut self) -> Option<Vec<Ask>> {
        let mut chunk = [0; 512];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(len) => self.input.extend_from_slice(&chunk[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return None,
            }
            if self.input.len() > LONGEST_ASK {
                return None;
            }
        }
        let mut asks = Vec::new();
        while let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
            let line: Vec<_> = self.input.drain(..=end).collect();
            asks.push(serde_json::from_slice(&line).ok()?);
        }
        Some(asks)
    }

    /// One that reads nothing is given up: it can ask again, and the command must
    /// not wait for it.
    fn tell(&mut self, line: &[u8]) {
        let told = self.stream.write(line).is_ok_and(|len| len == line.len());
        self.gone |= !told;
    }
}

/// One of the command's two outputs.
struct Output {
    pipe: File,
    lines: Lines,
    ended: bool,
}

impl Output {
    /// Copies some of it; whether there may be more at once.
    fn copy(&mut self, log: &mut Log) -> bool {
        let mut chunk = [0; CHUNK];
        match self.pipe.read(&mut chunk) {
            Ok(len) if len > 0 => {
                self.lines.push(&chunk[..len], log);
                true
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            // nobody has the other end any more
            Ok(_) | Err(_) => {
                self.lines.end(log);
                self.ended = true;
                false
            }
        }
    }
}

struct Shim {
    dir: PathBuf,
    order: Order,
    cgroup: Cgroup,
    cover: Cover,
    signals: SignalFd,
    listener: UnixListener,
    log: Log,
    report: Report,
    /// The report's file says the same.
    recorded: bool,
    /// Our files are in their places.
    covered: bool,
    peers: Vec<Peer>,
    child: Option<Child>,
    outputs: Vec<Output>,
    stopping: Option<Stopping>,
    /// Ends when the command has.
    quitting: bool,
}

impl Shim {
    /// Makes the sandbox.
    fn prepare(dir: &Path) -> Result<Self, ShimError> {
        close_inherited();
        // nobody's terminal or death reaches it; fails where it is so already
        let _ = setsid();
        let _ = env::set_current_dir("/");
        let text = fs::read(dir.join(ORDER)).map_err(failed("cannot read the task's order"))?;
        let order: Order = serde_json::from_slice(&text)
            .map_err(|error| failed("cannot read the task's order")(error.into()))?;
        let cgroup = Cgroup::new(order.cgroup.clone());
        cgroup
            .make()
            .and_then(|()| cgroup.enter(SHIM))
            .map_err(failed(format!(
                "cannot make cgroup {}",
                order.cgroup.display()
            )))?;
        // not allowed in some containers
        let _ = fs::write("/proc/self/oom_score_adj", OOM_SCORE);
        sandbox::isolate(dir, &order.hostname)?;
        let cover = Cover::new(dir).map_err(failed("cannot watch the mounts"))?;

        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.add(Signal::SIGTERM);
        let signals = mask
            .thread_block()
            .and_then(|()| {
                SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            })
            .map_err(|errno| failed("cannot wait for signals")(errno.into()))?;
        let log = Log::open(&order.log)
            .map_err(failed(format!("cannot open {}", order.log.display())))?;
        let listener = UnixListener::bind(dir.join(SOCKET))
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
            .map_err(failed("cannot make the control socket"))?;
        let identity =
            identity::of(std::process::id()).map_err(failed("cannot read /proc/self"))?;
        let mut shim = Self {
            dir: dir.to_owned(),
            order,
            cgroup,
            cover,
            signals,
            listener,
            log,
            report: Report {
                identity,
                condition: Condition::Prepared,
            },
            recorded: false,
            covered: true,
            peers: Vec::new(),
            child: None,
            outputs: Vec::new(),
            stopping: None,
            quitting: false,
        };
        shim.record()
            .map_err(failed("cannot write the task's report"))?;
        shim.recorded = true;
        Ok(shim)
    }

    /// Lives until it may end.
    fn serve(mut self) -> Result<(), ShimError> {
        while !(self.quitting && self.child.is_none()) {
            let ready = self.wait().map_err(failed("cannot wait"))?;
            let mut ready = ready.into_iter();
            let (signals, listener, mounts) = (
                ready.next() == Some(true),
                ready.next() == Some(true),
                ready.next() == Some(true),
            );
            let outputs: Vec<_> = ready.by_ref().take(self.outputs.len()).collect();
            let peers: Vec<_> = ready.collect();

            if mounts || !self.covered {
                self.covered = self.cover.repair();
            }
            self.read_outputs(&outputs);
            self.serve_peers(&peers);
            if signals {
                self.take_signals();
            }
            if listener {
                self.accept();
            }
            self.kill_if_due();
            self.peers.retain(|peer| !peer.gone);
            if !self.recorded {
                self.recorded = self.record().is_ok();
            }
        }
        Ok(())
    }

    /// Waits until something happens: signals, a connection, a changed mount, an
    /// output, a request, in this order.
    fn wait(&self) -> io::Result<Vec<bool>> {
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.cover.changes(), PollFlags::POLLPRI),
        ];
        let outputs = self.outputs.iter().map(|output| output.pipe.as_fd());
        let peers = self.peers.iter().map(|peer| peer.stream.as_fd());
        fds.extend(
            outputs
                .chain(peers)
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN)),
        );

        let now = Instant::now();
        let kill = self
            .stopping
            .as_ref()
            .and_then(|stopping| stopping.deadline);
        let again = (!self.recorded || !self.covered).then(|| now + AGAIN);
        let timeout = match kill.into_iter().chain(again).min() {
            // a millisecond more, or the last one is waited for by looking often
            Some(at) => {
                let left = at.saturating_duration_since(now) + Duration::from_millis(1);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
            None => PollTimeout::NONE,
        };
        match poll(&mut fds, timeout) {
            Ok(_) => Ok(fds.iter().map(|fd| fd.any().unwrap_or(true)).collect()),
            Err(Errno::EINTR) => Ok(vec![false; fds.len()]),
            Err(errno) => Err(errno.into()),
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.peers.len() == PEERS {
                self.peers.remove(0);
            }
            if stream.set_nonblocking(true).is_ok() {
                self.peers.push(Peer {
                    stream,
                    input: Vec::new(),
                    watches: false,
                    gone: false,
                });
            }
        }
    }

    fn serve_peers(&mut self, ready: &[bool]) {
        let mut asked = Vec::new();
        for (index, peer) in self.peers.iter_mut().enumerate() {
            if ready.get(index) == Some(&true) {
                let asks = peer.asks();
                peer.gone |= asks.is_none();
                asked.extend(asks.into_iter().flatten().map(|ask| (index, ask)));
            }
        }
        // what one asks is told to all that watch, and to itself as the answer
        for (index, ask) in asked {
            let watch = matches!(ask, Ask::Watch);
            self.act(&ask);
            if let Some(peer) = self.peers.get_mut(index) {
                peer.watches |= watch;
                peer.tell(&protocol::line(&self.report));
            }
        }
    }

    fn act(&mut self, ask: &Ask) {
        match *ask {
            Ask::Start => self.start(),
            Ask::Stop { signal, grace_ms } => {
                let signal = Signal::try_from(signal).unwrap_or(Signal::SIGTERM);
                self.stop(signal, Duration::from_millis(grace_ms));
            }
            Ask::Status | Ask::Watch => {}
            Ask::Quit => {
                self.quitting = true;
                self.kill_task();
            }
        }
    }

    fn take_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let term = i32::try_from(info.ssi_signo) == Ok(Signal::SIGTERM as i32);
            if term {
                // the machine goes down: the task ends as it likes to
                self.quitting = true;
                let spec = &self.order.process;
                let named = spec.stop_signal.as_deref().and_then(protocol::signal);
                let (signal, grace) = (named.unwrap_or(Signal::SIGTERM), spec.stop_grace);
                self.stop(signal, grace);
            }
        }
        self.reap();
    }

    fn start(&mut self) {
        if self.report.condition != Condition::Prepared || self.quitting {
            return;
        }
        match launch::spawn(&self.dir) {
            Ok(mut child) => {
                let pid = child.id();
                let kinds = [LogStream::Stdout, LogStream::Stderr];
                for (pipe, kind) in launch::outputs(&mut child).into_iter().zip(kinds) {
                    let Some(pipe) = pipe else { continue };
                    // our end alone: the command's may wait
                    let _ = fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
                    self.outputs.push(Output {
                        pipe: pipe.into(),
                        lines: Lines::new(kind),
                        ended: false,
                    });
                }
                self.child = Some(child);
                self.change(Condition::Running { pid });
            }
            Err(Failure { code, error }) => self.change(Condition::Exited {
                code,
                error,
                rejected: true,
                at: Timestamp::now(),
            }),
        }
    }

    /// Sends the signal once, and lets the command live no longer than the
    /// shortest time that was asked.
    fn stop(&mut self, signal: Signal, grace: Duration) {
        let Condition::Running { pid } = self.report.condition else {
            return;
        };
        let mut deadline = Instant::now().checked_add(grace);
        let mut sent = false;
        if let Some(before) = &self.stopping {
            sent = before.signal == signal;
            deadline = [before.deadline, deadline].into_iter().flatten().min();
        }
        self.stopping = Some(Stopping { signal, deadline });
        if sent {
            return;
        }
        // its number is not another's: it was not waited for yet
        let pid = Pid::from_raw(pid.cast_signed());
        // the group was made for it, but it may have gone to another
        if killpg(pid, signal).is_err() {
            let _ = kill(pid, signal);
        }
    }

    fn kill_if_due(&mut self) {
        let Some(stopping) = &mut self.stopping else {
            return;
        };
        if stopping.deadline.is_some_and(|at| at <= Instant::now()) {
            stopping.deadline = None;
            if self.child.is_some() {
                self.kill_task();
            }
        }
    }

    fn kill_task(&self) {
        if self.cgroup.kill_task().is_err()
            && let Condition::Running { pid } = self.report.condition
            && self.child.is_some()
        {
            // at least the command itself
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }

    /// Writes down the command's end, if it ended.
    fn reap(&mut self) {
        let Some(child) = &mut self.child else {
            return;
        };
        let (code, error) = match child.try_wait() {
            Ok(None) => return,
            Ok(Some(status)) => ended(status),
            Err(error) => (255, format!("cannot learn how the command ended: {error}")),
        };
        let at = Timestamp::now();
        self.child = None;
        // what it started goes with it
        self.kill_task();
        // its last words come before the news
        for output in &mut self.outputs {
            let mut chunks = 0..LAST_WORDS / CHUNK;
            while chunks.next().is_some() && output.copy(&mut self.log) {}
        }
        self.change(Condition::Exited {
            code,
            error,
            rejected: false,
            at,
        });
    }

    fn read_outputs(&mut self, ready: &[bool]) {
        for (output, ready) in self.outputs.iter_mut().zip(ready) {
            if *ready {
                output.copy(&mut self.log);
            }
        }
        self.outputs.retain(|output| !output.ended);
    }

    fn change(&mut self, condition: Condition) {
        self.report.condition = condition;
        // tried again where it fails: a daemon that was away reads it
        self.recorded = self.record().is_ok();
        let line = protocol::line(&self.report);
        for peer in self.peers.iter_mut().filter(|peer| peer.watches) {
            peer.tell(&line);
        }
    }

    fn record(&self) -> io::Result<()> {
        let beside = self.dir.join("shim.new");
        fs::write(&beside, protocol::line(&self.report))?;
        fs::rename(&beside, self.dir.join(REPORT))
    }
}

fn ended(status: ExitStatus) -> (i32, String) {
    match (status.code(), status.signal()) {
        (Some(0), _) => (0, String::new()),
        (Some(code), _) => (code, format!("task: non-zero exit ({code})")),
        (None, signal) => {
            let number = signal.unwrap_or(0);
            let name = Signal::try_from(number).map_or("", Signal::as_str);
            (
                128 + number,
                format!("task: killed by signal {number} {name}")
                    .trim_end()
                    .to_owned(),
            )
        }
    }
}
