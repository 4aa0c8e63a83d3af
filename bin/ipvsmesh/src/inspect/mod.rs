//! `ipvsmesh inspect`: what is wanted beside what the kernel has.

mod network;
mod node;
mod way;

use std::{io::IsTerminal as _, time::Duration};

use api::{
    client::Client,
    inspect::{Compared, Inspected},
};
use clap::Args;
use serde_json::json;

use crate::output::{self, OneFormat, table};

/// How often it is looked again.
const WATCH: Duration = Duration::from_secs(1);
/// Puts the cursor at the top and clears what is below, once all of it is there.
const HOME: &str = "\u{1b}[H";
const BELOW: &str = "\u{1b}[J";
/// Clears what is left of a line.
const REST: &str = "\u{1b}[K\n";

/// `inspect`
#[derive(Debug, Args)]
#[command(after_help = "\
What is given may be a service, a task, an address (a VIP or a task's), a published port (8080,
8080/udp, 127.0.0.1:8080), a network or a node (self: this one); the first that there is.

Examples:
  ipvsmesh inspect vote
  ipvsmesh inspect vote.1
  ipvsmesh inspect 10.200.0.1
  ipvsmesh inspect 8080/udp
  ipvsmesh inspect --type network vote
  ipvsmesh inspect --watch self
  ipvsmesh inspect --format json vote
  ipvsmesh inspect --format '{{range .Problems}}{{.}}\\n{{end}}' vote")]
pub(crate) struct Inspect {
    /// json (docs/inspect.md), or a Go template
    #[arg(short, long, value_name = "json|TEMPLATE")]
    format: Option<OneFormat>,
    /// What it is: service, task, vip, port, network or node
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Look again each second
    #[arg(short, long)]
    watch: bool,
    /// A service, task, address, port, network or node
    #[arg(value_name = "SERVICE|TASK|VIP|PORT|NETWORK|NODE")]
    target: String,
}

/// Prints what there is of a thing.
pub(crate) async fn run(client: &Client, inspect: &Inspect) -> anyhow::Result<()> {
    // only a person needs the old screen taken away
    let redraw = inspect.watch && inspect.format.is_none() && std::io::stdout().is_terminal();
    if redraw {
        output::print(format!("{HOME}{BELOW}"))?;
    }
    loop {
        let kind = inspect.kind.as_deref();
        let shown = client.inspected(&inspect.target, kind).await?;
        let text = match &inspect.format {
            Some(format) => format.render(&json!(shown))?,
            None => render(&shown),
        };
        match redraw {
            // line over line, so that nothing flickers
            true => output::print(format!("{HOME}{}{BELOW}", text.replace('\n', REST)))?,
            false => output::print(text)?,
        }
        if !inspect.watch {
            return Ok(());
        }
        tokio::time::sleep(WATCH).await;
    }
}

/// The screen of a thing.
pub(crate) async fn screen(client: &Client, target: &str) -> anyhow::Result<String> {
    Ok(render(&client.inspected(target, None).await?))
}

/// One screen.
fn render(shown: &Inspected) -> String {
    match shown {
        Inspected::Service(way) => way::render("service", way),
        Inspected::Task(way) => way::render("task", way),
        Inspected::Vip(way) => way::render("vip", way),
        Inspected::Port(way) => way::render("port", way),
        Inspected::Network(network) => network::render(network),
        Inspected::Node(node) => node::render(node),
    }
}

/// `-` where there is nothing.
fn or_dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

/// The cells of what is compared: what, wanted, kernel, verdict.
fn compared(what: impl Into<String>, unit: &str, compared: &Compared) -> Vec<String> {
    let side = |side: &Option<String>| match side {
        Some(value) => format!("{unit}{value}"),
        None => "-".to_owned(),
    };
    let (wanted, kernel) = (side(&compared.wanted), side(&compared.kernel));
    let verdict = compared.verdict.as_str().to_owned();
    vec![what.into(), wanted, kernel, verdict]
}

/// A block of rows under a heading, set in; nothing without rows.
fn block(title: &str, heading: &[&str], rows: Vec<Vec<String>>) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let heading = heading.iter().map(ToString::to_string).collect();
    let rows: Vec<_> = std::iter::once(heading).chain(rows).collect();
    let lines = table(&rows);
    let lines = lines.lines().map(|line| format!("  {}\n", line.trim_end()));
    format!("\n{title}\n{}", lines.collect::<String>())
}

/// The last lines of each screen.
fn problems(problems: &[String]) -> String {
    match problems {
        [] => "\nNo problems: the kernel has what is wanted.\n".to_owned(),
        problems => {
            let lines = problems.iter().map(|problem| format!("  {problem}\n"));
            format!("\nPROBLEMS\n{}", lines.collect::<String>())
        }
    }
}
