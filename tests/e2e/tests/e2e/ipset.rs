//! The ipset handle and `ipset` on the same namespaces: what one writes, the
//! other reads.

use std::{collections::BTreeMap, io, net::IpAddr};

use ipnet::IpNet;
use kernel::{
    Error,
    ipset::{Command, Ipset},
    netlink::code,
};
use model::{Mark, Protocol};
use plan::netns::{Entry, Family, SetKind};

use crate::netlink_place::Place;

fn open(place: &Place) -> Ipset {
    place.open(Ipset::open).expect("the lab has ipset")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a network")
}

fn marked(number: u32) -> Option<Mark> {
    Some(Mark::new(number).expect("a mark"))
}

/// What `ipset save` says, sorted, without what the kernel chooses by chance.
fn saved(place: &Place) -> Vec<String> {
    let text = place.sh("ipset save").ok();
    let mut lines: Vec<_> = text
        .lines()
        .map(|line| line.split(" bucketsize").next().unwrap_or(line).to_owned())
        .collect();
    lines.sort();
    lines
}

type Entries = Vec<(Entry, Option<Mark>)>;

/// A set of each kind, with its entries, and what `ipset save` says of it.
fn everything() -> Vec<(&'static str, SetKind, Entries, Vec<&'static str>)> {
    use Family::{V4, V6};
    vec![
        (
            "ports",
            SetKind::BitmapPort,
            vec![
                (Entry::Port(80), None),
                (Entry::Port(65535), None),
                (Entry::Port(0), None),
            ],
            vec![
                "create ports bitmap:port range 0-65535",
                "add ports 0",
                "add ports 80",
                "add ports 65535",
            ],
        ),
        (
            "vips",
            SetKind::HashIpMark(V4),
            vec![
                (Entry::Ip(ip("10.200.0.5")), marked(0x117)),
                (Entry::Ip(ip("10.200.0.6")), None),
            ],
            vec![
                "create vips hash:ip family inet hashsize 1024 maxelem 1048576 skbinfo",
                "add vips 10.200.0.5 skbmark 0x117",
                "add vips 10.200.0.6",
            ],
        ),
        (
            "vips6",
            SetKind::HashIpMark(V6),
            vec![(Entry::Ip(ip("fd00::5")), marked(0x0fff_ffff))],
            vec![
                "create vips6 hash:ip family inet6 hashsize 1024 maxelem 1048576 skbinfo",
                "add vips6 fd00::5 skbmark 0xfffffff",
            ],
        ),
        (
            "listeners",
            SetKind::HashIpPortMark(V4),
            vec![
                (
                    Entry::IpPort(ip("10.90.1.2"), Protocol::Tcp, 8080),
                    marked(0x118),
                ),
                (
                    Entry::IpPort(ip("10.90.1.2"), Protocol::Udp, 8080),
                    marked(0x119),
                ),
                (
                    Entry::IpPort(ip("10.90.1.2"), Protocol::Sctp, 9),
                    marked(0x11a),
                ),
            ],
            vec![
                "create listeners hash:ip,port family inet hashsize 1024 maxelem 1048576 skbinfo",
                "add listeners 10.90.1.2,tcp:8080 skbmark 0x118",
                "add listeners 10.90.1.2,udp:8080 skbmark 0x119",
                "add listeners 10.90.1.2,sctp:9 skbmark 0x11a",
            ],
        ),
        (
            "listeners6",
            SetKind::HashIpPortMark(V6),
            vec![
                (
                    Entry::IpPort(ip("fd00::2"), Protocol::Tcp, 8080),
                    marked(0x118),
                ),
                (
                    Entry::IpPort(ip("fd00::2"), Protocol::Udp, 8080),
                    marked(0x119),
                ),
                (
                    Entry::IpPort(ip("fd00::2"), Protocol::Sctp, 65535),
                    marked(0x11a),
                ),
            ],
            vec![
                "create listeners6 hash:ip,port family inet6 hashsize 1024 maxelem 1048576 skbinfo",
                "add listeners6 fd00::2,tcp:8080 skbmark 0x118",
                "add listeners6 fd00::2,udp:8080 skbmark 0x119",
                "add listeners6 fd00::2,sctp:65535 skbmark 0x11a",
            ],
        ),
        (
            "nets",
            SetKind::HashNet(V4),
            vec![
                (Entry::Net(net("10.100.0.0/16")), None),
                (Entry::Net(net("10.9.8.7/32")), None),
            ],
            vec![
                "create nets hash:net family inet hashsize 1024 maxelem 1048576",
                "add nets 10.100.0.0/16",
                "add nets 10.9.8.7",
            ],
        ),
        (
            "nets6",
            SetKind::HashNet(V6),
            vec![(Entry::Net(net("fd00:1::/64")), None)],
            vec![
                "create nets6 hash:net family inet6 hashsize 1024 maxelem 1048576",
                "add nets6 fd00:1::/64",
            ],
        ),
        (
            "halves",
            SetKind::HashNetPort(V4),
            vec![
                (Entry::NetPort(net("0.0.0.0/1"), Protocol::Sctp, 8088), None),
                (Entry::NetPort(net("10.9.8.7/32"), Protocol::Tcp, 80), None),
            ],
            vec![
                "create halves hash:net,port family inet hashsize 1024 maxelem 1048576",
                "add halves 0.0.0.0/1,sctp:8088",
                "add halves 10.9.8.7,tcp:80",
            ],
        ),
        (
            "halves6",
            SetKind::HashNetPort(V6),
            vec![(Entry::NetPort(net("8000::/1"), Protocol::Sctp, 8088), None)],
            vec![
                "create halves6 hash:net,port family inet6 hashsize 1024 maxelem 1048576",
                "add halves6 8000::/1,sctp:8088",
            ],
        ),
        (
            "same",
            SetKind::HashNetNet(V4),
            vec![
                (
                    Entry::NetNet(net("10.100.0.0/16"), net("10.200.0.0/16")),
                    None,
                ),
                (
                    Entry::NetNet(net("10.100.0.0/16"), net("10.100.0.1/32")),
                    None,
                ),
            ],
            vec![
                "create same hash:net,net family inet hashsize 1024 maxelem 1048576",
                "add same 10.100.0.0/16,10.100.0.1",
                "add same 10.100.0.0/16,10.200.0.0/16",
            ],
        ),
        (
            "same6",
            SetKind::HashNetNet(V6),
            vec![
                (Entry::NetNet(net("fd00:1::/64"), net("fd00:2::/64")), None),
                (
                    Entry::NetNet(net("fd00:1::/64"), net("fd00:1::1/128")),
                    None,
                ),
            ],
            vec![
                "create same6 hash:net,net family inet6 hashsize 1024 maxelem 1048576",
                "add same6 fd00:1::/64,fd00:1::1",
                "add same6 fd00:1::/64,fd00:2::/64",
            ],
        ),
    ]
}

fn make(name: &'static str, kind: SetKind, entries: &Entries) -> Vec<Command<'static>> {
    let add = |(entry, mark): &(Entry, Option<Mark>)| Command::Add(name, kind, *entry, *mark);
    let mut commands = vec![Command::Create(name, kind)];
    commands.extend(entries.iter().map(add));
    commands
}

fn numbers(failed: &[(usize, io::Error)]) -> Vec<(usize, i32)> {
    let number = |(index, error): &(usize, io::Error)| (*index, code(error).expect("a number"));
    failed.iter().map(number).collect()
}

#[test]
fn ipset_shows_what_the_handle_writes() {
    let place = Place::new();
    let mut sets = open(&place);
    let mut commands = Vec::new();
    let mut expected = Vec::new();
    for (name, kind, entries, lines) in everything() {
        commands.extend(make(name, kind, &entries));
        expected.extend(lines);
    }
    let failed = sets.apply(&commands).expect("a write");
    assert!(failed.is_empty(), "{failed:?}");
    expected.sort_unstable();
    assert_eq!(saved(&place), expected);

    // the same again is no error, and changes nothing
    let failed = sets.apply(&commands).expect("a write");
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(saved(&place), expected);
}

#[test]
fn the_handle_reads_what_ipset_writes() {
    let place = Place::new();
    let mut sets = open(&place);
    for line in everything().iter().flat_map(|(_, _, _, lines)| lines) {
        place.sh(&format!("ipset {line}")).ok();
    }
    let mut names = sets.names().expect("read");
    names.sort();
    let mut expected: Vec<_> = everything().iter().map(|(name, ..)| *name).collect();
    expected.sort_unstable();
    assert_eq!(names, expected);
    for (name, kind, entries, _) in everything() {
        let set = sets.set(name).expect("read").expect("a kind of ours");
        assert_eq!(set.kind, kind, "{name}");
        assert_eq!(set.entries, entries.into_iter().collect(), "{name}");
    }
}

#[test]
fn headers_tell_kinds_and_count_entries() {
    let place = Place::new();
    let mut sets = open(&place);
    let mut expected = vec![("macs".to_owned(), None, Some(1))];
    for (name, kind, entries, _) in everything() {
        sets.apply(&make(name, kind, &entries)).expect("a write");
        let count = u32::try_from(entries.len()).expect("few");
        expected.push((name.to_owned(), Some(kind), Some(count)));
    }
    let other = "ipset create macs hash:mac; ipset add macs 02:00:00:00:00:01";
    place.sh(other).ok();
    let headers = sets.headers().expect("read").into_iter();
    let mut seen: Vec<_> = headers.map(|h| (h.name, h.kind, h.entries)).collect();
    seen.sort_by(|one, other| one.0.cmp(&other.0));
    expected.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(seen, expected);
}

#[test]
fn entries_are_changed_and_deleted() {
    let place = Place::new();
    let mut sets = open(&place);
    let kind = SetKind::HashIpMark(Family::V4);
    let (one, two) = (Entry::Ip(ip("10.200.0.5")), Entry::Ip(ip("10.200.0.6")));
    let first = vec![(one, marked(0x117)), (two, marked(0x118))];
    sets.apply(&make("vips", kind, &first)).expect("a write");
    let failed = sets.apply(&[
        Command::Add("vips", kind, one, marked(0x200)),
        Command::Del("vips", kind, two),
        // one that is not there is no error
        Command::Del("vips", kind, two),
    ]);
    assert!(failed.expect("a write").is_empty());
    let set = sets.set("vips").expect("read").expect("is there");
    assert_eq!(set.entries, BTreeMap::from([(one, marked(0x200))]).into());

    let failed = sets.apply(&[Command::Flush("vips")]).expect("a write");
    assert!(failed.is_empty(), "{failed:?}");
    assert_eq!(saved(&place).len(), 1, "only the set itself is left");
    // the second time it is not there, which is no error
    let failed = sets.apply(&[Command::Destroy("vips"), Command::Destroy("vips")]);
    assert!(failed.expect("a write").is_empty());
    assert!(sets.names().expect("read").is_empty());
}

#[test]
fn two_sets_are_exchanged() {
    let place = Place::new();
    let mut sets = open(&place);
    let (old, new) = (Entry::Port(80), Entry::Port(81));
    let mut commands = make("old", SetKind::BitmapPort, &vec![(old, None)]);
    commands.extend(make("new", SetKind::BitmapPort, &vec![(new, None)]));
    commands.push(Command::Create("nets", SetKind::HashNet(Family::V4)));
    commands.push(Command::Swap("old", "new"));
    let failed = sets.apply(&commands).expect("a write");
    assert!(failed.is_empty(), "{failed:?}");
    let set = sets.set("old").expect("read").expect("is there");
    assert_eq!(set.entries, BTreeMap::from([(new, None)]).into());

    let failed = sets.apply(&[Command::Swap("old", "nets"), Command::Swap("old", "none")]);
    let failed = failed.expect("a write");
    assert_eq!(numbers(&failed), [(0, 4102), (1, 4101)]);
    assert_eq!(failed[0].1.to_string(), "the sets are of different kinds");
}

#[test]
fn errors_in_a_batch_are_tied_to_their_commands() {
    let place = Place::new();
    let mut sets = open(&place);
    let (vips, nets) = (
        SetKind::HashIpMark(Family::V4),
        SetKind::HashNet(Family::V4),
    );
    let entry = Entry::Ip(ip("10.200.0.5"));
    let failed = sets.apply(&[
        Command::Create("vips", vips),
        Command::Create("vips", nets),
        Command::Create("a-name-that-is-longer-than-the-kernel-has-room", nets),
        Command::Add("vips", vips, entry, marked(0x117)),
        Command::Add("none", vips, entry, None),
        Command::Add("vips", vips, Entry::Ip(ip("fd00::5")), None),
        Command::Create("nets", nets),
        Command::Add("nets", nets, Entry::Net(net("0.0.0.0/0")), None),
    ]);
    let failed = failed.expect("a write");
    let seen = numbers(&failed);
    assert_eq!(seen, [(1, 17), (2, 22), (4, 2), (5, 4097), (7, 4104)]);
    // the kernel's own words (extended acknowledgement), and ours for ipset's numbers
    let said = failed[1].1.to_string();
    assert!(said.contains("Attribute failed policy"), "{said}");
    let said = failed[3].1.to_string();
    assert!(said.contains("not of the set's kind"), "{said}");
    assert_eq!(
        saved(&place),
        [
            "add vips 10.200.0.5 skbmark 0x117",
            "create nets hash:net family inet hashsize 1024 maxelem 1048576",
            "create vips hash:ip family inet hashsize 1024 maxelem 1048576 skbinfo",
        ],
        "the others were done"
    );
    match sets.set("none") {
        Err(Error::Netlink { source, .. }) => assert_eq!(code(&source), Some(2)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_set_that_a_rule_uses_is_not_destroyed() {
    let place = Place::new();
    let mut sets = open(&place);
    let kind = SetKind::HashIpMark(Family::V4);
    sets.apply(&[Command::Create("vips", kind)])
        .expect("a write");
    place
        .sh("iptables -t mangle -A PREROUTING -j SET --map-set vips dst --map-mark")
        .ok();
    let failed = sets.apply(&[Command::Destroy("vips")]).expect("a write");
    assert_eq!(numbers(&failed), [(0, 4100)]);
    assert_eq!(failed[0].1.to_string(), "a rule uses the set");
    place.sh("iptables -t mangle -F").ok();
    let failed = sets.apply(&[Command::Destroy("vips")]).expect("a write");
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn other_peoples_sets_are_seen_by_name() {
    let place = Place::new();
    let mut sets = open(&place);
    place
        .sh(
            "set -e; ipset create macs hash:mac skbinfo; ipset add macs 02:00:00:00:00:01
             ipset create plain hash:ip; ipset add plain 10.0.0.1
             ipset create lists list:set; ipset add lists plain
             ipset create low bitmap:port range 0-1023; ipset add low 22
             ipset create timed hash:net timeout 60 counters comment
             ipset add timed 10.0.0.0/8 comment 'what for'
             ipset create masked hash:ip skbinfo; ipset add masked 10.0.0.1 skbmark 0x1/0xff",
        )
        .ok();
    let mut names = sets.names().expect("read");
    names.sort();
    assert_eq!(names, ["lists", "low", "macs", "masked", "plain", "timed"]);
    for name in ["lists", "low", "macs", "plain"] {
        assert!(sets.set(name).expect("read").is_none(), "{name}");
    }
    // extensions that we have no use for do no harm
    let timed = sets.set("timed").expect("read").expect("hash:net");
    let ten = Entry::Net(net("10.0.0.0/8"));
    assert_eq!(timed.entries, BTreeMap::from([(ten, None)]).into());
    // a mark that is set in part is not one that we write
    let masked = sets.set("masked").expect("read").expect("hash:ip skbinfo");
    let one = Entry::Ip(ip("10.0.0.1"));
    assert_eq!(masked.entries, BTreeMap::from([(one, None)]).into());
}

#[test]
fn ten_thousand_entries_in_one_go() {
    let place = Place::new();
    let mut sets = open(&place);
    let kind = SetKind::HashIpMark(Family::V4);
    let entry = |number: u32| {
        let address = IpAddr::from(0x0ac8_0000_u32.wrapping_add(number).to_be_bytes());
        (Entry::Ip(address), marked(number))
    };
    let entries: Entries = (1..=10_000).map(entry).collect();
    let commands = make("vips", kind, &entries);
    let begin = std::time::Instant::now();
    let failed = sets.apply(&commands).expect("a write");
    assert!(failed.is_empty(), "{failed:?}");
    let written = begin.elapsed();
    let set = sets.set("vips").expect("read").expect("is there");
    let read = begin.elapsed() - written;
    assert_eq!(set.entries, entries.iter().copied().collect());
    println!("10,000 entries: written in {written:?}, read in {read:?}");
    assert_eq!(saved(&place).len(), 10_001);
}

#[test]
fn the_protocol_is_one_that_we_speak() {
    let place = Place::new();
    let (oldest, newest) = open(&place).protocols().expect("read");
    assert!(oldest <= 6 && newest >= 6, "{oldest} to {newest}");
    let shown = place.sh("ipset --version").ok();
    assert!(
        shown.contains(&format!("protocol version: {newest}")),
        "{shown}"
    );
}
