use std::net::Ipv4Addr;

use model::{
    NodeId, Protocol,
    names::{Change, Update},
};
use proptest::{prelude::*, sample::select};

use super::*;
use crate::testing::{With as _, ip, names, network, sees, service, service_id, taken, task_id};

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 100, 0, 2));

fn ask(name: &str, kind: RecordType) -> Query {
    Query::query(Name::from_ascii(name).unwrap(), kind)
}

/// Two networks, both with a `db`; the client is on the second, then the first.
fn example() -> Update {
    let vote = service(
        "vote",
        &["10.200.0.2"],
        &[&["10.100.0.2"], &["10.100.0.3", "fd00::3"]],
    )
    .aliases(&["poll"])
    .port("http", Protocol::Tcp, 80)
    .port("game", Protocol::Udp, 99);
    let rr = ServiceNames {
        ttl: Some(9),
        answers: 1,
        ..service("rr", &[], &[&["10.100.0.4"], &["10.100.0.5"]]).port("http", Protocol::Tcp, 8080)
    };
    let empty = service("empty", &[], &[]).aliases(&["shared"]);
    let shares = service("shares", &[], &[&["10.100.0.6"]]).aliases(&["shared"]);
    let mut everywhere = service("everywhere", &["10.200.0.7"], &[&["10.100.0.7"]]);
    (everywhere.tasks[0].slot, everywhere.tasks[0].node) =
        (0, Some(Box::new(NodeId::from_random([1; 16]))));
    let back = [
        vote,
        rr,
        empty,
        shares,
        everywhere,
        service("db", &["10.200.0.9"], &[]),
    ];
    let front = [
        service("db", &["10.200.2.9"], &[]),
        service("web", &["10.200.2.2"], &[]),
    ];
    let secret = [service("vault", &["10.200.1.2"], &[])];
    names(
        &[
            (1, "back", &back),
            (2, "front", &front),
            (3, "secret", &secret),
        ],
        &[
            (CLIENT, sees(&[2, 1], true)),
            (ip("10.100.0.9"), sees(&[1, 77], false)),
        ],
    )
}

fn some(list: &[&str]) -> Answer {
    Answer::Addresses {
        addresses: list.iter().map(|text| ip(text)).collect(),
        ttl: 3,
        most: usize::MAX,
    }
}

fn check(cases: &[(&str, RecordType, Answer)]) {
    let names = taken(example());
    for (name, kind, want) in cases {
        assert_eq!(
            lookup(&names, CLIENT, &ask(name, *kind)),
            *want,
            "{name} {kind}"
        );
    }
}

#[test]
fn names_are_found_as_they_stand_and_under_their_network() {
    let id = format!("{}.", task_id(1));
    let node = format!("everywhere.{}.", NodeId::from_random([1; 16]));
    let cases = [
        ("vote.", some(&["10.200.0.2"])),
        ("VoTe.", some(&["10.200.0.2"])),
        ("vote.back.", some(&["10.200.0.2"])),
        ("VOTE.Back.", some(&["10.200.0.2"])),
        ("poll.", some(&["10.200.0.2"])),
        ("tasks.vote.", some(&["10.100.0.2", "10.100.0.3"])),
        ("tasks.poll.", some(&["10.100.0.2", "10.100.0.3"])),
        ("tasks.vote.back.", some(&["10.100.0.2", "10.100.0.3"])),
        ("vote.1.", some(&["10.100.0.2"])),
        ("poll.1.", some(&["10.100.0.2"])),
        ("vote.1.back.", some(&["10.100.0.2"])),
        (&node, some(&["10.100.0.7"])),
        // the client's first network has it, too
        ("db.", some(&["10.200.2.9"])),
        ("db.back.", some(&["10.200.0.9"])),
        // an alias that two services have
        ("shared.", some(&["10.100.0.6"])),
        // with what may stand behind all of them
        ("vote.ipvsmesh.", some(&["10.200.0.2"])),
        ("vote.1.back.IPVSmesh.", some(&["10.100.0.2"])),
        ("back.ipvsmesh.", Answer::NoData),
        ("ipvsmesh.", Answer::NoData),
        ("nosuch.ipvsmesh.", Answer::NxDomain),
        ("example.com.ipvsmesh.", Answer::NxDomain),
        ("voteipvsmesh.", Answer::Forward),
        ("empty.", Answer::NoData),
        ("tasks.empty.", Answer::NoData),
        ("back.", Answer::NoData),
        // nobody else knows tasks of a service of ours
        ("vote.3.", Answer::NxDomain),
        ("vote.01.", Answer::NxDomain),
        ("empty.1.", Answer::NxDomain),
        // not on that network, not visible, not ours
        ("vote.front.", Answer::Forward),
        ("vault.", Answer::Forward),
        ("vault.secret.", Answer::Forward),
        ("vault.ipvsmesh.", Answer::NxDomain),
        ("secret.", Answer::Forward),
        ("example.com.", Answer::Forward),
        ("nosuch.", Answer::Forward),
        ("tasks.nosuch.", Answer::Forward),
        (".", Answer::Forward),
    ];
    check(&cases.map(|(name, want)| (name, RecordType::A, want)));
    // ids are unique in a mesh, and not in this test
    let names = taken(example());
    let Answer::Addresses { addresses, .. } = lookup(&names, CLIENT, &ask(&id, RecordType::A))
    else {
        panic!("no task {id}");
    };
    assert!(addresses.contains(&ip("10.100.0.2")));
}

#[test]
fn a_name_without_such_a_record_exists_all_the_same() {
    check(&[
        ("vote.", RecordType::AAAA, Answer::NoData),
        ("vote.", RecordType::MX, Answer::NoData),
        ("vote.", RecordType::SRV, Answer::NoData),
        ("vote.", RecordType::SOA, Answer::NoData),
        ("vote.", RecordType::HTTPS, Answer::NoData),
        ("vote.", RecordType::Unknown(65280), Answer::NoData),
        ("vote.1.", RecordType::AAAA, Answer::NoData),
        ("tasks.vote.", RecordType::AAAA, some(&["fd00::3"])),
        ("vote.", RecordType::ANY, some(&["10.200.0.2"])),
        ("vote.", RecordType::AXFR, Answer::Refused),
        ("example.com.", RecordType::IXFR, Answer::Refused),
    ]);
    let names = taken(example());
    let mut chaos = ask("version.bind.", RecordType::TXT);
    chaos.set_query_class(DNSClass::CH);
    assert_eq!(lookup(&names, CLIENT, &chaos), Answer::Refused);
}

#[test]
fn a_service_says_how_long_and_how_many() {
    let all = ["10.100.0.4", "10.100.0.5"].map(ip).to_vec();
    let answer = |most| Answer::Addresses {
        addresses: all.clone(),
        ttl: 9,
        most,
    };
    check(&[
        ("rr.", RecordType::A, answer(1)),
        ("tasks.rr.", RecordType::A, answer(1)),
    ]);
}

#[test]
fn named_ports_are_where_the_service_is() {
    let at = |name: &str, port, addresses: &[&str]| Target {
        name: name.to_owned(),
        port,
        addresses: addresses.iter().map(|text| ip(text)).collect(),
    };
    let found = |targets: Vec<Target>, ttl| Answer::Services { targets, ttl };
    let rr = vec![
        at("rr.1.back", 8080, &["10.100.0.4"]),
        at("rr.2.back", 8080, &["10.100.0.5"]),
    ];
    let tasks = vec![
        at("vote.1.back", 99, &["10.100.0.2"]),
        at("vote.2.back", 99, &["10.100.0.3", "fd00::3"]),
    ];
    let vip = || vec![at("vote.back", 80, &["10.200.0.2"])];
    check(&[
        ("_http._tcp.vote.", RecordType::SRV, found(vip(), 3)),
        ("_HTTP._TCP.Poll.Back.", RecordType::SRV, found(vip(), 3)),
        (
            "_http._tcp.vote.back.ipvsmesh.",
            RecordType::SRV,
            found(vip(), 3),
        ),
        ("_game._udp.tasks.vote.", RecordType::SRV, found(tasks, 3)),
        ("_http._tcp.rr.", RecordType::SRV, found(rr, 3)),
        ("_http._tcp.vote.", RecordType::A, Answer::NoData),
        ("_http._udp.vote.", RecordType::SRV, Answer::NxDomain),
        ("_https._tcp.vote.", RecordType::SRV, Answer::NxDomain),
        ("_http._tcp.example.com.", RecordType::SRV, Answer::Forward),
        ("_http._tcp.", RecordType::SRV, Answer::Forward),
        ("_http.", RecordType::SRV, Answer::Forward),
    ]);
}

#[test]
fn reverse_names() {
    let pointer = |name: &str| Answer::Pointer {
        name: name.to_owned(),
        ttl: 3,
    };
    check(&[
        (
            "2.0.200.10.in-addr.arpa.",
            RecordType::PTR,
            pointer("vote.back"),
        ),
        (
            "2.0.200.10.IN-ADDR.arpa.",
            RecordType::ANY,
            pointer("vote.back"),
        ),
        (
            "2.0.100.10.in-addr.arpa.",
            RecordType::PTR,
            pointer("vote.1.back"),
        ),
        ("2.0.200.10.in-addr.arpa.", RecordType::A, Answer::NoData),
        // another network's, or nobody's: neither told nor asked outside
        (
            "2.1.200.10.in-addr.arpa.",
            RecordType::PTR,
            Answer::NxDomain,
        ),
        (
            "99.9.100.10.in-addr.arpa.",
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
    ]);
    let v6 = Query::query(ip("fd00::3").into(), RecordType::PTR);
    assert_eq!(
        lookup(&taken(example()), CLIENT, &v6),
        pointer("vote.2.back")
    );
}

#[test]
fn who_asks_decides() {
    let names = taken(example());
    let ours = ask("vote.", RecordType::A);
    let other = ask("example.com.", RecordType::A);
    let internal = ip("10.100.0.9");
    assert_eq!(lookup(&names, internal, &ours), some(&["10.200.0.2"]));
    assert_eq!(lookup(&names, internal, &other), Answer::NxDomain);
    for stranger in [ip("10.100.0.77"), ip("198.51.100.1"), ip("2001:db8::1")] {
        assert_eq!(lookup(&names, stranger, &ours), Answer::Refused);
        assert_eq!(lookup(&names, stranger, &other), Answer::Refused);
    }
    for this_host in [ip("127.0.0.1"), ip("::1")] {
        assert_eq!(lookup(&names, this_host, &ours), Answer::Forward);
        assert_eq!(lookup(&names, this_host, &other), Answer::Forward);
    }
}

#[test]
fn labels_that_only_look_like_a_name_are_none() {
    let names = taken(example());
    let dotted = Name::from_labels([b"vote.back".as_slice()]).unwrap();
    let foreign = Name::from_labels([b"v\xD6te".as_slice()]).unwrap();
    for name in [dotted, foreign] {
        let query = Query::query(name, RecordType::A);
        assert_eq!(lookup(&names, CLIENT, &query), Answer::Forward);
    }
}

#[test]
fn an_update_that_does_not_lead_on_changes_nothing() {
    let mut names = taken(example());
    let update = |since| Update {
        since,
        revision: 8,
        more: false,
        changes: vec![Change::Network(network(1), None)],
    };
    assert_eq!(
        names.apply(update(Some(6))),
        Err(crate::names::Behind { at: 7 })
    );
    assert_eq!(
        lookup(&names, CLIENT, &ask("vote.", RecordType::A)),
        some(&["10.200.0.2"])
    );
    assert_eq!(names.apply(update(Some(7))), Ok(()));
    assert_eq!(
        lookup(&names, CLIENT, &ask("vote.", RecordType::A)),
        Answer::Forward
    );
    assert_eq!(names.revision, 8);
}

// few names and addresses, so that services overlap often
const WORDS: &[&str] = &["a", "b", "tasks", "x"];
const QUESTIONS: &[&str] = &[
    "vote",
    "poll",
    "tasks.vote",
    "vote.1",
    "rr",
    "_http._tcp.vote",
    "a",
    "b",
    "x",
    "a.1",
    "b.2",
    "tasks.a",
    "tasks.x",
    "a.x",
    "b.1.x",
    "tasks",
    "tasks.1",
];

const KINDS: &[RecordType] = &[
    RecordType::A,
    RecordType::AAAA,
    RecordType::ANY,
    RecordType::MX,
    RecordType::PTR,
    RecordType::SRV,
];

prop_compose! {
    fn some_address()(v6: bool, last in 1u8..6) -> IpAddr {
        if v6 { ip(&format!("fd00::{last}")) } else { IpAddr::from([10, 100, 0, last]) }
    }
}

prop_compose! {
    fn some_service()(
        name in select(WORDS),
        alias in prop::option::of(select(WORDS)),
        vips in prop::collection::vec(some_address(), 0..2),
        tasks in prop::collection::vec(prop::collection::vec(some_address(), 0..2), 0..3),
    ) -> ServiceNames {
        let mut names = service(name, &[], &vec![&[][..]; tasks.len()]);
        for (task, addresses) in names.tasks.iter_mut().zip(tasks) {
            task.addresses = addresses.into();
        }
        names.vips = vips.into();
        names.aliases = alias.filter(|alias| *alias != name).map(Box::from).into_iter().collect();
        names
    }
}

fn some_changes() -> impl Strategy<Value = Vec<(u8, u8, Option<ServiceNames>)>> {
    let change = (0u8..2, 0u8..4, prop::option::weighted(0.7, some_service()));
    prop::collection::vec(change, 0..20)
}

/// The same in other words, slowly: what a service has by all of its names.
fn spelled_out(names: &ServiceNames) -> Vec<(String, Vec<IpAddr>)> {
    let tasks: Vec<IpAddr> = names
        .tasks
        .iter()
        .flat_map(|t| t.addresses.to_vec())
        .collect();
    let own = if names.vips.is_empty() {
        tasks.clone()
    } else {
        names.vips.to_vec()
    };
    let known = names.aliases.iter().chain([&names.name]);
    known
        .flat_map(|known| {
            let slots = names
                .tasks
                .iter()
                .map(move |t| (format!("{known}.{}", t.slot), t.addresses.to_vec()));
            let service = [
                (known.to_string(), own.clone()),
                (format!("tasks.{known}"), tasks.clone()),
            ];
            service.into_iter().chain(slots).collect::<Vec<_>>()
        })
        .collect()
}

proptest! {
    /// Whatever services came, changed and went, the index finds what is there now, and
    /// nothing else.
    #[test]
    fn the_index_is_that_of_the_services_there_are(
        changes in some_changes(),
        question in select(QUESTIONS),
        address in some_address(),
    ) {
        let zones = [(0, "y", &[][..]), (1, "z", &[])];
        let mut names = taken(names(&zones, &[(CLIENT, sees(&[0, 1], false))]));
        let mut there = std::collections::BTreeMap::new();
        for (n, (at, id, change)) in (7..).zip(changes) {
            let update = Update {
                since: Some(n),
                revision: n + 1,
                more: false,
                changes: vec![Change::Service(network(at), service_id(id), change.clone())],
            };
            prop_assert_eq!(names.apply(update), Ok(()));
            match change {
                Some(names) => drop(there.insert((at, id), names)),
                None => drop(there.remove(&(at, id))),
            }
        }
        // names that several services have, in one network or in the next
        let mut want = None;
        for zone in [0, 1] {
            let here = there.iter().filter(|((at, _), _)| *at == zone);
            let all: Vec<_> = here.flat_map(|(_, names)| spelled_out(names)).collect();
            let kinds: Vec<_> = all.iter().filter(|(name, _)| name == question).collect();
            if want.is_none() && !kinds.is_empty() {
                let mut all: Vec<IpAddr> = kinds.iter().flat_map(|(_, a)| a.clone()).collect();
                all.sort();
                want = Some(all);
            }
        }
        let answer = lookup(&names, CLIENT, &ask(&format!("{question}."), RecordType::ANY));
        let got = match answer {
            Answer::Addresses { mut addresses, .. } => {
                addresses.sort();
                Some(addresses)
            }
            Answer::NoData => Some(Vec::new()),
            _ => None,
        };
        // `tasks.1` is also what a service called `tasks` has in slot 1: either may win
        if !(question.starts_with("tasks") || question.contains('.')) {
            prop_assert_eq!(got, want);
        } else if want.is_none() {
            prop_assert_eq!(got, None);
        }
        let held = there.values().any(|names| {
            names.vips.contains(&address) || names.tasks.iter().any(|t| t.addresses.contains(&address))
        });
        let pointer = lookup(&names, CLIENT, &Query::query(address.into(), RecordType::PTR));
        prop_assert_eq!(matches!(pointer, Answer::Pointer { .. }), held);
    }

    #[test]
    fn case_does_not_matter(name in select(QUESTIONS), network: bool, kind in select(KINDS)) {
        let names = taken(example());
        let name = if network { format!("{name}.back.") } else { format!("{name}.") };
        prop_assert_eq!(
            lookup(&names, CLIENT, &ask(&name, kind)),
            lookup(&names, CLIENT, &ask(&name.to_ascii_uppercase(), kind))
        );
    }
}
