use std::{io, path::PathBuf};

/// What to do about an error that has a usual cause.
fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => " (run as root)",
        _ => "",
    }
}

/// Why the kernel was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused a netlink request.
    #[error("cannot {what}{}", hint(source))]
    Netlink {
        /// What was asked.
        what: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// What the kernel sent has no sense.
    #[error("cannot read what the kernel says of {what}: {why}")]
    Answer {
        /// What was asked for.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A namespace cannot be made, entered or deleted.
    #[error("cannot {action} network namespace {name}{}", hint(source))]
    Namespace {
        /// What was tried.
        action: &'static str,
        /// Which.
        name: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file of /proc, /sys or /etc.
    #[error("cannot {action} {}{}", path.display(), hint(source))]
    File {
        /// What was tried.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A kernel module is not there.
    #[error(
        "kernel module {module} is not available: {why}; load it (modprobe {module}) or boot a kernel that has it"
    )]
    Module {
        /// Which.
        module: &'static str,
        /// How that was seen.
        why: String,
    },
    /// A scheduler of IPVS is not there.
    #[error(
        "this kernel has no IPVS scheduler {name:?}; use one that it has ({have}), or install the \
         kernel's module ip_vs_{name}"
    )]
    Scheduler {
        /// Which.
        name: String,
        /// Those that it has, with commas.
        have: String,
    },
    /// A program cannot be run.
    #[error("program {program} cannot be run; install it (apt install {package})")]
    Program {
        /// Which.
        program: &'static str,
        /// Where it comes from on Debian.
        package: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A program failed.
    #[error("{program} refused in {place}: {said}")]
    Refused {
        /// Which.
        program: &'static str,
        /// Where it was run.
        place: String,
        /// Its standard error, and the line that it refused.
        said: String,
    },
}
