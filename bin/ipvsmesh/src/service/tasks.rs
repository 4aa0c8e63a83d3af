//! `ipvsmesh service ps`

use std::collections::BTreeMap;

use api::client::{Client, Filters};
use clap::Args;
use jiff::Timestamp;
use model::{PublishMode, Weights, label};
use serde_json::Value;

use super::options::short;
use crate::{
    output::{self, Format, Listing, capital, cut, list, number, text},
    ports, several, words,
};

/// Errors are cut at this many characters.
const LONGEST_ERROR: usize = 30;

/// `service ps`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ipvsmesh service ps vote
  ipvsmesh service ps --no-trunc --filter desired-state=running vote")]
pub(crate) struct Ps {
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Only those that fit: id, name, node, desired-state
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = words::filter)]
    filter: Vec<(String, String)>,
    /// Print whole ids and errors
    #[arg(long)]
    no_trunc: bool,
    /// How to print it
    #[arg(long, default_value = "table", value_name = "table|json|TEMPLATE")]
    format: Format,
    /// Names or ids
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
}

/// Prints the tasks of services.
pub(super) async fn run(client: &Client, ps: &Ps) -> anyhow::Result<()> {
    let mut filters = words::filters(&ps.filter);
    let found = several::find(&ps.services, async |name| client.service(name).await).await?;
    if found.done.is_empty() {
        return found.failures.end();
    }
    for service in &found.done {
        filters.add("service", text(service, "/ID"));
    }
    let tasks = client.tasks(&filters).await?;
    // docker's ids are whole where they are all that is printed
    let listing = table(client, tasks, ps.no_trunc || ps.quiet).await?;
    output::print(listing.render(ps.quiet, &ps.format)?)?;
    found.failures.end()
}

/// A table of tasks, with whole ids and errors or not.
pub(crate) async fn table(
    client: &Client,
    tasks: Vec<Value>,
    whole: bool,
) -> anyhow::Result<Listing> {
    let nodes = client.nodes(&Filters::default()).await?;
    let names = nodes.iter().map(|node| {
        let hostname = text(node, "/Description/Hostname");
        (text(node, "/ID").to_owned(), hostname.to_owned())
    });
    Ok(listing(tasks, &names.collect(), whole, Timestamp::now()))
}

/// Newest first within a slot; older ones are drawn below it.
fn listing(
    mut tasks: Vec<Value>,
    nodes: &BTreeMap<String, String>,
    whole: bool,
    now: Timestamp,
) -> Listing {
    tasks.sort_by(|a, b| {
        let key = |task: &Value| {
            let service = text(task, "/Name").split('.').next().map(str::to_owned);
            (
                service,
                number(task, "/Slot"),
                text(task, "/NodeID").to_owned(),
            )
        };
        // the form of times has as many digits as needed: compare what they mean
        let created = |task: &Value| text(task, "/CreatedAt").parse::<Timestamp>().ok();
        let slot = |task: &Value| number(task, "/Slot") > 0;
        let (mut one, mut two) = (key(a), key(b));
        if slot(a) && slot(b) {
            (one.2, two.2) = (String::new(), String::new());
        }
        one.cmp(&two).then(created(b).cmp(&created(a)))
    });
    let mut above = String::new();
    let row = |task: &Value| {
        let (id, name) = (text(task, "/ID"), text(task, "/Name"));
        let shown = match name == above {
            true => format!(" \\_ {name}"),
            false => name.to_owned(),
        };
        name.clone_into(&mut above);
        let node = text(task, "/NodeID");
        vec![
            if whole { id } else { output::short(id) }.to_owned(),
            shown,
            text(task, "/Spec/ContainerSpec/Image").to_owned(),
            nodes.get(node).map_or(node, String::as_str).to_owned(),
            capital(text(task, "/DesiredState")),
            format!(
                "{} {}",
                capital(text(task, "/Status/State")),
                words::ago(text(task, "/Status/Timestamp"), now)
            ),
            error(text(task, "/Status/Err"), whole),
            // those that this task alone has on its host
            ports::line(list(task, "/Status/PortStatus/Ports"), PublishMode::Host),
            options(task),
        ]
    };
    let mut rows: Vec<_> = tasks.iter().map(row).collect();
    // docker's own columns, as long as there is nothing else to say
    let plain = rows
        .iter()
        .all(|row| row.last().is_none_or(String::is_empty));
    if plain {
        for row in &mut rows {
            row.pop();
        }
    }
    let columns = COLUMNS.len() - usize::from(plain);
    Listing {
        columns: &COLUMNS[..columns],
        rows,
    }
}

/// The last one is ours.
static COLUMNS: [(&str, &str); 9] = [
    ("ID", "ID"),
    ("NAME", "Name"),
    ("IMAGE", "Image"),
    ("NODE", "Node"),
    ("DESIRED STATE", "DesiredState"),
    ("CURRENT STATE", "CurrentState"),
    ("ERROR", "Error"),
    ("PORTS", "Ports"),
    ("OPTIONS", "Options"),
];

fn error(text: &str, whole: bool) -> String {
    if text.is_empty() {
        return String::new();
    }
    if whole || text.chars().count() <= LONGEST_ERROR {
        return format!("{text:?}");
    }
    format!("\"{}\"", cut(text, LONGEST_ERROR))
}

/// A task's service's options that are set, `scheduler=wrr weight=3`; of weights,
/// the task's own.
fn options(task: &Value) -> String {
    let labels = task.get("Labels").and_then(Value::as_object);
    let given = label::ALL.iter().filter_map(|label| {
        let value = labels?.get(*label)?.as_str()?;
        let value = match *label {
            label::WEIGHT => {
                let weights: Weights = value.trim().parse().ok()?;
                let slot = u32::try_from(number(task, "/Slot")).ok()?;
                weights.of(slot).to_string()
            }
            _ => value.to_owned(),
        };
        Some(format!("{}={value}", short(label)))
    });
    given.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn task(id: char, slot: u32, created: &str, desired: &str, state: &str, error: &str) -> Value {
        json!({
            "ID": id.to_string().repeat(25),
            "Name": format!("vote.{slot}"),
            "Slot": slot,
            "NodeID": "n1",
            "CreatedAt": created,
            "Spec": {"ContainerSpec": {"Image": "whoami"}},
            "DesiredState": desired,
            "Status": {"State": state, "Timestamp": created, "Err": error},
        })
    }

    #[test]
    fn tasks_are_listed_as_docker_does() {
        let tasks = vec![
            task('a', 10, "2026-01-01T00:00:00Z", "running", "running", ""),
            task(
                'b',
                2,
                "2026-01-01T00:00:00Z",
                "shutdown",
                "failed",
                "task: non-zero exit (1) of a program",
            ),
            task('c', 2, "2026-01-01T00:00:00.5Z", "running", "running", ""),
        ];
        let nodes = BTreeMap::from([("n1".to_owned(), "one".to_owned())]);
        let now = "2026-01-01T00:01:10Z".parse().unwrap();
        let expected = "\
ID             NAME         IMAGE     NODE      DESIRED STATE   CURRENT STATE                ERROR                              PORTS
cccccccccccc   vote.2       whoami    one       Running         Running about a minute ago                                      \n\
bbbbbbbbbbbb    \\_ vote.2   whoami    one       Shutdown        Failed about a minute ago    \"task: non-zero exit (1) of a …\"   \n\
aaaaaaaaaaaa   vote.10      whoami    one       Running         Running about a minute ago                                      \n";
        let listing = listing(tasks, &nodes, false, now);
        assert_eq!(listing.render(false, &Format::Table).unwrap(), expected);
        assert_eq!(
            listing
                .render(true, &Format::Table)
                .unwrap()
                .lines()
                .count(),
            3
        );
    }

    #[test]
    fn ports_and_options_of_a_task_are_shown() {
        let mut one = task('a', 2, "2026-01-01T00:00:00Z", "running", "running", "");
        one["Labels"] = serde_json::json!({
            "ipvsmesh.runtime": "process", "ipvsmesh.scheduler": "wrr",
            "ipvsmesh.weight": "5,2=3", "ipvsmesh.affinity": "client-ip,1h",
        });
        let port = |n: u16| {
            serde_json::json!({
                "Protocol": "tcp", "TargetPort": n, "PublishedPort": n, "PublishMode": "host", "HostIP": "::1",
            })
        };
        one["Status"]["PortStatus"]["Ports"] = serde_json::json!([port(80), port(81)]);
        let now = "2026-01-01T00:01:10Z".parse().unwrap();
        let table = listing(vec![one], &BTreeMap::new(), false, now)
            .render(false, &Format::Table)
            .unwrap();
        let row = "   [::1]:80-81->80-81/tcp   scheduler=wrr weight=3 affinity=client-ip,1h\n";
        assert!(table.ends_with(row), "{table}");
        assert!(
            table.contains("PORTS                    OPTIONS\n"),
            "{table}"
        );
    }

    #[test]
    fn errors_are_whole_where_asked() {
        let long = "x".repeat(40);
        assert_eq!(error(&long, true).len(), 42);
        assert_eq!(error("short", false), "\"short\"");
    }
}
