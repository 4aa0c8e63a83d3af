//! iptables, by way of `iptables-save` and `iptables-restore`: the one interface
//! that the nft and the legacy back end share. A restore is one transaction: an
//! error in any line leaves everything as it was.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::Write as _,
    process::{Command, Stdio},
};

use plan::netns::{Chains, Family, Jump, Table};

use crate::{Error, netns::Netns};

/// Which chains are ours.
#[derive(Clone, Debug)]
pub(crate) enum Ownership {
    /// All: the namespace is ours.
    All,
    /// Those whose name is this prefix, a dash, and a word without a dash.
    Prefix(String),
}

impl Ownership {
    fn owns(&self, chain: &str) -> bool {
        match self {
            Self::All => true,
            Self::Prefix(prefix) => chain
                .strip_prefix(prefix.as_str())
                .and_then(|rest| rest.strip_prefix('-'))
                .is_some_and(|word| !word.is_empty() && !word.contains('-')),
        }
    }
}

fn programs(family: Family) -> (&'static str, &'static str) {
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

/// The chain that a rule jumps to.
fn target(rule: &str) -> Option<&str> {
    let mut words = rule.split(' ');
    words.find(|word| *word == "-j" || *word == "-g")?;
    words.next()
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
    family: Family,
    ownership: &Ownership,
) -> Result<BTreeMap<(Family, Table), Chains>, Error> {
    let (save, _) = programs(family);
    let output = netns
        .run(|| Command::new(save).stdin(Stdio::null()).output())?
        .map_err(|source| Error::Program {
            program: save,
            package: "iptables",
            source,
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Refused {
            program: save,
            said,
        });
    }
    let tables = parse(&String::from_utf8_lossy(&output.stdout), ownership);
    Ok(tables
        .into_iter()
        .map(|(table, chains)| ((family, table), chains))
        .collect())
}

/// Makes all changes of a family in a namespace: one process, one transaction a table.
pub(crate) fn apply(netns: &Netns, family: Family, changes: &[Change<'_>]) -> Result<(), Error> {
    let (_, restore) = programs(family);
    let text = render(changes);
    let failed = |source| Error::Program {
        program: restore,
        package: "iptables",
        source,
    };
    let output = netns
        .run(|| {
            let mut child = Command::new(restore)
                .args(["--noflush", "-w"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()?;
            if let Some(mut input) = child.stdin.take() {
                // one that ended early says why on its standard error
                let _ = input.write_all(text.as_bytes());
            }
            child.wait_with_output()
        })?
        .map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Refused {
        program: restore,
        said: format!("{said}\n{text}"),
    })
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
}
