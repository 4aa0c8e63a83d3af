//! `cargo xtask lab shell`.

use std::{net::TcpListener, ops::RangeInclusive};

use anyhow::{Context as _, Result};

use crate::{
    Where, cargo, host,
    lab::{self, Job},
    machine::Io,
    terminal,
};

/// The guest's published ports that the user reaches at 127.0.0.1.
const PORTS: RangeInclusive<u16> = 8080..=8089;

const SCRIPT: &str = include_str!("guest/shell.sh");

pub(crate) fn run(place: &Where) -> Result<u8> {
    if place.host {
        return host::run(SCRIPT.as_bytes());
    }
    let ports: Vec<_> = PORTS.collect();
    for port in &ports {
        // QEMU would say so, too, but not why it matters
        TcpListener::bind(("127.0.0.1", *port)).with_context(|| {
            format!(
                "cannot forward 127.0.0.1:{port} to the guest: end the program that uses it \
                 (ss -ltnp 'sport = :{port}' shows it)"
            )
        })?;
    }
    Job {
        script: SCRIPT.as_bytes(),
        programs: &cargo::programs()?,
        systemd: place.systemd,
        accel: None,
        kernel: "",
        keep: place.keep.as_deref(),
        forwarded: &ports,
        io: if terminal::is_there() {
            Io::Terminal
        } else {
            lab::own_streams()
        },
    }
    .run()
}
