//! One step of a bench: a script in a machine of its own.

use std::io;

use anyhow::{Context as _, Result, bail};

use super::{figures::Reader, table::Group};
use crate::{accel::Accel, cargo::Programs, lab::Job, machine::Io, progress::Step as Progress};

/// What a step's machine has as time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Time {
    /// Instructions of its one processor, so that figures repeat.
    Instructions,
    /// That of the clock on the wall, on two processors.
    Clock,
}

/// What every script begins with.
const LIBRARY: &str = include_str!("lib.sh");

/// A script and what it is about.
pub(crate) struct Step {
    pub(crate) about: &'static str,
    pub(crate) time: Time,
    /// Run one after the other in one shell, after the common functions.
    pub(crate) scripts: &'static [&'static str],
    /// What it measures.
    pub(crate) groups: fn() -> Vec<Group>,
}

impl Step {
    /// Boots a machine for it; its figures go to `reader`.
    pub(crate) fn run(&self, programs: &Programs, reader: &Reader) -> Result<()> {
        let progress = Progress::start(self.about);
        let script = [&[LIBRARY], self.scripts].concat().concat();
        let code = Job {
            script: script.as_bytes(),
            programs,
            systemd: false,
            accel: match self.time {
                Time::Instructions => Some(Accel::Counted),
                Time::Clock => None,
            },
            // what looks for huge pages to make does so in the middle of a measurement
            kernel: "transparent_hugepage=never",
            keep: None,
            forwarded: &[],
            io: Io::Streams {
                input: false,
                out: Box::new(reader.clone()),
                err: Box::new(io::stderr()),
            },
        }
        .run()
        .with_context(|| self.about)?;
        if code != 0 {
            bail!("{}: the script ended with status {code}", self.about);
        }
        progress.done();
        Ok(())
    }
}
