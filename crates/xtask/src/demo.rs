//! `cargo xtask demo`: a script, run in the lab.

use anyhow::Result;

use crate::{
    cargo, host,
    lab::{self, Job},
};

const SCRIPT: &str = include_str!("demo.sh");

pub(crate) fn run(on_host: bool) -> Result<u8> {
    if on_host {
        return host::run(SCRIPT.as_bytes());
    }
    Job {
        script: SCRIPT.as_bytes(),
        programs: &cargo::programs()?,
        systemd: false,
        accel: None,
        kernel: "",
        keep: None,
        forwarded: &[],
        io: lab::own_streams(),
    }
    .run()
}
