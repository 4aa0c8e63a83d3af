//! What a client is told: a pure function of the snapshot, the client's address
//! and the question.

use std::net::IpAddr;

use hickory_proto::rr::{DNSClass, Name, RecordType};
use ipnet::IpNet;
use model::names::{Client, Snapshot, Zone};

/// What is to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// These addresses, in this order, not shuffled yet.
    Addresses(Vec<IpAddr>),
    /// This name (PTR), without a final dot.
    Name(String),
    /// The name exists, but has no record of this type (RFC 2308 §2.2).
    NoData,
    /// The name does not exist (RFC 2308 §2.1).
    NoSuchName,
    /// Ask the host's servers.
    Forward,
    /// Not for this client (RFC 1035 §4.1.1, RCODE 5).
    Refused,
}

/// Looks a question up.
pub fn lookup(
    snapshot: &Snapshot,
    client: IpAddr,
    name: &Name,
    record_type: RecordType,
    class: DNSClass,
) -> Answer {
    let Some(client) = snapshot.clients.get(&client.to_canonical()) else {
        // a stranger: this is no open resolver
        return Answer::Refused;
    };
    if class != DNSClass::IN {
        return elsewhere(client);
    }
    let zones: Vec<&Zone> = client
        .networks
        .iter()
        .filter_map(|id| snapshot.networks.get(id))
        .collect();
    let text = name.to_ascii().trim_end_matches('.').to_ascii_lowercase();
    if let Ok(address) = name.parse_arpa_name() {
        return reverse(&zones, address, record_type, client);
    }
    for zone in &zones {
        let short = text
            .strip_suffix(&zone.name)
            .and_then(|rest| rest.strip_suffix('.'));
        let found = zone.names.get(&text).or_else(|| zone.names.get(short?));
        let Some(addresses) = found else { continue };
        let wanted: Vec<IpAddr> = addresses
            .iter()
            .copied()
            .filter(|address| match record_type {
                RecordType::A => address.is_ipv4(),
                RecordType::AAAA => address.is_ipv6(),
                RecordType::ANY => true,
                _ => false,
            })
            .collect();
        return if wanted.is_empty() {
            Answer::NoData
        } else {
            Answer::Addresses(wanted)
        };
    }
    elsewhere(client)
}

fn reverse(zones: &[&Zone], net: IpNet, record_type: RecordType, client: &Client) -> Answer {
    let whole = if net.addr().is_ipv4() { 32 } else { 128 };
    let found = zones.iter().find_map(|zone| zone.reverse.get(&net.addr()));
    match found {
        Some(name) if net.prefix_len() == whole => match record_type {
            RecordType::PTR | RecordType::ANY => Answer::Name(name.clone()),
            _ => Answer::NoData,
        },
        _ => elsewhere(client),
    }
}

fn elsewhere(client: &Client) -> Answer {
    if client.forward {
        Answer::Forward
    } else {
        Answer::NoSuchName
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn snapshot() -> Snapshot {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let zone = |name: &str, vip: &str| Zone {
            name: name.to_owned(),
            names: BTreeMap::from([
                ("vote".to_owned(), vec![ip(vip)]),
                (
                    "tasks.vote".to_owned(),
                    vec![ip("10.100.0.2"), ip("10.100.0.3")],
                ),
                ("rr".to_owned(), vec![]),
            ]),
            reverse: BTreeMap::from([(ip(vip), format!("vote.{name}"))]),
        };
        let client = |networks: &[&str], forward| Client {
            networks: networks.iter().map(|n| (*n).to_owned()).collect(),
            forward,
        };
        Snapshot {
            revision: 1,
            ttl: 2,
            networks: BTreeMap::from([
                ("a".to_owned(), zone("back", "10.200.0.1")),
                ("b".to_owned(), zone("front", "10.200.16.1")),
            ]),
            clients: BTreeMap::from([
                (ip("10.100.0.2"), client(&["a"], true)),
                (ip("10.100.16.2"), client(&["b"], false)),
                (ip("10.100.16.3"), client(&["b", "a"], true)),
            ]),
            upstreams: vec![],
        }
    }

    fn ask(client: &str, name: &str, record_type: RecordType) -> Answer {
        let name = Name::from_ascii(name).unwrap();
        lookup(
            &snapshot(),
            client.parse().unwrap(),
            &name,
            record_type,
            DNSClass::IN,
        )
    }

    fn addresses(list: &[&str]) -> Answer {
        Answer::Addresses(list.iter().map(|a| a.parse().unwrap()).collect())
    }

    #[test]
    fn names_are_seen_on_the_clients_networks_only() {
        let a = RecordType::A;
        assert_eq!(ask("10.100.0.2", "vote.", a), addresses(&["10.200.0.1"]));
        assert_eq!(ask("10.100.0.2", "VOTE.", a), addresses(&["10.200.0.1"]));
        assert_eq!(
            ask("10.100.0.2", "vote.back.", a),
            addresses(&["10.200.0.1"])
        );
        assert_eq!(ask("10.100.0.2", "vote.front.", a), Answer::Forward);
        assert_eq!(ask("10.100.16.2", "vote.", a), addresses(&["10.200.16.1"]));
        assert_eq!(ask("10.100.16.3", "vote.", a), addresses(&["10.200.16.1"]));
        assert_eq!(
            ask("10.100.16.3", "vote.back.", a),
            addresses(&["10.200.0.1"])
        );
        assert_eq!(
            ask("10.100.0.2", "tasks.vote.", a),
            addresses(&["10.100.0.2", "10.100.0.3"])
        );
        assert_eq!(ask("192.0.2.1", "vote.", a), Answer::Refused);
    }

    #[test]
    fn nodata_and_nxdomain_are_two_things() {
        assert_eq!(ask("10.100.0.2", "vote.", RecordType::AAAA), Answer::NoData);
        assert_eq!(ask("10.100.0.2", "vote.", RecordType::MX), Answer::NoData);
        assert_eq!(ask("10.100.0.2", "rr.", RecordType::A), Answer::NoData);
        assert_eq!(
            ask("10.100.16.2", "nothing.", RecordType::A),
            Answer::NoSuchName
        );
        assert_eq!(
            ask("10.100.0.2", "example.com.", RecordType::A),
            Answer::Forward
        );
    }

    #[test]
    fn addresses_lead_back_to_names() {
        let ptr = RecordType::PTR;
        assert_eq!(
            ask("10.100.0.2", "1.0.200.10.in-addr.arpa.", ptr),
            Answer::Name("vote.back".into())
        );
        assert_eq!(
            ask("10.100.0.2", "1.16.200.10.in-addr.arpa.", ptr),
            Answer::Forward
        );
        assert_eq!(
            ask("10.100.16.2", "8.8.8.8.in-addr.arpa.", ptr),
            Answer::NoSuchName
        );
        // a whole network has no name
        assert_eq!(
            ask("10.100.0.2", "200.10.in-addr.arpa.", ptr),
            Answer::Forward
        );
    }
}
