//! From what a machine has to what is to be done about it: pure functions.

use std::{net::IpAddr, path::Path, time::SystemTime};

use ipnet::IpNet;
use kernel::machine;

use super::Check;

/// Room below which nothing can be written any more, and below which it soon cannot.
const NO_ROOM: u64 = 64 << 20;
const LITTLE_ROOM: u64 = 1 << 30;
/// Connections that a host should be able to track.
const TRACKED: u64 = 65_536;
/// Files that the daemon should be able to open: a few a task, and one a question.
const FILES: u64 = 8192;
/// Neighbours of a task: it and its gateway, in two namespaces.
const NEIGHBOURS: u64 = 4;
/// Bits of IPVS's table that do for some ten thousands of connections.
const TABLE_BITS: u32 = 12;

/// Which back end iptables has, and whether rules of both are there.
pub(super) fn iptables(version: Option<&str>, legacy_tables: &[String]) -> Check {
    const NAME: &str = "iptables";
    let Some(version) = version else {
        return Check::failure(NAME, "there is no iptables", "apt install iptables");
    };
    let nft = version.contains("nf_tables");
    if nft && !legacy_tables.is_empty() {
        return Check::warning(
            NAME,
            format!(
                "{version}; but there are rules of iptables-legacy as well ({}): each packet meets both",
                legacy_tables.join(", ")
            ),
            "see whose they are: iptables-legacy-save; use one of both: update-alternatives --config iptables",
        );
    }
    Check::ok(NAME, version)
}

/// Whether established connections of published ports can go past the host's rules: `tried`
/// is why not, where that was tried. The mesh works without.
pub(super) fn flowtable(wanted: bool, tried: Option<Option<String>>) -> Check {
    const NAME: &str = "flowtable";
    match (wanted, tried) {
        (false, _) => Check::ok(NAME, "not used (--no-flowtable)"),
        (true, None) => Check::ok(NAME, "not tried"),
        (true, Some(None)) => Check::ok(
            NAME,
            "established connections of published ports go past the host's rules",
        ),
        (true, Some(Some(why))) => Check::ok(NAME, format!("not used: {why}")),
    }
}

/// Where firewalld has the link to the mesh: its chains come after all others, and what is
/// of none of its zones may not be forwarded, unless the host translates it.
pub(super) fn firewalld(link: &str, zone: Option<&str>) -> Check {
    const NAME: &str = "firewalld";
    match zone {
        None => Check::ok(NAME, "does not run"),
        Some("") => Check::warning(
            NAME,
            format!(
                "{link} is in none of its zones: it refuses what tasks send to other machines, and static services"
            ),
            format!(
                "firewall-cmd --permanent --zone=trusted --add-interface={link} && firewall-cmd --reload"
            ),
        ),
        Some(zone) => Check::ok(NAME, format!("{link} is in its zone {zone}")),
    }
}

/// Connection tracking: how many are there, of how many.
pub(super) fn tracking(count: Option<u64>, most: Option<u64>) -> Check {
    const NAME: &str = "conntrack";
    let (Some(count), Some(most)) = (count, most) else {
        return Check::ok(NAME, "not in use yet");
    };
    let found = format!("{count} of {most} connections");
    let fix = format!(
        "sysctl -w net.netfilter.nf_conntrack_max={}",
        (most * 2).max(4 * TRACKED)
    );
    match () {
        () if count >= most => Check::failure(NAME, format!("the table is full: {found}"), fix),
        () if count * 5 > most * 4 => Check::warning(NAME, format!("nearly full: {found}"), fix),
        () if most < TRACKED => Check::warning(NAME, format!("the table is small: {found}"), fix),
        () => Check::ok(NAME, found),
    }
}

/// IPVS's table of connections, once its module is loaded.
pub(super) fn table_bits(bits: Option<u32>) -> Check {
    const NAME: &str = "ipvs table";
    let Some(bits) = bits else {
        return Check::ok(NAME, "not loaded yet");
    };
    let found = format!("2^{bits} buckets");
    if bits < TABLE_BITS {
        let fix = "echo options ip_vs conn_tab_bits=16 > /etc/modprobe.d/ip_vs.conf, and reboot";
        return Check::warning(NAME, format!("{found}: slow with many connections"), fix);
    }
    Check::ok(NAME, found)
}

/// Forwarding, which the daemon turns on; it is to stay so.
pub(super) fn forwarding(value: Option<&str>, runs: bool) -> Check {
    const NAME: &str = "forwarding";
    match (value, runs) {
        (Some("1"), _) => Check::ok(NAME, "net.ipv4.ip_forward is 1"),
        (Some(_), false) => Check::ok(
            NAME,
            "net.ipv4.ip_forward is 0; ipvsmeshd sets it to 1 when it starts",
        ),
        (Some(_), true) => Check::failure(
            NAME,
            "net.ipv4.ip_forward is 0, though a mesh is there: nothing is forwarded",
            "sysctl -w net.ipv4.ip_forward=1, and take out what sets it to 0: grep -r ip_forward /etc/sysctl.d /etc/sysctl.conf",
        ),
        (None, _) => Check::failure(NAME, "/proc/sys cannot be read", "mount -t proc proc /proc"),
    }
}

/// Networks of the mesh that are routed elsewhere as well.
pub(super) fn conflicts(ours: &[IpNet], others: &[(IpNet, String)]) -> Check {
    const NAME: &str = "pools";
    let overlaps = |one: &IpNet, other: &IpNet| {
        one.contains(&other.network()) || other.contains(&one.network())
    };
    let found = others.iter().filter_map(|(to, link)| {
        let pool = ours.iter().find(|pool| overlaps(pool, to))?;
        Some(format!("{pool} of the mesh overlaps {to} on {link}"))
    });
    let found: Vec<_> = found.collect();
    if !found.is_empty() {
        return Check::failure(
            NAME,
            found.join("; "),
            "take that route away, or begin a new mesh with other ranges: ipvsmeshd --task-pool, --vip-pool, --node-pool",
        );
    }
    let ours: Vec<_> = ours.iter().map(ToString::to_string).collect();
    Check::ok(NAME, format!("{}: no other route there", ours.join(", ")))
}

/// Docker, which only tasks in containers need.
pub(super) fn docker(said: Result<(String, String), String>, socket: &Path) -> Check {
    const NAME: &str = "docker";
    // bind mounts of FIFOs, and `init`
    const OLDEST: (u32, u32) = (1, 41);
    match said {
        Err(_) if !socket.exists() => Check::ok(NAME, "none: tasks of --runtime process only"),
        Err(why) => Check::warning(NAME, why, "systemctl start docker"),
        Ok((version, api)) => {
            let found = format!("{version}, API {api}");
            match machine::version(&api).is_some_and(|api| api < OLDEST) {
                true => Check::failure(
                    NAME,
                    format!("{found} is too old"),
                    "install Docker 20.10 or newer, or use --runtime process",
                ),
                false => Check::ok(NAME, found),
            }
        }
    }
}

/// Meshes whose namespaces are there and whose daemon does not answer.
pub(super) fn leftovers(dead: &[String]) -> Check {
    const NAME: &str = "leftovers";
    match dead {
        [] => Check::ok(NAME, "none"),
        dead => {
            let named: Vec<_> = dead
                .iter()
                .map(|name| if name.is_empty() { "default" } else { name })
                .collect();
            let flags = match dead.first().map(String::as_str) {
                None | Some("") => String::new(),
                Some(name) => format!(" --instance {name}"),
            };
            Check::warning(
                NAME,
                format!(
                    "the daemon of instance {} does not run; what it made is there and goes on",
                    named.join(", ")
                ),
                format!(
                    "start it: systemctl start ipvsmeshd; or remove all of it: ipvsmeshd{flags} --cleanup"
                ),
            )
        }
    }
}

/// A clock that is before the making of this program is wrong.
pub(super) fn clock(now: SystemTime, made: Option<SystemTime>, synchronized: bool) -> Check {
    const NAME: &str = "clock";
    const FIX: &str = "timedatectl set-ntp true";
    if made.is_some_and(|made| now < made) {
        return Check::failure(NAME, "it is earlier than this program was made", FIX);
    }
    match synchronized {
        true => Check::ok(NAME, "synchronized"),
        false => Check::ok(NAME, "plausible; whether it is synchronized is not known"),
    }
}

/// The hard limit of open files.
pub(super) fn files(most: Option<u64>) -> Check {
    const NAME: &str = "open files";
    match most {
        Some(most) if most < FILES => Check::warning(
            NAME,
            format!("at most {most}"),
            "LimitNOFILE=65536 in the service's unit, or: ulimit -Hn 65536",
        ),
        Some(most) => Check::ok(NAME, format!("at most {most}")),
        None => Check::ok(NAME, "no limit"),
    }
}

/// The table of neighbours, which all namespaces share.
pub(super) fn neighbours(most: Option<u64>, tasks: u64) -> Check {
    const NAME: &str = "neighbours";
    let Some(most) = most else {
        return Check::ok(NAME, "no limit is known");
    };
    let found = format!("room for {most}, {tasks} tasks");
    if tasks * NEIGHBOURS > most {
        let to = (tasks * NEIGHBOURS * 2).next_power_of_two();
        let fix = format!(
            "sysctl -w net.ipv4.neigh.default.gc_thresh3={to} net.ipv4.neigh.default.gc_thresh2={}",
            to / 2
        );
        return Check::warning(NAME, format!("{found}: addresses may not be found"), fix);
    }
    Check::ok(NAME, found)
}

/// The host's own name servers; each with whether it answered.
pub(super) fn name_servers(file: &Path, asked: &[(IpAddr, Result<(), String>)]) -> Check {
    const NAME: &str = "name servers";
    let file = file.display();
    let said = asked.iter().map(|(server, said)| match said {
        Ok(()) => format!("{server} answers"),
        Err(why) => format!("{server}: {why}"),
    });
    let said: Vec<_> = said.collect();
    let fix = format!(
        "name one that answers in {file}: tasks' names outside of the mesh are asked there"
    );
    match (asked, asked.iter().any(|(_, said)| said.is_ok())) {
        ([], _) => Check::warning(NAME, format!("{file} names none"), fix),
        (_, true) => Check::ok(NAME, said.join(", ")),
        (_, false) => Check::warning(NAME, said.join(", "), fix),
    }
}

/// Links on which packets of the mesh's size do not fit.
pub(super) fn mtu(ours: u32, links: &[(String, u32)]) -> Check {
    const NAME: &str = "mtu";
    let small: Vec<_> = links.iter().filter(|(_, mtu)| *mtu < ours).collect();
    match small.iter().map(|(_, mtu)| *mtu).min() {
        None => Check::ok(NAME, format!("{ours} fits every link")),
        Some(least) => {
            let named: Vec<_> = small
                .iter()
                .map(|(link, mtu)| format!("{link} ({mtu})"))
                .collect();
            Check::warning(
                NAME,
                format!("the mesh's {ours} does not fit {}", named.join(", ")),
                format!("start ipvsmeshd with --mtu {least}"),
            )
        }
    }
}

/// Room for the store and for logs: octets and files.
pub(super) fn room(directory: &Path, room: Result<(u64, u64), String>) -> Check {
    const NAME: &str = "disk";
    let directory = directory.display();
    let fix = format!("make room: du -xh {directory} | sort -h | tail");
    match room {
        Err(why) => Check::failure(NAME, format!("{directory}: {why}"), fix),
        Ok((octets, files)) => {
            let found = format!("{directory} has {} MB free", octets >> 20);
            match () {
                () if octets < NO_ROOM => Check::failure(NAME, found, fix),
                // file systems that make files as they are needed say 0
                () if octets < LITTLE_ROOM || (1..1000).contains(&files) => {
                    Check::warning(NAME, found, fix)
                }
                () => Check::ok(NAME, found),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Verdict::{self, Failure, Ok as Fine, Warning};
    use super::*;

    #[track_caller]
    fn is(check: &Check, verdict: Verdict) {
        assert_eq!(check.verdict, verdict, "{check:?}");
        assert_eq!(check.fix.is_empty(), verdict == Fine, "{check:?}");
        assert!(!check.found.is_empty());
    }

    #[test]
    fn one_back_end_of_iptables_is_enough() {
        let legacy = ["filter".to_owned()];
        is(&iptables(Some("iptables v1.8.9 (nf_tables)"), &[]), Fine);
        is(&iptables(Some("iptables v1.8.9 (legacy)"), &legacy), Fine);
        is(
            &iptables(Some("iptables v1.8.9 (nf_tables)"), &legacy),
            Warning,
        );
        is(&iptables(None, &[]), Failure);
    }

    #[test]
    fn a_mesh_without_a_flowtable_is_well() {
        let too_old = || Some("Linux 5.10".to_owned());
        for (wanted, tried) in [
            (false, None),
            (true, None),
            (true, Some(None)),
            (true, Some(too_old())),
        ] {
            is(&flowtable(wanted, tried), Fine);
        }
        let found = flowtable(true, Some(too_old())).found;
        assert!(found.contains("not used: Linux 5.10"), "{found}");
    }

    #[test]
    fn firewalld_is_told_of_the_link() {
        is(&firewalld("ivm0", None), Fine);
        is(&firewalld("ivm0", Some("trusted")), Fine);
        let unknown = firewalld("ivm0", Some(""));
        is(&unknown, Warning);
        assert!(unknown.fix.contains("--add-interface=ivm0"), "{unknown:?}");
    }

    #[test]
    fn tables_that_are_full_are_found() {
        is(&tracking(Some(10), Some(262_144)), Fine);
        is(&tracking(None, None), Fine);
        is(&tracking(Some(1), Some(100)), Warning);
        is(&tracking(Some(230_000), Some(262_144)), Warning);
        is(&tracking(Some(262_144), Some(262_144)), Failure);
        is(&table_bits(Some(8)), Warning);
        is(&table_bits(Some(16)), Fine);
        is(&neighbours(Some(1024), 10), Fine);
        is(&neighbours(Some(1024), 1000), Warning);
        is(&files(Some(1024)), Warning);
        is(&files(None), Fine);
    }

    #[test]
    fn forwarding_is_the_daemons_until_it_was_there() {
        is(&forwarding(Some("0"), false), Fine);
        is(&forwarding(Some("1"), true), Fine);
        is(&forwarding(Some("0"), true), Failure);
        is(&forwarding(None, false), Failure);
    }

    #[test]
    fn pools_conflict_with_routes_that_overlap() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let ours = [net("10.100.0.0/14"), net("10.200.0.0/14")];
        let on = |text: &str| (net(text), "tun0".to_owned());
        is(&conflicts(&ours, &[on("192.168.0.0/16")]), Fine);
        is(&conflicts(&ours, &[on("10.101.3.0/24")]), Failure);
        let wide = conflicts(&ours, &[on("10.0.0.0/8")]);
        is(&wide, Failure);
        assert!(wide.found.contains("tun0"), "{wide:?}");
    }

    #[test]
    fn docker_may_be_absent_but_not_old() {
        let here = Path::new("/");
        let said = |version: &str, api: &str| Ok((version.to_owned(), api.to_owned()));
        is(&docker(said("20.10.24", "1.41"), here), Fine);
        is(&docker(said("1.13", "1.25"), here), Failure);
        is(&docker(Err("it does not answer".to_owned()), here), Warning);
        is(
            &docker(Err("gone".to_owned()), Path::new("/no/such/socket")),
            Fine,
        );
    }

    #[test]
    fn what_is_left_is_named_with_its_flags() {
        is(&leftovers(&[]), Fine);
        let found = leftovers(&["blue".to_owned()]);
        is(&found, Warning);
        assert!(found.fix.contains("--instance blue --cleanup"), "{found:?}");
        assert!(leftovers(&[String::new()]).found.contains("default"));
    }

    #[test]
    fn a_clock_before_its_program_is_wrong() {
        let now = SystemTime::now();
        let later = now + Duration::from_secs(60);
        is(&clock(now, Some(later), true), Failure);
        is(&clock(later, Some(now), true), Fine);
        is(&clock(now, None, false), Fine);
    }

    #[test]
    fn servers_links_and_disks_have_limits() {
        let file = Path::new("/etc/resolv.conf");
        let server = IpAddr::from([127, 0, 0, 53]);
        is(&name_servers(file, &[]), Warning);
        is(
            &name_servers(file, &[(server, Err("silence".to_owned()))]),
            Warning,
        );
        is(&name_servers(file, &[(server, Ok(()))]), Fine);
        let links = [("eth0".to_owned(), 1500), ("wg0".to_owned(), 1420)];
        let small = mtu(1500, &links);
        is(&small, Warning);
        assert!(small.fix.contains("--mtu 1420"), "{small:?}");
        is(&mtu(1420, &links), Fine);
        let at = Path::new("/var/lib/ipvsmesh");
        is(&room(at, Ok((10 << 30, 0))), Fine);
        is(&room(at, Ok((10 << 30, 3))), Warning);
        is(&room(at, Ok((100 << 20, 0))), Warning);
        is(&room(at, Ok((1 << 20, 0))), Failure);
        is(&room(at, Err("no".to_owned())), Failure);
    }
}
