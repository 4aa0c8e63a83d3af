//! Whether this machine can run the mesh, asked before anything is changed.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::{Error, ipset::Ipset, ipvs::Ipvs, netns::Netns};

/// Modules that are loaded where the kernel has them as modules; what is built
/// in, or is loaded by use, needs none of it.
const MODULES: &[&str] = &[
    "ip_vs",
    "ip_vs_rr",
    "ip_set",
    "xt_set",
    "ip_set_hash_ip",
    "ip_set_hash_ipport",
    "ip_set_hash_net",
    "ip_set_hash_netnet",
    "ip_set_bitmap_port",
    "nf_conntrack",
    "xt_conntrack",
    "xt_bpf",
    "veth",
];

/// All that is missing, each in words that say what to do. Loads kernel modules.
pub fn check() -> Vec<String> {
    let mut problems = Vec::new();
    if !nix::unistd::geteuid().is_root() {
        problems.push("ipvsmeshd must be root: it makes network namespaces; run it with sudo or as a system service".to_owned());
        return problems;
    }
    for program in ["iptables-save", "iptables-restore"] {
        let ran = Command::new(program)
            .arg("--version")
            .stdin(Stdio::null())
            .output();
        if let Err(source) = ran {
            let error = Error::Program {
                program,
                package: "iptables",
                source,
            };
            problems.push(error.to_string());
        }
    }
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        problems.push("cgroup version 2 is not mounted at /sys/fs/cgroup: tasks cannot be contained; boot with systemd.unified_cgroup_hierarchy=1, or run: mount -t cgroup2 none /sys/fs/cgroup".to_owned());
    }
    // one process; a machine without modprobe has everything built in, or not at all
    let _ = Command::new("modprobe")
        .args(["--quiet", "--all"])
        .args(MODULES)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let here = Netns::current();
    let tried = here.and_then(|here| {
        here.run(|| {
            (
                Ipvs::open().err(),
                Ipset::open().and_then(|mut s| s.names()).err(),
            )
        })
    });
    match tried {
        Ok((ipvs, ipset)) => {
            problems.extend(
                [ipvs, ipset]
                    .into_iter()
                    .flatten()
                    .map(|error| error.to_string()),
            );
        }
        Err(error) => problems.push(error.to_string()),
    }
    problems
}
