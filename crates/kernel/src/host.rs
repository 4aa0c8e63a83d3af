//! What the host is and has: read-only.

use std::{collections::BTreeMap, fs, net::IpAddr, path::Path};

use ipnet::IpNet;
use model::{Listener, Protocol};
use plan::netns::RouteKind;

use crate::{Error, netns::Netns, route::Rtnetlink, sockets};

/// Networks that the host has routes to, in any table, with the link; default
/// routes left out, networks on its own links included.
///
/// # Errors
/// The kernel refused.
pub fn routes() -> Result<Vec<(IpNet, String)>, Error> {
    let seen = Rtnetlink::open()?.observe()?;
    let routed = seen.routes.iter().chain(&seen.elsewhere);
    let routed = routed
        .filter(|route| route.kind == RouteKind::Unicast && route.to.prefix_len() > 0)
        .map(|route| (route.to, route.dev.clone().unwrap_or_default()));
    let own = seen
        .addresses
        .iter()
        .map(|(link, net)| (net.trunc(), link.clone()));
    Ok(routed.chain(own).collect())
}

/// The host's addresses, each with its link; automatic ones and loopback's own
/// left out.
///
/// # Errors
/// The kernel refused.
pub fn addresses() -> Result<Vec<(IpNet, String)>, Error> {
    let seen = Rtnetlink::open()?.observe()?;
    let addresses = seen.addresses.into_iter().map(|(link, net)| (net, link));
    Ok(addresses.collect())
}

/// Whether the kernel has IPv6, in the caller's network namespace.
pub fn has_ipv6() -> bool {
    Path::new("/proc/thread-self/net/if_inet6").exists()
}

/// The host's name.
pub fn hostname() -> String {
    let name = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| "localhost".to_owned())
}

/// This boot's identity; empty where /proc is not mounted.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// A port that some process listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Address, protocol and port.
    pub listener: Listener,
    /// `nginx (pid 123)`, where the process was found.
    pub holder: Option<String>,
}

/// All ports that processes listen on in the caller's network namespace, each
/// with its holder. Walks /proc once if there are any.
pub fn listeners() -> Vec<Held> {
    let found = listening();
    let holders = match found.is_empty() {
        true => BTreeMap::new(),
        false => holders(),
    };
    named(found, &holders)
}

/// The same in other network namespaces, by their names under `/run/netns`; `None` where
/// there is no such one. Walks /proc once.
pub fn listeners_in(names: &[String]) -> Vec<Option<Vec<Held>>> {
    let holders = match names {
        [] => BTreeMap::new(),
        _ => holders(),
    };
    let inside = |name: &String| Netns::open(name).ok()?.run(listening).ok();
    let found = names.iter().map(inside);
    found.map(|found| Some(named(found?, &holders))).collect()
}

fn named(found: Vec<(Listener, u64)>, holders: &BTreeMap<u64, (u32, String)>) -> Vec<Held> {
    let name = |(listener, inode)| Held {
        listener,
        holder: holders
            .get(&inode)
            .map(|(pid, name)| format!("{name} (pid {pid})")),
    };
    found.into_iter().map(name).collect()
}

/// Listeners of the calling thread's network namespace, with their sockets' inodes.
fn listening() -> Vec<(Listener, u64)> {
    let mut found = Vec::new();
    for (file, protocol, listening) in [
        ("tcp", Protocol::Tcp, "0A"),
        ("tcp6", Protocol::Tcp, "0A"),
        ("udp", Protocol::Udp, "07"),
        ("udp6", Protocol::Udp, "07"),
    ] {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
        found.extend(
            text.lines()
                .skip(1)
                .filter_map(|line| read_socket(line, protocol, listening)),
        );
    }
    let text = fs::read_to_string("/proc/thread-self/net/sctp/eps").unwrap_or_default();
    found.extend(text.lines().skip(1).filter_map(read_endpoint));
    found
}

/// What a process takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// What it has in memory, in octets.
    pub memory: u64,
    /// Seconds since it started.
    pub uptime: u64,
}

/// Of a process of this machine; `None` where there is none.
pub fn process(pid: u32) -> Option<Process> {
    /// `USER_HZ`, in which the kernel tells of times: 100 on all that Linux runs on here.
    const HZ: u64 = 100;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: u64 = resident?.split_whitespace().next()?.parse().ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // the name may have blanks and brackets; the 22nd field is the start, in ticks
    let started: u64 = stat
        .rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()?;
    let up = fs::read_to_string("/proc/uptime").ok()?;
    let up: u64 = up.split('.').next()?.parse().ok()?;
    Some(Process {
        memory: kib * 1024,
        uptime: up.saturating_sub(started / HZ),
    })
}

/// One line of `/proc/net/tcp` and its kin: local address, state, inode.
fn read_socket(line: &str, protocol: Protocol, listening: &str) -> Option<(Listener, u64)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let (ip, port) = sockets::endpoint(words.get(1)?)?;
    if *words.get(3)? != listening {
        return None;
    }
    let listener = Listener {
        host_ip: (!ip.is_unspecified()).then_some(ip),
        protocol,
        port,
    };
    Some((listener, words.get(9)?.parse().ok()?))
}

/// One line of `/proc/net/sctp/eps` (`net/sctp/proc.c`): the fourth word is the socket's
/// state, 10 where it listens, then come bucket, port, user, inode and addresses.
fn read_endpoint(line: &str) -> Option<(Listener, u64)> {
    let words: Vec<_> = line.split_whitespace().collect();
    if *words.get(3)? != "10" {
        return None;
    }
    let ip = words.get(8)?.parse::<IpAddr>().ok();
    let listener = Listener {
        host_ip: ip.filter(|ip| !ip.is_unspecified()),
        protocol: Protocol::Sctp,
        port: words.get(5)?.parse().ok()?,
    };
    Some((listener, words.get(7)?.parse().ok()?))
}

/// Socket inode to process: its pid and name.
pub(crate) fn holders() -> BTreeMap<u64, (u32, String)> {
    let mut found = BTreeMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<u32>().ok())
        else {
            continue;
        };
        for fd in fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten()
        {
            let Ok(link) = fs::read_link(fd.path()) else {
                continue;
            };
            let inode = link
                .to_str()
                .and_then(|l| l.strip_prefix("socket:[")?.strip_suffix(']'));
            if let Some(inode) = inode.and_then(|inode| inode.parse().ok()) {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                found
                    .entry(inode)
                    .or_insert_with(|| (pid, name.trim().to_owned()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_read() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0";
        let (listener, inode) = read_socket(line, Protocol::Tcp, "0A").unwrap();
        assert_eq!(listener.to_string(), "127.0.0.1:8080/tcp");
        assert_eq!(inode, 4711);
        assert!(read_socket(line, Protocol::Udp, "07").is_none());
        assert!(read_socket("nonsense", Protocol::Tcp, "0A").is_none());
    }

    #[test]
    fn sctp_endpoints_that_listen_are_read() {
        let line = "ae8f19da 56557acb 2   10  34   80        0   532 0.0.0.0 ";
        let (listener, inode) = read_endpoint(line).unwrap();
        assert_eq!((listener.to_string(), inode), ("80/sctp".to_owned(), 532));
        assert!(read_endpoint(&line.replace(" 10 ", " 1 ")).is_none());
        assert!(read_endpoint("ENDPT SOCK").is_none());
    }

    #[test]
    fn a_process_is_known() {
        let own = process(std::process::id()).unwrap();
        assert!(own.memory > 100_000 && own.uptime < 3600, "{own:?}");
        assert_eq!(process(u32::MAX), None);
    }

    #[test]
    fn ipv6_listeners_are_read() {
        let line = "   1: 00000000000000000000000000000000:0035 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 99 2 0";
        let (listener, inode) = read_socket(line, Protocol::Udp, "07").unwrap();
        assert_eq!((listener.host_ip, listener.port, inode), (None, 53, 99));
        let line = line.replacen(
            "00000000000000000000000000000000",
            "0000000000000000FFFF00000100007F",
            1,
        );
        let (listener, _) = read_socket(&line, Protocol::Udp, "07").unwrap();
        assert_eq!(listener.host_ip, Some([127, 0, 0, 1].into()));
    }

    #[test]
    fn a_listener_of_our_own_is_found_with_its_holder() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let held = listeners()
            .into_iter()
            .find(|held| held.listener.port == port)
            .unwrap();
        assert!(
            held.holder
                .unwrap()
                .contains(&format!("pid {}", std::process::id()))
        );
    }
}
