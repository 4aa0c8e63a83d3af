//! Compose files, and what is beside them.

use std::{
    collections::BTreeMap,
    env,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use compose::{Input, Problems, Source, Stack};

use super::Files;
use crate::output;

/// `stack config`
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ipvsmesh stack config -c compose.yml -c production.yml")]
pub(crate) struct Config {
    #[command(flatten)]
    files: Files,
}

impl Config {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let text = self.files.with("config", compose::config)?;
        output::print(text)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "no such file".to_owned(),
        _ => error.to_string(),
    })
}

impl Files {
    /// The stack that they make.
    pub(super) fn compile(&self, stack: &str) -> anyhow::Result<Stack> {
        self.with(stack, compose::compile)
    }

    fn with<T>(
        &self,
        stack: &str,
        make: impl FnOnce(&Input<'_>) -> Result<T, Problems>,
    ) -> anyhow::Result<T> {
        let here = env::current_dir().context("cannot tell the working directory")?;
        let mut sources = Vec::new();
        for path in &self.compose_file {
            let mut text = String::new();
            let name = path.display().to_string();
            if name == "-" {
                let read = std::io::stdin().lock().read_to_string(&mut text);
                read.context("cannot read standard input")?;
            } else {
                text =
                    std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
            }
            sources.push(Source { name, text });
        }
        // what is relative is so to the first file
        let first = self
            .compose_file
            .iter()
            .find(|path| path.as_os_str() != "-");
        let beside = first.and_then(|path| path.parent()).map(Path::to_owned);
        let directory = here.join(beside.unwrap_or_else(PathBuf::new));
        let own = variables(&directory.join(".env"))?;
        let input = Input {
            stack,
            sources: &sources,
            directory: &directory,
            variable: &|name| env::var(name).ok().or_else(|| own.get(name).cloned()),
            read: &read,
        };
        Ok(make(&input)?)
    }
}

/// Those of a file, if it is there.
fn variables(path: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let Ok(text) = std::fs::read_to_string(path) else {
        return Ok(BTreeMap::new());
    };
    let all = compose::variables(&text)
        .map_err(|line| anyhow::anyhow!("{}:{line}: this is not KEY=VALUE", path.display()))?;
    let set = all
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)));
    Ok(set.collect())
}
