//! The user's terminal, handed over to the guest and taken back.

use std::{
    io::{IsTerminal as _, stdin, stdout},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Whether a person sits there.
pub(crate) fn is_there() -> bool {
    stdin().is_terminal() && stdout().is_terminal()
}

/// Its rows and columns, as two words.
pub(crate) fn size() -> Result<String> {
    Ok(stty(&["size"])?.trim().to_owned())
}

/// While this lives, every key goes through as it is.
pub(crate) struct Raw {
    before: String,
}

impl Raw {
    pub(crate) fn set() -> Result<Self> {
        let before = stty(&["-g"])?.trim().to_owned();
        stty(&["raw", "-echo"])?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Err(error) = stty(&[&self.before]) {
            eprintln!("\r\nlab: the terminal is not as it was ({error:#}); run: stty sane");
        }
    }
}

fn stty(arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("stty");
    command.args(arguments).stdin(Stdio::inherit());
    let output = command.output().context("stty did not start")?;
    if !output.status.success() {
        bail!(
            "stty {} failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
