//! A job for the lab: what to run, with what, on which disk.

use std::{
    ffi::OsString,
    fs,
    io::{self, IsTerminal as _, stdin},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    Where,
    accel::Accel,
    cargo::{self, Programs},
    child, guest, host,
    image::Image,
    machine::{Init, Io, Machine},
    payload::Payload,
    progress::Step,
    terminal, tools,
};

/// Something to run in a fresh guest.
pub(crate) struct Job<'a> {
    /// A shell script.
    pub(crate) script: &'a [u8],
    /// Go to `/usr/local/bin`.
    pub(crate) programs: &'a Programs,
    pub(crate) systemd: bool,
    /// How the processor is made; `None`: the best that works here.
    pub(crate) accel: Option<Accel>,
    /// More words for the kernel's command line.
    pub(crate) kernel: &'a str,
    pub(crate) keep: Option<&'a Path>,
    pub(crate) forwarded: &'a [u16],
    pub(crate) io: Io,
}

impl Job<'_> {
    /// Boots a guest for it and says its exit status.
    pub(crate) fn run(self) -> Result<u8> {
        let image = Image::ensure()?;
        tools::require(tools::BOOT)?;
        let accel = match self.accel {
            Some(accel) => accel,
            None => Accel::choose(&image)?,
        };
        let folder = tempfile::Builder::new().prefix("ipvsmesh-lab-").tempdir();
        let folder = folder.context("cannot make a temporary folder")?;
        let payload = self.payload(folder.path().join("payload.tar"))?;
        let kept = self.keep.map(|disk| kept(&image, disk)).transpose()?;
        let machine = Machine {
            image: &image,
            accel,
            payload: &payload,
            kept: kept.as_deref(),
            init: if self.systemd {
                Init::Systemd
            } else {
                Init::Fast
            },
            kernel: self.kernel,
            forwarded: self.forwarded,
            folder: folder.path(),
        };
        machine.run(self.io)
    }

    fn payload(&self, path: PathBuf) -> Result<PathBuf> {
        let mut payload = Payload::new(path)?;
        if self.systemd {
            payload.units()?;
        }
        for (name, file) in self.programs {
            payload.binary(name, file)?;
        }
        payload.add("lab/command", 0o644, self.script)?;
        if matches!(self.io, Io::Terminal) {
            payload.add("lab/size", 0o644, terminal::size()?.as_bytes())?;
        }
        payload.finish()
    }
}

/// This program's own streams; a terminal is not read from, it stays the user's.
pub(crate) fn own_streams() -> Io {
    Io::Streams {
        input: !stdin().is_terminal(),
        out: Box::new(io::stdout()),
        err: Box::new(io::stderr()),
    }
}

/// `cargo xtask lab run`.
pub(crate) fn run(place: &Where, command: &[OsString]) -> Result<u8> {
    let script = guest::script(command);
    if place.host {
        return host::run(&script);
    }
    Job {
        script: &script,
        programs: &cargo::programs()?,
        systemd: place.systemd,
        accel: None,
        kernel: "",
        keep: place.keep.as_deref(),
        forwarded: &[],
        io: own_streams(),
    }
    .run()
}

/// A disk of one's own: a sparse copy of the image's, made at its first use.
fn kept(image: &Image, disk: &Path) -> Result<PathBuf> {
    let disk = std::path::absolute(disk).context("the kept disk has no path")?;
    if disk.exists() {
        return Ok(disk);
    }
    let Some(name) = disk.file_name() else {
        bail!(
            "{} is no file: name one to keep the disk in",
            disk.display()
        );
    };
    let step = Step::passing(format!("copying the disk to {}", disk.display()));
    let mut part = name.to_owned();
    part.push(".part");
    let part = disk.with_file_name(part);
    let mut copy = child::tied("KILL", "cp");
    copy.args(["--sparse=always", "--reflink=auto", "--"]);
    copy.arg(image.disk()).arg(&part);
    let status = copy.status().context("cp did not start")?;
    if !status.success() {
        let _ = fs::remove_file(&part);
        bail!(
            "cannot copy the machine's disk to {} ({status})",
            disk.display()
        );
    }
    fs::rename(&part, &disk).with_context(|| format!("cannot name {}", disk.display()))?;
    step.done();
    Ok(disk)
}
