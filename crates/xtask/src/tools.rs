//! Programs of the distribution that the lab is made with: as root they are
//! installed where they are missing, to others they are named.

use std::{env, path::Path};

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;

use crate::{child, place, progress::Step};

/// A program, or a file, and the Debian package that brings it.
pub(crate) struct Tool {
    what: &'static str,
    package: &'static str,
}

const fn tool(what: &'static str, package: &'static str) -> Tool {
    Tool { what, package }
}

/// What booting the lab takes.
pub(crate) const BOOT: &[Tool] = &[
    tool("qemu-system-x86_64", "qemu-system-x86"),
    tool("setpriv", "util-linux"),
    tool("stty", "coreutils"),
];

/// What building its image takes.
pub(crate) const BUILD: &[Tool] = &[
    tool("qemu-system-x86_64", "qemu-system-x86"),
    tool("mmdebstrap", "mmdebstrap"),
    tool("mke2fs", "e2fsprogs"),
    tool("cpio", "cpio"),
    tool("tar", "tar"),
    tool(
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "debian-archive-keyring",
    ),
];

/// What a user who is not root needs besides, to build it.
pub(crate) const BUILD_AS_USER: &[Tool] =
    &[tool("newuidmap", "uidmap"), tool("fakeroot", "fakeroot")];

/// What the Vagrantfile is checked with.
pub(crate) const VAGRANT: &[Tool] = &[tool("vagrant", "vagrant")];

impl Tool {
    fn is_there(&self) -> bool {
        if self.what.starts_with('/') {
            return Path::new(self.what).exists();
        }
        env::split_paths(&child::path()).any(|folder| folder.join(self.what).is_file())
    }
}

/// Sees to it that all of these are there.
pub(crate) fn require<'a>(tools: impl IntoIterator<Item = &'a Tool>) -> Result<()> {
    let missing: Vec<_> = tools.into_iter().filter(|tool| !tool.is_there()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<_> = missing.iter().map(|tool| tool.package).collect();
    packages.sort_unstable();
    packages.dedup();
    let packages = packages.join(" ");
    if !geteuid().is_root() {
        let names: Vec<_> = missing
            .iter()
            .map(|tool| format!("{} (package {})", tool.what, tool.package))
            .collect();
        bail!(
            "not installed on this machine: {}; run: sudo apt-get install {packages}",
            names.join(", ")
        );
    }
    install(&packages)?;
    if let Some(tool) = missing.iter().find(|tool| !tool.is_there()) {
        bail!(
            "package {} was installed, but {} is not there: look at what `dpkg -L {}` says",
            tool.package,
            tool.what,
            tool.package
        );
    }
    Ok(())
}

fn install(packages: &str) -> Result<()> {
    let folder = place::lab()?;
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("cannot make the lab's folder {}", folder.display()))?;
    let log = folder.join("apt.log");
    let step = Step::start(format!("installing {packages}"));
    let apt_get = |arguments: &str| {
        let mut command = child::tied("TERM", "apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command.args(["--quiet", "--yes", "--no-install-recommends"]);
        command.args(["-o", "DPkg::Lock::Timeout=300"]);
        command.args(arguments.split_whitespace());
        child::logged(command, &log, &format!("apt-get {arguments}"))
    };
    let wanted = format!("install {packages}");
    // The lists may be missing, or too old to name what the mirror still has.
    if apt_get(&wanted).is_err() {
        apt_get("update")
            .and_then(|()| apt_get(&wanted))
            .with_context(|| {
                format!("cannot install {packages}: install them by hand and try again")
            })?;
    }
    step.done();
    Ok(())
}
