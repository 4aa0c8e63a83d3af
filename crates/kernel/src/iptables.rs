//! iptables, by way of `iptables-save` and `iptables-restore`: the one interface
//! that the nft and the legacy back end share, and print alike. A restore is one
//! transaction a table: an error in any line leaves the table as it was.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::{self, Write as _},
    process::{Output, Stdio},
};

use plan::netns::{Chains, Family, Jump, Table};

use crate::{Error, netns::Netns, program};

/// Seconds to wait for another program that holds the tables' lock.
const PATIENCE: &str = "30";

/// Which chains are ours.
#[derive(Clone, Debug)]
pub(crate) enum Ownership {
    /// All: the namespace is ours.
    All,
    /// Those whose name is this prefix, a dash, and one word of letters and digits:
    /// another instance's have its name in between.
    Prefix(String),
}

impl Ownership {
    fn owns(&self, chain: &str) -> bool {
        match self {
            Self::All => true,
            Self::Prefix(prefix) => chain
                .strip_prefix(prefix.as_str())
                .and_then(|rest| rest.strip_prefix('-'))
                .is_some_and(|word| {
                    !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric())
                }),
        }
    }
}

pub(crate) fn programs(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::V4 => ("iptables-save", "iptables-restore"),
        Family::V6 => ("ip6tables-save", "ip6tables-restore"),
    }
}

fn table(name: &str) -> Option<Table> {
    [Table::Raw, Table::Mangle, Table::Nat, Table::Filter]
        .into_iter()
        .find(|t| t.as_str() == name)
}

/// Reads our chains out of `iptables-save`'s text; chains without rules are
/// left out where everything is ours, since built-in ones always exist.
fn parse(text: &str, ownership: &Ownership) -> BTreeMap<Table, Chains> {
    let mut tables: BTreeMap<Table, Chains> = BTreeMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            current = table(name);
        }
        let Some(table) = current else { continue };
        let chains = tables.entry(table).or_default();
        if let Some(declared) = line.strip_prefix(':') {
            let chain = declared.split(' ').next().unwrap_or_default();
            if matches!(ownership, Ownership::Prefix(_)) && ownership.owns(chain) {
                chains.own.entry(chain.to_owned()).or_default();
            }
        } else if let Some((chain, rule)) = line
            .strip_prefix("-A ")
            .and_then(|rest| rest.split_once(' '))
        {
            if ownership.owns(chain) {
                chains
                    .own
                    .entry(chain.to_owned())
                    .or_default()
                    .push(rule.to_owned());
            } else if target(rule).is_some_and(|target| ownership.owns(target)) {
                let (chain, rule) = (chain.to_owned(), rule.to_owned());
                chains.jumps.insert(Jump {
                    chain,
                    rule,
                    first: false,
                });
            }
        }
    }
    tables.retain(|_, chains| !(chains.own.is_empty() && chains.jumps.is_empty()));
    tables
}

/// The chain that a rule jumps to. Such a rule ends with it: only targets that
/// are no chains have options of their own, and those with blanks are quoted.
fn target(rule: &str) -> Option<&str> {
    let (before, chain) = rule.rsplit_once(' ')?;
    let option = before.rsplit(' ').next()?;
    ["-j", "-g"].contains(&option).then_some(chain)
}

/// One change to a table, as `plan::netns::Op::Restore` has it.
pub(crate) struct Change<'a> {
    pub(crate) table: Table,
    pub(crate) set: &'a BTreeMap<String, Vec<String>>,
    pub(crate) gone: &'a BTreeSet<String>,
    pub(crate) add: &'a BTreeSet<Jump>,
    pub(crate) remove: &'a BTreeSet<Jump>,
}

fn builtin(chain: &str) -> bool {
    ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"].contains(&chain)
}

/// The text for `iptables-restore --noflush`.
fn render(changes: &[Change<'_>]) -> String {
    let mut text = String::new();
    for change in changes {
        // writing to a String cannot fail
        let mut line = |line: std::fmt::Arguments<'_>| {
            let _ = writeln!(text, "{line}");
        };
        line(format_args!("*{}", change.table.as_str()));
        // declaring a chain makes or empties it
        for chain in change.set.keys().filter(|chain| !builtin(chain)) {
            line(format_args!(":{chain} - [0:0]"));
        }
        for chain in change
            .set
            .keys()
            .chain(change.gone)
            .filter(|chain| builtin(chain))
        {
            line(format_args!("-F {chain}"));
        }
        for jump in change.remove {
            line(format_args!("-D {} {}", jump.chain, jump.rule));
        }
        for chain in change.gone.iter().filter(|chain| !builtin(chain)) {
            line(format_args!("-F {chain}"));
        }
        for (chain, rules) in change.set {
            for rule in rules {
                line(format_args!("-A {chain} {rule}"));
            }
        }
        for jump in change.add {
            let how = if jump.first { "-I" } else { "-A" };
            let at = if jump.first { " 1" } else { "" };
            line(format_args!("{how} {}{at} {}", jump.chain, jump.rule));
        }
        for chain in change.gone.iter().filter(|chain| !builtin(chain)) {
            line(format_args!("-X {chain}"));
        }
        line(format_args!("COMMIT"));
    }
    text
}

/// Reads our chains of a namespace: one process.
pub(crate) fn observe(
    netns: &Netns,
    place: &str,
    family: Family,
    ownership: &Ownership,
) -> Result<BTreeMap<(Family, Table), Chains>, Error> {
    let (save, _) = programs(family);
    let output = netns.run(|| program::command(save).stdin(Stdio::null()).output())?;
    let output = succeeded(save, place, "", output)?;
    let tables = parse(&String::from_utf8_lossy(&output), ownership);
    Ok(tables
        .into_iter()
        .map(|(table, chains)| ((family, table), chains))
        .collect())
}

/// Makes all changes of a family in a namespace: one process, one transaction a table.
pub(crate) fn apply(
    netns: &Netns,
    place: &str,
    family: Family,
    changes: &[Change<'_>],
) -> Result<(), Error> {
    let text = render(changes);
    let (_, program) = programs(family);
    let output = netns.run(|| restore(program, &text))?;
    succeeded(program, place, &text, output).map(drop)
}

/// Feeds rules to `iptables-restore` in the calling thread's namespace.
pub(crate) fn restore(program: &str, text: &str) -> io::Result<Output> {
    let mut child = program::command(program)
        .args(["--noflush", "-w", PATIENCE])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // one that ended early says why on its standard error
        let _ = input.write_all(text.as_bytes());
    }
    child.wait_with_output()
}

/// Its standard output, if the program succeeded.
pub(crate) fn succeeded(
    program: &'static str,
    place: &str,
    text: &str,
    output: io::Result<Output>,
) -> Result<Vec<u8>, Error> {
    let output = output.map_err(|source| Error::Program {
        program,
        package: "iptables",
        source,
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let mut said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.is_empty() {
        said = output.status.to_string();
    }
    if let Some(line) = line_number(&said).and_then(|number| text.lines().nth(number - 1)) {
        said.push_str(&format!(" ({line})"));
    }
    Err(Error::Refused {
        program,
        place: place.to_owned(),
        said,
    })
}

/// The line that an error is about: "line 3 failed", "at line: 3".
fn line_number(said: &str) -> Option<usize> {
    let (_, after) = said.split_once("line")?;
    let after = after.trim_start_matches([':', ' ']);
    let end = after.find(|c: char| !c.is_ascii_digit());
    let number = after[..end.unwrap_or(after.len())].parse().ok()?;
    (number > 0).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = "\
*nat
:PREROUTING ACCEPT [0:0]
:IPVSMESH-A-SNAT - [0:0]
:IPVSMESH-SNAT - [0:0]
-A PREROUTING -p tcp -j DNAT --to-destination 1.2.3.4
-A POSTROUTING -j IPVSMESH-SNAT
-A POSTROUTING -j IPVSMESH-A-SNAT
-A IPVSMESH-SNAT -o ivm0 -j ACCEPT
COMMIT
";

    #[test]
    fn only_our_own_chains_and_jumps_are_read() {
        let tables = parse(SAVED, &Ownership::Prefix("IPVSMESH".to_owned()));
        let nat = &tables[&Table::Nat];
        assert_eq!(nat.own.keys().collect::<Vec<_>>(), ["IPVSMESH-SNAT"]);
        assert_eq!(nat.own["IPVSMESH-SNAT"], ["-o ivm0 -j ACCEPT"]);
        assert_eq!(
            nat.jumps
                .iter()
                .map(|j| j.rule.as_str())
                .collect::<Vec<_>>(),
            ["-j IPVSMESH-SNAT"]
        );
        let other = parse(SAVED, &Ownership::Prefix("IPVSMESH-A".to_owned()));
        assert_eq!(
            other[&Table::Nat].own.keys().collect::<Vec<_>>(),
            ["IPVSMESH-A-SNAT"]
        );
        assert_eq!(parse(SAVED, &Ownership::All)[&Table::Nat].own.len(), 3);
    }

    #[test]
    fn a_restore_touches_only_what_it_names() {
        let set = BTreeMap::from([(
            "IPVSMESH-SNAT".to_owned(),
            vec!["-o ivm0 -j ACCEPT".to_owned()],
        )]);
        let jump = Jump {
            chain: "POSTROUTING".into(),
            rule: "-j IPVSMESH-SNAT".into(),
            first: true,
        };
        let change = Change {
            table: Table::Nat,
            set: &set,
            gone: &BTreeSet::from(["IPVSMESH-OLD".to_owned()]),
            add: &BTreeSet::from([jump]),
            remove: &BTreeSet::new(),
        };
        assert_eq!(
            render(&[change]),
            "*nat\n:IPVSMESH-SNAT - [0:0]\n-F IPVSMESH-OLD\n-A IPVSMESH-SNAT -o ivm0 -j ACCEPT\n\
             -I POSTROUTING 1 -j IPVSMESH-SNAT\n-X IPVSMESH-OLD\nCOMMIT\n"
        );
    }

    #[test]
    fn rules_of_others_that_only_speak_of_our_chains_are_not_ours() {
        let jumps = |rule: &str| {
            let text = format!("*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD {rule}\nCOMMIT\n");
            let tables = parse(&text, &Ownership::Prefix("IPVSMESH".to_owned()));
            tables.get(&Table::Filter).map_or(0, |t| t.jumps.len())
        };
        assert_eq!(jumps("-j IPVSMESH-FWD"), 1);
        assert_eq!(jumps("-i eth0 -g IPVSMESH-FWD"), 1);
        assert_eq!(jumps("-m comment --comment -j -j IPVSMESH-FWD"), 1);
        assert_eq!(
            jumps("-m comment --comment \"-j IPVSMESH-FWD\" -j ACCEPT"),
            0
        );
        assert_eq!(jumps("-j LOG --log-prefix \"to -j IPVSMESH-FWD\""), 0);
        assert_eq!(jumps("-j LOG --log-prefix IPVSMESH-FWD"), 0);
        assert_eq!(jumps("-j IPVSMESH"), 0);
        assert_eq!(jumps("-j IPVSMESH-"), 0);
        assert_eq!(jumps("-j IPVSMESH-A-FWD"), 0);
    }

    #[test]
    fn a_refused_line_is_found() {
        for (said, number) in [
            ("iptables-restore: line 3 failed", Some(3)),
            (
                "iptables-restore v1.8.9 (nf_tables): \nline 12: CHAIN_ADD failed",
                Some(12),
            ),
            (
                "Error occurred at line: 7\nTry `iptables-restore -h'",
                Some(7),
            ),
            ("line 0", None),
            ("Permission denied", None),
            ("line", None),
        ] {
            assert_eq!(line_number(said), number, "{said}");
        }
    }

    /// What iptables 1.8.9 printed of a host with docker, of ours, and of another
    /// instance's, and what one change of everything of ours is.
    #[test]
    fn a_whole_host_is_read_and_rewritten() {
        let saved = include_str!("../tests/data/host.save");
        let ownership = Ownership::Prefix("IPVSMESH".to_owned());
        let seen = parse(saved, &ownership);
        assert_eq!(
            seen.keys().collect::<Vec<_>>(),
            [&Table::Raw, &Table::Nat, &Table::Filter]
        );
        let mut text = String::new();
        for (table, chains) in &seen {
            let change = Change {
                table: *table,
                set: &chains.own,
                gone: &BTreeSet::new(),
                add: &chains.jumps,
                remove: &BTreeSet::new(),
            };
            text.push_str(&render(&[change]));
        }
        assert_eq!(text, include_str!("../tests/data/host.restore"));
        // what is written is read again as it was
        assert_eq!(parse(&text, &ownership), seen);
    }
}
