//! Whether this machine can run the mesh, asked before anything is changed.
//!
//! Every feature is used, in a namespace that is thrown away: what a kernel has
//! built in, loads by itself or has as a module does not matter.

#[cfg(test)]
use std::io;
use std::{path::Path, process::Stdio};

use imbl::OrdSet;
use netlink_packet_ipvs::{AddressFamily, Service, ServiceKey};
use nix::unistd::{AccessFlags, access, geteuid};
use plan::netns::{Family, Link, LinkKind, Place, SetKind};

use crate::{
    Error,
    flowtable::Flowtable,
    host,
    ipset::{Command, Ipset},
    iptables,
    ipvs::Ipvs,
    machine,
    netns::{self, Netns},
    nftables::Nftables,
    program,
    route::{self, Rtnetlink},
};

/// Something that the mesh needs and this machine does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}; {remedy}")]
pub struct Problem {
    /// What is missing.
    pub what: String,
    /// How that was seen.
    pub why: String,
    /// What to do about it.
    pub remedy: String,
}

/// A kernel module and the option that it is built by.
struct Module {
    name: &'static str,
    option: &'static str,
}

const fn module(name: &'static str, option: &'static str) -> Module {
    Module { name, option }
}

impl Module {
    fn missing(&self, why: impl Into<String>) -> Problem {
        Problem {
            what: format!("kernel module {} is not available", self.name),
            why: why.into(),
            remedy: format!(
                "run: modprobe {}, or boot a kernel with {}",
                self.name, self.option
            ),
        }
    }
}

const VETH: Module = module("veth", "CONFIG_VETH");
const IP_SET: Module = module("ip_set", "CONFIG_IP_SET");
const IP_VS: Module = module("ip_vs", "CONFIG_IP_VS");
const IP_VS_RR: Module = module("ip_vs_rr", "CONFIG_IP_VS_RR");

/// Sets by the names that the rules below use.
const SETS: &[(&str, SetKind, Module)] = &[
    (
        "ports",
        SetKind::BitmapPort,
        module("ip_set_bitmap_port", "CONFIG_IP_SET_BITMAP_PORT"),
    ),
    (
        "marks",
        SetKind::HashIpMark(Family::V4),
        module("ip_set_hash_ip", "CONFIG_IP_SET_HASH_IP"),
    ),
    (
        "port-marks",
        SetKind::HashIpPortMark(Family::V4),
        module("ip_set_hash_ipport", "CONFIG_IP_SET_HASH_IPPORT"),
    ),
    (
        "nets",
        SetKind::HashNet(Family::V4),
        module("ip_set_hash_net", "CONFIG_IP_SET_HASH_NET"),
    ),
    (
        "net-ports",
        SetKind::HashNetPort(Family::V4),
        module("ip_set_hash_netport", "CONFIG_IP_SET_HASH_NETPORT"),
    ),
    (
        "pairs",
        SetKind::HashNetNet(Family::V4),
        module("ip_set_hash_netnet", "CONFIG_IP_SET_HASH_NETNET"),
    ),
];

/// Rules with everything that the data plane's have: table, rule, what it takes.
const RULES: &[(&str, &str, Module)] = &[
    (
        "nat",
        "PREROUTING -m addrtype --dst-type LOCAL -j ACCEPT",
        module("xt_addrtype", "CONFIG_NETFILTER_XT_MATCH_ADDRTYPE"),
    ),
    (
        "nat",
        "PREROUTING -p tcp -j DNAT --to-destination 192.0.2.1",
        module("xt_nat", "CONFIG_NETFILTER_XT_NAT"),
    ),
    (
        "nat",
        "POSTROUTING -o p0 -j SNAT --to-source 192.0.2.1",
        module("xt_nat", "CONFIG_NETFILTER_XT_NAT"),
    ),
    (
        "nat",
        "POSTROUTING -o p0 -j MASQUERADE",
        module("xt_MASQUERADE", "CONFIG_NETFILTER_XT_TARGET_MASQUERADE"),
    ),
    (
        "mangle",
        "OUTPUT -m bpf --bytecode \"1,6 0 0 65535\" -j ACCEPT",
        module("xt_bpf", "CONFIG_NETFILTER_XT_MATCH_BPF"),
    ),
    (
        "mangle",
        "OUTPUT -j TEE --gateway 192.0.2.1",
        module("xt_TEE", "CONFIG_NETFILTER_XT_TARGET_TEE"),
    ),
    (
        "mangle",
        "PREROUTING -m socket -j ACCEPT",
        module("xt_socket", "CONFIG_NETFILTER_XT_MATCH_SOCKET"),
    ),
    (
        "mangle",
        "PREROUTING -m set --match-set ports dst -j SET --map-set marks dst --map-mark",
        module("xt_set", "CONFIG_NETFILTER_XT_SET"),
    ),
    (
        "filter",
        "FORWARD -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT",
        module("xt_conntrack", "CONFIG_NETFILTER_XT_MATCH_CONNTRACK"),
    ),
    (
        "filter",
        "INPUT -m mark --mark 0x0 -j ACCEPT",
        module("xt_mark", "CONFIG_NETFILTER_XT_MARK"),
    ),
    (
        "filter",
        "INPUT -p tcp -j REJECT --reject-with tcp-reset",
        module("ipt_REJECT", "CONFIG_IP_NF_TARGET_REJECT"),
    ),
];

/// All that is missing. Loads kernel modules where features do not answer without.
pub fn check() -> Vec<Problem> {
    if !geteuid().is_root() {
        return vec![Problem {
            what: "ipvsmeshd is not root".to_owned(),
            why: "it makes network namespaces and programs the kernel".to_owned(),
            remedy: "run it with sudo or as a system service".to_owned(),
        }];
    }
    let mut problems = Vec::new();
    if let Err(errno) = access("/run", AccessFlags::W_OK) {
        problems.push(Problem {
            what: "/run cannot be written to".to_owned(),
            why: errno.desc().to_owned(),
            remedy: "run: mount -t tmpfs tmpfs /run".to_owned(),
        });
    }
    if !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        problems.push(Problem {
            what: "cgroup version 2 is not mounted at /sys/fs/cgroup".to_owned(),
            why: "there is no cgroup.controllers, and tasks cannot be contained without".to_owned(),
            remedy: "boot with systemd.unified_cgroup_hierarchy=1, or run: mount -t cgroup2 \
                     cgroup2 /sys/fs/cgroup"
                .to_owned(),
        });
    }
    let mut missing = try_features();
    if !missing.is_empty() && load_modules() {
        missing = try_features();
    }
    problems.extend(missing);
    problems
}

/// Rules with everything that IPv6's have besides.
const RULES_V6: &str = "\
*raw
-A PREROUTING -i p0 -m rpfilter --invert -j DROP
COMMIT
*mangle
-A PREROUTING -j SET --map-set marks6 dst --map-mark
-A OUTPUT -m bpf --bytecode \"1,6 0 0 65535\" -j TEE --gateway fe80::1 --oif p0
COMMIT
*nat
-A PREROUTING -m addrtype --dst-type LOCAL -p tcp -j DNAT --to-destination 2001:db8::1
-A POSTROUTING -o p0 -j SNAT --to-source 2001:db8::1
-A POSTROUTING -o p0 -j MASQUERADE
COMMIT
*filter
-A INPUT -m conntrack --ctstate NEW -j REJECT --reject-with icmp6-port-unreachable
COMMIT
";

/// Why IPv6 cannot be had on this machine, in words; `None` where it can.
pub fn without_ipv6() -> Option<String> {
    if !host::has_ipv6() {
        return Some("the kernel has no IPv6".to_owned());
    }
    let tried = netns::throwaway(|| {
        let marks = Command::Create("marks6", SetKind::HashIpMark(Family::V6));
        let refused = Ipset::open()?.apply(&[marks])?;
        if let Some((_, source)) = refused.into_iter().next() {
            return Err(Error::Netlink {
                what: "make an ipset for IPv6".to_owned(),
                source,
            });
        }
        let key = ServiceKey::FwMark {
            family: AddressFamily::Ipv6,
            mark: 1,
        };
        Ipvs::open()?.new_service(&Service::new(key, "rr"))?;
        let program = "ip6tables-restore";
        let output = iptables::restore(program, RULES_V6);
        iptables::succeeded(program, "a namespace for trying", RULES_V6, output).map(drop)
    });
    why_not(tried)
}

/// Why established connections of published ports cannot be shortened on this machine, in
/// words; `None` where they can.
pub fn without_flowtable() -> Option<String> {
    /// Older kernels forget a connection that was idle for some time after it left a
    /// flowtable, or was idle in one (`flow_offload_fixup_ct`).
    const OLDEST: (u32, u32) = (6, 1);
    let release = machine::sysctl("kernel/osrelease").unwrap_or_default();
    if machine::version(&release).is_none_or(|version| version < OLDEST) {
        return Some(format!(
            "Linux {release} may forget idle connections that came from a flowtable; 6.1 and later do not"
        ));
    }
    let tried = netns::throwaway(|| {
        let flowtable = Flowtable {
            table: "trying".to_owned(),
            link: "lo".to_owned(),
        };
        let links = OrdSet::unit("lo".to_owned());
        let set = flowtable.set(&mut Nftables::open()?, &links);
        set.map_err(|source| Error::Netlink {
            what: "make a flowtable".to_owned(),
            source,
        })
    });
    why_not(tried)
}

/// Why something failed that was tried in a namespace, in words; `None` where it did not.
fn why_not(tried: Result<Result<(), Error>, Error>) -> Option<String> {
    let error = tried.and_then(|done| done).err()?;
    Some(chain(&error))
}

/// Loads whatever there is as a module; whether that could be tried at all.
fn load_modules() -> bool {
    let sets = SETS.iter().map(|(_, _, module)| module);
    let rules = RULES.iter().map(|(_, _, module)| module);
    let others = [&VETH, &IP_SET, &IP_VS, &IP_VS_RR];
    let names = others.into_iter().chain(sets).chain(rules).map(|m| m.name);
    // one process; without modprobe everything is built in, or not there at all
    program::command("modprobe")
        .args(["--quiet", "--all"])
        .args(names)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

/// Uses everything once, in a namespace that nobody else sees.
fn try_features() -> Vec<Problem> {
    let tried = netns::throwaway(|| {
        let mut problems = Vec::new();
        problems.extend(try_veth().err());
        let sets = try_sets();
        let have_sets = sets.is_empty();
        problems.extend(sets);
        problems.extend(try_ipvs().err());
        problems.extend(try_rules(have_sets));
        problems
    });
    tried.unwrap_or_else(|error| {
        vec![Problem {
            what: "network namespaces cannot be made".to_owned(),
            why: chain(&error),
            remedy: "give ipvsmeshd CAP_SYS_ADMIN and CAP_NET_ADMIN on a kernel with \
                     CONFIG_NET_NS"
                .to_owned(),
        }]
    })
}

/// An error with its causes.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

fn try_veth() -> Result<(), Problem> {
    let link = Link {
        kind: LinkKind::Veth {
            peer: "p1".to_owned(),
            place: Place::Host,
        },
        mtu: None,
        up: false,
    };
    let tried = || {
        let here = Netns::current()?;
        let request = route::add_veth("p0", &link, "p1", &here);
        let failed = Rtnetlink::open()?.apply(&[request])?;
        match failed.into_values().next() {
            Some(source) => Err(Error::Netlink {
                what: "make a veth".to_owned(),
                source,
            }),
            None => Ok(()),
        }
    };
    tried().map_err(|error: Error| VETH.missing(chain(&error)))
}

fn try_sets() -> Vec<Problem> {
    let mut ipset = match Ipset::open() {
        Ok(ipset) => ipset,
        Err(Error::Module { why, .. }) => return vec![IP_SET.missing(why)],
        Err(error) => return vec![IP_SET.missing(chain(&error))],
    };
    let tried = SETS.iter().filter_map(|(name, kind, module)| {
        let why = match ipset.apply(&[Command::Create(name, *kind)]) {
            Ok(failed) => failed.into_iter().next()?.1.to_string(),
            Err(error) => chain(&error),
        };
        Some(module.missing(why))
    });
    tried.collect()
}

fn try_ipvs() -> Result<(), Problem> {
    let mut ipvs = Ipvs::open().map_err(|error| match error {
        Error::Module { why, .. } => IP_VS.missing(why),
        other => IP_VS.missing(chain(&other)),
    })?;
    let key = ServiceKey::FwMark {
        family: AddressFamily::Ipv4,
        mark: 1,
    };
    ipvs.new_service(&Service::new(key, "rr"))
        .map_err(|error| IP_VS_RR.missing(chain(&error)))
}

fn try_rules(have_sets: bool) -> Vec<Problem> {
    const RESTORE: &str = "iptables-restore";
    const SAVE: &str = "iptables-save";
    let succeeded = |program, text: &str, output| {
        iptables::succeeded(program, "a namespace for trying", text, output).map(drop)
    };
    let restore = |text: &str| succeeded(RESTORE, text, iptables::restore(RESTORE, text));
    // without the sets it is not the rule's fault
    let usable = |(_, rule, _): &&(_, &str, _)| have_sets || !rule.contains("-set ");
    let rules: Vec<_> = RULES.iter().filter(usable).collect();
    let text = |(table, rule, _): &(&str, &str, Module)| format!("*{table}\n-A {rule}\nCOMMIT\n");
    let all: String = rules.iter().copied().map(text).collect();
    match restore(&all) {
        Ok(()) => {}
        Err(error @ Error::Program { .. }) => return vec![of_program(RESTORE, &error)],
        Err(error) => {
            let alone = rules.iter().filter_map(|rule| {
                let refused = restore(&text(rule)).err()?;
                Some(rule.2.missing(chain(&refused)))
            });
            let alone: Vec<_> = alone.collect();
            if alone.is_empty() {
                return vec![of_program(RESTORE, &error)];
            }
            return alone;
        }
    }
    let saved = program::command(SAVE).stdin(Stdio::null()).output();
    let failed = succeeded(SAVE, "", saved).err();
    failed
        .map(|error| of_program(SAVE, &error))
        .into_iter()
        .collect()
}

fn of_program(program: &str, error: &Error) -> Problem {
    let (what, why) = match error {
        Error::Program { source, .. } => ("cannot be run", source.to_string()),
        other => ("fails", chain(other)),
    };
    Problem {
        what: format!("program {program} {what}"),
        why,
        remedy: "run: apt install iptables".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_what_why_and_what_to_do() {
        assert_eq!(
            IP_VS.missing("no such family").to_string(),
            "kernel module ip_vs is not available: no such family; run: modprobe ip_vs, or boot \
             a kernel with CONFIG_IP_VS"
        );
        let source = io::Error::from(io::ErrorKind::NotFound);
        let error = Error::Program {
            program: "iptables-save",
            package: "iptables",
            source,
        };
        assert_eq!(
            of_program("iptables-save", &error).to_string(),
            "program iptables-save cannot be run: entity not found; run: apt install iptables"
        );
    }

    /// Whatever this machine has: trying leaves nothing, and finds the same twice.
    #[test]
    fn trying_leaves_nothing() {
        netns::tests::privately(|| {
            let first = try_features();
            assert!(
                first.iter().all(|problem| !problem.why.is_empty()),
                "{first:?}"
            );
            assert!(first.iter().all(|problem| !problem.what.contains("veth")));
            assert_eq!(try_features(), first);
            let text = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
            assert_eq!(text.lines().count(), 3, "only lo:\n{text}");
        });
    }
}
