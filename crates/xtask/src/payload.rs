//! What one machine gets on top of its image, as an archive on a second disk:
//! the project's programs, the guest's scripts, and the command.

use std::{
    fs::File,
    io::{BufWriter, Read as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use tar::{Builder, EntryType, Header};

/// What is the same for all entries: root's, and of no time.
fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header
}

/// An archive that is being written.
pub(crate) struct Payload {
    path: PathBuf,
    archive: Builder<BufWriter<File>>,
}

impl Payload {
    /// One with the guest's scripts in it.
    pub(crate) fn new(path: PathBuf) -> Result<Self> {
        let file =
            File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut payload = Self {
            path,
            archive: Builder::new(BufWriter::with_capacity(1 << 20, file)),
        };
        payload.program("lab/init", include_str!("guest/init.sh"))?;
        payload.add("lab/fstab", 0o644, include_bytes!("guest/fstab"))?;
        payload.program("lab/network", include_str!("guest/network.sh"))?;
        payload.program(
            "lab/command-runner",
            include_str!("guest/command-runner.sh"),
        )?;
        Ok(payload)
    }

    /// Adds what a boot with systemd starts.
    pub(crate) fn units(&mut self) -> Result<()> {
        let units = [
            ("lab-network.service", include_str!("guest/network.service")),
            ("lab-command.service", include_str!("guest/command.service")),
            (
                "ipvsmeshd.service",
                include_str!("../../../bin/ipvsmeshd/ipvsmeshd.service"),
            ),
        ];
        for (name, text) in units {
            let path = format!("etc/systemd/system/{name}");
            self.add(&path, 0o644, text.as_bytes())?;
            let wanted = format!("etc/systemd/system/multi-user.target.wants/{name}");
            let target = format!("/{path}");
            let mut header = header(EntryType::Symlink, 0o777, 0);
            self.archive
                .append_link(&mut header, &wanted, &target)
                .with_context(|| self.unwritten(&wanted))?;
        }
        Ok(())
    }

    /// Adds a program of this machine as `/usr/local/bin/NAME`.
    pub(crate) fn binary(&mut self, name: &str, from: &Path) -> Result<()> {
        let open = || -> std::io::Result<_> {
            let file = File::open(from)?;
            let length = file.metadata()?.len();
            Ok((file, length))
        };
        let (file, length) = open().with_context(|| format!("cannot read {}", from.display()))?;
        let path = format!("usr/local/bin/{name}");
        let mut header = header(EntryType::Regular, 0o755, length);
        self.archive
            .append_data(&mut header, &path, file.take(length))
            .with_context(|| self.unwritten(&path))
    }

    /// Adds a script.
    pub(crate) fn program(&mut self, path: &str, text: &str) -> Result<()> {
        self.add(path, 0o755, text.as_bytes())
    }

    /// Adds a file.
    pub(crate) fn add(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        let mut header = header(EntryType::Regular, mode, bytes.len() as u64);
        self.archive
            .append_data(&mut header, path, bytes)
            .with_context(|| self.unwritten(path))
    }

    /// Ends the archive; says where it is.
    pub(crate) fn finish(self) -> Result<PathBuf> {
        let what = format!("cannot write {}", self.path.display());
        let mut file = self.archive.into_inner().with_context(|| what.clone())?;
        file.flush().context(what)?;
        Ok(self.path)
    }

    fn unwritten(&self, path: &str) -> String {
        format!("cannot put {path} into {}", self.path.display())
    }
}
