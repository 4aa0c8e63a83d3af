//! What a task's process sees: namespaces for network, mounts and host name, and
//! files of ours in /etc.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
};

use model::BlobKind;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::statvfs::{FsFlags, statvfs},
    unistd::sethostname,
};

use crate::{
    hand_out,
    protocol::FILES,
    shim::{ShimError, failed},
};

/// A resolver on the host that is asked by a socket file, which a network
/// namespace does not keep away: it would answer before our resolv.conf is read.
const RESOLVERS: [&str; 2] = ["/run/systemd/resolve", "/run/nscd"];
/// Longer host names are refused by the kernel.
const LONGEST_HOSTNAME: usize = 64;

/// Mounts something; `None` as what: only changes flags.
fn attach(what: Option<&Path>, to: &Path, kind: Option<&str>, flags: MsFlags) -> io::Result<()> {
    let options = (kind == Some("tmpfs")).then_some("size=64k,mode=755");
    mount(what, to, kind, flags, options).map_err(io::Error::from)
}

/// Makes the namespaces of the calling process, which must have one thread.
pub(crate) fn isolate(dir: &Path, hostname: &str) -> Result<(), ShimError> {
    let namespaces = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS;
    unshare(namespaces).map_err(|errno| {
        failed("cannot make namespaces (it takes root and CAP_SYS_ADMIN)")(errno.into())
    })?;
    // later mounts of the host are seen, ours are not seen by it
    attach(
        None,
        "/".as_ref(),
        None,
        MsFlags::MS_SLAVE | MsFlags::MS_REC,
    )
    .map_err(failed("cannot separate the mounts from the host's"))?;
    own_sys().map_err(failed("cannot keep the cgroups in /sys"))?;
    for resolver in RESOLVERS.map(Path::new) {
        if resolver.is_dir() {
            attach(
                Some("none".as_ref()),
                resolver,
                Some("tmpfs"),
                MsFlags::MS_NOSUID,
            )
            .map_err(failed(format!(
                "cannot hide the host's {}",
                resolver.display()
            )))?;
        }
    }
    cover(dir, Missing::Make)?;
    hand_over(dir)?;
    let mut end = hostname.len().min(LONGEST_HOSTNAME);
    while !hostname.is_char_boundary(end) {
        end -= 1;
    }
    sethostname(&hostname[..end])
        .map_err(|errno| failed("cannot set the host name")(errno.into()))?;
    // as docker does in a container: who is not root may serve port 80, and ping
    for (sysctl, value) in [
        ("ip_unprivileged_port_start", "0"),
        ("ping_group_range", "0 2147483647"),
    ] {
        // where /proc is read-only there is only less comfort
        let _ = fs::write(Path::new("/proc/sys/net/ipv4").join(sysctl), value);
    }
    Ok(())
}

/// Mounts a new /sys: one shows the network devices of the namespace that it was
/// mounted in. The cgroups, which are below it, stay where they were.
fn own_sys() -> io::Result<()> {
    let cgroups = File::open("/sys/fs/cgroup")?;
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if statvfs("/sys").is_ok_and(|sys| sys.flags().contains(FsFlags::ST_RDONLY)) {
        flags |= MsFlags::MS_RDONLY;
    }
    if attach(
        Some("sysfs".as_ref()),
        "/sys".as_ref(),
        Some("sysfs"),
        flags,
    )
    .is_err()
    {
        // some containers may not: the host's devices are listed then, no more
        return Ok(());
    }
    let path = PathBuf::from(format!("/proc/self/fd/{}", cgroups.as_raw_fd()));
    attach(
        Some(&path),
        "/sys/fs/cgroup".as_ref(),
        None,
        MsFlags::MS_BIND | MsFlags::MS_REC,
    )
}

/// Mounts the task's configs and secrets where it looks for them, to be read only.
fn hand_over(dir: &Path) -> Result<(), ShimError> {
    for kind in [BlobKind::Config, BlobKind::Secret] {
        let (ours, seen) = (hand_out::process_dir(dir, kind), kind.process_directory());
        if !ours.is_dir() {
            continue;
        }
        let seen = Path::new(seen);
        let bound = fs::create_dir_all(seen)
            .and_then(|()| attach(Some(&ours), seen, None, MsFlags::MS_BIND));
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        let flags = flags | MsFlags::MS_NOEXEC | MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
        bound
            .and_then(|()| attach(None, seen, None, flags))
            .map_err(failed(format!(
                "cannot mount the task's {kind}s at {}",
                seen.display()
            )))?;
    }
    Ok(())
}

/// What is done where the host has no such file.
#[derive(Clone, Copy)]
enum Missing {
    /// An empty one is made.
    Make,
    /// Somebody is just replacing it, and would find one in the way.
    Wait,
}

/// Puts our files over those in /etc, unless they are there.
fn cover(dir: &Path, missing: Missing) -> Result<(), ShimError> {
    for name in FILES {
        let (ours, theirs) = (dir.join(name), Path::new("/etc").join(name));
        if same(&ours, &theirs) {
            continue;
        }
        let target = match missing {
            Missing::Make => target(&theirs),
            Missing::Wait => fs::canonicalize(&theirs),
        };
        let target = target.map_err(failed(format!(
            "cannot put a file over {}: there is none, and none can be made",
            theirs.display()
        )))?;
        attach(Some(&ours), &target, None, MsFlags::MS_BIND).map_err(failed(format!(
            "cannot put {} over {}",
            ours.display(),
            target.display()
        )))?;
    }
    Ok(())
}

fn same(one: &Path, other: &Path) -> bool {
    let node = |path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    node(one).is_ok_and(|one| node(other).is_ok_and(|other| one == other))
}

/// The file that is there when all links are followed; an empty one is made
/// where there is none, which says as much to every reader.
fn target(path: &Path) -> io::Result<PathBuf> {
    if let Ok(target) = fs::canonicalize(path) {
        return Ok(target);
    }
    let mut target = path.to_owned();
    // as many as the kernel follows
    for _ in 0..40 {
        let Ok(link) = fs::read_link(&target) else {
            break;
        };
        target.pop();
        target.push(link);
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    File::options().append(true).create(true).open(&target)?;
    fs::canonicalize(&target)
}

/// Keeps our files in /etc. Who renames a file over the host's own, as resolver
/// daemons do, takes away what is mounted on it in every namespace.
pub(crate) struct Cover {
    dir: PathBuf,
    mounts: File,
}

impl Cover {
    pub(crate) fn new(dir: &Path) -> io::Result<Self> {
        Ok(Self {
            dir: dir.to_owned(),
            mounts: File::open("/proc/self/mountinfo")?,
        })
    }

    /// Has a priority event when a mount changed.
    pub(crate) fn changes(&self) -> BorrowedFd<'_> {
        self.mounts.as_fd()
    }

    /// Puts back what was taken away; whether all is well. A file that the host
    /// has deleted is waited for.
    pub(crate) fn repair(&self) -> bool {
        cover(&self.dir, Missing::Wait).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_and_a_missing_file_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        let path = |name: &str| root.join(name);
        fs::write(path("plain"), "x").unwrap();
        assert_eq!(target(&path("plain")).unwrap(), path("plain"));
        std::os::unix::fs::symlink("plain", path("link")).unwrap();
        assert_eq!(target(&path("link")).unwrap(), path("plain"));
        assert_eq!(target(&path("none")).unwrap(), path("none"));
        fs::create_dir(path("etc")).unwrap();
        std::os::unix::fs::symlink("../run/resolve/stub.conf", path("etc/dangling")).unwrap();
        assert_eq!(
            target(&path("etc/dangling")).unwrap(),
            path("run/resolve/stub.conf")
        );
        assert_eq!(fs::read(path("etc/dangling")).unwrap(), b"");
        std::os::unix::fs::symlink("circle", path("circle")).unwrap();
        assert!(target(&path("circle")).is_err());
    }
}
