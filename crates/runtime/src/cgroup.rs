//! A task's cgroup (version 2). Its part `task` holds the command and all that
//! it starts, its part `shim` the shim: so everything of the command is killed
//! at once, wherever it hides, and the shim is not.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        statfs::{CGROUP2_SUPER_MAGIC, statfs},
    },
    unistd::Pid,
};

/// The part of the command.
pub(crate) const TASK: &str = "task";
/// The part of the shim.
pub(crate) const SHIM: &str = "shim";

/// Without `cgroup.kill`: how often its processes are looked for.
const ROUNDS: u32 = 200;
/// And how long after each.
const ROUND: Duration = Duration::from_millis(5);

/// A task's cgroup.
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn exists(&self) -> bool {
        self.0.exists()
    }

    /// Makes it with its parts.
    pub(crate) fn make(&self) -> io::Result<()> {
        // elsewhere they would be mere directories, which contain nothing
        let above = self.0.ancestors().find(|dir| dir.exists());
        let kind = above.and_then(|dir| statfs(dir).ok());
        if kind.is_none_or(|kind| kind.filesystem_type() != CGROUP2_SUPER_MAGIC) {
            return Err(io::Error::other(
                "cgroup version 2 is not mounted there: boot with \
                 systemd.unified_cgroup_hierarchy=1, or run: mount -t cgroup2 cgroup2 /sys/fs/cgroup",
            ));
        }
        for part in [TASK, SHIM] {
            fs::create_dir_all(self.0.join(part))?;
        }
        Ok(())
    }

    /// Moves the calling process into a part.
    pub(crate) fn enter(&self, part: &str) -> io::Result<()> {
        write(&self.0.join(part).join("cgroup.procs"), "0")
    }

    /// Kills the command and all that it started.
    pub(crate) fn kill_task(&self) -> io::Result<()> {
        kill_all(&self.0.join(TASK))
    }

    /// Kills all of it, and the shim.
    pub(crate) fn kill(&self) -> io::Result<()> {
        kill_all(&self.0)
    }

    /// Removes it. An error while something in it lives.
    pub(crate) fn remove(&self) -> io::Result<()> {
        remove(&self.0)
    }
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    // not `fs::write`, which would try to make a file that is not there
    File::options()
        .write(true)
        .open(file)?
        .write_all(text.as_bytes())
}

fn kill_all(dir: &Path) -> io::Result<()> {
    match write(&dir.join("cgroup.kill"), "1") {
        // Linux before 5.14, or the cgroup is gone
        Err(error) if error.kind() == io::ErrorKind::NotFound => kill_each(dir),
        done => done,
    }
}

/// Kills until nothing is left: what is listed may fork before it is killed.
fn kill_each(dir: &Path) -> io::Result<()> {
    for _ in 0..ROUNDS {
        let pids = processes(dir)?;
        if pids.is_empty() {
            return Ok(());
        }
        for pid in pids {
            // it may have ended meanwhile
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thread::sleep(ROUND);
    }
    Err(io::Error::other("its processes do not end"))
}

fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut children = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            children.push(entry.path());
        }
    }
    Ok(children)
}

fn processes(dir: &Path) -> io::Result<Vec<i32>> {
    let mut pids = Vec::new();
    match fs::read_to_string(dir.join("cgroup.procs")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(pids),
        text => pids.extend(text?.lines().filter_map(|line| line.parse::<i32>().ok())),
    }
    for child in children(dir)? {
        pids.extend(processes(&child)?);
    }
    Ok(pids)
}

fn remove(dir: &Path) -> io::Result<()> {
    for child in children(dir)? {
        remove(&child)?;
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_no_cgroup_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let cgroup = Cgroup::new(dir.path().join("ipvsmesh/task"));
        let error = cgroup.make().unwrap_err().to_string();
        assert!(error.contains("mount -t cgroup2"), "{error}");
        assert!(!cgroup.exists());
    }

    #[test]
    fn one_that_is_gone_is_killed_and_removed_without_complaint() {
        let dir = tempfile::tempdir().unwrap();
        let cgroup = Cgroup::new(dir.path().join("gone"));
        cgroup.kill().unwrap();
        cgroup.kill_task().unwrap();
        cgroup.remove().unwrap();
    }

    #[test]
    fn without_cgroup_kill_each_process_of_each_part_is_killed() {
        // the files of a cgroup of an old kernel, as far as they are read
        let dir = tempfile::tempdir().unwrap();
        let cgroup = Cgroup::new(dir.path().join("old"));
        let mut children = Vec::new();
        for part in [TASK, SHIM] {
            let part = dir.path().join("old").join(part);
            fs::create_dir_all(&part).unwrap();
            let child = std::process::Command::new("sleep")
                .arg("1000")
                .spawn()
                .unwrap();
            fs::write(part.join("cgroup.procs"), format!("{}\n", child.id())).unwrap();
            children.push((child, part));
        }
        fs::write(dir.path().join("old/cgroup.procs"), "").unwrap();
        // a real cgroup's list is empty once they are dead
        thread::scope(|scope| {
            let killing = scope.spawn(|| cgroup.kill());
            for (child, part) in &mut children {
                use std::os::unix::process::ExitStatusExt as _;
                assert_eq!(child.wait().unwrap().signal(), Some(9));
                fs::write(part.join("cgroup.procs"), "").unwrap();
            }
            killing.join().unwrap().unwrap();
        });
    }
}
