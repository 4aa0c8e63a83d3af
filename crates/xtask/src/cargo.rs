//! The project's programs, built by cargo, or beside this one where it runs
//! without its sources (in a guest).

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead as _, BufReader, IsTerminal as _, stderr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::place;

/// Programs that the lab needs.
pub(crate) const PROGRAMS: &[&str] = &["ipvsmesh", "ipvsmeshd", "whoami"];

/// A program's name and file.
pub(crate) type Programs = BTreeMap<String, PathBuf>;

/// cargo, in the workspace, quiet where nobody watches.
pub(crate) fn cargo(workspace: &Path, subcommand: &str) -> Command {
    // what cargo gave us is the toolchain that it was called as
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace).arg(subcommand);
    command.env_remove("CARGO_MANIFEST_DIR");
    command
}

/// Says less where standard error is no terminal.
pub(crate) fn quiet(command: &mut Command) {
    if !stderr().is_terminal() {
        command.arg("--quiet");
    }
}

/// The programs, up to date, and this one.
pub(crate) fn programs() -> Result<Programs> {
    let own = env::current_exe().context("cannot find this program's own file")?;
    let mut programs = match place::workspace() {
        Some(workspace) => {
            let mut build = cargo(&workspace, "build");
            quiet(&mut build);
            for name in PROGRAMS {
                build.args(["--package", name]);
            }
            build.arg("--bins");
            built(build, "building the project's programs")?
        }
        None => beside(&own),
    };
    for name in PROGRAMS {
        if !programs.contains_key(*name) {
            bail!(
                "there is no program {name}: neither sources to build it from nor a file beside {}",
                own.display()
            );
        }
    }
    programs.insert("xtask".into(), own);
    Ok(programs)
}

fn beside(own: &Path) -> Programs {
    let folder = own.parent().unwrap_or(own);
    let files = PROGRAMS
        .iter()
        .map(|name| ((*name).to_owned(), folder.join(name)));
    files.filter(|(_, file)| file.is_file()).collect()
}

/// Runs a cargo command that builds, and says what executables it made.
pub(crate) fn built(mut command: Command, what: &str) -> Result<Programs> {
    command.arg("--message-format=json-render-diagnostics");
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("{what}: cargo did not start"))?;
    let said = child
        .stdout
        .take()
        .context("cargo has no standard output")?;
    let mut programs = Programs::new();
    for line in BufReader::new(said).lines() {
        let line = line.with_context(|| format!("{what}: cannot read what cargo says"))?;
        programs.extend(executable(&line));
    }
    let status = child
        .wait()
        .with_context(|| format!("{what}: cannot wait for cargo"))?;
    if !status.success() {
        bail!("{what} failed: cargo says why above");
    }
    Ok(programs)
}

fn executable(message: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(message).ok()?;
    let file = message["executable"].as_str()?;
    let name = message["target"]["name"].as_str()?;
    Some((name.to_owned(), file.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_found_in_cargos_messages() {
        let made = r#"{"reason":"compiler-artifact","target":{"name":"whoami","kind":["bin"]},
            "executable":"/t/whoami"}"#;
        assert_eq!(
            executable(made),
            Some(("whoami".into(), "/t/whoami".into()))
        );
        let library = r#"{"reason":"compiler-artifact","target":{"name":"a"},"executable":null}"#;
        assert_eq!(executable(library), None);
        assert_eq!(executable("not json"), None);
    }
}
