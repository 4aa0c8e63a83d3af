//! From the shim to the command. The shim starts its own program once more, and
//! that becomes the command: what must be set between `fork` and `exec` (the
//! cgroup, credentials, death with the shim) needs no code in between so.

use std::{
    env, fs,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use caps::{CapSet, Capability};
use nix::{
    sys::{
        prctl::set_pdeathsig,
        signal::{SigSet, Signal},
        stat::{Mode, umask},
    },
    unistd::{fchown, getppid, setgroups, setresgid, setresuid},
};

use crate::{
    cgroup::{Cgroup, TASK},
    protocol::{Failure, ORDER, Order, REPORT, Report},
    users,
};

/// What the shim's program is called when it is to become the command.
const NAME: &str = "ipvsmesh-launch";
/// Where programs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What docker leaves a container's root.
const CAPABILITIES: [Capability; 14] = [
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

/// The exit statuses that shells give.
const CANNOT_RUN: i32 = 126;
const NOT_FOUND: i32 = 127;

fn failure(error: impl Into<String>) -> Failure {
    Failure {
        code: CANNOT_RUN,
        error: error.into(),
    }
}

/// Whether this process was started by [`spawn`].
pub(crate) fn is_launcher() -> bool {
    env::args_os().next().is_some_and(|name| name == NAME)
}

/// Starts the command of a task's directory; returns when it runs or cannot. Its
/// parent is the calling thread, and it dies with that.
pub(crate) fn spawn(dir: &Path) -> Result<Child, Failure> {
    let shim = |error: io::Error| failure(format!("the shim cannot start itself anew: {error}"));
    let (mut answer, told) = io::pipe().map_err(shim)?;
    // not by its path: there may be another version by now
    let mut child = Command::new("/proc/self/exe")
        .arg0(NAME)
        .arg("shim")
        .arg(dir)
        .process_group(0)
        .stdin(told)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(shim)?;
    let mut text = String::new();
    // ends when the launcher became the command
    let read = answer.read_to_string(&mut text);
    if text.is_empty() && read.is_ok() {
        return Ok(child);
    }
    // a launcher that failed ends at once
    let _ = child.kill();
    let _ = child.wait();
    Err(serde_json::from_str(&text)
        .unwrap_or_else(|_| failure(format!("the launcher said {text:?}"))))
}

/// Becomes the command; returns only when that failed, which it tells the shim.
pub(crate) fn launch(dir: &Path) {
    // a copy that the command does not inherit, whose own stdin is /dev/null
    let told = io::stdin().as_fd().try_clone_to_owned();
    let failure = become_command(dir);
    if let Ok(told) = told {
        // without a shim nobody wants to know
        let _ = fs::File::from(told).write_all(&crate::protocol::line(&failure));
    }
}

fn become_command(dir: &Path) -> Failure {
    match prepare(dir) {
        Ok((mut command, program)) => {
            let error = command.exec();
            not_run(&program, &error)
        }
        Err(failure) => failure,
    }
}

/// Gives this process all that the command shall have.
fn prepare(dir: &Path) -> Result<(Command, String), Failure> {
    let read = |name: &str| {
        fs::read(dir.join(name))
            .map_err(|error| failure(format!("cannot read the task's {name}: {error}")))
    };
    let broken = |error| failure(format!("the task's directory is damaged: {error}"));
    let order: Order = serde_json::from_slice(&read(ORDER)?).map_err(broken)?;
    let report: Report = serde_json::from_slice(&read(REPORT)?).map_err(broken)?;
    let spec = order.process;
    let (program, arguments) = spec
        .command
        .split_first()
        .ok_or_else(|| failure("the command is empty"))?;

    Cgroup::new(order.cgroup)
        .enter(TASK)
        .map_err(|error| failure(format!("cannot enter the task's cgroup: {error}")))?;
    // the shim's is lower, for the task's own sake
    let _ = fs::write("/proc/self/oom_score_adj", "0");
    umask(Mode::from_bits_truncate(0o022));
    // the shim reads its signals from a descriptor, so it has them blocked
    SigSet::empty()
        .thread_set_mask()
        .map_err(|errno| failure(format!("cannot unblock signals: {errno}")))?;
    let home = credentials(spec.user.as_deref())?;

    let dir = spec.dir.as_deref().unwrap_or("/");
    env::set_current_dir(dir)
        .map_err(|error| failure(format!("cannot go to the working directory {dir}: {error}")))?;
    // after the change of user, which would undo it
    set_pdeathsig(Signal::SIGKILL)
        .map_err(|errno| failure(format!("cannot tie the command to its shim: {errno}")))?;
    if u32::try_from(getppid().as_raw()) != Ok(report.identity.pid) {
        return Err(failure("the shim died"));
    }

    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs([
            ("PATH", PATH),
            ("HOSTNAME", order.hostname.as_str()),
            ("HOME", &home),
        ])
        .stdin(Stdio::null());
    for variable in &spec.env {
        match variable.split_once('=') {
            Some((key, value)) => command.env(key, value),
            // as docker has it: a name alone takes the variable away
            None => command.env_remove(variable),
        };
    }
    Ok((command, program.clone()))
}

/// Becomes the user, with at most docker's capabilities; gives back its home.
fn credentials(user: Option<&str>) -> Result<String, Failure> {
    let to = users::look_up(user, "/etc".as_ref()).map_err(failure)?;
    let caps =
        |error: caps::errors::CapsError| failure(format!("cannot give up capabilities: {error}"));
    for capability in caps::all() {
        // an error: this kernel does not know it
        let held = caps::has_cap(None, CapSet::Bounding, capability).unwrap_or(false);
        if held && !CAPABILITIES.contains(&capability) {
            caps::drop(None, CapSet::Bounding, capability).map_err(caps)?;
        }
    }
    caps::clear(None, CapSet::Inheritable).map_err(caps)?;
    caps::clear(None, CapSet::Ambient).map_err(caps)?;
    // so that /dev/stdout can be opened by its name, as many a program does
    for output in [io::stdout().as_fd(), io::stderr().as_fd()] {
        let _ = fchown(output, Some(to.uid), Some(to.gid));
    }
    setgroups(&to.groups)
        .and_then(|()| setresgid(to.gid, to.gid, to.gid))
        .and_then(|()| setresuid(to.uid, to.uid, to.uid))
        .map_err(|errno| failure(format!("cannot become user {}: {errno}", to.uid)))?;
    Ok(to.home)
}

fn not_run(program: &str, error: &io::Error) -> Failure {
    let there = program.contains('/') && Path::new(program).exists();
    match error.kind() {
        io::ErrorKind::NotFound if there => Failure {
            code: NOT_FOUND,
            error: format!(
                "program {program} is there, but what its first line or its header names as interpreter is not"
            ),
        },
        io::ErrorKind::NotFound => Failure {
            code: NOT_FOUND,
            error: format!(
                "program {program} not found: give its path, or install it into one of {PATH}"
            ),
        },
        io::ErrorKind::PermissionDenied => failure(format!(
            "program {program} may not be run: it is no file, not executable, or not for this user"
        )),
        _ => failure(format!("cannot run {program}: {error}")),
    }
}

/// The command's outputs, to be read without waiting.
pub(crate) fn outputs(child: &mut Child) -> [Option<OwnedFd>; 2] {
    [
        child.stdout.take().map(OwnedFd::from),
        child.stderr.take().map(OwnedFd::from),
    ]
}
