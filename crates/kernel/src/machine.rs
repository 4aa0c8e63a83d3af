//! What the machine has, for who looks before anything is started: read-only.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Stdio,
};

use nix::{sys::statvfs::statvfs, unistd::geteuid};

use crate::program;

/// Whether this process is root.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// `iptables --version`, such as `iptables v1.8.9 (nf_tables)`. One process.
///
/// # Errors
/// There is no such program.
pub fn iptables_version() -> io::Result<String> {
    let said = program::command("iptables")
        .arg("--version")
        .stdin(Stdio::null())
        .output()?;
    Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned())
}

/// The zone of firewalld's that a link was put into, empty where it is in none.
///
/// # Errors
/// firewalld is not installed, or does not run.
pub fn firewalld_zone(link: &str) -> io::Result<String> {
    /// firewall-cmd(1): `NOT_RUNNING`
    const NOT_RUNNING: i32 = 252;
    let said = program::command("firewall-cmd")
        .arg(format!("--get-zone-of-interface={link}"))
        .stdin(Stdio::null())
        .output()?;
    match said.status.code() {
        Some(NOT_RUNNING) => Err(io::ErrorKind::NotConnected.into()),
        // "no zone" is said on standard error
        _ => Ok(String::from_utf8_lossy(&said.stdout).trim().to_owned()),
    }
}

/// Tables that the older back end of iptables has in this network namespace.
pub fn legacy_tables() -> Vec<String> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let files = [
        "/proc/thread-self/net/ip_tables_names",
        "/proc/thread-self/net/ip6_tables_names",
    ];
    let names = files.map(read).concat();
    let mut names: Vec<_> = names.lines().map(str::to_owned).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// A sysctl by its path below `/proc/sys`, trimmed; `None` where the kernel has none.
pub fn sysctl(path: &str) -> Option<String> {
    let text = fs::read_to_string(Path::new("/proc/sys").join(path)).ok()?;
    Some(text.trim().to_owned())
}

/// The first two numbers of a version, such as the kernel's `6.1.0-32-amd64`.
pub fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|sign: char| !sign.is_ascii_digit());
    let mut next = || numbers.next()?.parse().ok();
    Some((next()?, next()?))
}

/// Octets and files for which a directory has room; of the nearest one that is there.
///
/// # Errors
/// It cannot be asked.
pub fn room(directory: &Path) -> io::Result<(u64, u64)> {
    let mut at = PathBuf::from(directory);
    while !at.exists() && at.pop() {}
    let said = statvfs(&at)?;
    let octets = said.blocks_available() as u64 * said.fragment_size() as u64;
    Ok((octets, said.files_available() as u64))
}

/// The hard limit of open files of this process; `None`: there is none.
pub fn most_files() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    hard_limit(&text, "Max open files")
}

/// Of `Max open files            1024                 524288               files`
fn hard_limit(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Largest packet of a link, in octets.
pub fn mtu(link: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/sys/class/net/{link}/mtu")).ok()?;
    text.trim().parse().ok()
}

/// Bits of IPVS's table of connections: 2 to the power of it are its buckets.
pub fn ipvs_table_bits() -> Option<u32> {
    let text = fs::read_to_string("/sys/module/ip_vs/parameters/conn_tab_bits").ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_by_name() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \nMax open files            1024                 524288               files     \nMax stack size            8388608              unlimited            bytes     \n";
        assert_eq!(hard_limit(text, "Max open files"), Some(524_288));
        assert_eq!(hard_limit(text, "Max stack size"), None);
        assert_eq!(hard_limit(text, "Max nothing"), None);
    }

    #[test]
    fn a_release_begins_with_a_version() {
        assert_eq!(version("6.1.0-32-amd64"), Some((6, 1)));
        assert_eq!(version("5.15"), Some((5, 15)));
        assert_eq!(version("6"), None);
        assert_eq!(version("next"), None);
    }

    #[test]
    fn a_directory_that_is_not_there_yet_has_its_parents_room() {
        let (octets, _) = room(Path::new("/no/such/directory")).unwrap();
        assert_eq!(octets, room(Path::new("/")).unwrap().0);
        assert!(most_files().is_none_or(|most| most > 0));
        assert_eq!(mtu("no-such-link"), None);
        assert_eq!(sysctl("no/such"), None);
        assert!(sysctl("kernel/ostype").is_some());
    }
}
