//! What a namespace counts of packets that it did not let through: by rules of
//! iptables that drop or refuse, by the check of source addresses, by a full table of
//! connection tracking, by full queues. Read before and after a packet was sent, the
//! difference names who dropped it (or another packet at the same moment).

use std::{collections::BTreeMap, process::Stdio};

use plan::netns::Family;

use crate::{Error, netns::Netns, program, sockets::read};

const NETSTAT: &str = "/proc/thread-self/net/netstat";
const SNMP: &str = "/proc/thread-self/net/snmp";
const TRACKING: &str = "/proc/thread-self/net/stat/nf_conntrack";
const TRACKED: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
const MOST_TRACKED: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// What a namespace has counted so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rules that drop or refuse and policies that drop, in their order.
    pub rules: Vec<Rule>,
    /// Packets whose source address is not where it came from (`rp_filter`).
    pub reverse_path: u64,
    /// Connections that had no room in the table of connection tracking.
    pub untracked: u64,
    /// Connections that are tracked, and how many may be; `None` without tracking.
    pub tracked: Option<(u64, u64)>,
    /// Connections that a listener had no room for.
    pub listen_overflows: u64,
    /// Datagrams that a program has received.
    pub datagrams: u64,
}

/// A rule that drops or refuses what it matches, or a policy that drops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// As `iptables-save` prints it, without `-A CHAIN `; `policy DROP` for a policy.
    pub text: String,
    /// Chains that the rules before it in its chain jump to; of a policy none are known.
    pub behind: Vec<String>,
    /// Packets that it matched.
    pub packets: u64,
}

/// What did not let packets through meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dropped {
    /// A rule.
    Rule(Rule),
    /// `rp_filter`.
    ReversePath(u64),
    /// Connection tracking had no room.
    Untracked(u64),
    /// A listener had no room.
    ListenOverflow(u64),
}

impl Counts {
    /// What did not let packets through since those were read.
    pub fn since(&self, before: &Self) -> Vec<Dropped> {
        let mut found = Vec::new();
        let more = |now: u64, then: u64| Some(now.saturating_sub(then)).filter(|n| *n > 0);
        found.extend(more(self.reverse_path, before.reverse_path).map(Dropped::ReversePath));
        found.extend(more(self.untracked, before.untracked).map(Dropped::Untracked));
        for rule in &self.rules {
            let same = |other: &&Rule| {
                (&other.table, &other.chain, &other.text) == (&rule.table, &rule.chain, &rule.text)
            };
            let then = before
                .rules
                .iter()
                .find(same)
                .map_or(0, |rule| rule.packets);
            if let Some(packets) = more(rule.packets, then) {
                let rule = rule.clone();
                found.push(Dropped::Rule(Rule { packets, ..rule }));
            }
        }
        found.extend(
            more(self.listen_overflows, before.listen_overflows).map(Dropped::ListenOverflow),
        );
        found
    }
}

/// Reads what a namespace has counted: one process. Rules that cannot be read there are
/// left out.
///
/// # Errors
/// The namespace cannot be entered, or /proc not be read.
pub fn counts(netns: &Netns, family: Family) -> Result<Counts, Error> {
    netns.run(|| {
        let save = match family {
            Family::V4 => "iptables-save",
            Family::V6 => "ip6tables-save",
        };
        let saved = program::command(save)
            .arg("--counters")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output();
        let saved = saved.map(|output| output.stdout).unwrap_or_default();
        let (netstat, snmp) = (read(NETSTAT)?, read(SNMP)?);
        let number = |path| Ok::<_, Error>(read(path)?.trim().parse::<u64>().ok());
        Ok(Counts {
            rules: rules(&String::from_utf8_lossy(&saved)),
            reverse_path: counter(&netstat, "TcpExt:", "IPReversePathFilter"),
            untracked: untracked(&read(TRACKING)?),
            tracked: number(TRACKED)?.zip(number(MOST_TRACKED)?),
            listen_overflows: counter(&netstat, "TcpExt:", "ListenOverflows"),
            datagrams: counter(&snmp, "Udp:", "InDatagrams"),
        })
    })?
}

/// Those of `iptables-save --counters`' rules that let nothing through.
fn rules(text: &str) -> Vec<Rule> {
    let (mut found, mut table) = (Vec::new(), "");
    let mut jumps: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let (chain, text, counted, behind) = if let Some(name) = line.strip_prefix('*') {
            (table, jumps) = (name, BTreeMap::new());
            continue;
        } else if let Some(declared) = line.strip_prefix(':') {
            let mut words = declared.split(' ');
            let (Some(chain), Some("DROP"), Some(counted)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            (chain, "policy DROP", counted, Vec::new())
        } else {
            let rule = line.split_once(" -A ");
            let rule = rule.and_then(|(counted, rule)| Some((counted, rule.split_once(' ')?)));
            let Some((counted, (chain, rule))) = rule else {
                continue;
            };
            let behind = jumps.entry(chain).or_default();
            match target(rule) {
                Some("DROP" | "REJECT") => (chain, rule, counted, behind.clone()),
                other => {
                    behind.extend(other.map(str::to_owned));
                    continue;
                }
            }
        };
        found.push(Rule {
            table: table.to_owned(),
            chain: chain.to_owned(),
            text: text.to_owned(),
            behind,
            packets: packets(counted),
        });
    }
    found
}

/// What follows the option for it.
fn target(rule: &str) -> Option<&str> {
    let mut words = rule.split(' ').skip_while(|word| *word != "-j");
    words.nth(1)
}

/// Of `[12:720]`, the first number.
fn packets(text: &str) -> u64 {
    let text = text.trim_start_matches('[');
    let number = text.split(':').next().and_then(|n| n.parse().ok());
    number.unwrap_or(0)
}

/// A counter of `/proc/net/netstat` and `/proc/net/snmp`: a line of names, then one of
/// values, both with the same first word.
fn counter(text: &str, group: &str, name: &str) -> u64 {
    let mut lines = text.lines().filter(|line| line.starts_with(group));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else {
        return 0;
    };
    let at = names.split_whitespace().position(|word| word == name);
    let value = at.and_then(|at| values.split_whitespace().nth(at));
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

/// `drop` of `/proc/net/stat/nf_conntrack`, which has a line a processor, in hexadecimal.
fn untracked(text: &str) -> u64 {
    let mut lines = text.lines();
    let names = lines.next().unwrap_or_default();
    let Some(at) = names.split_whitespace().position(|word| word == "drop") else {
        return 0;
    };
    let value = |line: &str| u64::from_str_radix(line.split_whitespace().nth(at)?, 16).ok();
    lines.filter_map(value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "\
# Generated by iptables-save v1.8.9 (nf_tables) on Thu Nov 26 12:00:00 2026
*filter
:INPUT ACCEPT [10:600]
:FORWARD DROP [4:240]
:DOCKER-USER - [0:0]
[3:180] -A FORWARD -j IPVSMESH-FWD
[7:420] -A FORWARD -s 10.0.0.0/8 -m comment --comment \"mine\" -j DROP
[1:60] -A DOCKER-USER -j REJECT --reject-with icmp-port-unreachable
[1:60] -A DOCKER-USER -j DROPPED
COMMIT
*mangle
:HAIRPIN - [0:0]
[2:120] -A HAIRPIN -j DROP
COMMIT
";

    #[test]
    fn rules_that_refuse_are_found_with_their_counters() {
        let found = rules(SAVED);
        let shown: Vec<_> = found
            .iter()
            .map(|rule| (&*rule.table, &*rule.chain, rule.packets))
            .collect();
        let expected = [
            ("filter", "FORWARD", 4),
            ("filter", "FORWARD", 7),
            ("filter", "DOCKER-USER", 1),
            ("mangle", "HAIRPIN", 2),
        ];
        assert_eq!(shown, expected);
        assert_eq!(found[1].behind, ["IPVSMESH-FWD"]);
        assert_eq!(rules("nonsense\n:\n[1 -A\n"), []);
    }

    #[test]
    fn a_target_is_what_follows_the_option() {
        assert_eq!(target("-s 10.0.0.0/8 -j DROP"), Some("DROP"));
        assert_eq!(target("-j REJECT --reject-with tcp-reset"), Some("REJECT"));
        assert_eq!(target("-g DROP"), None);
        assert_eq!(target("-j"), None);
    }

    #[test]
    fn only_what_rose_has_dropped() {
        let before = Counts {
            rules: rules(SAVED),
            untracked: 5,
            ..Counts::default()
        };
        assert_eq!(before.since(&before), []);
        let mut after = before.clone();
        after.rules[1].packets += 2;
        after.reverse_path = 1;
        after.untracked = 6;
        let rule = Rule {
            packets: 2,
            ..before.rules[1].clone()
        };
        let expected = [
            Dropped::ReversePath(1),
            Dropped::Untracked(1),
            Dropped::Rule(rule),
        ];
        assert_eq!(after.since(&before), expected);
        // a rule that is new has counted from nothing
        let nothing = Counts::default();
        assert_eq!(before.since(&nothing).len(), 5);
    }

    #[test]
    fn the_kernels_counters_are_read_by_name() {
        let text = "TcpExt: SyncookiesSent ListenOverflows IPReversePathFilter\nTcpExt: 1 2 3\nIpExt: InNoRoutes\nIpExt: 4\n";
        assert_eq!(counter(text, "TcpExt:", "IPReversePathFilter"), 3);
        assert_eq!(counter(text, "TcpExt:", "Nothing"), 0);
        assert_eq!(counter("TcpExt: a", "TcpExt:", "a"), 0);
        let text = "entries  found drop early_drop\n0000000a 00000001 0000000f 00000000\n0000000a 00000001 00000001 00000000\n";
        assert_eq!(untracked(text), 16);
        assert_eq!(untracked(""), 0);
    }

    #[test]
    fn this_namespace_can_be_counted() {
        let here = Netns::current().unwrap();
        let counted = counts(&here, Family::V4).unwrap();
        assert!(counts(&here, Family::V4).unwrap().datagrams >= counted.datagrams);
    }
}
