//! `cargo xtask bench datapath`.

use super::{
    step::{Step, Time},
    table::{Group, Row, Target, row},
};

/// In this order, each in a fresh machine.
pub(crate) const STEPS: &[Step] = &[
    Step {
        about: "the paths of packets",
        time: Time::Instructions,
        scripts: &[include_str!("beside.sh"), include_str!("paths.sh")],
        groups: paths,
    },
    Step {
        about: "packets to one VIP of many",
        time: Time::Instructions,
        scripts: &[include_str!("services.sh")],
        groups: services,
    },
    Step {
        about: "programming the kernel",
        time: Time::Instructions,
        scripts: &[include_str!("hosts.sh"), include_str!("programming.sh")],
        groups: programming,
    },
    Step {
        about: "programming the kernel, by the clock",
        time: Time::Clock,
        scripts: &[include_str!("hosts.sh"), include_str!("clock.sh")],
        groups: by_the_clock,
    },
];

// what is compared, and what issue 3 asks for

fn paths() -> Vec<Group> {
    vec![
        Group {
            what: "a VIP / the task itself, on one node",
            sides: ["vip", "direct"],
            rows: traffic([0.97, 0.95, 0.92].map(Target::AtLeast)),
        },
        Group {
            what: "a published port / DNAT to the task, in the same namespaces",
            sides: ["port", "plain"],
            rows: traffic([0.98, 0.96, 0.95].map(Target::AtLeast)),
        },
        Group {
            what: "a published port / Docker Swarm's chain",
            sides: ["port", "swarm"],
            rows: traffic([1.05, 1.13, 1.18].map(Target::AtLeast)),
        },
        Group {
            what: "the ceiling of that: DNAT in our namespaces / Swarm's chain",
            sides: ["plain", "swarm"],
            rows: traffic([Target::None; 3]),
        },
        Group {
            what: "what all our rules cost: a published port / DNAT through empty namespaces",
            sides: ["port", "bare"],
            rows: traffic([Target::None; 3]),
        },
    ]
}

fn services() -> Vec<Group> {
    vec![Group {
        what: "a VIP among 10,000 services / the only one",
        sides: ["among-10000", "alone"],
        rows: vec![row("UDP", "packets/s", "packets", Target::AtLeast(0.97))],
    }]
}

fn programming() -> Vec<Group> {
    let percent = "% of CPU";
    vec![
        Group {
            what: "10,000 services of two tasks from empty / by ipvsadm and ipset --restore, \
                   in instructions",
            sides: ["ours", "restore"],
            rows: vec![
                row("with planning", "s", "fill-services", Target::AtMost(0.1)),
                row("once planned", "s", "fill-apply", Target::None),
                row("the kernel's own part", "s", "fill-kernel", Target::None),
                row(
                    "VIPs, sets, rules, all",
                    "s",
                    "fill-everything",
                    Target::None,
                ),
            ],
        },
        Group {
            what: "one task of 10,000 services / of 10",
            sides: ["among-10000", "among-10"],
            rows: vec![
                row("drained or put back", "s", "change", Target::AtMost(1.5)),
                row("the orchestrator's part", "s", "change-look", Target::None),
                row("its first look at all", "s", "first-look", Target::None),
                row(
                    "processes for all that",
                    "",
                    "change-processes",
                    Target::Zero,
                ),
                row("writes after a restart", "", "restart-writes", Target::Zero),
            ],
        },
        Group {
            what: "nothing to do, with 10,000 services / with none",
            sides: ["among-10000", "empty"],
            rows: vec![
                row("a restart onto that", "s", "restart", Target::None),
                row("our check, every 3 s", percent, "idle-check", Target::None),
                row(
                    "our reading, every 60 s",
                    percent,
                    "idle-resync",
                    Target::None,
                ),
                row("the kernel by itself", percent, "idle-kernel", Target::None),
            ],
        },
    ]
}

fn by_the_clock() -> Vec<Group> {
    vec![Group {
        what: "10,000 services of two tasks from empty / by ipvsadm --restore, \
               by the clock on two processors",
        sides: ["ours", "restore"],
        rows: vec![
            row(
                "with planning",
                "s",
                "clock-fill-services",
                Target::AtMost(0.1),
            ),
            row("once planned", "s", "clock-fill-apply", Target::None),
            row(
                "the kernel's own part",
                "s",
                "clock-fill-kernel",
                Target::None,
            ),
        ],
    }]
}

/// A row a kind of traffic.
fn traffic(targets: [Target; 3]) -> Vec<Row> {
    let [iperf3, keep_alive, close] = targets;
    vec![
        row("iperf3", "Mbit/s", "iperf3", iperf3),
        row("HTTP, kept alive", "requests/s", "keep-alive", keep_alive),
        row("HTTP, a connection each", "requests/s", "close", close),
    ]
}
