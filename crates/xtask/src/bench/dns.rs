//! `cargo xtask bench dns`.

use super::{
    step::{Step, Time},
    table::{Group, Row, Target, row},
};

/// In this order, each in a fresh machine.
pub(crate) const STEPS: &[Step] = &[
    Step {
        about: "questions on one core",
        time: Time::Instructions,
        scripts: &[
            include_str!("docker.sh"),
            include_str!("names_lib.sh"),
            include_str!("names.sh"),
        ],
        groups: questions,
    },
    Step {
        about: "a large mesh",
        time: Time::Instructions,
        scripts: &[include_str!("names_lib.sh"), include_str!("names_large.sh")],
        groups: large,
    },
];

// what is compared, and what issue 5 asks for

fn questions() -> Vec<Group> {
    let group = |what, that| Group {
        what,
        sides: ["ours", that],
        rows: rates(Target::AtLeast(1.0), Target::AtMost(1.0)),
    };
    vec![
        group("the responder / dnsmasq, 200 names", "dnsmasq"),
        group("the responder / aardvark-dns, 200 names", "aardvark"),
        group("the responder / Docker's 127.0.0.11, 200 names", "docker"),
    ]
}

fn large() -> Vec<Group> {
    let rows = vec![
        row("memory", "MB", "memory", Target::OursAtMost(10.0)),
        row("questions", "questions/s", "large-rate", Target::None),
    ];
    let ours = ["ours", "ours"];
    vec![
        Group {
            what: "10,000 services of two tasks: the responder / dnsmasq with their 10,000 names",
            sides: ["ours", "dnsmasq"],
            rows,
        },
        Group {
            what: "the responder by itself",
            sides: ours,
            rows: vec![
                row(
                    "a change is answered",
                    "ms",
                    "names-change",
                    Target::OursAtMost(10.0),
                ),
                row("all names told anew", "s", "names-all", Target::None),
            ],
        },
    ]
}

fn rates(rate: Target, slowest: Target) -> Vec<Row> {
    vec![
        row("questions", "questions/s", "rate", rate),
        row("99 of 100 in", "ms", "p99", slowest),
    ]
}
