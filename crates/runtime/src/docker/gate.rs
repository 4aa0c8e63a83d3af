//! The gate: the first program of a task's container waits on the near side of a
//! FIFO until the mesh has attached its namespace, then becomes the task's own in
//! place. Whether it has is seen from its process alone, so that no crash, of us or
//! of Docker, can make it be forgotten or done twice.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use model::TaskId;
use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::{
        stat::Mode,
        statvfs::{FsFlags, statvfs},
    },
    unistd::mkfifo,
};

use crate::{RuntimeError, failed, identity};

/// The program (`gate/gate.rs`); empty where docker tasks cannot run.
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/gate"));
/// Where a container has it and its FIFO.
pub(crate) const INSIDE: &str = "/.ipvsmesh";
const GATE: &str = "gate";
const FIFO: &str = "open";

/// Exit status of a gate whose program is not there, as docker run has it.
const NOT_FOUND: i32 = 127;
/// The same where it may not be executed.
const NO_PROGRAM: i32 = 126;

/// What a container's entrypoint begins with: the gate, and its FIFO.
pub(crate) fn entrypoint() -> [String; 2] {
    [GATE, FIFO].map(|name| format!("{INSIDE}/{name}"))
}

/// Why a gate ended that nobody had opened, in docker's words; `None`: not because
/// of this program.
pub(crate) fn rejection(program: &str, code: i32) -> Option<String> {
    let why = match code {
        NO_PROGRAM => "permission denied".to_owned(),
        NOT_FOUND if program.contains('/') => {
            format!("stat {program}: no such file or directory")
        }
        NOT_FOUND => "executable file not found in $PATH".to_owned(),
        _ => return None,
    };
    Some(format!("exec: {program:?}: {why}"))
}

/// The gates of an instance.
pub(crate) struct Gates {
    dir: PathBuf,
}

/// That of one task: a directory, which its container has at [`INSIDE`].
pub(crate) struct Gate {
    dir: PathBuf,
}

impl Gates {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(crate) fn of(&self, task: &TaskId) -> Gate {
        let dir = self.dir.join(task.as_str());
        Gate { dir }
    }
}

impl Gate {
    /// Where it is on the host.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes it anew.
    pub(crate) fn make(&self) -> Result<(), RuntimeError> {
        if PROGRAM.is_empty() {
            return Err(RuntimeError::Sandbox(format!(
                "docker tasks run on x86_64 and aarch64, not on {}",
                std::env::consts::ARCH
            )));
        }
        self.remove()?;
        let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.dir)
            .and_then(|()| mode(&self.dir, 0o755))
            .map_err(failed("make", &self.dir))?;
        let flags = statvfs(&self.dir).map_err(|errno| failed("look at", &self.dir)(errno.into()));
        if flags?.flags().contains(FsFlags::ST_NOEXEC) {
            return Err(RuntimeError::Sandbox(format!(
                "{} is on a file system from which nothing may be executed, and a container begins with a program there: mount it without noexec, or put that directory on another",
                self.dir.display()
            )));
        }
        let gate = self.dir.join(GATE);
        let write = || {
            let mut file = File::create(&gate)?;
            file.write_all(PROGRAM)?;
            mode(&gate, 0o755)
        };
        write().map_err(failed("write", &gate))?;
        // whatever user a container runs as may read
        let fifo = self.dir.join(FIFO);
        mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(io::Error::from)
            .and_then(|()| mode(&fifo, 0o644))
            .map_err(failed("make", &fifo))
    }

    /// Removes it, if it is there.
    pub(crate) fn remove(&self) -> Result<(), RuntimeError> {
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &self.dir)(error))
            }
            _ => Ok(()),
        }
    }

    /// The process in the gate: a container's first one, or where Docker's init is
    /// that, its child.
    fn held(&self, pid: u32) -> Option<u32> {
        let gate = node(&self.dir.join(GATE))?;
        let is = |pid: &u32| node(format!("/proc/{pid}/exe").as_ref()) == Some(gate);
        let children = || {
            let path = format!("/proc/{pid}/task/{pid}/children");
            let children = fs::read_to_string(path).unwrap_or_default();
            let mut children = children.split_whitespace().flat_map(str::parse);
            children.find(is)
        };
        Some(pid).filter(is).or_else(children)
    }

    /// Whether a container with this first process is in the gate.
    pub(crate) fn holds(&self, pid: u32) -> bool {
        self.held(pid).is_some()
    }

    /// Whether it has seen that its program is there, and waits.
    pub(crate) fn waits(&self, pid: u32) -> bool {
        self.held(pid).is_some_and(identity::sleeps)
    }

    /// Lets through who waits; nothing where nobody does.
    pub(crate) fn open(&self) -> Result<(), RuntimeError> {
        let fifo = self.dir.join(FIFO);
        let mut options = File::options();
        options.write(true).custom_flags(OFlag::O_NONBLOCK.bits());
        match options.open(&fifo) {
            Err(error) if error.raw_os_error() != Some(Errno::ENXIO as i32) => {
                Err(failed("open", &fifo)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Which file it is, by whatever path.
fn node(path: &Path) -> Option<(u64, u64)> {
    let file = fs::metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

#[cfg(test)]
mod tests;
