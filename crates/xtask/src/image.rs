//! The guest's image: kernel, initramfs and root disk. Built once by the
//! distribution's tools from the distribution's packages, and kept.

use std::{
    fs::{self, File, TryLockError},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;

use crate::{child, guest::quoted, initramfs, mirror, place, progress::Step, tools};

/// What every machine gets that runs the mesh.
const PROVISION: &str = include_str!("../../../vagrant/provision.sh");

/// So many images are kept: another checkout may have another recipe.
const KEPT: usize = 2;

/// What only this image needs: a kernel, systemd for a real boot, busybox for
/// the initramfs, what benches ask names with and of, a terminal, what reads manuals,
/// another C library than Debian's with a compiler for it, what makes containers
/// that are not ours, and what other machines have that the mesh lives beside; Docker
/// starts nothing without `AppArmor`'s parser where the kernel has it and securityfs is mounted.
const PACKAGES: &str = "linux-image-cloud-amd64,systemd-sysv,udev,busybox-static,\
    dnsperf,aardvark-dns,tmux,man-db,tcc,musl-dev,docker-compose,\
    firewalld,apparmor";

/// What becomes of the root file system after `provision.sh`. The units that
/// are masked would work beside the tests, on an emulated processor; those that are
/// disabled a test starts.
const FINISH: &str = r#"set -e
root=$1
# from then on names are its own affair, also those of mirrors: hence last
chroot "$root" apt-get --quiet --yes --no-install-recommends install systemd-resolved
chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer \
    dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
    systemd-timesyncd.service getty@tty1.service systemd-pstore.service
chroot "$root" systemctl --quiet disable firewalld.service systemd-resolved.service
chroot "$root" systemd-machine-id-setup
rm -rf "$root"/boot/initrd* "$root"/provision.sh "$root"/usr/lib/udev/hwdb.bin
mkdir "$root"/lab
echo lab > "$root"/etc/hostname
echo '127.0.0.1 localhost lab' > "$root"/etc/hosts
# none answers there, so that a question fails at once instead of after 20 s
rm -f "$root"/etc/resolv.conf
echo 'nameserver 127.0.0.1' > "$root"/etc/resolv.conf
"#;

/// From an archive of the root file system to the disk; under fakeroot where the
/// user is not root.
const DISK: &str = r#"set -e
cd "$1"
mkdir root
tar --numeric-owner -xpf root.tar -C root
rm root.tar
cp root/boot/vmlinuz-* kernel
chmod 644 kernel
mke2fs -q -F -t ext4 -L lab -m 0 -d root disk.ext4 6G
"#;

/// A whole image.
pub(crate) struct Image {
    folder: PathBuf,
}

impl Image {
    /// The image of this version of the recipe; built if it is not there yet.
    pub(crate) fn ensure() -> Result<Self> {
        let image = Self {
            folder: place::lab()?.join(recipe()),
        };
        if !image.folder.exists() {
            image.build()?;
        }
        Ok(image)
    }

    /// Where it is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The kernel.
    pub(crate) fn kernel(&self) -> PathBuf {
        self.folder.join("kernel")
    }

    /// What the kernel starts.
    pub(crate) fn initramfs(&self) -> PathBuf {
        self.folder.join("initramfs")
    }

    /// The root disk; machines write to copies.
    pub(crate) fn disk(&self) -> PathBuf {
        self.folder.join("disk.ext4")
    }

    fn build(&self) -> Result<()> {
        if !cfg!(target_arch = "x86_64") {
            bail!("the lab is made for x86_64 only; use a real machine (vagrant/) or --host");
        }
        let lab = place::lab()?;
        fs::create_dir_all(&lab)
            .with_context(|| format!("cannot make the lab's folder {}", lab.display()))?;
        let _only_one = lock(&lab.join("build.lock"))?;
        if self.folder.exists() {
            return Ok(());
        }
        tools::require(tools::BUILD)?;
        if !geteuid().is_root() {
            tools::require(tools::BUILD_AS_USER)?;
        }
        let unfinished = fresh(&lab)?;
        let log = lab.join("build.log");
        let _ = fs::remove_file(&log);

        let step = Step::start("building the machine's image (once; 2 minutes or so)");
        archive(&unfinished, &log, &step)?;
        step.detail("making the disk");
        disk(&unfinished, &log)?;
        initramfs::build(
            &unfinished.join("root"),
            &unfinished.join("initramfs"),
            &log,
        )?;
        remove_root(&unfinished, &log)?;
        fs::rename(&unfinished, &self.folder)
            .with_context(|| format!("cannot name the image {}", self.folder.display()))?;
        forget_older(&lab);
        step.done();
        Ok(())
    }
}

/// Deletes images that nobody will boot again: each has some 700 MB. One that a
/// running machine has open stays until that ends.
fn forget_older(lab: &Path) {
    let entries = fs::read_dir(lab).into_iter().flatten().flatten();
    let mut images: Vec<_> = entries
        .filter(|entry| entry.path().join("disk.ext4").exists())
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    images.sort();
    images.truncate(images.len().saturating_sub(KEPT));
    for (_, older) in images {
        // what cannot be deleted now is tried again after the next build
        let _ = fs::remove_dir_all(older);
    }
}

/// What the image is made from, as its name.
fn recipe() -> String {
    let mut parts = vec![
        PROVISION,
        PACKAGES,
        FINISH,
        DISK,
        mirror::SUITE,
        initramfs::SCRIPT,
    ];
    parts.extend(initramfs::MODULES);
    place::key(parts)
}

/// An empty folder for a build, and the end of those that were killed. Its name
/// is new, because what a killed build started may still be at work for a moment.
fn fresh(lab: &Path) -> Result<PathBuf> {
    const PREFIX: &str = "unfinished-";
    let entries = fs::read_dir(lab).with_context(|| format!("cannot read {}", lab.display()))?;
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(lab);
    let folder = folder.with_context(|| format!("cannot make a folder in {}", lab.display()))?;
    Ok(folder.keep())
}

fn lock(path: &Path) -> Result<File> {
    let file = child::append(path)?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("cannot lock {}", path.display()));
        }
    }
    let step = Step::start("waiting for another build of the image");
    file.lock()
        .with_context(|| format!("cannot lock {}", path.display()))?;
    step.done();
    Ok(file)
}

/// The root file system, as an archive: every kind of user can write that.
fn archive(folder: &Path, log: &Path, step: &Step) -> Result<()> {
    let provision = folder.join("provision.sh");
    fs::write(&provision, PROVISION).context("cannot write provision.sh")?;
    let upload = quoted(provision.as_os_str());

    let mut build = debootstrap(folder);
    build.args(["--variant=minbase", "--format=tar"]);
    build.arg(format!("--include={PACKAGES}"));
    for setting in mirror::settings() {
        build.arg(format!("--aptopt={setting}"));
    }
    build.arg("--aptopt=APT::Install-Recommends \"false\"");
    for unread in ["doc", "man", "locale", "info", "lintian"] {
        build.arg(format!("--dpkgopt=path-exclude=/usr/share/{unread}/*"));
    }
    build.arg(format!(
        "--customize-hook=upload {} /provision.sh",
        upload.display()
    ));
    build.arg("--customize-hook=chroot \"$1\" sh /provision.sh");
    build.arg(format!("--customize-hook={FINISH}"));
    build.arg(mirror::SUITE).arg(folder.join("root.tar"));
    build.args(mirror::sources());
    // its own initramfs would take longer than all the rest
    build.env("INITRD", "No");
    build.stdin(Stdio::null());
    build.stdout(child::append(log)?);
    build.stderr(Stdio::piped());

    let mut child = build.spawn().context("mmdebstrap did not start")?;
    let mut file = child::append(log)?;
    let said = child
        .stderr
        .take()
        .context("mmdebstrap has no standard error")?;
    for line in BufReader::new(said).split(b'\n') {
        let line = line.context("cannot read what mmdebstrap says")?;
        let line = String::from_utf8_lossy(&line);
        if let Some(what) = line.strip_prefix("I: ")
            && what.ends_with("...")
        {
            step.detail(what);
        }
        writeln!(file, "{line}").with_context(|| format!("cannot write {}", log.display()))?;
    }
    let status = child.wait().context("cannot wait for mmdebstrap")?;
    if !status.success() {
        bail!(
            "mmdebstrap could not make the image's root ({status}); its last words:\n{}",
            child::tail(log)
        );
    }
    Ok(())
}

/// mmdebstrap, so that nothing of it is left where this program is killed. When
/// it is told to end it kills its whole process group, hence one of its own.
fn debootstrap(folder: &Path) -> Command {
    let mut command = if geteuid().is_root() {
        // its processes end with their first one, its mounts with the last
        let mut command = child::tied("KILL", "unshare");
        command.args(["--mount", "--propagation=private", "--pid", "--mount-proc"]);
        command.args(["--fork", "--kill-child=KILL", "--", "mmdebstrap"]);
        command.env("TMPDIR", folder);
        command
    } else {
        // it makes such namespaces itself; its other users cannot look into a home
        let mut command = child::tied("TERM", "mmdebstrap");
        if std::env::var_os("TMPDIR").is_none() {
            // a gigabyte is more than some machines' /tmp has
            command.env("TMPDIR", "/var/tmp");
        }
        command
    };
    command.process_group(0);
    command
}

fn disk(folder: &Path, log: &Path) -> Result<()> {
    let mut make = as_root("sh");
    make.args(["-c", DISK, "sh"]).arg(folder);
    child::logged(make, log, "making the image's disk")
}

fn remove_root(folder: &Path, log: &Path) -> Result<()> {
    let mut remove = child::tied("KILL", "rm");
    remove.arg("-rf").arg(folder.join("root"));
    child::logged(remove, log, "cleaning up after the image")
}

fn as_root(program: &str) -> Command {
    if geteuid().is_root() {
        return child::tied("KILL", program);
    }
    let mut command = child::tied("KILL", "fakeroot");
    command.arg("--").arg(program);
    command
}
