//! `ipvsmesh config` and `ipvsmesh secret`

use std::{io::Read as _, path::PathBuf};

use anyhow::Context as _;
use api::client::Client;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use model::{BlobKind, Octets};
use serde_json::{Map, Value, json};

use crate::{
    output::{self, Format, Listing, OneFormat, text},
    several, words,
};

/// What to do with configs.
#[derive(Debug, Subcommand)]
pub(crate) enum Configs {
    /// Create a config from a file or standard input
    #[command(after_help = "\
Examples:
  ipvsmesh config create nginx-1 nginx.conf
  generate | ipvsmesh config create --label app=shop nginx-1 -")]
    Create(Create),
    /// List configs
    #[command(
        visible_alias = "list",
        after_help = "\
Example:
  ipvsmesh config ls --filter label=app=shop"
    )]
    Ls(Ls),
    /// Show configs
    #[command(after_help = "\
Examples:
  ipvsmesh config inspect nginx-1
  ipvsmesh config inspect --pretty nginx-1")]
    Inspect(InspectConfigs),
    /// Remove configs
    #[command(
        visible_alias = "remove",
        after_help = "\
Example:
  ipvsmesh config rm nginx-1"
    )]
    Rm(RmConfigs),
}

/// What to do with secrets.
#[derive(Debug, Subcommand)]
pub(crate) enum Secrets {
    /// Create a secret from a file or standard input
    #[command(after_help = "\
Examples:
  ipvsmesh secret create db-password password.txt
  openssl rand -base64 20 | ipvsmesh secret create db-password -")]
    Create(Create),
    /// List secrets
    #[command(
        visible_alias = "list",
        after_help = "\
Example:
  ipvsmesh secret ls"
    )]
    Ls(Ls),
    /// Show secrets, and not what is in them
    #[command(after_help = "\
Example:
  ipvsmesh secret inspect db-password")]
    Inspect(InspectSecrets),
    /// Remove secrets
    #[command(
        visible_alias = "remove",
        after_help = "\
Example:
  ipvsmesh secret rm db-password"
    )]
    Rm(RmSecrets),
}

/// `create`
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Labels
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = words::label)]
    label: Vec<(String, String)>,
    /// Not available: what is in it is given as it is
    #[arg(long, hide = true, value_name = "DRIVER", value_parser = no_driver)]
    template_driver: Option<String>,
    /// Its name
    name: String,
    /// What is in it; - for standard input
    #[arg(value_name = "FILE|-")]
    file: PathBuf,
}

fn no_driver(_: &str) -> Result<String, String> {
    Err("templates are not available in this version: leave it out".to_owned())
}

/// `ls`
#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Only those that fit: id, name, label
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = words::filter)]
    filter: Vec<(String, String)>,
    /// How to print it
    #[arg(long, default_value = "table", value_name = "table|json|TEMPLATE")]
    format: Format,
}

/// How `inspect` prints.
#[derive(Debug, Args)]
pub(crate) struct Shown {
    /// Print it for people
    #[arg(long, conflicts_with = "format")]
    pretty: bool,
    /// How to print it
    #[arg(short, long, value_name = "json|TEMPLATE")]
    format: Option<OneFormat>,
}

/// `config inspect`
#[derive(Debug, Args)]
pub(crate) struct InspectConfigs {
    #[command(flatten)]
    shown: Shown,
    /// Names or ids
    #[arg(required = true, value_name = "CONFIG")]
    configs: Vec<String>,
}

/// `secret inspect`
#[derive(Debug, Args)]
pub(crate) struct InspectSecrets {
    #[command(flatten)]
    shown: Shown,
    /// Names or ids
    #[arg(required = true, value_name = "SECRET")]
    secrets: Vec<String>,
}

/// `config rm`
#[derive(Debug, Args)]
pub(crate) struct RmConfigs {
    /// Names or ids
    #[arg(required = true, value_name = "CONFIG")]
    configs: Vec<String>,
}

/// `secret rm`
#[derive(Debug, Args)]
pub(crate) struct RmSecrets {
    /// Names or ids
    #[arg(required = true, value_name = "SECRET")]
    secrets: Vec<String>,
}

/// `ipvsmesh config`
pub(crate) async fn configs(client: &Client, command: Configs) -> anyhow::Result<()> {
    let kind = BlobKind::Config;
    match command {
        Configs::Create(create) => create.run(client, kind).await,
        Configs::Ls(ls) => ls.run(client, kind).await,
        Configs::Inspect(inspect) => inspect.shown.run(client, kind, &inspect.configs).await,
        Configs::Rm(rm) => remove(client, kind, &rm.configs).await,
    }
}

/// `ipvsmesh secret`
pub(crate) async fn secrets(client: &Client, command: Secrets) -> anyhow::Result<()> {
    let kind = BlobKind::Secret;
    match command {
        Secrets::Create(create) => create.run(client, kind).await,
        Secrets::Ls(ls) => ls.run(client, kind).await,
        Secrets::Inspect(inspect) => inspect.shown.run(client, kind, &inspect.secrets).await,
        Secrets::Rm(rm) => remove(client, kind, &rm.secrets).await,
    }
}

impl Create {
    async fn run(&self, client: &Client, kind: BlobKind) -> anyhow::Result<()> {
        let data = match self.file.to_str() {
            Some("-") => {
                let mut data = Vec::new();
                let read = std::io::stdin().lock().read_to_end(&mut data);
                read.map(|_| data).context("cannot read standard input")?
            }
            _ => std::fs::read(&self.file)
                .with_context(|| format!("cannot read {}", self.file.display()))?,
        };
        let labels = self.label.iter();
        let labels: Map<_, _> = labels.map(|(k, v)| (k.clone(), json!(v))).collect();
        let data = Octets::from(data).to_base64();
        let spec = json!({"Name": self.name, "Labels": labels, "Data": data});
        let id = client.create_blob(kind, &spec).await?;
        output::print(format!("{id}\n"))
    }
}

impl Ls {
    async fn run(&self, client: &Client, kind: BlobKind) -> anyhow::Result<()> {
        let found = client.blobs(kind, &words::filters(&self.filter)).await?;
        let listing = listing(found, kind, Timestamp::now());
        output::print(listing.render(self.quiet, &self.format)?)
    }
}

fn listing(mut all: Vec<Value>, kind: BlobKind, now: Timestamp) -> Listing {
    all.sort_by_key(|one| text(one, "/Spec/Name").to_owned());
    let row = |one: &Value| {
        let ago = |at: &str| words::ago(text(one, at), now);
        let mut row = vec![
            text(one, "/ID").to_owned(),
            text(one, "/Spec/Name").to_owned(),
        ];
        if kind == BlobKind::Secret {
            // whose there is none
            row.push(String::new());
        }
        row.extend([ago("/CreatedAt"), ago("/UpdatedAt")]);
        row
    };
    Listing {
        columns: match kind {
            BlobKind::Config => &[
                ("ID", "ID"),
                ("NAME", "Name"),
                ("CREATED", "CreatedAt"),
                ("UPDATED", "UpdatedAt"),
            ],
            BlobKind::Secret => &[
                ("ID", "ID"),
                ("NAME", "Name"),
                ("DRIVER", "Driver"),
                ("CREATED", "CreatedAt"),
                ("UPDATED", "UpdatedAt"),
            ],
        },
        rows: all.iter().map(row).collect(),
    }
}

impl Shown {
    async fn run(&self, client: &Client, kind: BlobKind, names: &[String]) -> anyhow::Result<()> {
        let found = several::find(names, async |name| client.blob(kind, name).await).await?;
        output::print(match self.pretty {
            true => found.done.iter().map(pretty).collect(),
            false => output::objects(found.done, self.format.as_ref())?,
        })?;
        found.failures.end()
    }
}

/// As docker shows them for people.
fn pretty(one: &Value) -> String {
    let mut shown = format!(
        "ID:\t\t\t{}\nName:\t\t\t{}\n",
        text(one, "/ID"),
        text(one, "/Spec/Name")
    );
    let labels = one.pointer("/Spec/Labels").and_then(Value::as_object);
    let labels: Vec<_> = labels.into_iter().flatten().collect();
    if !labels.is_empty() {
        shown.push_str("Labels:\n");
    }
    for (key, value) in labels {
        shown.push_str(&format!(
            " - {key}={}\n",
            value.as_str().unwrap_or_default()
        ));
    }
    for (title, at) in [("Created at", "/CreatedAt"), ("Updated at", "/UpdatedAt")] {
        shown.push_str(&format!("{title}:\t\t{}\n", text(one, at)));
    }
    if let Some(data) = Octets::from_base64(text(one, "/Spec/Data"))
        && !data.as_bytes().is_empty()
    {
        let data = String::from_utf8_lossy(data.as_bytes()).into_owned();
        shown.push_str(&format!("Data:\n{data}\n"));
    }
    shown
}

async fn remove(client: &Client, kind: BlobKind, names: &[String]) -> anyhow::Result<()> {
    several::remove(names, async |name| client.remove_blob(kind, name).await).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str) -> Value {
        json!({
            "ID": "24hnjmpmszgue5evox4yjqkvc",
            "CreatedAt": "2026-01-01T00:00:00Z",
            "UpdatedAt": "2026-01-01T00:00:05Z",
            "Spec": {"Name": name, "Labels": {"a": "b"}, "Data": "aGVsbG8="},
        })
    }

    #[test]
    fn they_are_listed_as_docker_does() {
        let now = "2026-01-01T00:00:10Z".parse().unwrap();
        let expected = "\
ID                          NAME      DRIVER    CREATED          UPDATED
24hnjmpmszgue5evox4yjqkvc   key                 10 seconds ago   5 seconds ago
";
        let secrets = listing(vec![one("key")], BlobKind::Secret, now);
        assert_eq!(secrets.render(false, &Format::Table).unwrap(), expected);
        let configs = listing(vec![one("b"), one("a")], BlobKind::Config, now);
        let text = configs.render(false, &Format::Table).unwrap();
        assert!(text.starts_with("ID                          NAME      CREATED"));
        assert!(text.lines().nth(1).unwrap().contains("   a   "), "{text}");
    }

    #[test]
    fn what_is_in_a_config_is_shown_for_people() {
        let shown = pretty(&one("key"));
        assert!(shown.contains("Name:\t\t\tkey\n") && shown.contains(" - a=b\n"));
        assert!(shown.ends_with("Data:\nhello\n"), "{shown}");
    }
}
