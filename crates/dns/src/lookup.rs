//! What a question's answer is: pure, from the snapshot alone.

use std::net::IpAddr;

use hickory_proto::{
    op::Query,
    rr::{DNSClass, Name, RecordType},
};
use model::names::{Client, Snapshot, Zone};

/// The answer to one question of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// Addresses of the kind that was asked for, at least one, in the
    /// snapshot's order.
    Addresses(Vec<IpAddr>),
    /// The name of the address that was asked for.
    Pointer(&'a str),
    /// The name exists, but has no such record (RFC 2308 §2.2).
    NoData,
    /// The name does not exist (RFC 2308 §2.1).
    NxDomain,
    /// Not ours: the host's servers may know.
    Forward,
    /// Not for this client, or not a question we take.
    Refused,
}

/// A client on this host that is on no network.
static LOCAL: Client = Client {
    networks: Vec::new(),
    forward: true,
};

/// Answers `query` as `client` shall see it.
///
/// A name is searched in the client's networks in their order: in all of them
/// as it stands first, then with its last label taken for a network's name.
/// Addresses that are no client of ours are refused, lest strangers use this
/// as an open resolver; only this host's loopback is forwarded for.
pub fn lookup<'a>(snapshot: &'a Snapshot, client: IpAddr, query: &Query) -> Answer<'a> {
    let client = match snapshot.clients.get(&client) {
        Some(client) => client,
        None if client.is_loopback() => &LOCAL,
        None => return Answer::Refused,
    };
    let kind = query.query_type();
    // zone transfers (RFC 5936, RFC 1995) would show what the client may not see
    let transfer = matches!(kind, RecordType::AXFR | RecordType::IXFR);
    if transfer || !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
        return Answer::Refused;
    }

    let zones = || {
        client
            .networks
            .iter()
            .filter_map(|id| snapshot.networks.get(id))
    };
    if let Some(addresses) = text(query.name()).and_then(|name| find(zones, &name)) {
        let addresses = of_kind(addresses, kind);
        return if addresses.is_empty() {
            Answer::NoData
        } else {
            Answer::Addresses(addresses)
        };
    }
    if let Some(address) = reverse_address(query.name()) {
        if let Some(name) = zones().find_map(|zone| zone.reverse.get(&address)) {
            return match kind {
                RecordType::PTR | RecordType::ANY => Answer::Pointer(name),
                _ => Answer::NoData,
            };
        }
        // ours, but not for this client; nobody outside has to hear of it
        if snapshot
            .networks
            .values()
            .any(|zone| zone.reverse.contains_key(&address))
        {
            return Answer::NxDomain;
        }
    }
    if client.forward {
        Answer::Forward
    } else {
        Answer::NxDomain
    }
}

/// The addresses of a name, if it exists in one of the zones.
fn find<'a, Zones>(zones: impl Fn() -> Zones, name: &str) -> Option<&'a [IpAddr]>
where
    Zones: Iterator<Item = &'a Zone>,
{
    if let Some(addresses) = zones().find_map(|zone| zone.names.get(name)) {
        return Some(addresses);
    }
    // a network's name cannot contain a dot, so there is one way to read this
    if let Some((name, network)) = name.rsplit_once('.') {
        return zones()
            .filter(|zone| zone.name == network)
            .find_map(|zone| zone.names.get(name))
            .map(Vec::as_slice);
    }
    // NXDOMAIN for `back.` would deny `vote.back.` as well (RFC 8020)
    zones().any(|zone| zone.name == name).then_some(&[])
}

fn of_kind(addresses: &[IpAddr], kind: RecordType) -> Vec<IpAddr> {
    let wanted = |address: &&IpAddr| match kind {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        RecordType::ANY => true,
        _ => false,
    };
    addresses.iter().filter(wanted).copied().collect()
}

/// The name as the snapshot has it: lower case, no dot at its end. Not for
/// labels that contain a dot or are not ASCII: those would look like others.
fn text(name: &Name) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        if label.contains(&b'.') || !label.is_ascii() {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(
            label
                .iter()
                .map(|byte| char::from(byte.to_ascii_lowercase())),
        );
    }
    Some(text)
}

/// The address in a reverse name (RFC 1035 §3.5, RFC 3596 §2.5), if it is a
/// whole one.
fn reverse_address(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}
