//! ipset over nfnetlink (`include/uapi/linux/netfilter/ipset/ip_set.h`), for the
//! kinds of sets that the data plane uses. Sets of other kinds are seen by name.
//!
//! Integers are in network order. Nothing needs the `ipset` program. Like
//! [`crate::ipvs`] it blocks, and async code wraps it in a
//! [`Handle`](crate::netlink::Handle).

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use model::{Mark, Protocol};
use netlink_packet_core::{NLA_F_NET_BYTEORDER, NLM_F_CREATE};
use plan::netns::{Entry, Family, Set, SetKind};

use nix::libc;

use crate::{
    Error,
    attribute::{self, put, put_nested, put_text},
    netlink::{Conversation, Request, code, explained},
};

const NETLINK_NETFILTER: isize = 12;
const MODULE: &str = "ip_set";
const SUBSYSTEM: u16 = 6 << 8;
/// Understood by every kernel since 2.6.39.
const PROTOCOL: u8 = 6;
/// Hash sets grow up to so many entries.
const MAX_ELEMENTS: u32 = 1 << 20;
const WITH_SKBINFO: u32 = 1 << 6;
const LIST_SETNAME: u32 = 1 << 1;
const LIST_HEADER: u32 = 1 << 2;

/// `IPSET_CMD_*`
#[derive(Clone, Copy)]
#[repr(u16)]
enum Cmd {
    Protocol = 1,
    Create = 2,
    Destroy = 3,
    Flush = 4,
    Swap = 6,
    List = 7,
    Add = 9,
    Del = 10,
}

/// `IPSET_ATTR_*` of a command.
mod attr {
    pub(super) const PROTOCOL: u16 = 1;
    pub(super) const SETNAME: u16 = 2;
    pub(super) const TYPENAME: u16 = 3;
    /// Of `Swap`.
    pub(super) const SETNAME2: u16 = 3;
    pub(super) const REVISION: u16 = 4;
    pub(super) const FAMILY: u16 = 5;
    pub(super) const FLAGS: u16 = 6;
    pub(super) const DATA: u16 = 7;
    pub(super) const ADT: u16 = 8;
    pub(super) const PROTOCOL_MIN: u16 = 10;
}

/// `IPSET_ATTR_*` of an entry or of what a set is made with.
mod data {
    pub(super) const IP: u16 = 1;
    pub(super) const CIDR: u16 = 3;
    pub(super) const PORT: u16 = 4;
    pub(super) const PORT_TO: u16 = 5;
    pub(super) const PROTO: u16 = 7;
    pub(super) const CADT_FLAGS: u16 = 8;
    pub(super) const MAXELEM: u16 = 19;
    pub(super) const IP2: u16 = 20;
    pub(super) const CIDR2: u16 = 21;
    /// What a header says besides what the set was made with.
    pub(super) const ELEMENTS: u16 = 24;
    pub(super) const SKBMARK: u16 = 27;
}

/// One write.
#[derive(Clone, Debug)]
pub enum Command<'a> {
    /// Makes a set; no error where the same is there.
    Create(&'a str, SetKind),
    /// Destroys a set that no rule uses; no error where there is none.
    Destroy(&'a str),
    /// Deletes all entries of a set.
    Flush(&'a str),
    /// Exchanges the contents of two sets of the same kind: rules that use one
    /// see the other's from then on.
    Swap(&'a str, &'a str),
    /// Adds an entry, or changes its mark.
    Add(&'a str, SetKind, Entry, Option<Mark>),
    /// Deletes an entry; no error where there is none.
    Del(&'a str, SetKind, Entry),
}

/// A set without its entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// `None`: one that the data plane has no use for.
    pub kind: Option<SetKind>,
    /// How many entries; kernels before 4.9 do not say.
    pub entries: Option<u32>,
}

/// The ipsets of the network namespace in which this was opened.
pub struct Ipset {
    conversation: Conversation,
}

impl Ipset {
    /// Opens ipset in the calling thread's network namespace, where it stays;
    /// [`Netns::run`](crate::netns::Netns::run) gives a thread in another. The
    /// kernel loads its module where it is allowed to.
    ///
    /// # Errors
    /// [`Error::Module`] where the kernel has no ipset, or an ipset that does not
    /// speak protocol 6.
    pub fn open() -> Result<Self, Error> {
        let conversation =
            Conversation::open(NETLINK_NETFILTER).map_err(|error| Error::Module {
                module: "nfnetlink",
                why: error.to_string(),
            })?;
        let mut this = Self { conversation };
        let (oldest, newest) = this.protocols()?;
        if !(oldest..=newest).contains(&PROTOCOL) {
            return Err(Error::Module {
                module: MODULE,
                why: format!(
                    "the kernel's speaks protocol {oldest} to {newest}, and not {PROTOCOL}"
                ),
            });
        }
        Ok(this)
    }

    /// The oldest and the newest protocol that the kernel speaks.
    ///
    /// # Errors
    /// The kernel has no ipset.
    pub fn protocols(&mut self) -> Result<(u8, u8), Error> {
        let request = Request {
            kind: SUBSYSTEM | Cmd::Protocol as u16,
            flags: 0,
            body: header(Family::V4),
        };
        let answer = self.conversation.get(&request).map_err(refused)?;
        let body = answer.map(|(_, body)| body).unwrap_or_default();
        let find = |number| {
            let value = attribute::find(body.get(4..).unwrap_or_default(), number);
            value.and_then(|value| value.first().copied())
        };
        let newest = find(attr::PROTOCOL).ok_or_else(|| Error::Answer {
            what: "ipset's protocol",
            why: "no version in it".to_owned(),
        })?;
        // kernels that speak only one do not say which is the oldest
        Ok((find(attr::PROTOCOL_MIN).unwrap_or(newest), newest))
    }

    /// The names of all sets, ours or not.
    ///
    /// # Errors
    /// The kernel has no ipset.
    pub fn names(&mut self) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        let mut body = header(Family::V4);
        put_u32(&mut body, attr::FLAGS, LIST_SETNAME);
        self.list(body, |name, _| names.push(name))?;
        Ok(names)
    }

    /// All sets without their entries, ours or not: one question.
    ///
    /// # Errors
    /// The kernel has no ipset.
    pub fn headers(&mut self) -> Result<Vec<Header>, Error> {
        let mut headers = Vec::new();
        let mut body = header(Family::V4);
        put_u32(&mut body, attr::FLAGS, LIST_HEADER);
        self.list(body, |name, attributes| {
            headers.push(Header {
                name,
                kind: read_kind(attributes),
                entries: read_count(attributes),
            });
        })?;
        Ok(headers)
    }

    /// One set with its entries; `None` if it is of a kind that the data plane
    /// has no use for.
    ///
    /// # Errors
    /// There is no such set.
    pub fn set(&mut self, name: &str) -> Result<Option<Set>, Error> {
        let mut body = header(Family::V4);
        put_text(&mut body, attr::SETNAME, name);
        let mut kind = None;
        let mut entries = BTreeMap::new();
        self.list(body, |_, attributes| {
            if let Some(read) = read_kind(attributes) {
                kind = Some(read);
            }
            let Some(kind) = kind else { return };
            for (number, value) in attribute::each(attributes) {
                if number == attr::ADT {
                    let read =
                        attribute::each(value).filter_map(|(_, entry)| read_entry(kind, entry));
                    entries.extend(read);
                }
            }
        })?;
        Ok(kind.map(|kind| Set {
            kind,
            entries: entries.into(),
        }))
    }

    fn list(&mut self, body: Vec<u8>, mut each: impl FnMut(String, &[u8])) -> Result<(), Error> {
        let request = Request {
            kind: SUBSYSTEM | Cmd::List as u16,
            flags: 0,
            body,
        };
        self.conversation
            .dump(&request, |_, body| {
                let attributes = body.get(4..).unwrap_or_default();
                if let Some(name) = attribute::find(attributes, attr::SETNAME) {
                    each(attribute::text(name), attributes);
                }
            })
            .map_err(refused)
    }

    /// Does all commands, in as few sends as possible; gives back by index the
    /// ones that the kernel refused: [`code`] is an errno, or
    /// from 4096 on ipset's own (`enum ipset_errno`). An error does not keep the
    /// others from being done.
    ///
    /// # Errors
    /// The socket failed; then it is unknown what was done.
    pub fn apply(&mut self, commands: &[Command<'_>]) -> Result<Vec<(usize, io::Error)>, Error> {
        let failed = self.conversation.batch(commands.iter().map(request));
        let failed = failed.map_err(|source| Error::Netlink {
            what: "write ipsets".to_owned(),
            source,
        })?;
        let with_words = |(index, error): (usize, io::Error)| {
            let kind = commands.get(index).and_then(Command::kind);
            (index, words(error, kind))
        };
        Ok(failed.into_iter().map(with_words).collect())
    }
}

impl Command<'_> {
    fn kind(&self) -> Option<SetKind> {
        match self {
            Self::Create(_, kind) | Self::Add(_, kind, ..) | Self::Del(_, kind, _) => Some(*kind),
            Self::Destroy(_) | Self::Flush(_) | Self::Swap(..) => None,
        }
    }
}

/// A question that failed as a whole.
fn refused(source: io::Error) -> Error {
    match code(&source) {
        // nfnetlink without the ipset subsystem
        Some(libc::EOPNOTSUPP | libc::EINVAL) => Error::Module {
            module: MODULE,
            why: "nfnetlink knows no ipset".to_owned(),
        },
        _ => Error::Netlink {
            what: "read ipsets".to_owned(),
            source,
        },
    }
}

/// ipset's own numbers have no text in the C library.
fn words(error: io::Error, kind: Option<SetKind>) -> io::Error {
    let Some(code) = code(&error) else {
        return error;
    };
    let said = match code {
        // callers compare it: the entry is not there, or is
        4103 => return error,
        4097 => "the entry is not of the set's kind or address family".to_owned(),
        4098 => {
            let name = kind.map_or("of this type", |kind| type_of(kind).0);
            let module = name.replace(':', "_").replace(',', "");
            format!(
                "the kernel has no sets {name}; load the module (modprobe ip_set_{module}) or \
                 boot a kernel that has it"
            )
        }
        4099 => "there are too many sets (module parameter max_sets of ip_set)".to_owned(),
        4100 => "a rule uses the set".to_owned(),
        4101 => "there is no second set of that name".to_owned(),
        4102 => "the sets are of different kinds".to_owned(),
        4104 => "the kernel takes no prefix of that length here".to_owned(),
        4106 => "a set of that kind has no such address family".to_owned(),
        4108 => "another set uses the set".to_owned(),
        4109 => "an IPv4 address is needed".to_owned(),
        4110 => "an IPv6 address is needed".to_owned(),
        4114 => "the set was made without marks (skbinfo)".to_owned(),
        4352 if kind == Some(SetKind::BitmapPort) => {
            "the port is not in the set's range".to_owned()
        }
        4352 => "the set is full".to_owned(),
        4096.. => format!("ipset's error {code}"),
        _ => return error,
    };
    explained(code, said)
}

fn request(command: &Command<'_>) -> Request {
    let (cmd, flags, name, kind) = match command {
        Command::Create(name, kind) => (Cmd::Create, NLM_F_CREATE, *name, Some(*kind)),
        Command::Destroy(name) => (Cmd::Destroy, 0, *name, None),
        Command::Flush(name) => (Cmd::Flush, 0, *name, None),
        Command::Swap(name, _) => (Cmd::Swap, 0, *name, None),
        Command::Add(name, kind, ..) => (Cmd::Add, 0, *name, Some(*kind)),
        Command::Del(name, kind, _) => (Cmd::Del, 0, *name, Some(*kind)),
    };
    let mut body = header(kind.map_or(Family::V4, family));
    put_text(&mut body, attr::SETNAME, name);
    match command {
        Command::Create(_, kind) => {
            let (type_name, revision) = type_of(*kind);
            put_text(&mut body, attr::TYPENAME, type_name);
            put(&mut body, attr::REVISION, &[revision]);
            put(&mut body, attr::FAMILY, &[family_number(*kind)]);
            put_nested(&mut body, attr::DATA, |body| match kind {
                SetKind::BitmapPort => {
                    put_u16(body, data::PORT, 0);
                    put_u16(body, data::PORT_TO, u16::MAX);
                }
                SetKind::HashIpMark(_) | SetKind::HashIpPortMark(_) => {
                    put_u32(body, data::MAXELEM, MAX_ELEMENTS);
                    put_u32(body, data::CADT_FLAGS, WITH_SKBINFO);
                }
                SetKind::HashNet(_) | SetKind::HashNetPort(_) | SetKind::HashNetNet(_) => {
                    put_u32(body, data::MAXELEM, MAX_ELEMENTS);
                }
            });
        }
        Command::Destroy(_) | Command::Flush(_) => {}
        Command::Swap(_, other) => put_text(&mut body, attr::SETNAME2, other),
        Command::Add(_, _, entry, mark) => {
            put_nested(&mut body, attr::DATA, |body| {
                put_entry(body, *entry);
                if let Some(mark) = mark {
                    // mark, then mask
                    let value = u64::from(mark.get()) << 32 | u64::from(u32::MAX);
                    put(
                        body,
                        data::SKBMARK | NLA_F_NET_BYTEORDER,
                        &value.to_be_bytes(),
                    );
                }
            });
        }
        Command::Del(_, _, entry) => {
            put_nested(&mut body, attr::DATA, |body| put_entry(body, *entry));
        }
    }
    Request {
        kind: SUBSYSTEM | cmd as u16,
        flags,
        body,
    }
}

/// The kernel's name of a kind, and the oldest revision that can do what we need:
/// newer kernels take it too, and nothing of what later ones added is used.
fn type_of(kind: SetKind) -> (&'static str, u8) {
    match kind {
        SetKind::BitmapPort => ("bitmap:port", 0),
        SetKind::HashIpMark(_) => ("hash:ip", 4),
        SetKind::HashIpPortMark(_) => ("hash:ip,port", 5),
        SetKind::HashNet(_) => ("hash:net", 2),
        SetKind::HashNetPort(_) => ("hash:net,port", 3),
        SetKind::HashNetNet(_) => ("hash:net,net", 0),
    }
}

fn family(kind: SetKind) -> Family {
    match kind {
        SetKind::BitmapPort => Family::V4,
        SetKind::HashIpMark(family)
        | SetKind::HashIpPortMark(family)
        | SetKind::HashNet(family)
        | SetKind::HashNetPort(family)
        | SetKind::HashNetNet(family) => family,
    }
}

/// `NFPROTO_*`
fn family_number(kind: SetKind) -> u8 {
    match (kind, family(kind)) {
        (SetKind::BitmapPort, _) => 0,
        (_, Family::V4) => 2,
        (_, Family::V6) => 10,
    }
}

fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

// === writing ===

/// `struct nfgenmsg`, and the protocol attribute that all messages have.
fn header(family: Family) -> Vec<u8> {
    let family = match family {
        Family::V4 => 2,
        Family::V6 => 10,
    };
    let mut body = vec![family, 0, 0, 0];
    put(&mut body, attr::PROTOCOL, &[PROTOCOL]);
    body
}

fn put_u16(body: &mut Vec<u8>, number: u16, value: u16) {
    put(body, number | NLA_F_NET_BYTEORDER, &value.to_be_bytes());
}

fn put_u32(body: &mut Vec<u8>, number: u16, value: u32) {
    put(body, number | NLA_F_NET_BYTEORDER, &value.to_be_bytes());
}

fn put_ip(body: &mut Vec<u8>, number: u16, ip: IpAddr) {
    put_nested(body, number, |body| match ip {
        IpAddr::V4(ip) => put(body, 1 | NLA_F_NET_BYTEORDER, &ip.octets()),
        IpAddr::V6(ip) => put(body, 2 | NLA_F_NET_BYTEORDER, &ip.octets()),
    });
}

fn put_entry(body: &mut Vec<u8>, entry: Entry) {
    match entry {
        Entry::Port(port) => put_u16(body, data::PORT, port),
        Entry::Ip(ip) => put_ip(body, data::IP, ip),
        Entry::IpPort(ip, protocol, port) => {
            put_ip(body, data::IP, ip);
            put_u16(body, data::PORT, port);
            put(body, data::PROTO, &[protocol_number(protocol)]);
        }
        Entry::Net(net) => {
            put_ip(body, data::IP, net.network());
            put(body, data::CIDR, &[net.prefix_len()]);
        }
        Entry::NetPort(net, protocol, port) => {
            put_ip(body, data::IP, net.network());
            put(body, data::CIDR, &[net.prefix_len()]);
            put_u16(body, data::PORT, port);
            put(body, data::PROTO, &[protocol_number(protocol)]);
        }
        Entry::NetNet(one, two) => {
            put_ip(body, data::IP, one.network());
            put(body, data::CIDR, &[one.prefix_len()]);
            put_ip(body, data::IP2, two.network());
            put(body, data::CIDR2, &[two.prefix_len()]);
        }
    }
}

// === reading ===

fn read_kind(attributes: &[u8]) -> Option<SetKind> {
    let find = |number| attribute::find(attributes, number);
    let name = find(attr::TYPENAME)?;
    let family = match find(attr::FAMILY)?.first()? {
        10 => Family::V6,
        _ => Family::V4,
    };
    let made = find(attr::DATA).unwrap_or_default();
    let flags = attribute::find(made, data::CADT_FLAGS)
        .and_then(|value| value.try_into().ok())
        .map_or(0, u32::from_be_bytes);
    let marks = flags & WITH_SKBINFO != 0;
    let port = |number| {
        let value = attribute::find(made, number)?;
        value.try_into().ok().map(u16::from_be_bytes)
    };
    let all_ports = (port(data::PORT), port(data::PORT_TO)) == (Some(0), Some(u16::MAX));
    match name.strip_suffix(&[0]).unwrap_or(name) {
        b"bitmap:port" if all_ports => Some(SetKind::BitmapPort),
        b"hash:ip" if marks => Some(SetKind::HashIpMark(family)),
        b"hash:ip,port" if marks => Some(SetKind::HashIpPortMark(family)),
        b"hash:net" => Some(SetKind::HashNet(family)),
        b"hash:net,port" => Some(SetKind::HashNetPort(family)),
        b"hash:net,net" => Some(SetKind::HashNetNet(family)),
        _ => None,
    }
}

fn read_count(attributes: &[u8]) -> Option<u32> {
    let count = attribute::find(attribute::find(attributes, attr::DATA)?, data::ELEMENTS)?;
    count.try_into().ok().map(u32::from_be_bytes)
}

fn read_ip(value: &[u8]) -> Option<IpAddr> {
    let (number, octets) = attribute::each(value).next()?;
    match number {
        1 => <[u8; 4]>::try_from(octets)
            .ok()
            .map(|o| Ipv4Addr::from(o).into()),
        2 => <[u8; 16]>::try_from(octets)
            .ok()
            .map(|o| Ipv6Addr::from(o).into()),
        _ => None,
    }
}

fn read_entry(kind: SetKind, entry: &[u8]) -> Option<(Entry, Option<Mark>)> {
    let find = |number| attribute::find(entry, number);
    let port = || find(data::PORT)?.try_into().ok().map(u16::from_be_bytes);
    let protocol = || match find(data::PROTO)?.first()? {
        6 => Some(Protocol::Tcp),
        17 => Some(Protocol::Udp),
        132 => Some(Protocol::Sctp),
        _ => None,
    };
    let ip = |number| read_ip(find(number)?);
    let net = |ip_number, cidr_number| {
        let ip = ip(ip_number)?;
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        let length = find(cidr_number)
            .and_then(|v| v.first().copied())
            .unwrap_or(longest);
        IpNet::new(ip, length).ok()
    };
    let mark = find(data::SKBMARK)
        .and_then(|v| v.try_into().ok())
        .map(u64::from_be_bytes)
        // one with a mask is not what we would write
        .filter(|value| *value as u32 == u32::MAX)
        .and_then(|value| Mark::new((value >> 32) as u32));
    let read = match kind {
        SetKind::BitmapPort => Entry::Port(port()?),
        SetKind::HashIpMark(_) => Entry::Ip(ip(data::IP)?),
        SetKind::HashIpPortMark(_) => Entry::IpPort(ip(data::IP)?, protocol()?, port()?),
        SetKind::HashNetPort(_) => Entry::NetPort(net(data::IP, data::CIDR)?, protocol()?, port()?),
        SetKind::HashNet(_) => Entry::Net(net(data::IP, data::CIDR)?),
        SetKind::HashNetNet(_) => {
            Entry::NetNet(net(data::IP, data::CIDR)?, net(data::IP2, data::CIDR2)?)
        }
    };
    Some((read, mark))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<(SetKind, Entry)> {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let (four, six) = (ip("10.200.0.5"), ip("fd00::5"));
        let (wide, host) = (net("10.0.0.0/8"), net("10.1.2.3/32"));
        let six_net = net("fd00::/64");
        vec![
            (SetKind::BitmapPort, Entry::Port(0)),
            (SetKind::BitmapPort, Entry::Port(65535)),
            (SetKind::HashIpMark(Family::V4), Entry::Ip(four)),
            (SetKind::HashIpMark(Family::V6), Entry::Ip(six)),
            (
                SetKind::HashIpPortMark(Family::V4),
                Entry::IpPort(four, Protocol::Sctp, 9),
            ),
            (
                SetKind::HashIpPortMark(Family::V6),
                Entry::IpPort(six, Protocol::Udp, 53),
            ),
            (
                SetKind::HashNetPort(Family::V4),
                Entry::NetPort(wide, Protocol::Sctp, 9),
            ),
            (
                SetKind::HashNetPort(Family::V6),
                Entry::NetPort(six_net, Protocol::Tcp, 80),
            ),
            (SetKind::HashNet(Family::V4), Entry::Net(host)),
            (SetKind::HashNet(Family::V6), Entry::Net(six_net)),
            (SetKind::HashNetNet(Family::V4), Entry::NetNet(wide, host)),
            (
                SetKind::HashNetNet(Family::V6),
                Entry::NetNet(six_net, six_net),
            ),
        ]
    }

    #[test]
    fn entries_survive_writing_and_reading() {
        for (kind, entry) in entries() {
            let mut body = Vec::new();
            put_entry(&mut body, entry);
            assert_eq!(read_entry(kind, &body), Some((entry, None)));
        }
    }

    #[test]
    fn cut_and_foreign_entries_do_no_harm() {
        for (_, entry) in entries() {
            let mut body = Vec::new();
            put_entry(&mut body, entry);
            for (kind, _) in entries() {
                for length in 0..=body.len() {
                    let _ = read_entry(kind, &body[..length]);
                    let _ = read_kind(&body[..length]);
                }
                for at in 0..body.len() {
                    for octet in [0, 1, 0xff] {
                        let mut damaged = body.clone();
                        damaged[at] = octet;
                        let _ = read_entry(kind, &damaged);
                        let _ = read_kind(&damaged);
                    }
                }
            }
        }
    }

    #[test]
    fn ipsets_own_numbers_have_words() {
        let raw = |code| io::Error::from_raw_os_error(code);
        let no_type = words(raw(4098), Some(SetKind::HashIpPortMark(Family::V4)));
        let said = no_type.to_string();
        assert!(said.contains("modprobe ip_set_hash_ipport"), "{said}");
        assert_eq!(code(&no_type), Some(4098));
        assert_eq!(
            words(raw(4199), None).to_string(),
            "ipset's error 4199",
            "one that is not known"
        );
        // errnos have the C library's words, and these are compared by callers
        for plain in [libc::EEXIST, libc::ENOENT, 4103] {
            assert_eq!(words(raw(plain), None).raw_os_error(), Some(plain));
        }
    }
}
