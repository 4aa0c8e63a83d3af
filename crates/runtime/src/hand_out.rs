//! Configs and secrets as files. They are written below `/run`, which is memory, in a
//! directory that only root may enter, and are gone with their task. Who may read one
//! where a task sees it, its owner and permissions say.

use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
};

use model::{BlobKind, FileRef, Octets, TaskId};

use crate::{RuntimeError, failed};

/// A file that a task gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskFile {
    /// Where, and for whom.
    pub file: FileRef,
    /// What is in it.
    pub data: Octets,
}

/// The files of docker tasks, a directory a task.
pub(crate) struct HandedOut {
    dir: PathBuf,
}

impl HandedOut {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Writes a task's files anew; gives where each is on the host, and in the container.
    pub(crate) fn write(
        &self,
        task: &TaskId,
        files: &[TaskFile],
    ) -> Result<Vec<(PathBuf, String)>, RuntimeError> {
        self.remove(task)?;
        let mut written = Vec::new();
        for (n, file) in files.iter().enumerate() {
            make_dir(&self.dir, 0o700)?;
            let path = self.dir.join(task.as_str()).join(n.to_string());
            write(&path, file)?;
            written.push((path, file.file.path()));
        }
        Ok(written)
    }

    /// Removes a task's files.
    pub(crate) fn remove(&self, task: &TaskId) -> Result<(), RuntimeError> {
        remove(&self.dir.join(task.as_str()))
    }
}

/// The directory, beside others in a process task's own, in which the files of a kind
/// are; the shim mounts it where the process sees it.
pub(crate) fn process_dir(dir: &Path, kind: BlobKind) -> PathBuf {
    dir.join(format!("{kind}s"))
}

/// Writes a process task's files anew.
pub(crate) fn write_for_process(dir: &Path, files: &[TaskFile]) -> Result<(), RuntimeError> {
    for kind in [BlobKind::Config, BlobKind::Secret] {
        let below = process_dir(dir, kind);
        remove(&below)?;
        for file in files.iter().filter(|file| file.file.kind == kind) {
            let seen = file.file.process_path();
            // others were refused
            let Some(name) = seen.strip_prefix(kind.process_directory()) else {
                continue;
            };
            write(&below.join(name), file)?;
        }
    }
    Ok(())
}

fn make_dir(path: &Path, mode: u32) -> Result<(), RuntimeError> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(failed("make", path))
}

fn write(path: &Path, file: &TaskFile) -> Result<(), RuntimeError> {
    if let Some(parent) = path.parent() {
        make_dir(parent, 0o755)?;
    }
    let write = || {
        let mut options = File::options();
        // nobody else's before it is the one's whose it is to be
        let mut to = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        to.write_all(file.data.as_bytes())?;
        fchown(&to, Some(file.file.uid), Some(file.file.gid))?;
        to.set_permissions(Permissions::from_mode(file.file.mode))
    };
    write().map_err(failed("write", path))
}

fn remove(path: &Path) -> Result<(), RuntimeError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use model::BlobId;
    use nix::unistd::{getgid, getuid};

    use super::*;

    fn file(kind: BlobKind, target: &str, data: &str) -> TaskFile {
        TaskFile {
            file: FileRef {
                kind,
                blob: BlobId::FIRST,
                name: "x".to_owned(),
                target: target.to_owned(),
                uid: getuid().as_raw(),
                gid: getgid().as_raw(),
                mode: 0o440,
            },
            data: data.as_bytes().to_vec().into(),
        }
    }

    #[test]
    fn files_come_and_go_with_their_task() {
        let dir = tempfile::tempdir().unwrap();
        let handed = HandedOut::new(dir.path().join("files"));
        let task = TaskId::from_random([1; 16]);
        let files = [
            file(BlobKind::Config, "a/b", "one"),
            file(BlobKind::Secret, "c", "two"),
        ];
        for _ in 0..2 {
            let written = handed.write(&task, &files).unwrap();
            let seen: Vec<_> = written.iter().map(|(_, seen)| seen.as_str()).collect();
            assert_eq!(seen, ["/a/b", "/run/secrets/c"]);
            assert_eq!(fs::read_to_string(&written[1].0).unwrap(), "two");
            let mode = fs::metadata(&written[0].0).unwrap().permissions().mode();
            assert_eq!(mode & 0o7777, 0o440);
        }
        let top = fs::metadata(dir.path().join("files")).unwrap();
        assert_eq!(top.permissions().mode() & 0o777, 0o700);
        handed.remove(&task).unwrap();
        handed.remove(&task).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("files")).unwrap().count(), 0);
    }

    #[test]
    fn a_process_has_a_directory_of_each_kind() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            file(BlobKind::Config, "a/b", "one"),
            file(BlobKind::Secret, "/run/secrets/c", "two"),
            file(BlobKind::Secret, "/etc/c", "three"),
        ];
        write_for_process(dir.path(), &files).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).ok();
        assert_eq!(read("configs/a/b").as_deref(), Some("one"));
        assert_eq!(read("secrets/c").as_deref(), Some("two"));
        write_for_process(dir.path(), &[]).unwrap();
        assert!(read("configs/a/b").is_none() && !dir.path().join("secrets").exists());
    }
}
