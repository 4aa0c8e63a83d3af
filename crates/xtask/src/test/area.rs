//! The areas of the tests.

use std::{
    io::{self, Read as _, Write as _, stdout},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::{
    Options, boot,
    results::{Results, Tallied},
};
use crate::{
    cargo::{self, Executable, cargo, quiet},
    child, guest,
    lab::Job,
    machine::Io,
    tools,
};

/// How many of the end-to-end tests run at once: they wait more than they work.
const AT_ONCE: &str = "4";

/// A kind of test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Area {
    Fmt,
    Clippy,
    Vagrant,
    Unit,
    EndToEnd,
    Boot,
}

impl Area {
    /// What takes least first.
    pub(crate) const ALL: [Self; 6] = [
        Self::Fmt,
        Self::Clippy,
        Self::Vagrant,
        Self::Unit,
        Self::EndToEnd,
        Self::Boot,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Clippy => "clippy",
            Self::Vagrant => "vagrant",
            Self::Unit => "unit",
            Self::EndToEnd => "e2e",
            Self::Boot => "boot",
        }
    }

    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Fmt => "the sources are formatted",
            Self::Clippy => "no warning, of the compiler or of clippy",
            Self::Vagrant => "the Vagrantfile is valid",
            Self::Unit => "unit, property and documentation tests, on this machine",
            Self::EndToEnd => "end-to-end tests, in the lab",
            Self::Boot => "tests that boot machines of their own",
        }
    }

    /// Whether it is made of tests with names.
    pub(crate) fn has_tests(self) -> bool {
        matches!(self, Self::Unit | Self::EndToEnd | Self::Boot)
    }

    /// Runs it; the results are there even where it fails.
    pub(crate) fn run(
        self,
        workspace: &Path,
        options: &Options,
        results: &mut Results,
    ) -> Result<()> {
        match self {
            Self::Fmt => fmt(workspace),
            Self::Clippy => clippy(workspace),
            Self::Vagrant => vagrant(workspace),
            Self::Unit => unit(workspace, options, results),
            Self::EndToEnd => end_to_end(workspace, options, results),
            Self::Boot => boot::run(&cargo::bins(&build(workspace)?), options, results),
        }
    }
}

fn fmt(workspace: &Path) -> Result<()> {
    let mut command = cargo(workspace, "fmt");
    command.args(["--all", "--check"]);
    succeeds(command, "run: cargo fmt")
}

fn clippy(workspace: &Path) -> Result<()> {
    let mut command = cargo(workspace, "clippy");
    quiet(&mut command);
    command.args(["--workspace", "--all-targets", "--", "-D", "warnings"]);
    succeeds(command, "clippy says why above")
}

fn vagrant(workspace: &Path) -> Result<()> {
    tools::require(tools::VAGRANT)?;
    let home = tempfile::tempdir().context("cannot make a temporary folder")?;
    let mut command = child::plain("vagrant");
    command.current_dir(workspace.join("vagrant"));
    // no provider is needed to read the file; and what Vagrant keeps goes
    command.args(["validate", "--ignore-provider"]);
    command.env("VAGRANT_HOME", home.path());
    command.env("VAGRANT_DOTFILE_PATH", home.path().join("machine"));
    command.env("VAGRANT_CHECKPOINT_DISABLE", "1");
    succeeds(command, "vagrant says why above")
}

fn succeeds(mut command: Command, advice: &str) -> Result<()> {
    command.stdin(Stdio::null());
    let status = command
        .status()
        .with_context(|| format!("{} did not start", command.get_program().display()))?;
    if !status.success() {
        bail!("{advice} ({status})");
    }
    Ok(())
}

/// Builds everything at once. The areas share it: cargo builds a dependency
/// anew for each choice of packages that wants other features of it.
fn build(workspace: &Path) -> Result<Vec<Executable>> {
    let mut command = cargo(workspace, "build");
    quiet(&mut command);
    command.args(["--workspace", "--all-targets"]);
    cargo::built(command, "building the tests")
}

fn unit(workspace: &Path, options: &Options, results: &mut Results) -> Result<()> {
    build(workspace)?;
    let mut command = cargo(workspace, "test");
    command.args(["--workspace", "--exclude", "e2e"]);
    command.arg("--no-fail-fast");
    command.args(&options.filter);
    if options.long {
        command.env("PROPTEST_CASES", "5000");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().context("cargo did not start")?;
    let mut said = child
        .stdout
        .take()
        .context("cargo has no standard output")?;
    let mut tallied = Tallied::new(stdout());
    let mut bytes = vec![0; 1 << 14];
    loop {
        let count = said
            .read(&mut bytes)
            .context("cannot read the tests' output")?;
        if count == 0 {
            break;
        }
        tallied
            .write_all(&bytes[..count])
            .context("cannot write the tests' output")?;
        tallied.flush().context("cannot write the tests' output")?;
    }
    *results = tallied.tally().results();
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() {
        bail!("not all tests passed ({status})");
    }
    Ok(())
}

fn end_to_end(workspace: &Path, options: &Options, results: &mut Results) -> Result<()> {
    let built = build(workspace)?;
    let mut programs = cargo::complete(cargo::bins(&built))?;
    let tests = built
        .into_iter()
        .find(|made| made.kind == "test" && made.name == "e2e");
    let tests = tests.context("cargo made no end-to-end tests")?;
    programs.insert("e2e".into(), tests.file);

    let mut line = Vec::new();
    if options.long {
        line.extend(["env", "IPVSMESH_LONG=1"]);
    }
    line.extend(["e2e", "--test-threads", AT_ONCE]);
    line.extend(options.filter.as_deref());
    let line: Vec<_> = line.into_iter().map(Into::into).collect();
    let out = Tallied::new(stdout());
    let tally = out.tally();
    let code = Job {
        script: &guest::script(&line),
        programs: &programs,
        systemd: false,
        accel: None,
        kernel: "",
        keep: None,
        forwarded: &[],
        io: Io::Streams {
            input: false,
            out: Box::new(out),
            err: Box::new(io::stderr()),
        },
    }
    .run()?;
    *results = tally.results();
    if code != 0 {
        bail!("not all tests passed (exit status {code})");
    }
    Ok(())
}
