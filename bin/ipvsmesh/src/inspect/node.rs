//! A node: many parts, of which only what is wrong is listed one by one.

use std::collections::BTreeMap;

use api::inspect::{NodeInspection, Part};

use super::{block, compared, or_dash, problems};
use crate::{units::amount, words};

/// One screen.
pub(super) fn render(shown: &NodeInspection) -> String {
    let mut text = format!(
        "node {}, number {}, id {}\n",
        shown.name, shown.number, shown.id
    );
    if !shown.version.is_empty() {
        let instance = match shown.instance.as_str() {
            "" => "default",
            name => name,
        };
        text.push_str(&format!(
            "ipvsmeshd {}, instance {instance}\n",
            shown.version
        ));
    }
    let addresses = shown.addresses.iter();
    let addresses = addresses.map(|(what, address)| vec![what.clone(), address.clone()]);
    text.push_str(&block(
        "ADDRESSES",
        &["FOR", "ADDRESS"],
        addresses.collect(),
    ));
    let namespaces = shown.namespaces.iter().map(|one| {
        let verdict = one.present.verdict.as_str().to_owned();
        vec![
            one.place.clone(),
            or_dash(&one.name),
            one.inode.to_string(),
            verdict,
        ]
    });
    let heading = ["OF", "NAMESPACE", "INODE", ""];
    text.push_str(&block("NAMESPACES", &heading, namespaces.collect()));
    let processes = shown.processes.iter().map(|process| {
        let seconds = i64::try_from(process.uptime).unwrap_or(i64::MAX);
        vec![
            process.what.clone(),
            process.pid.to_string(),
            amount(process.memory),
            words::roughly(seconds),
        ]
    });
    let heading = ["WHAT", "PID", "MEMORY", "UP"];
    text.push_str(&block("PROCESSES", &heading, processes.collect()));
    let parts = summed_up(&shown.parts);
    let heading = ["PLACE", "WHAT", "WANTED", "KERNEL", ""];
    text.push_str(&block("SHARED BY ALL SERVICES", &heading, parts));
    let wrong = shown.parts.iter().filter(|part| !part.compared.agrees());
    let wrong = wrong.map(|part| {
        let mut row = vec![part.place.clone()];
        row.extend(compared(&*part.what, "", &part.compared));
        row
    });
    text.push_str(&block("NOT AS WANTED", &heading, wrong.collect()));
    let counters = shown.counters.iter();
    let counters = counters.map(|(what, count)| vec![what.clone(), count.to_string()]);
    text.push_str(&block(
        "SINCE THE DAEMON BEGAN",
        &["WHAT", "COUNT"],
        counters.collect(),
    ));
    text.push_str(&problems(&shown.problems));
    text
}

/// How many there are of each kind, in each place.
fn summed_up(parts: &[Part]) -> Vec<Vec<String>> {
    const KINDS: [(&str, &str); 9] = [
        ("link ", "links"),
        ("address ", "addresses"),
        ("route ", "routes"),
        ("sysctl ", "sysctls"),
        ("set ", "sets"),
        ("iptables ", "iptables chains, jumps"),
        ("ip6tables ", "ip6tables chains, jumps"),
        ("IPVS time-outs", "IPVS time-outs"),
        ("IPVS services", "IPVS services"),
    ];
    let places = ["host", "ingress", "router"];
    let mut counts: BTreeMap<(usize, usize), Count> = BTreeMap::new();
    for part in parts {
        let place = places.iter().position(|place| *place == part.place);
        let kind = KINDS
            .iter()
            .position(|(begin, _)| part.what.starts_with(begin));
        let (Some(place), Some(kind)) = (place, kind) else {
            continue;
        };
        let count = counts.entry((place, kind)).or_default();
        count.wanted += usize::from(part.compared.wanted.is_some());
        count.kernel += usize::from(part.compared.kernel.is_some());
        count.wrong += usize::from(!part.compared.agrees());
    }
    let rows = counts.into_iter().map(|((place, kind), count)| {
        let verdict = if count.wrong == 0 { "ok" } else { "DIFFERS" };
        let (wanted, kernel) = (count.wanted.to_string(), count.kernel.to_string());
        let row = [places[place], KINDS[kind].1, &wanted, &kernel, verdict];
        row.map(str::to_owned).to_vec()
    });
    rows.collect()
}

/// Parts of one kind.
#[derive(Default)]
struct Count {
    wanted: usize,
    kernel: usize,
    wrong: usize,
}

#[cfg(test)]
mod tests {
    use api::inspect::{Compared, NamespaceEntry, ProcessEntry};

    use super::*;

    #[test]
    fn a_node_fits_one_screen_and_names_what_is_wrong() {
        let part = |what: &str, wanted: &str, kernel: &str| Part {
            place: "router".to_owned(),
            what: what.to_owned(),
            compared: Compared::new(Some(wanted.to_owned()), Some(kernel.to_owned())),
        };
        let present = Some("present".to_owned());
        let shown = NodeInspection {
            id: "24hnjmpmszgue5evox4yjqkvc".to_owned(),
            name: "lab".to_owned(),
            number: 1,
            version: "0.1.0".to_owned(),
            addresses: BTreeMap::from([("ingress".to_owned(), "10.90.1.2".to_owned())]),
            namespaces: vec![NamespaceEntry {
                place: "router".to_owned(),
                name: "ipvsmesh-router".to_owned(),
                inode: 4_026_532_300,
                present: Compared::new(present.clone(), present),
            }],
            processes: vec![ProcessEntry {
                what: "daemon".to_owned(),
                pid: 7,
                memory: 12_000_000,
                uptime: 130,
            }],
            counters: BTreeMap::from([("passes".to_owned(), 3)]),
            parts: vec![
                part("sysctl net/ipv4/ip_forward", "1", "0"),
                part("sysctl net/ipv4/vs/conntrack", "0", "0"),
                part("link up0", "up, mtu 1500", "up, mtu 1500"),
            ],
            problems: vec!["router: sysctl net/ipv4/ip_forward differs".to_owned()],
            ..NodeInspection::default()
        };
        let expected = "\
node lab, number 1, id 24hnjmpmszgue5evox4yjqkvc
ipvsmeshd 0.1.0, instance default

ADDRESSES
  FOR       ADDRESS
  ingress   10.90.1.2

NAMESPACES
  OF        NAMESPACE         INODE
  router    ipvsmesh-router   4026532300   ok

PROCESSES
  WHAT      PID       MEMORY    UP
  daemon    7         12MB      2 minutes

SHARED BY ALL SERVICES
  PLACE     WHAT      WANTED    KERNEL
  router    links     1         1         ok
  router    sysctls   2         2         DIFFERS

NOT AS WANTED
  PLACE     WHAT                         WANTED    KERNEL
  router    sysctl net/ipv4/ip_forward   1         0         DIFFERS

SINCE THE DAEMON BEGAN
  WHAT      COUNT
  passes    3

PROBLEMS
  router: sysctl net/ipv4/ip_forward differs
";
        assert_eq!(render(&shown), expected);
    }
}
