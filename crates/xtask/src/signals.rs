//! Ctrl-C and its kin: a running machine is ended and cleaned up after; where
//! none runs, they do what they always do.

use std::{
    sync::{Mutex, MutexGuard, PoisonError, mpsc::Sender},
    thread,
};

use anyhow::{Context as _, Result};
use nix::sys::signal::{SigSet, Signal, raise};

use crate::machine::Event;

static MACHINE: Mutex<Option<Sender<Event>>> = Mutex::new(None);

fn machine() -> MutexGuard<'static, Option<Sender<Event>>> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the signals to a thread of their own; before any other is started.
pub(crate) fn watch() -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().context("cannot block signals")?;
    thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            match &*machine() {
                Some(events) if events.send(Event::Signal(signal)).is_ok() => {}
                _ => {
                    let _ = SigSet::from(signal).thread_unblock();
                    let _ = raise(signal);
                }
            }
        }
    });
    Ok(())
}

/// While this lives, signals go to a machine.
pub(crate) struct Diverted;

impl Diverted {
    pub(crate) fn to(events: Sender<Event>) -> Self {
        *machine() = Some(events);
        Self
    }
}

impl Drop for Diverted {
    fn drop(&mut self) {
        *machine() = None;
    }
}
