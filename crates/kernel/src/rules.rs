//! The host's rules with what they have counted, for showing.

use std::process::Stdio;

use plan::netns::{Family, Table};

use crate::{Error, iptables, program};

/// A rule with its counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountedRule {
    /// The chain that it is in.
    pub chain: String,
    /// The rule, as `iptables-save` prints it, without `-A CHAIN `.
    pub rule: String,
    /// Packets that it fitted since its table was written; in `nat`, first ones of
    /// connections only.
    pub packets: u64,
    /// Their octets.
    pub bytes: u64,
}

/// All rules of a table in the caller's network namespace: one process.
///
/// # Errors
/// The program is missing, or failed.
pub fn counted(family: Family, table: Table) -> Result<Vec<CountedRule>, Error> {
    let (save, _) = iptables::programs(family);
    let mut command = program::command(save);
    let output = command
        .args(["-c", "-t", table.as_str()])
        .stdin(Stdio::null())
        .output();
    let text = iptables::succeeded(save, "the host's namespace", "", output)?;
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().filter_map(read).collect())
}

/// `[PACKETS:BYTES] -A CHAIN RULE`
fn read(line: &str) -> Option<CountedRule> {
    let (counters, rest) = line.strip_prefix('[')?.split_once("] -A ")?;
    let (packets, bytes) = counters.split_once(':')?;
    let (chain, rule) = rest.split_once(' ')?;
    Some(CountedRule {
        chain: chain.to_owned(),
        rule: rule.to_owned(),
        packets: packets.parse().ok()?,
        bytes: bytes.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_with_their_counters() {
        let rule = read("[12:720] -A IPVSMESH-INGRESS -p tcp -j DNAT").unwrap();
        assert_eq!(
            (&*rule.chain, &*rule.rule),
            ("IPVSMESH-INGRESS", "-p tcp -j DNAT")
        );
        assert_eq!((rule.packets, rule.bytes), (12, 720));
        for other in [
            "*nat",
            ":PREROUTING ACCEPT [0:0]",
            "COMMIT",
            "[a:b] -A X y",
            "-A X y",
        ] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
