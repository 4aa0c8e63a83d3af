//! Programs that this one starts.

use std::{env, ffi::OsStr, fs::File, io::Read as _, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

/// Where a plain user's PATH does not look, and `mke2fs` is.
const SYSTEM: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// The PATH that programs are looked for on.
pub(crate) fn path() -> std::ffi::OsString {
    let mut path = env::var_os("PATH").unwrap_or_default();
    path.push(":");
    path.push(SYSTEM);
    path
}

/// A command that dies when this program does, however that happens: the kernel
/// sends it the signal (`KILL`, `TERM`).
pub(crate) fn tied(signal: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = plain("setpriv");
    command.args(["--pdeathsig", signal]).arg(program);
    command
}

/// A command that is looked for where system programs are, too.
pub(crate) fn plain(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", path());
    command
}

/// Runs it to its end with all that it says in a file; says the file's last
/// lines where it failed.
pub(crate) fn logged(mut command: Command, log: &Path, what: &str) -> Result<()> {
    let file = append(log)?;
    command.stdin(std::process::Stdio::null());
    command.stdout(file.try_clone().context("duplicate a file")?);
    command.stderr(file);
    let status = command
        .status()
        .with_context(|| format!("{what}: {} did not start", command.get_program().display()))?;
    if !status.success() {
        bail!("{what} failed ({status}); its last words:\n{}", tail(log));
    }
    Ok(())
}

/// Opens a log to write at its end.
pub(crate) fn append(log: &Path) -> Result<File> {
    let opened = File::options().create(true).append(true).open(log);
    opened.with_context(|| format!("cannot write {}", log.display()))
}

/// The last lines of a log, and where the rest is.
pub(crate) fn tail(log: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(log) {
        let _ = file.read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let from = lines.len().saturating_sub(30);
    let mut said = String::new();
    for line in &lines[from..] {
        said.push_str("    ");
        said.push_str(line.trim_end());
        said.push('\n');
    }
    said + &format!("(all of it: {})", log.display())
}
