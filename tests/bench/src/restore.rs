//! The other side: the same tables by `ipvsadm --restore` and `ipset restore`.

use std::{
    fmt::Write as _,
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use plan::netns::{Entry, Op, Place, SetKind};

/// What the two programs read.
#[derive(Default)]
pub(crate) struct Tables {
    ipvsadm: String,
    ipset: String,
}

impl Tables {
    /// The router's part of these writes.
    pub(crate) fn of(ops: &[(Place, Op)]) -> Result<Self> {
        let mut tables = Self::default();
        for (place, op) in ops {
            if *place == Place::Router {
                tables.add(op)?;
            }
        }
        Ok(tables)
    }

    fn add(&mut self, op: &Op) -> Result<()> {
        let (ipvsadm, ipset) = (&mut self.ipvsadm, &mut self.ipset);
        match op {
            Op::NewService(_, mark, service) => {
                writeln!(ipvsadm, "-A -f {} -s {}", mark.get(), service.scheduler)?;
            }
            Op::NewDestination(_, mark, (address, port), destination) => {
                let (mark, weight) = (mark.get(), destination.weight);
                writeln!(ipvsadm, "-a -f {mark} -r {address}:{port} -m -w {weight}")?;
            }
            Op::CreateSet(name, SetKind::HashIpMark(_)) => {
                writeln!(ipset, "create {name} hash:ip skbinfo")?;
            }
            Op::AddEntry(name, Entry::Ip(address), Some(mark)) => {
                writeln!(ipset, "add {name} {address} skbmark {:#x}", mark.get())?;
            }
            // a handful, which these programs do not make
            _ => {}
        }
        Ok(())
    }

    /// Makes them in a namespace.
    pub(crate) fn restore(&self, netns: &str) -> Result<()> {
        for (program, text, arguments) in [
            ("ipset", &self.ipset, ["restore"]),
            ("ipvsadm", &self.ipvsadm, ["--restore"]),
        ] {
            if !text.is_empty() {
                run(netns, program, &arguments, text)?;
            }
        }
        Ok(())
    }
}

/// Runs a program in a namespace, with this as its standard input.
pub(crate) fn run(netns: &str, program: &str, arguments: &[&str], input: &str) -> Result<()> {
    let mut child = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{netns}"))
        .arg(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start nsenter for {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(input.as_bytes())
            .with_context(|| format!("{program} does not read its input"))?;
    }
    let status = child
        .wait()
        .with_context(|| format!("cannot wait for {program}"))?;
    if !status.success() {
        bail!("{program} {} failed: {status}", arguments.join(" "));
    }
    Ok(())
}
