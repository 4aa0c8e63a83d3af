//! `--host`: this machine's own kernel, in namespaces in which nothing of the
//! machine's own network, mesh or temporary files is seen or touched.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    sync::mpsc::channel,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::kill,
    unistd::{Pid, geteuid},
};

use crate::{cargo, child, machine::Event, signals::Diverted};

/// Enters the cgroup, which so becomes the root of the new cgroup namespace.
const ENTER: &str = r#"set -e; [ -z "$1" ] || echo 0 > "$1/cgroup.procs"; shift; exec "$@""#;

const UNSHARE: &[&str] = &["--net", "--mount", "--cgroup", "--propagation", "private"];

const SETUP: &str = include_str!("guest/host.sh");

/// Runs a script with the project's programs on its PATH.
pub(crate) fn run(script: &[u8]) -> Result<u8> {
    needs_ipvs()?;
    let programs = cargo::programs()?;
    let daemon = programs.get("ipvsmeshd").context("there is no ipvsmeshd")?;
    let folder = daemon.parent().context("ipvsmeshd is in no folder")?;
    let cgroup = Cgroup::make()?;
    let stage = tempfile::tempdir().context("cannot make a temporary folder")?;

    let mut command = child::plain("sh");
    command.args(["-c", ENTER, "lab-host"]).arg(cgroup.path());
    command
        .arg("unshare")
        .args(UNSHARE)
        .args(["--", "sh", "-c", SETUP, "lab-host"]);
    command
        .arg(stage.path())
        .arg(folder)
        .arg(OsStr::from_bytes(script));
    let mut child = command.spawn().context("sh did not start")?;
    let (sender, events) = channel();
    // A signal must not end this program before the cgroup is cleaned up: it is
    // the script's to end by it, or not.
    let _diverted = Diverted::to(sender);
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for the script")? {
            let code = status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            return Ok(u8::try_from(code).unwrap_or(1));
        }
        if let Ok(Event::Signal(signal)) = events.recv_timeout(Duration::from_millis(50)) {
            let _ = kill(Pid::from_raw(child.id().cast_signed()), signal);
        }
    }
}

/// Asked before anything is changed.
fn needs_ipvs() -> Result<()> {
    let there = || Path::new("/proc/net/ip_vs").exists();
    let mut why = String::from("this kernel has not loaded it");
    if !there() && geteuid().is_root() {
        let said = child::plain("modprobe").arg("ip_vs").output();
        why = match said {
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => format!("modprobe did not start: {error}"),
        };
    }
    if !there() {
        bail!(
            "kernel module ip_vs is not available: {why}; boot a kernel with CONFIG_IP_VS, \
             or leave out --host: the lab's virtual machine has one"
        );
    }
    if !geteuid().is_root() {
        bail!("--host makes namespaces with IPVS in them, which takes root: run it with sudo");
    }
    Ok(())
}

/// A cgroup of its own: whatever is left in it at the end is killed.
struct Cgroup(Option<PathBuf>);

impl Cgroup {
    fn make() -> Result<Self> {
        let root = Path::new("/sys/fs/cgroup");
        if !root.join("cgroup.procs").exists() {
            // no version 2 here: the daemon says what it misses
            return Ok(Self(None));
        }
        let path = root.join(format!("ipvsmesh-lab-{}", std::process::id()));
        fs::create_dir_all(&path)
            .with_context(|| format!("cannot make the cgroup {}", path.display()))?;
        Ok(Self(Some(path)))
    }

    fn path(&self) -> &OsStr {
        self.0.as_deref().map(Path::as_os_str).unwrap_or_default()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let Some(path) = &self.0 else { return };
        let _ = fs::write(path.join("cgroup.kill"), "1");
        for _ in 0..50 {
            if remove(path) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("lab: cannot remove the cgroup {}", path.display());
    }
}

/// Removes a cgroup and all below; false while something lives there.
fn remove(path: &Path) -> bool {
    let Ok(entries) = fs::read_dir(path) else {
        return !path.exists();
    };
    let folders = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir());
    for below in folders {
        remove(&below);
    }
    fs::remove_dir(path).is_ok()
}
