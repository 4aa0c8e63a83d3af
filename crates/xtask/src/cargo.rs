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
    match place::workspace() {
        Some(workspace) => complete(build(&workspace, PROGRAMS, "dev")?),
        None => complete(beside(&own()?)),
    }
}

/// Those, and all programs of one more package as a release has them.
pub(crate) fn programs_and_released(package: &str) -> Result<Programs> {
    let Some(workspace) = place::workspace() else {
        bail!("package {package} is built from the project's sources, which are not here");
    };
    let mut programs = complete(build(&workspace, PROGRAMS, "dev")?)?;
    programs.extend(build(&workspace, &[package], "release")?);
    Ok(programs)
}

fn build(workspace: &Path, packages: &[&str], profile: &str) -> Result<Programs> {
    let mut build = cargo(workspace, "build");
    build.args(["--profile", profile]);
    quiet(&mut build);
    for name in packages {
        build.args(["--package", name]);
    }
    build.arg("--bins");
    Ok(bins(&built(build, "building the project's programs")?))
}

/// Those of a build that are programs of their own.
pub(crate) fn bins(built: &[Executable]) -> Programs {
    let bins = built.iter().filter(|made| made.kind == "bin" && !made.test);
    bins.map(|made| (made.name.clone(), made.file.clone()))
        .collect()
}

/// The programs that the lab needs, out of these, and this one.
pub(crate) fn complete(mut from: Programs) -> Result<Programs> {
    let own = own()?;
    let mut programs = Programs::new();
    for name in PROGRAMS {
        let Some((name, file)) = from.remove_entry(*name) else {
            bail!(
                "there is no program {name}: neither sources to build it from nor a file beside {}",
                own.display()
            );
        };
        programs.insert(name, file);
    }
    // not its path: cargo may have built it anew meanwhile
    programs.insert("xtask".into(), "/proc/self/exe".into());
    Ok(programs)
}

fn own() -> Result<PathBuf> {
    env::current_exe().context("cannot find this program's own file")
}

fn beside(own: &Path) -> Programs {
    let folder = own.parent().unwrap_or(own);
    let files = PROGRAMS
        .iter()
        .map(|name| ((*name).to_owned(), folder.join(name)));
    files.filter(|(_, file)| file.is_file()).collect()
}

/// Something that cargo made and that can be started.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Executable {
    pub(crate) name: String,
    /// `bin`, `lib`, `test`: what it was made from.
    pub(crate) kind: String,
    /// Whether it is that one's tests.
    pub(crate) test: bool,
    pub(crate) file: PathBuf,
}

/// Runs a cargo command that builds, and says what executables it made.
pub(crate) fn built(mut command: Command, what: &str) -> Result<Vec<Executable>> {
    command.arg("--message-format=json-render-diagnostics");
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("{what}: cargo did not start"))?;
    let said = child
        .stdout
        .take()
        .context("cargo has no standard output")?;
    let mut made = Vec::new();
    for line in BufReader::new(said).lines() {
        let line = line.with_context(|| format!("{what}: cannot read what cargo says"))?;
        made.extend(executable(&line));
    }
    let status = child
        .wait()
        .with_context(|| format!("{what}: cannot wait for cargo"))?;
    if !status.success() {
        bail!("{what} failed: cargo says why above");
    }
    Ok(made)
}

fn executable(message: &str) -> Option<Executable> {
    let message: Value = serde_json::from_str(message).ok()?;
    let word = |value: &Value| value.as_str().map(str::to_owned);
    Some(Executable {
        file: word(&message["executable"])?.into(),
        name: word(&message["target"]["name"])?,
        kind: word(&message["target"]["kind"][0])?,
        test: message["profile"]["test"].as_bool()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_found_in_cargos_messages() {
        let made = r#"{"reason":"compiler-artifact","target":{"name":"whoami","kind":["bin"]},
            "profile":{"test":false},"executable":"/t/whoami"}"#;
        let whoami = executable(made).unwrap();
        assert_eq!(
            whoami,
            Executable {
                name: "whoami".into(),
                kind: "bin".into(),
                test: false,
                file: "/t/whoami".into()
            }
        );
        let tests = Executable {
            test: true,
            file: "/t/whoami-tests".into(),
            name: "whoami".into(),
            kind: "bin".into(),
        };
        assert_eq!(bins(&[whoami, tests])["whoami"], PathBuf::from("/t/whoami"));
        let library = r#"{"reason":"compiler-artifact","target":{"name":"a","kind":["lib"]},
            "profile":{"test":false},"executable":null}"#;
        assert_eq!(executable(library), None);
        assert_eq!(executable("not json"), None);
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = complete(Programs::new()).unwrap_err().to_string();
        assert!(error.contains("no program ipvsmesh:"), "{error}");
    }
}
