//! `cargo xtask bench swarm`.

use super::{
    step::{Step, Time},
    table::{Group, Row, Target, row},
};

/// In this order, each in a fresh machine.
pub(crate) const STEPS: &[Step] = &[
    Step {
        about: "the life of a service",
        scripts: &[include_str!("docker.sh"), include_str!("life.sh")],
        time: Time::Clock,
        groups: life,
    },
    Step {
        about: "rates of requests",
        scripts: &[include_str!("docker.sh"), include_str!("rates.sh")],
        time: Time::Instructions,
        groups: rates,
    },
];

const SIDES: [&str; 2] = ["mesh", "swarm"];

// what is compared, and what issue 4 asks for

fn life() -> Vec<Group> {
    vec![
        Group {
            what: "how fast: the mesh / Docker Swarm",
            sides: SIDES,
            rows: vec![
                row(
                    "create 3, the first answer",
                    "s",
                    "create-first",
                    Target::AtMost(0.7),
                ),
                row(
                    "create 3, all answer",
                    "s",
                    "create-all",
                    Target::AtMost(0.7),
                ),
                row(
                    "scale 1 to 10, all answer",
                    "s",
                    "scale",
                    Target::AtMost(0.7),
                ),
            ],
        },
        Group {
            what: "the floor: create / docker run --network none",
            sides: ["mesh", "floor"],
            rows: vec![row("the first answer", "s", "create-first", Target::None)],
        },
        Group {
            what: "the client's address is lost (1: yes)",
            sides: SIDES,
            rows: vec![
                row("by a published port", "", "port-lost", NONE),
                row("by a VIP", "", "vip-lost", NONE),
            ],
        },
        Group {
            what: "memory: the mesh / Docker Swarm",
            sides: SIDES,
            rows: vec![
                row(
                    "the daemon, idle",
                    "MB",
                    "daemon-memory",
                    Target::OursAtMost(25.0),
                ),
                row("what a task adds in all", "MB", "task-memory", Target::None),
            ],
        },
        Group {
            what: "memory of the mesh alone",
            sides: ["mesh", "mesh"],
            rows: vec![row(
                "the daemon, 100 tasks",
                "MB",
                "daemon-memory-100",
                Target::OursAtMost(25.0),
            )],
        },
        Group {
            what: "what fails: the mesh / Docker Swarm",
            sides: SIDES,
            rows: [
                phase("scale 10 to 3", "down", [NONE, NONE]),
                phase("update, start-first", "update", [NONE, NONE]),
                phase(
                    "kill -9 of 1 task of 3",
                    "kill",
                    [Target::AtMost(0.2), Target::None],
                ),
                phase("kill -9 of the daemon", "crash", [NONE, NONE]),
            ]
            .concat(),
        },
    ]
}

const NONE: Target = Target::OursAtMost(0.0);

/// What clients saw of a phase, which the guest calls so.
fn phase(what: &'static str, name: &str, [fail, kept]: [Target; 2]) -> Vec<Row> {
    let measure = |which| format!("{name}-{which}");
    vec![
        row(what, "requests", measure("asked"), Target::None),
        row("  the slowest", "s", measure("slowest"), Target::None),
        row("  failed", "requests", measure("failed"), fail),
        row(
            "    no connection",
            "requests",
            measure("refused"),
            Target::None,
        ),
        row(
            "  kept connections broken",
            "of 20",
            measure("broken"),
            kept,
        ),
    ]
}

fn rates() -> Vec<Group> {
    vec![
        Group {
            what: "requests a second, as a share of those straight to the task",
            sides: SIDES,
            rows: vec![
                row("through the VIP", "", "vip", Target::AtLeast(1.3)),
                row("by a published port", "", "port", Target::AtLeast(1.3)),
            ],
        },
        Group {
            what: "40 curls to the name of a dnsrr service of 6 tasks",
            sides: SIDES,
            rows: vec![row(
                "tasks that are asked",
                "",
                "spread",
                // glibc may choose by addresses; this one's does not, on either side
                Target::None,
            )],
        },
    ]
}
