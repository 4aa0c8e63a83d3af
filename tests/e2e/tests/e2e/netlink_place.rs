//! A network namespace for a handle and a tool to meet in.

use std::sync::atomic::{AtomicU32, Ordering};

use e2e::{Said, sh};
use kernel::{
    Error,
    netns::{self, Netns},
};

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A fresh network namespace with `lo` up; goes with the value.
pub(crate) struct Place {
    pub(crate) name: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self::with_lo_down();
        place.sh("ip link set lo up").ok();
        place
    }

    /// As the kernel makes it.
    pub(crate) fn with_lo_down() -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("netlink-{}-{number}", std::process::id());
        netns::create(&name).expect("the lab is root");
        Self { name }
    }

    /// Runs a shell line inside.
    pub(crate) fn sh(&self, line: &str) -> Said {
        sh(Some(&self.name), line)
    }

    /// Opens a handle inside.
    pub(crate) fn open<T: Send>(
        &self,
        open: impl FnOnce() -> Result<T, Error> + Send,
    ) -> Result<T, Error> {
        Netns::open(&self.name)?.run(open)?
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = netns::delete(&self.name) {
            eprintln!("clean-up failed: {error}");
        }
    }
}
