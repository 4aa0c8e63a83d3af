//! `ipvsmesh inspect`: what is wanted beside what the kernel has.

use api::{
    client::Client,
    inspect::{Compared, Inspection, ServiceEntry},
};
use clap::Args;
use serde_json::json;

use crate::output::{self, OneFormat, table};

/// `inspect`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ipvsmesh inspect vote
  ipvsmesh inspect --format json vote")]
pub(crate) struct Inspect {
    /// How to print it
    #[arg(short, long, value_name = "json|TEMPLATE")]
    format: Option<OneFormat>,
    /// A service's or a task's name or id
    #[arg(value_name = "SERVICE|TASK")]
    target: String,
}

/// The whole way to a service, as it is shown.
pub(crate) async fn screen(client: &Client, target: &str) -> anyhow::Result<String> {
    Ok(render(&client.inspect(target).await?))
}

/// Prints the whole way to a service.
pub(crate) async fn run(client: &Client, inspect: &Inspect) -> anyhow::Result<()> {
    let inspection = client.inspect(&inspect.target).await?;
    match &inspect.format {
        Some(format) => output::print(format.render(&json!(inspection))?),
        None => output::print(render(&inspection)),
    }
}

/// `-` where there is nothing.
fn or_dash(text: &str) -> String {
    if text.is_empty() { "-" } else { text }.to_owned()
}

/// A row of what is compared: what, wanted, kernel, whether they agree.
fn compared(what: String, unit: &str, compared: &Compared, after: String) -> Vec<String> {
    let side = |side: &Option<String>| match side {
        Some(value) => format!("{unit}{value}"),
        None => "-".to_owned(),
    };
    let mark = match (&compared.wanted, compared.agrees()) {
        (None, true) => "unused",
        (_, true) => "ok",
        (_, false) => "DIFFERS",
    };
    let (wanted, kernel) = (side(&compared.wanted), side(&compared.kernel));
    vec![what, wanted, kernel, mark.to_owned(), after]
}

fn balanced(rows: &mut Vec<Vec<String>>, service: &ServiceEntry) {
    let settings = compared(
        "ipvs service".to_owned(),
        "",
        &service.settings,
        String::new(),
    );
    rows.push(settings);
    for to in &service.destinations {
        let task = if to.task.is_empty() {
            "no task"
        } else {
            &to.task
        };
        let connections = format!("{} active, {} inactive", to.active, to.inactive);
        let what = format!("-> {} {task}", to.address);
        rows.push(compared(what, "weight ", &to.weight, connections));
    }
}

/// A block of rows under a heading, set in.
fn block(title: &str, heading: &[&str], rows: Vec<Vec<String>>) -> String {
    let heading = heading.iter().map(ToString::to_string).collect();
    let rows: Vec<_> = std::iter::once(heading).chain(rows).collect();
    let lines = table(&rows);
    let lines = lines.lines().map(|line| format!("  {}\n", line.trim_end()));
    format!("\n{title}\n{}", lines.collect::<String>())
}

const COMPARED: [&str; 5] = ["WHAT", "WANTED", "KERNEL", "", "CONNECTIONS"];

/// One screen.
fn render(shown: &Inspection) -> String {
    let mut text = format!(
        "{} ({}), {} of {} tasks run, id {}\n",
        shown.name, shown.mode, shown.running, shown.replicas, shown.id
    );
    let names = shown.names.iter().map(|name| {
        let addresses = or_dash(&name.addresses.join(", "));
        vec![name.name.clone(), name.network.clone(), addresses]
    });
    text.push_str(&block(
        "NAMES",
        &["NAME", "NETWORK", "ADDRESSES"],
        names.collect(),
    ));
    for vip in &shown.vips {
        let title = format!(
            "VIP {}/{} on network {}, mark {}",
            vip.address, vip.protocol, vip.network, vip.mark
        );
        let mut rows = vec![compared(
            "set entry".to_owned(),
            "",
            &vip.entry,
            String::new(),
        )];
        balanced(&mut rows, &vip.service);
        text.push_str(&block(&title, &COMPARED, rows));
    }
    for port in &shown.ports {
        let title = format!(
            "PORT {} -> task port {}, mark {}",
            port.listener, port.target, port.mark
        );
        let mut rows = vec![
            compared("host set entry".to_owned(), "", &port.host, String::new()),
            compared(
                "ingress set entry".to_owned(),
                "",
                &port.entry,
                String::new(),
            ),
        ];
        balanced(&mut rows, &port.service);
        text.push_str(&block(&title, &COMPARED, rows));
    }
    let tasks = shown.tasks.iter().map(|task| {
        let veth = compared(String::new(), "", &task.link, String::new());
        vec![
            task.name.clone(),
            task.state.clone(),
            or_dash(&task.addresses.join(", ")),
            task.netns.clone(),
            format!("{} {}", veth[2], veth[3]),
            task.error.clone(),
        ]
    });
    let heading = ["NAME", "STATE", "ADDRESSES", "NAMESPACE", "VETH", "ERROR"];
    text.push_str(&block("TASKS", &heading, tasks.collect()));
    match shown.problems.as_slice() {
        [] => text.push_str("\nNo problems: the kernel has what is wanted.\n"),
        problems => {
            text.push_str("\nPROBLEMS\n");
            for problem in problems {
                text.push_str(&format!("  {problem}\n"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use api::inspect::{DestinationEntry, NameEntry, PortEntry, TaskEntry, VipEntry};

    use super::*;

    fn same(value: &str) -> Compared {
        Compared {
            wanted: Some(value.to_owned()),
            kernel: Some(value.to_owned()),
        }
    }

    fn service(weight: Compared) -> ServiceEntry {
        ServiceEntry {
            settings: same("rr"),
            destinations: vec![DestinationEntry {
                address: "10.100.0.2:80".to_owned(),
                task: "vote.1".to_owned(),
                weight,
                active: 2,
                inactive: 1,
            }],
        }
    }

    fn inspection() -> Inspection {
        Inspection {
            id: "f5lxx1zz5pnorynqglhzmsp33".to_owned(),
            name: "vote".to_owned(),
            mode: "vip".to_owned(),
            running: 1,
            replicas: 1,
            names: vec![NameEntry {
                network: "back".to_owned(),
                name: "vote".to_owned(),
                addresses: vec!["10.200.0.2".to_owned()],
            }],
            vips: vec![VipEntry {
                network: "back".to_owned(),
                address: "10.200.0.2".to_owned(),
                protocol: "tcp".to_owned(),
                mark: "0x100".to_owned(),
                entry: same("mark 0x100"),
                service: service(same("1")),
            }],
            ports: vec![PortEntry {
                listener: "8080/tcp".to_owned(),
                target: 80,
                mark: "0x102".to_owned(),
                host: same("present"),
                entry: same("mark 0x102"),
                service: service(same("1")),
            }],
            tasks: vec![TaskEntry {
                id: "a5lxx1zz5pnorynqglhzmsp33".to_owned(),
                name: "vote.1".to_owned(),
                state: "running".to_owned(),
                addresses: vec!["10.100.0.2".to_owned()],
                netns: "ipvsmesh-a5lxx1zz5pnorynqglhzmsp33".to_owned(),
                link: same("up"),
                error: String::new(),
            }],
            problems: Vec::new(),
        }
    }

    #[test]
    fn the_whole_way_fits_one_screen() {
        let expected = "\
vote (vip), 1 of 1 tasks run, id f5lxx1zz5pnorynqglhzmsp33

NAMES
  NAME      NETWORK   ADDRESSES
  vote      back      10.200.0.2

VIP 10.200.0.2/tcp on network back, mark 0x100
  WHAT                      WANTED       KERNEL                 CONNECTIONS
  set entry                 mark 0x100   mark 0x100   ok
  ipvs service              rr           rr           ok
  -> 10.100.0.2:80 vote.1   weight 1     weight 1     ok        2 active, 1 inactive

PORT 8080/tcp -> task port 80, mark 0x102
  WHAT                      WANTED       KERNEL                 CONNECTIONS
  host set entry            present      present      ok
  ingress set entry         mark 0x102   mark 0x102   ok
  ipvs service              rr           rr           ok
  -> 10.100.0.2:80 vote.1   weight 1     weight 1     ok        2 active, 1 inactive

TASKS
  NAME      STATE     ADDRESSES    NAMESPACE                            VETH      ERROR
  vote.1    running   10.100.0.2   ipvsmesh-a5lxx1zz5pnorynqglhzmsp33   up ok

No problems: the kernel has what is wanted.
";
        assert_eq!(render(&inspection()), expected);
    }

    #[test]
    fn what_differs_is_marked_and_named() {
        let mut shown = inspection();
        let weight = Compared {
            wanted: Some("1".to_owned()),
            kernel: None,
        };
        shown.vips[0].service = service(weight);
        shown.problems = vec!["VIP 10.200.0.2 (tcp): weight differs".to_owned()];
        let text = render(&shown);
        let row = "  -> 10.100.0.2:80 vote.1   weight 1     -            DIFFERS   2 active, 1 inactive\n";
        assert!(text.contains(row), "{text}");
        assert!(
            text.ends_with("\nPROBLEMS\n  VIP 10.200.0.2 (tcp): weight differs\n"),
            "{text}"
        );
    }
}
