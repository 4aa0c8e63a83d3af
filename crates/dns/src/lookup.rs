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

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, net::Ipv4Addr};

    use proptest::{prelude::*, sample::select};

    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 100, 0, 2));

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn ask(name: &str, kind: RecordType) -> Query {
        Query::query(Name::from_ascii(name).unwrap(), kind)
    }

    fn zone(name: &str, names: &[(&str, &[&str])]) -> Zone {
        let addresses = |list: &[&str]| list.iter().map(|text| ip(text)).collect();
        Zone {
            name: name.to_owned(),
            names: names
                .iter()
                .map(|(n, a)| ((*n).to_owned(), addresses(a)))
                .collect(),
            reverse: BTreeMap::new(),
        }
    }

    /// Two networks, both with a `db`; the client is on the first, then the second.
    fn example() -> Snapshot {
        let mut back = zone(
            "back",
            &[
                ("vote", &["10.200.0.2"]),
                ("tasks.vote", &["10.100.0.2", "10.100.0.3", "fd00::3"]),
                ("vote.1", &["10.100.0.2"]),
                ("empty", &[]),
                ("db", &["10.200.0.9"]),
            ],
        );
        back.reverse
            .insert(ip("10.200.0.2"), "vote.back".to_owned());
        back.reverse.insert(ip("fd00::3"), "vote.2.back".to_owned());
        let mut secret = zone("secret", &[("vault", &["10.200.1.2"])]);
        secret
            .reverse
            .insert(ip("10.200.1.2"), "vault.secret".to_owned());
        let front = zone(
            "front",
            &[("db", &["10.200.2.9"]), ("web", &["10.200.2.2"])],
        );
        let sees = |networks: &[&str], forward| Client {
            networks: networks.iter().map(ToString::to_string).collect(),
            forward,
        };
        Snapshot {
            revision: 7,
            ttl: 2,
            networks: [("1", back), ("2", front), ("3", secret)]
                .map(|(id, zone)| (id.to_owned(), zone))
                .into(),
            clients: BTreeMap::from([
                (CLIENT, sees(&["2", "1"], true)),
                (ip("10.100.0.9"), sees(&["1", "gone"], false)),
            ]),
            upstreams: vec![ip("192.0.2.53")],
        }
    }

    fn addresses(list: &[&str]) -> Answer<'static> {
        Answer::Addresses(list.iter().map(|text| ip(text)).collect())
    }

    #[test]
    fn names_are_found_as_they_stand_and_under_their_network() {
        let snapshot = example();
        for (name, want) in [
            ("vote.", addresses(&["10.200.0.2"])),
            ("VoTe.", addresses(&["10.200.0.2"])),
            ("vote.back.", addresses(&["10.200.0.2"])),
            ("VOTE.Back.", addresses(&["10.200.0.2"])),
            ("tasks.vote.", addresses(&["10.100.0.2", "10.100.0.3"])),
            ("tasks.vote.back.", addresses(&["10.100.0.2", "10.100.0.3"])),
            ("vote.1.", addresses(&["10.100.0.2"])),
            ("vote.1.back.", addresses(&["10.100.0.2"])),
            // the client's first network has it, too
            ("db.", addresses(&["10.200.2.9"])),
            ("db.back.", addresses(&["10.200.0.9"])),
            ("empty.", Answer::NoData),
            ("back.", Answer::NoData),
            // not on that network, not visible, not ours
            ("vote.front.", Answer::Forward),
            ("vault.", Answer::Forward),
            ("vault.secret.", Answer::Forward),
            ("secret.", Answer::Forward),
            ("example.com.", Answer::Forward),
            ("nosuch.", Answer::Forward),
            (".", Answer::Forward),
        ] {
            assert_eq!(
                lookup(&snapshot, CLIENT, &ask(name, RecordType::A)),
                want,
                "{name}"
            );
        }
    }

    #[test]
    fn a_name_without_such_a_record_exists_all_the_same() {
        let snapshot = example();
        for (name, kind, want) in [
            ("vote.", RecordType::AAAA, Answer::NoData),
            ("vote.", RecordType::MX, Answer::NoData),
            ("vote.", RecordType::HTTPS, Answer::NoData),
            ("vote.", RecordType::Unknown(65280), Answer::NoData),
            ("tasks.vote.", RecordType::AAAA, addresses(&["fd00::3"])),
            ("vote.", RecordType::ANY, addresses(&["10.200.0.2"])),
            ("vote.", RecordType::AXFR, Answer::Refused),
            ("example.com.", RecordType::IXFR, Answer::Refused),
        ] {
            assert_eq!(
                lookup(&snapshot, CLIENT, &ask(name, kind)),
                want,
                "{name} {kind}"
            );
        }
        let mut chaos = ask("version.bind.", RecordType::TXT);
        chaos.set_query_class(DNSClass::CH);
        assert_eq!(lookup(&snapshot, CLIENT, &chaos), Answer::Refused);
    }

    #[test]
    fn reverse_names() {
        let snapshot = example();
        for (name, kind, want) in [
            (
                "2.0.200.10.in-addr.arpa.",
                RecordType::PTR,
                Answer::Pointer("vote.back"),
            ),
            (
                "2.0.200.10.IN-ADDR.arpa.",
                RecordType::ANY,
                Answer::Pointer("vote.back"),
            ),
            ("2.0.200.10.in-addr.arpa.", RecordType::A, Answer::NoData),
            // another network's: neither told nor asked outside
            (
                "2.1.200.10.in-addr.arpa.",
                RecordType::PTR,
                Answer::NxDomain,
            ),
            ("1.2.0.192.in-addr.arpa.", RecordType::PTR, Answer::Forward),
            ("0.200.10.in-addr.arpa.", RecordType::PTR, Answer::Forward),
            (
                "300.0.200.10.in-addr.arpa.",
                RecordType::PTR,
                Answer::Forward,
            ),
        ] {
            assert_eq!(
                lookup(&snapshot, CLIENT, &ask(name, kind)),
                want,
                "{name} {kind}"
            );
        }
        let v6 = Query::query(ip("fd00::3").into(), RecordType::PTR);
        assert_eq!(
            lookup(&snapshot, CLIENT, &v6),
            Answer::Pointer("vote.2.back")
        );
    }

    #[test]
    fn who_asks_decides() {
        let snapshot = example();
        let ours = ask("vote.", RecordType::A);
        let other = ask("example.com.", RecordType::A);
        let internal = ip("10.100.0.9");
        assert_eq!(
            lookup(&snapshot, internal, &ours),
            addresses(&["10.200.0.2"])
        );
        assert_eq!(lookup(&snapshot, internal, &other), Answer::NxDomain);
        for stranger in [ip("10.100.0.77"), ip("198.51.100.1"), ip("2001:db8::1")] {
            assert_eq!(lookup(&snapshot, stranger, &ours), Answer::Refused);
            assert_eq!(lookup(&snapshot, stranger, &other), Answer::Refused);
        }
        for this_host in [ip("127.0.0.1"), ip("::1")] {
            assert_eq!(lookup(&snapshot, this_host, &ours), Answer::Forward);
            assert_eq!(lookup(&snapshot, this_host, &other), Answer::Forward);
        }
    }

    #[test]
    fn labels_that_only_look_like_a_name_are_none() {
        let snapshot = example();
        let dotted = Name::from_labels([b"vote.back".as_slice()]).unwrap();
        let foreign = Name::from_labels([b"v\xD6te".as_slice()]).unwrap();
        for name in [dotted, foreign] {
            let query = Query::query(name, RecordType::A);
            assert_eq!(lookup(&snapshot, CLIENT, &query), Answer::Forward);
        }
    }

    // few names and addresses, so that networks overlap often
    const NAMES: &[&str] = &["a", "b", "a.1", "tasks.a", "x", "a.x"];
    const NETWORKS: &[&str] = &["x", "y", "a"];

    prop_compose! {
        fn some_address()(v6: bool, last in 1u8..8) -> IpAddr {
            if v6 { ip(&format!("fd00::{last}")) } else { IpAddr::from([10, 0, 0, last]) }
        }
    }

    prop_compose! {
        fn some_zone()(
            name in select(NETWORKS),
            names in prop::collection::btree_map(
                select(NAMES).prop_map(str::to_owned),
                prop::collection::vec(some_address(), 0..4),
                0..5,
            ),
            reverse in prop::collection::btree_map(
                some_address(),
                select(NAMES).prop_map(str::to_owned),
                0..4,
            ),
        ) -> Zone {
            Zone { name: name.to_owned(), names, reverse }
        }
    }

    prop_compose! {
        fn some_snapshot()(
            zones in prop::collection::vec(some_zone(), 0..4),
            clients in prop::collection::btree_map(
                some_address(),
                (prop::collection::vec(0usize..5, 0..4), any::<bool>()),
                0..6,
            ),
        ) -> Snapshot {
            let clients = clients.into_iter().map(|(address, (networks, forward))| {
                let networks = networks.iter().map(ToString::to_string).collect();
                (address, Client { networks, forward })
            });
            Snapshot {
                clients: clients.collect(),
                networks: zones.into_iter().enumerate().map(|(i, z)| (i.to_string(), z)).collect(),
                ..Snapshot::default()
            }
        }
    }

    fn some_kind() -> impl Strategy<Value = RecordType> {
        use RecordType::{A, AAAA, ANY, MX, PTR, SRV};
        select(&[A, AAAA, ANY, MX, PTR, SRV])
    }

    /// The same in other words, slowly: all names that the client sees, written
    /// out in order.
    fn visible<'a>(snapshot: &'a Snapshot, client: &Client) -> Vec<(String, &'a [IpAddr])> {
        let zones: Vec<_> = client
            .networks
            .iter()
            .filter_map(|id| snapshot.networks.get(id))
            .collect();
        let bare = zones.iter().flat_map(|zone| {
            zone.names
                .iter()
                .map(|(name, addresses)| (name.clone(), addresses.as_slice()))
        });
        let qualified = zones.iter().flat_map(|zone| {
            let under = |name: &String| format!("{name}.{}", zone.name);
            zone.names
                .iter()
                .map(move |(name, addresses)| (under(name), addresses.as_slice()))
        });
        let networks = zones.iter().map(|zone| (zone.name.clone(), [].as_slice()));
        bare.chain(qualified).chain(networks).collect()
    }

    proptest! {
        #[test]
        fn agrees_with_the_list_of_all_names(
            snapshot in some_snapshot(),
            client in some_address(),
            name in select(NAMES),
            network in prop::option::of(select(NETWORKS)),
            kind in some_kind(),
        ) {
            let name = network.map_or_else(|| name.to_owned(), |network| format!("{name}.{network}"));
            let answer = lookup(&snapshot, client, &ask(&format!("{name}."), kind));
            let Some(known) = snapshot.clients.get(&client) else {
                prop_assert_eq!(answer, Answer::Refused);
                return Ok(());
            };
            let found = visible(&snapshot, known).into_iter().find(|(known, _)| *known == name);
            let want = match found {
                Some((_, addresses)) => match of_kind(addresses, kind) {
                    none if none.is_empty() => Answer::NoData,
                    some => Answer::Addresses(some),
                },
                None if known.forward => Answer::Forward,
                None => Answer::NxDomain,
            };
            prop_assert_eq!(answer, want);
        }

        #[test]
        fn case_does_not_matter(
            snapshot in some_snapshot(),
            client in some_address(),
            name in select(NAMES),
            kind in some_kind(),
        ) {
            prop_assert_eq!(
                lookup(&snapshot, client, &ask(&format!("{name}."), kind)),
                lookup(&snapshot, client, &ask(&format!("{}.", name.to_ascii_uppercase()), kind))
            );
        }

        #[test]
        fn reverse_names_are_told_to_those_who_see_the_network_only(
            snapshot in some_snapshot(),
            client in some_address(),
            address in some_address(),
        ) {
            let answer = lookup(&snapshot, client, &Query::query(address.into(), RecordType::PTR));
            let Some(known) = snapshot.clients.get(&client) else {
                prop_assert_eq!(answer, Answer::Refused);
                return Ok(());
            };
            let of = |id: &String| snapshot.networks.get(id)?.reverse.get(&address);
            let ours = snapshot.networks.keys().any(|id| of(id).is_some());
            let want = match known.networks.iter().find_map(of) {
                Some(name) => Answer::Pointer(name),
                None if known.forward && !ours => Answer::Forward,
                None => Answer::NxDomain,
            };
            prop_assert_eq!(answer, want);
        }
    }
}
