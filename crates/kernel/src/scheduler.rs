//! IPVS's schedulers, as modules of the kernel.
//!
//! One that is not there is loaded by the kernel when a service asks for it, while
//! it holds IPVS's mutex; `lblc` and `lblcr` then wait for namespaces that are
//! going, which wait for that mutex. So it is loaded before it is asked for.

use std::{fs, path::Path, process::Stdio};

use model::SCHEDULERS;
use netlink_packet_ipvs::{AddressFamily, Service, ServiceKey};

use crate::{Error, ipvs::Ipvs, netns, program};

/// Makes a scheduler available, if it is not. Blocks while it is loaded.
///
/// # Errors
/// [`Error::Scheduler`]: this kernel does not have it.
pub fn load(name: &str) -> Result<(), Error> {
    // it becomes a part of a path and an argument of modprobe
    let plain = !name.is_empty()
        && name.len() < 16
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    // nearly always; the lists below are long files
    if plain && is_loaded(name) {
        return Ok(());
    }
    let modules = Modules::of_this_kernel();
    if plain && (modules.builtin(name) || probe(name)) {
        return Ok(());
    }
    // without lists of modules the kernel itself is asked: what is not built in, it
    // cannot load either
    if plain && modules.is_empty() && try_it(name) {
        return Ok(());
    }
    let has = |name: &&str| is_loaded(name) || modules.has(name);
    let have: Vec<_> = SCHEDULERS.into_iter().filter(has).collect();
    Err(Error::Scheduler {
        name: name.to_owned(),
        have: have.join(", "),
    })
}

fn is_loaded(name: &str) -> bool {
    Path::new("/sys/module")
        .join(format!("ip_vs_{name}"))
        .exists()
}

fn probe(name: &str) -> bool {
    program::command("modprobe")
        .arg("--quiet")
        .arg(format!("ip_vs_{name}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Uses it in a namespace that is thrown away.
fn try_it(name: &str) -> bool {
    let key = ServiceKey::FwMark {
        family: AddressFamily::Ipv4,
        mark: 1,
    };
    let tried = netns::throwaway(|| Ipvs::open()?.new_service(&Service::new(key, name)));
    matches!(tried, Ok(Ok(())))
}

/// What is said to be in the kernel, and to be there as modules.
struct Modules {
    builtin: String,
    files: String,
}

impl Modules {
    fn of_this_kernel() -> Self {
        let read = |path: String| fs::read_to_string(path).unwrap_or_default();
        let release = read("/proc/sys/kernel/osrelease".to_owned());
        let list = |name| read(format!("/lib/modules/{}/{name}", release.trim()));
        Self {
            builtin: list("modules.builtin"),
            files: list("modules.dep"),
        }
    }

    fn is_empty(&self) -> bool {
        self.builtin.is_empty() && self.files.is_empty()
    }

    fn builtin(&self, name: &str) -> bool {
        listed(&self.builtin, name)
    }

    fn has(&self, name: &str) -> bool {
        self.builtin(name) || listed(&self.files, name)
    }
}

/// Whether a list of paths such as `kernel/net/netfilter/ipvs/ip_vs_rr.ko.xz: ...`
/// has this scheduler.
fn listed(paths: &str, name: &str) -> bool {
    let file = format!("/ip_vs_{name}.ko");
    paths.lines().any(|line| {
        let path = line.split(':').next().unwrap_or_default();
        path.contains(&file)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_modules_is_searched_by_whole_names() {
        let paths = "\
kernel/net/netfilter/ipvs/ip_vs_wrr.ko: kernel/net/netfilter/ipvs/ip_vs_rr.ko
kernel/net/netfilter/ipvs/ip_vs_lc.ko.xz: kernel/net/netfilter/ipvs/ip_vs.ko.xz
";
        assert!(listed(paths, "wrr") && listed(paths, "lc"));
        assert!(!listed(paths, "rr") && !listed(paths, "wlc") && !listed(paths, "l"));
    }

    #[test]
    fn what_no_kernel_has_is_refused_with_what_this_one_has() {
        for name in ["nonsense", "", "../ip_vs", "-r", "a-name-of-more-than-15"] {
            let error = load(name).unwrap_err();
            let begin = format!("this kernel has no IPVS scheduler {name:?}");
            assert!(error.to_string().starts_with(&begin), "{error}");
        }
    }
}
