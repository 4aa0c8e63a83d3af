//! The way to a service, or the part of it that was asked for.

use api::inspect::{Inspection, PortEntry, ServiceEntry, TaskEntry, TrafficEntry};

use super::{block, compared, or_dash, problems};
use crate::units::amount;

const COMPARED: [&str; 7] = [
    "WHAT",
    "WANTED",
    "KERNEL",
    "",
    "STATE",
    "CONNECTIONS",
    "TRAFFIC",
];

/// One screen.
pub(super) fn render(kind: &str, shown: &Inspection) -> String {
    let mut text = match (kind, shown.tasks.first()) {
        ("task", Some(task)) => head(shown, task),
        _ => format!(
            "{} ({}), {} of {} tasks run, id {}\n",
            shown.name, shown.mode, shown.running, shown.replicas, shown.id
        ),
    };
    let names = shown.names.iter().map(|name| {
        let addresses = or_dash(&name.addresses.join(", "));
        let seen_by = match name.seen_by.len() {
            0..=3 => name.seen_by.join(", "),
            many => format!(
                "{} and {} more services",
                name.seen_by[..2].join(", "),
                many - 2
            ),
        };
        let seen_by = format!("host, tasks of {seen_by}");
        vec![name.name.clone(), name.network.clone(), addresses, seen_by]
    });
    let heading = ["NAME", "NETWORK", "ADDRESSES", "SEEN BY"];
    text.push_str(&block("NAMES", &heading, names.collect()));
    for vip in &shown.vips {
        let title = format!(
            "VIP {}/{} on network {}, mark {}",
            vip.address, vip.protocol, vip.network, vip.mark
        );
        let mut rows = vec![compared("set entry", "", &vip.entry)];
        balanced(&mut rows, &vip.service);
        text.push_str(&block(&title, &COMPARED, rows));
        text.push_str(&timeouts(&vip.service));
    }
    for entry in &shown.ports {
        text.push_str(&port(entry));
    }
    let tasks = shown.tasks.iter().map(task).collect();
    let heading = [
        "NAME",
        "NODE",
        "STATE",
        "ADDRESSES",
        "VETH",
        "ROUTES",
        "LISTENS ON",
        "ERROR",
    ];
    text.push_str(&block("TASKS", &heading, tasks));
    for task in shown.tasks.iter().filter(|task| !task.inside.is_empty()) {
        let rows = task
            .routes
            .iter()
            .map(|part| compared(format!("{} (router)", part.what), "", &part.compared));
        let inside = task
            .inside
            .iter()
            .map(|part| compared(&*part.what, "", &part.compared));
        let title = format!("NAMESPACE {}", task.netns);
        let rows = rows.chain(inside).collect();
        text.push_str(&block(&title, &["WHAT", "WANTED", "KERNEL", ""], rows));
    }
    text.push_str(&problems(&shown.problems));
    text
}

/// The first line of a task's screen.
fn head(shown: &Inspection, task: &TaskEntry) -> String {
    let mut state = task.state.clone();
    if !task.health.is_empty() {
        state.push_str(&format!(", {}", task.health));
    }
    format!(
        "{} of service {} on {}: {state}, id {}\n",
        task.name, shown.name, task.node, task.id
    )
}

fn port(port: &PortEntry) -> String {
    let mode = match port.mode.as_str() {
        "host" => ", where a task runs",
        _ => "",
    };
    let title = format!(
        "PORT {} -> task port {}{mode}, mark {}",
        port.listener, port.target, port.mark
    );
    let mut rows = vec![
        compared("host set entry", "", &port.host),
        compared("ingress set entry", "", &port.entry),
    ];
    balanced(&mut rows, &port.service);
    let mut text = block(&title, &COMPARED, rows) + &timeouts(&port.service);
    let rule = &port.rule;
    if let Some(shown) = rule.rule.wanted.as_ref().or(rule.rule.kernel.as_ref()) {
        let shared = if rule.shared {
            ", of all ports in that set"
        } else {
            ""
        };
        text.push_str(&format!(
            "  host rule {}: {shown}\n  its connections: {}, first packets of {}{shared}\n",
            rule.rule.verdict.as_str(),
            rule.packets,
            amount(rule.bytes)
        ));
    }
    if !port.others.is_empty() {
        text.push_str(&format!(
            "  listening there too: {}\n",
            port.others.join(", ")
        ));
    }
    text
}

fn balanced(rows: &mut Vec<Vec<String>>, service: &ServiceEntry) {
    let mut settings = compared("ipvs service", "", &service.settings);
    settings.extend([String::new(), String::new(), traffic(&service.traffic)]);
    rows.push(settings);
    for to in &service.destinations {
        let task = match to.task.as_str() {
            "" => "no task",
            name => name,
        };
        let mut row = compared(format!("-> {} {task}", to.address), "weight ", &to.weight);
        let state = [&to.state, &to.health];
        let state: Vec<_> = state
            .into_iter()
            .filter(|word| !word.is_empty())
            .cloned()
            .collect();
        let mut connections = format!("{} active, {} inactive", to.active, to.inactive);
        if to.persistent > 0 {
            connections.push_str(&format!(", {} kept", to.persistent));
        }
        row.extend([state.join(", "), connections, traffic(&to.traffic)]);
        rows.push(row);
    }
}

/// A line below the table, which it would make wide.
fn timeouts(service: &ServiceEntry) -> String {
    let shown = &service.timeouts;
    match (&shown.wanted, &shown.kernel) {
        (None, _) => String::new(),
        (Some(wanted), _) if shown.agrees() => format!("  time-outs ok: {wanted}\n"),
        (Some(wanted), kernel) => {
            let kernel = kernel.as_deref().unwrap_or("none");
            format!("  time-outs DIFFER: wanted {wanted}, the kernel has {kernel}\n")
        }
    }
}

/// `12 in all, 3/s, 1.2kB/s in, 56kB/s out`; nothing where nothing ever was.
fn traffic(traffic: &TrafficEntry) -> String {
    let TrafficEntry {
        connections, rates, ..
    } = traffic;
    if *traffic == TrafficEntry::default() {
        return String::new();
    }
    format!(
        "{connections} in all, {}/s, {}/s in, {}/s out",
        rates.connections,
        amount(rates.bytes_in),
        amount(rates.bytes_out)
    )
}

fn task(task: &TaskEntry) -> Vec<String> {
    let mut state = task.state.clone();
    if !task.health.is_empty() {
        state.push_str(&format!(" ({})", task.health));
    }
    let veth = compared("", "", &task.link);
    let wrong = task.routes.iter().find(|part| !part.compared.agrees());
    let routes = match (wrong, task.routes.len()) {
        (Some(part), _) => format!("{} {}", part.what, part.compared.verdict.as_str()),
        (None, 0) => "-".to_owned(),
        (None, _) => "ok".to_owned(),
    };
    let listens = match &task.listens {
        // `80/tcp whoami (pid 7)`: where is enough here
        Some(all) => {
            let mut at: Vec<_> = all
                .iter()
                .filter_map(|held| held.split(' ').next())
                .collect();
            at.dedup();
            or_dash(&at.join(", "))
        }
        None => "?".to_owned(),
    };
    vec![
        task.name.clone(),
        or_dash(&task.node),
        state,
        or_dash(&task.addresses.join(", ")),
        format!("{} {}", veth[2], veth[3]),
        routes,
        listens,
        task.error.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use api::inspect::{Compared, DestinationEntry, NameEntry, Part, Rates, RuleEntry, VipEntry};

    use super::*;

    fn same(value: &str) -> Compared {
        Compared::new(Some(value.to_owned()), Some(value.to_owned()))
    }

    fn service(weight: Compared) -> ServiceEntry {
        let traffic = TrafficEntry {
            connections: 12,
            bytes_in: 1200,
            rates: Rates {
                connections: 3,
                bytes_in: 1200,
                bytes_out: 56_000,
                ..Rates::default()
            },
            ..TrafficEntry::default()
        };
        ServiceEntry {
            settings: same("rr"),
            timeouts: same("tcp 9 s"),
            traffic: TrafficEntry::default(),
            destinations: vec![DestinationEntry {
                address: "10.100.0.2:80".to_owned(),
                task: "vote.1".to_owned(),
                node: "lab".to_owned(),
                state: "running".to_owned(),
                health: "healthy".to_owned(),
                weight,
                active: 2,
                inactive: 1,
                persistent: 0,
                traffic,
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
                seen_by: vec!["client".to_owned(), "vote".to_owned()],
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
                mode: "ingress".to_owned(),
                mark: "0x102".to_owned(),
                rule: RuleEntry {
                    rule: same("-A MESH-INGRESS -p tcp -j DNAT"),
                    shared: true,
                    packets: 12,
                    bytes: 720,
                },
                others: vec!["8080/tcp nginx (pid 7)".to_owned()],
                host: same("present"),
                entry: same("mark 0x102"),
                service: service(same("1")),
            }],
            tasks: vec![TaskEntry {
                id: "a5lxx1zz5pnorynqglhzmsp33".to_owned(),
                name: "vote.1".to_owned(),
                state: "running".to_owned(),
                node: "lab".to_owned(),
                health: "healthy".to_owned(),
                addresses: vec!["10.100.0.2".to_owned()],
                netns: "ipvsmesh-a5lxx1zz5pnorynqglhzmsp33".to_owned(),
                link: same("up"),
                routes: vec![Part {
                    place: "router".to_owned(),
                    what: "route to 10.100.0.2/32".to_owned(),
                    compared: same("dev ta5l"),
                }],
                listens: Some(vec!["80/tcp whoami (pid 9)".to_owned()]),
                inside: Vec::new(),
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
  NAME      NETWORK   ADDRESSES    SEEN BY
  vote      back      10.200.0.2   host, tasks of client, vote

VIP 10.200.0.2/tcp on network back, mark 0x100
  WHAT                      WANTED       KERNEL                 STATE              CONNECTIONS            TRAFFIC
  set entry                 mark 0x100   mark 0x100   ok
  ipvs service              rr           rr           ok
  -> 10.100.0.2:80 vote.1   weight 1     weight 1     ok        running, healthy   2 active, 1 inactive   12 in all, 3/s, 1.2kB/s in, 56kB/s out
  time-outs ok: tcp 9 s

PORT 8080/tcp -> task port 80, mark 0x102
  WHAT                      WANTED       KERNEL                 STATE              CONNECTIONS            TRAFFIC
  host set entry            present      present      ok
  ingress set entry         mark 0x102   mark 0x102   ok
  ipvs service              rr           rr           ok
  -> 10.100.0.2:80 vote.1   weight 1     weight 1     ok        running, healthy   2 active, 1 inactive   12 in all, 3/s, 1.2kB/s in, 56kB/s out
  time-outs ok: tcp 9 s
  host rule ok: -A MESH-INGRESS -p tcp -j DNAT
  its connections: 12, first packets of 720B, of all ports in that set
  listening there too: 8080/tcp nginx (pid 7)

TASKS
  NAME      NODE      STATE               ADDRESSES    VETH      ROUTES    LISTENS ON   ERROR
  vote.1    lab       running (healthy)   10.100.0.2   up ok     ok        80/tcp

No problems: the kernel has what is wanted.
";
        assert_eq!(render("service", &inspection()), expected);
    }

    #[test]
    fn what_differs_is_marked_and_named() {
        let mut shown = inspection();
        shown.vips[0].service = service(Compared::new(Some("1".to_owned()), None));
        shown.problems = vec!["VIP 10.200.0.2/tcp: weight is missing".to_owned()];
        let text = render("service", &shown);
        let row = "  -> 10.100.0.2:80 vote.1   weight 1     -            MISSING   running";
        assert!(text.contains(row), "{text}");
        assert!(
            text.ends_with("\nPROBLEMS\n  VIP 10.200.0.2/tcp: weight is missing\n"),
            "{text}"
        );
    }

    #[test]
    fn a_task_shows_its_namespace() {
        let mut shown = inspection();
        shown.tasks[0].inside = vec![Part {
            place: "vote.1".to_owned(),
            what: "link eth0".to_owned(),
            compared: Compared::new(Some("up".to_owned()), Some("down".to_owned())),
        }];
        let text = render("task", &shown);
        assert!(
            text.starts_with("vote.1 of service vote on lab: running, healthy, id a5"),
            "{text}"
        );
        assert!(
            text.contains("NAMESPACE ipvsmesh-a5lxx1zz5pnorynqglhzmsp33"),
            "{text}"
        );
        assert!(
            text.contains("  link eth0                         up         down       DIFFERS\n"),
            "{text}"
        );
    }
}
