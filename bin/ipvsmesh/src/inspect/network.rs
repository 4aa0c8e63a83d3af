//! A network.

use api::inspect::NetworkInspection;

use super::{block, compared, or_dash, problems};

/// One screen.
pub(super) fn render(shown: &NetworkInspection) -> String {
    let internal = if shown.internal { ", internal" } else { "" };
    let mut text = format!("network {}{internal}, id {}\n", shown.name, shown.id);
    let subnets = shown.subnets.iter().map(|subnet| {
        vec![
            subnet.family.clone(),
            subnet.subnet.clone(),
            format!("{} of {}", subnet.used, subnet.usable),
            subnet.vips.clone(),
            subnet.vips_used.to_string(),
        ]
    });
    let heading = ["FAMILY", "TASKS", "USED ON NODES", "VIPS", "USED"];
    text.push_str(&block("ADDRESSES", &heading, subnets.collect()));
    let blocks = shown.blocks.iter().map(|block| {
        let mut row = vec![block.node.clone(), block.block.clone()];
        row.extend(compared("", "", &block.gateway).into_iter().skip(1));
        row
    });
    let heading = ["NODE", "BLOCK", "GATEWAY AND DNS", "KERNEL", ""];
    text.push_str(&block("NODES", &heading, blocks.collect()));
    let services = shown.services.iter().map(|service| {
        vec![
            service.name.clone(),
            or_dash(&service.aliases.join(", ")),
            or_dash(&service.vips.join(", ")),
        ]
    });
    let heading = ["NAME", "ALIASES", "VIPS"];
    text.push_str(&block("SERVICES", &heading, services.collect()));
    let tasks = shown.tasks.iter().map(|task| {
        vec![
            task.name.clone(),
            task.node.clone(),
            task.state.clone(),
            or_dash(&task.addresses.join(", ")),
        ]
    });
    let heading = ["NAME", "NODE", "STATE", "ADDRESSES"];
    text.push_str(&block("TASKS", &heading, tasks.collect()));
    text.push_str("\nWHO MAY TALK\n");
    for line in &shown.reach {
        text.push_str(&format!("  {line}\n"));
    }
    text.push_str(&problems(&shown.problems));
    text
}

#[cfg(test)]
mod tests {
    use api::inspect::{BlockEntry, Compared, MemberService, MemberTask, SubnetEntry};

    use super::*;

    #[test]
    fn a_network_fits_one_screen() {
        let gateway = Some("10.100.0.1".to_owned());
        let shown = NetworkInspection {
            id: "6y1iy9ls8ewcsip275x4fp99u".to_owned(),
            name: "back".to_owned(),
            internal: true,
            subnets: vec![SubnetEntry {
                family: "ipv4".to_owned(),
                subnet: "10.100.0.0/20".to_owned(),
                used: 3,
                usable: 253,
                vips: "10.200.0.0/20".to_owned(),
                vips_used: 1,
            }],
            blocks: vec![BlockEntry {
                node: "lab".to_owned(),
                block: "10.100.0.0/24".to_owned(),
                gateway: Compared::new(gateway.clone(), gateway),
            }],
            services: vec![MemberService {
                id: "a".to_owned(),
                name: "vote".to_owned(),
                aliases: Vec::new(),
                vips: vec!["10.200.0.1".to_owned()],
            }],
            tasks: vec![MemberTask {
                id: "b".to_owned(),
                name: "vote.1".to_owned(),
                node: "lab".to_owned(),
                state: "running".to_owned(),
                addresses: vec!["10.100.0.2".to_owned()],
            }],
            reach: vec!["tasks reach each other".to_owned()],
            problems: Vec::new(),
        };
        let expected = "\
network back, internal, id 6y1iy9ls8ewcsip275x4fp99u

ADDRESSES
  FAMILY    TASKS           USED ON NODES   VIPS            USED
  ipv4      10.100.0.0/20   3 of 253        10.200.0.0/20   1

NODES
  NODE      BLOCK           GATEWAY AND DNS   KERNEL
  lab       10.100.0.0/24   10.100.0.1        10.100.0.1   ok

SERVICES
  NAME      ALIASES   VIPS
  vote      -         10.200.0.1

TASKS
  NAME      NODE      STATE     ADDRESSES
  vote.1    lab       running   10.100.0.2

WHO MAY TALK
  tasks reach each other

No problems: the kernel has what is wanted.
";
        assert_eq!(render(&shown), expected);
    }
}
