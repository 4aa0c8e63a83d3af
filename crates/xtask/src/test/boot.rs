//! Tests that take boots of their own: a machine that is restarted, one whose kernel
//! has no IPVS, one that confines containers, and those with services of systemd's beside
//! the mesh. Each boot runs a script, which fails as a whole.

use std::io::{stderr, stdout};

use anyhow::{Context as _, Result, bail};

use super::{
    Options,
    results::{Failure, Results},
};
use crate::{
    cargo::{self, Programs},
    lab::Job,
    machine::Io,
};

/// A boot, one of a test's.
struct Boot {
    script: &'static str,
    systemd: bool,
    kernel: &'static str,
}

/// Boots of one machine, one after the other on one disk.
struct Test {
    name: &'static str,
    boots: &'static [Boot],
}

const TESTS: [Test; 5] = [
    Test {
        name: "boot::after_a_restart_everything_comes_back_by_itself",
        boots: &[
            Boot {
                script: include_str!("boot/before-restart.sh"),
                systemd: true,
                kernel: "",
            },
            Boot {
                script: include_str!("boot/after-restart.sh"),
                systemd: true,
                kernel: "",
            },
        ],
    },
    Test {
        name: "boot::a_kernel_without_ipvs_is_named",
        boots: &[Boot {
            script: include_str!("boot/without-ipvs.sh"),
            systemd: false,
            kernel: "module_blacklist=ip_vs",
        }],
    },
    Test {
        name: "boot::tasks_that_apparmor_confines_are_served",
        boots: &[Boot {
            script: include_str!("boot/confined.sh"),
            systemd: true,
            kernel: "",
        }],
    },
    Test {
        name: "boot::firewalld_starts_and_reloads_and_all_goes_on",
        boots: &[Boot {
            script: concat!(
                include_str!("boot/neighbour.sh"),
                include_str!("boot/beside-firewalld.sh")
            ),
            systemd: true,
            kernel: "",
        }],
    },
    Test {
        name: "boot::systemd_resolved_knows_the_names",
        boots: &[Boot {
            script: concat!(
                include_str!("boot/neighbour.sh"),
                include_str!("boot/beside-resolved.sh")
            ),
            systemd: true,
            kernel: "",
        }],
    },
];

/// Runs them, and says of each what libtest would.
pub(crate) fn run(programs: &Programs, options: &Options, results: &mut Results) -> Result<()> {
    let programs = cargo::complete(programs.clone())?;
    let filter = options.filter.as_deref().unwrap_or_default();
    for test in TESTS.iter().filter(|test| test.name.contains(filter)) {
        match test.run(&programs) {
            Ok(()) => {
                results.counts.passed += 1;
                println!("test {} ... ok", test.name);
            }
            Err(error) => {
                results.counts.failed += 1;
                println!("test {} ... FAILED: {error:#}", test.name);
                results.failures.push(Failure {
                    test: test.name.to_owned(),
                    why: vec![format!("{error:#}")],
                });
            }
        }
    }
    if results.counts.failed > 0 {
        bail!("not all tests passed");
    }
    Ok(())
}

impl Test {
    fn run(&self, programs: &Programs) -> Result<()> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        let disk = folder.path().join("disk");
        for (number, boot) in (1..).zip(self.boots) {
            let code = Job {
                script: boot.script.as_bytes(),
                programs,
                systemd: boot.systemd,
                accel: None,
                kernel: boot.kernel,
                keep: (self.boots.len() > 1).then_some(disk.as_path()),
                forwarded: &[],
                io: Io::Streams {
                    input: false,
                    out: Box::new(stdout()),
                    err: Box::new(stderr()),
                },
            }
            .run()?;
            if code != 0 {
                bail!("boot {number} ended with exit status {code}");
            }
        }
        Ok(())
    }
}
