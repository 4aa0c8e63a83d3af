//! Bytes between this program and the guest's ports, as they come.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::mpsc::Sender,
    thread::{self, JoinHandle},
};

use nix::sys::signal::Signal;

use crate::machine::Event;

/// Ctrl-]: leaves a guest that does not listen any more.
const ESCAPE: u8 = 0x1d;

/// Copies what comes out of the guest, until the machine ends. Where nobody
/// takes it any more, the machine gets what a program would get: SIGPIPE.
pub(crate) fn out(
    mut from: UnixStream,
    mut to: Box<dyn Write + Send>,
    events: Sender<Event>,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        while let Some(count) = read(&mut from, &mut bytes) {
            let written = to.write_all(&bytes[..count]).and_then(|()| to.flush());
            if written.is_err() {
                let _ = events.send(Event::Signal(Signal::SIGPIPE));
                return;
            }
        }
    })
}

/// Copies standard input into the guest, until its end. Not waited for: a read
/// of standard input cannot be taken back.
pub(crate) fn input(mut to: UnixStream, escape: Option<Sender<Event>>) {
    thread::spawn(move || {
        let mut bytes = vec![0; 1 << 14];
        let mut stdin = io::stdin().lock();
        while let Some(count) = read(&mut stdin, &mut bytes) {
            if let Some(events) = &escape
                && bytes[..count].contains(&ESCAPE)
            {
                let _ = events.send(Event::Signal(Signal::SIGINT));
                return;
            }
            if to.write_all(&bytes[..count]).is_err() {
                return;
            }
        }
        // Not dropped yet: QEMU throws away what it has not read of a socket
        // that is closed both ways.
        let _ = to.shutdown(Shutdown::Write);
        while read(&mut to, &mut bytes).is_some() {}
    });
}

/// How many bytes came; `None` at the end.
fn read(from: &mut impl Read, bytes: &mut [u8]) -> Option<usize> {
    loop {
        match from.read(bytes) {
            Ok(0) => return None,
            Ok(count) => return Some(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}
