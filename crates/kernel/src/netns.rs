//! Network namespaces with names: files under `/run/netns`, as iproute2 has
//! them, so that `ip netns exec NAME` works.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
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

/// A network namespace that is held open.
pub struct Netns {
    file: File,
    name: String,
}

impl Netns {
    /// Opens a namespace by its name.
    ///
    /// # Errors
    /// There is none.
    pub fn open(name: &str) -> Result<Self, Error> {
        Self::open_path(&path_of(name))
    }

    /// Opens a namespace by a path such as `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// There is none.
    pub fn open_path(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(failed("open", &name))?;
        Ok(Self { file, name })
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
    /// it opens and programs it starts belong to the namespace. (Switching the
    /// caller's thread and back could fail half way.)
    ///
    /// # Errors
    /// The namespace cannot be entered: the caller is not root.
    pub fn run<T: Send>(&self, function: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let entered = std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
                Ok::<T, io::Error>(function())
            });
            inside.join()
        });
        match entered {
            Ok(result) => result.map_err(failed("enter", &self.name)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Makes `/run/netns` a shared mount of its own, as `ip netns` does, so that
/// names made here are seen in other mount namespaces and can be removed there.
fn prepare_dir() -> Result<(), Error> {
    let fail = failed("name", DIR);
    fs::create_dir_all(DIR).map_err(&fail)?;
    let none = None::<&str>;
    let share = || mount(none, DIR, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none);
    if share().is_err() {
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(DIR), DIR, none, bind, none)
            .map_err(io::Error::from)
            .map_err(&fail)?;
        share().map_err(io::Error::from).map_err(&fail)?;
    }
    Ok(())
}

/// Makes a new namespace with this name. Its `lo` is down.
///
/// # Errors
/// The name is taken, or the caller is not root.
pub fn create(name: &str) -> Result<(), Error> {
    prepare_dir()?;
    std::thread::scope(|scope| {
        let made = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(io::Error::from)
                .map_err(failed("make", name))?;
            bind(Path::new("/proc/thread-self/ns/net"), name)
        });
        made.join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Gives an existing namespace a name.
///
/// # Errors
/// The name is taken, or there is no such namespace.
pub fn pin(path: &Path, name: &str) -> Result<(), Error> {
    prepare_dir()?;
    bind(path, name)
}

fn bind(path: &Path, name: &str) -> Result<(), Error> {
    let fail = failed("name", name);
    let at = path_of(name);
    File::options()
        .write(true)
        .create_new(true)
        .open(&at)
        .map_err(&fail)?;
    let none = None::<&str>;
    mount(Some(path), &at, none, MsFlags::MS_BIND, none).map_err(|errno| {
        let _ = fs::remove_file(&at);
        fail(errno.into())
    })
}

/// Takes a name away; the namespace goes when nothing else holds it. No error
/// where there is no such name.
///
/// # Errors
/// The caller is not root.
pub fn delete(name: &str) -> Result<(), Error> {
    let at = path_of(name);
    // the mount may be gone while the file is still there
    let _ = umount2(&at, MntFlags::MNT_DETACH);
    match fs::remove_file(&at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("delete", name)(error)),
        _ => Ok(()),
    }
}

/// The names that begin with this.
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
    Ok(names.filter(|name| name.starts_with(prefix)).collect())
}

/// The identity of the namespace with this name; an error where there is none,
/// or where only the file is left.
///
/// # Errors
/// There is no such namespace.
pub fn inode(name: &str) -> Result<u64, Error> {
    let netns = Netns::open(name)?;
    netns.run(|| ())?;
    netns.inode()
}

/// Becomes a command inside a task: its network, mount and host name
/// namespaces, then `exec`. Must be called before the process has a second
/// thread, since a mount namespace can be entered by single-threaded ones only.
/// Returns only when that failed.
pub fn exec_in(pid: u32, command: &[String]) -> Error {
    use std::os::unix::process::CommandExt as _;
    let name = format!("of process {pid}");
    let enter = |kind: &str, flag| {
        let file = File::open(format!("/proc/{pid}/ns/{kind}")).map_err(failed("open", &name))?;
        Ok::<_, Error>((file, flag))
    };
    let opened = || {
        Ok::<_, Error>([
            enter("net", CloneFlags::CLONE_NEWNET)?,
            enter("uts", CloneFlags::CLONE_NEWUTS)?,
            enter("mnt", CloneFlags::CLONE_NEWNS)?,
        ])
    };
    let opened = match opened() {
        Ok(opened) => opened,
        Err(error) => return error,
    };
    for (file, flag) in &opened {
        if let Err(errno) = setns(file, *flag) {
            return failed("enter", &name)(errno.into());
        }
    }
    let Some((program, arguments)) = command.split_first() else {
        return failed("enter", &name)(io::ErrorKind::InvalidInput.into());
    };
    let source = std::process::Command::new(program).args(arguments).exec();
    Error::File {
        action: "run",
        path: program.into(),
        source,
    }
}
