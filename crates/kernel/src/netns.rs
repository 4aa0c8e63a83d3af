//! Network namespaces with names: files under `/run/netns`, as iproute2 has
//! them, so that `ip netns exec NAME` works.
//!
//! A thread has a namespace, not a process: everything here that must be done
//! inside one is done by a thread of its own, which enters it and ends. Nothing
//! forks.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};

use crate::Error;

/// Where names of namespaces are.
const DIR: &str = "/run/netns";

fn path_of(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

fn failed(action: &'static str, name: &str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Namespace {
        action,
        name: name.to_owned(),
        source,
    }
}

/// Runs a function on a thread of its own, whose namespaces it may change.
fn on_thread<T: Send>(function: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, function)?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// A network namespace that is held open.
#[derive(Clone, Debug)]
pub struct Netns {
    file: Arc<File>,
    name: String,
}

impl Netns {
    /// Opens a namespace by its name.
    ///
    /// # Errors
    /// There is none (`ErrorKind::NotFound`), also where only the file is left.
    pub fn open(name: &str) -> Result<Self, Error> {
        Self::open_as(&path_of(name), name)
    }

    /// Opens a namespace by a path such as `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// There is none.
    pub fn open_path(path: &Path) -> Result<Self, Error> {
        Self::open_as(path, &path.display().to_string())
    }

    fn open_as(path: &Path, name: &str) -> Result<Self, Error> {
        let fail = failed("open", name);
        let file = File::open(path).map_err(&fail)?;
        // a reboot or `umount` leaves the file where the namespace was mounted
        let kind = fstatfs(&file).map_err(|errno| fail(errno.into()))?;
        if kind.filesystem_type() != NSFS_MAGIC {
            let source = io::Error::new(io::ErrorKind::NotFound, "only its file is left");
            return Err(fail(source));
        }
        Ok(Self {
            file: Arc::new(file),
            name: name.to_owned(),
        })
    }

    /// The one that the calling thread is in.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn current() -> Result<Self, Error> {
        Self::open_path(Path::new("/proc/thread-self/ns/net"))
    }

    /// Its identity: the inode number.
    ///
    /// # Errors
    /// `fstat` failed.
    pub fn inode(&self) -> Result<u64, Error> {
        Ok(self
            .file
            .metadata()
            .map_err(failed("look at", &self.name))?
            .ino())
    }

    /// The open file, for netlink attributes that take a descriptor.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Runs a function inside, on a thread of its own that ends with it: sockets
    /// it opens and programs it starts belong to the namespace, and it sees the
    /// namespace's `/proc/sys/net`. (Switching the caller's thread and back could
    /// fail half way.)
    ///
    /// # Errors
    /// The namespace cannot be entered: the caller is not root.
    pub fn run<T: Send>(&self, function: impl FnOnce() -> T + Send) -> Result<T, Error> {
        on_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            Ok(function())
        })
        .map_err(failed("enter", &self.name))
    }
}

/// Runs a function in a new namespace without a name, which ends with what the
/// function leaves open there.
pub(crate) fn throwaway<T: Send>(function: impl FnOnce() -> T + Send) -> Result<T, Error> {
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(function())
    })
    .map_err(failed("make", "without a name"))
}

/// Makes `/run/netns` a shared mount of its own, as `ip netns` does, so that
/// names made here are seen in other mount namespaces and can be removed there.
fn prepare_dir() -> Result<(), Error> {
    let fail = failed("name", DIR);
    fs::create_dir_all(DIR).map_err(&fail)?;
    let none = None::<&str>;
    let share = || mount(none, DIR, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none);
    // EINVAL: it is no mount yet
    if let Err(errno) = share() {
        if errno != Errno::EINVAL {
            return Err(fail(errno.into()));
        }
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(DIR), DIR, none, bind, none).map_err(|errno| fail(errno.into()))?;
        share().map_err(|errno| fail(errno.into()))?;
    }
    Ok(())
}

/// Makes a new namespace with this name. Its `lo` is down.
///
/// # Errors
/// The name is taken, or the caller is not root.
pub fn create(name: &str) -> Result<(), Error> {
    prepare_dir()?;
    on_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        bind(Path::new("/proc/thread-self/ns/net"), name)
    })
    .map_err(failed("make", name))
}

/// Gives an existing namespace, such as `/proc/PID/ns/net`, a name.
///
/// # Errors
/// The name is taken, or there is no such namespace.
pub fn pin(path: &Path, name: &str) -> Result<(), Error> {
    prepare_dir()?;
    bind(path, name).map_err(failed("name", name))
}

fn bind(path: &Path, name: &str) -> io::Result<()> {
    let at = path_of(name);
    let make = || File::options().write(true).create_new(true).open(&at);
    match make() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if Netns::open(name).is_ok() {
                return Err(error);
            }
            // left of an earlier boot, or of a `umount`
            fs::remove_file(&at)?;
            make()?;
        }
        made => drop(made?),
    }
    let none = None::<&str>;
    mount(Some(path), &at, none, MsFlags::MS_BIND, none).map_err(|errno| {
        let _ = fs::remove_file(&at);
        errno.into()
    })
}

/// Takes a name away; the namespace goes when nothing else holds it. No error
/// where there is no such name.
///
/// # Errors
/// The caller is not root.
pub fn delete(name: &str) -> Result<(), Error> {
    let fail = failed("delete", name);
    let at = path_of(name);
    match umount2(&at, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        // EINVAL: only the file is there
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(errno) => return Err(fail(errno.into())),
    }
    match fs::remove_file(&at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fail(error)),
        _ => Ok(()),
    }
}

/// The names that begin with this, those too of which only the file is left.
///
/// # Errors
/// The directory cannot be read; that there is none is no error.
pub fn list(prefix: &str) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(DIR) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", DIR)(error)),
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort_unstable();
    Ok(names)
}

/// The identity of the namespace with this name.
///
/// # Errors
/// There is none, or only its file is left.
pub fn inode(name: &str) -> Result<u64, Error> {
    Netns::open(name)?.inode()
}

/// Becomes a command inside a task: its network, mount and host name
/// namespaces, then `exec`. Must be called before the process has a second
/// thread, since a mount namespace can be entered by single-threaded ones only.
/// Returns only when that failed.
pub fn exec_in(pid: u32, command: &[String]) -> Error {
    use std::os::unix::process::CommandExt as _;
    let name = format!("of process {pid}");
    let Some((program, arguments)) = command.split_first() else {
        return failed("run nothing in", &name)(io::ErrorKind::InvalidInput.into());
    };
    // all are opened first: the mount namespace has another /proc
    let kinds = [
        ("net", CloneFlags::CLONE_NEWNET),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("mnt", CloneFlags::CLONE_NEWNS),
    ];
    let open = |(kind, flag)| Ok((File::open(format!("/proc/{pid}/ns/{kind}"))?, flag));
    let opened: Vec<_> = match kinds.into_iter().map(open).collect::<io::Result<_>>() {
        Ok(opened) => opened,
        Err(source) => return failed("open", &name)(source),
    };
    for (file, flag) in &opened {
        if let Err(errno) = setns(file, *flag) {
            return failed("enter", &name)(errno.into());
        }
    }
    let source = std::process::Command::new(program).args(arguments).exec();
    Error::File {
        action: "run",
        path: program.into(),
        source,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Runs a test with a `/run` and a network namespace of its own, so that it
    /// leaves nothing on the machine. Needs root.
    pub(crate) fn privately(test: impl FnOnce() + Send) {
        let none = None::<&str>;
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET)?;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            mount(Some("run"), "/run", Some("tmpfs"), MsFlags::empty(), none)?;
            test();
            Ok(())
        })
        .expect("the tests of this crate make namespaces: run them as root");
    }

    fn links() -> usize {
        // a header of two lines, then one a link
        let text = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        text.lines().count() - 2
    }

    #[test]
    fn a_namespace_has_a_name_an_identity_and_an_end() {
        privately(|| {
            assert_eq!(list("a-").unwrap(), Vec::<String>::new());
            create("a-one").unwrap();
            create("a-two").unwrap();
            create("b").unwrap();
            assert_eq!(list("a-").unwrap(), ["a-one", "a-two"]);
            assert_ne!(inode("a-one").unwrap(), inode("a-two").unwrap());
            let here = Netns::current().unwrap().inode().unwrap();
            let one = Netns::open("a-one").unwrap();
            let inside = one.run(|| Netns::current().unwrap().inode().unwrap());
            assert_eq!(inside.unwrap(), one.inode().unwrap());
            assert_eq!(Netns::current().unwrap().inode().unwrap(), here);

            let error = create("a-one").unwrap_err();
            assert!(matches!(&error, Error::Namespace { source, .. }
                if source.kind() == io::ErrorKind::AlreadyExists));
            assert_eq!(error.to_string(), "cannot make network namespace a-one");

            delete("a-one").unwrap();
            delete("a-one").unwrap();
            assert_eq!(list("a-").unwrap(), ["a-two"]);
        });
    }

    #[test]
    fn a_file_without_a_namespace_is_none_and_makes_way() {
        privately(|| {
            create("a").unwrap();
            umount2("/run/netns/a", MntFlags::MNT_DETACH).unwrap();
            let error = Netns::open("a").unwrap_err();
            assert!(matches!(error, Error::Namespace { source, .. }
                if source.kind() == io::ErrorKind::NotFound));
            assert!(inode("a").is_err());
            create("a").unwrap();
            inode("a").unwrap();
        });
    }

    #[test]
    fn a_namespace_may_get_a_second_name() {
        privately(|| {
            create("a").unwrap();
            pin(Path::new("/run/netns/a"), "b").unwrap();
            assert_eq!(inode("a").unwrap(), inode("b").unwrap());
            assert!(pin(Path::new("/run/netns/a"), "b").is_err());
            assert!(pin(Path::new("/proc/0/ns/net"), "c").is_err());
            assert_eq!(list("").unwrap(), ["a", "b"]);
        });
    }

    #[test]
    fn programs_and_proc_are_the_namespaces() {
        privately(|| {
            create("a").unwrap();
            let a = Netns::open("a").unwrap();
            assert_eq!(a.run(links).unwrap(), 1);
            let program = || {
                std::process::Command::new("readlink")
                    .arg("/proc/self/ns/net")
                    .output()
            };
            let said = a.run(program).unwrap().unwrap().stdout;
            let said = String::from_utf8(said).unwrap();
            assert_eq!(said.trim(), format!("net:[{}]", a.inode().unwrap()));
        });
    }
}
