//! What belongs to us inside network namespaces, as plain values, and the
//! difference between two such values as an ordered list of operations.
//!
//! The same types say what is wanted (made by [`crate::datapath`]) and what the
//! kernel has (read by the `kernel` crate), so that comparing them is all that
//! reconciling needs.
//!
//! What there can be many of is in maps that share what they have in common with
//! their clones: whoever makes the next wanted value out of the last one pays for
//! the changes only, and so does who compares the two.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;
use model::{Mark, Protocol, TaskId};
use serde::{Deserialize, Serialize};

/// A network namespace of the data plane.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// The namespace that the daemon was started in.
    Host,
    /// Between host and router: published ports.
    Ingress,
    /// The tasks' gateway: VIPs.
    Router,
    /// A task's own.
    Task(TaskId),
}

/// What is in each namespace.
pub type Places = OrdMap<Place, Netns>;

/// Everything of ours in one namespace. In the router, ingress and task
/// namespaces everything is ours; in the host only what carries our names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Netns {
    /// By name. In the host: only the veth to the ingress namespace.
    pub links: OrdMap<String, Link>,
    /// Addresses on links, each with its prefix length. Automatic IPv6
    /// link-local ones and 127.0.0.1/8, ::1/128 on `lo` are left out.
    pub addresses: OrdSet<(String, IpNet)>,
    /// Routes. Those which the kernel makes by itself (protocol `kernel`) are
    /// left out. In the host: only those that leave by our link.
    pub routes: OrdSet<Route>,
    /// By path below `/proc/sys`, such as `net/ipv4/ip_forward`: the value,
    /// trimmed. When observing, only the ones that are asked for are read.
    pub sysctls: OrdMap<String, String>,
    /// By name. In the host: only those with our prefix.
    pub sets: OrdMap<String, Set>,
    /// iptables, by family and table. In the host: only our chains and the
    /// rules that jump to them.
    pub tables: BTreeMap<(Family, Table), Chains>,
    /// In the host: the links between which established TCP connections of published ports
    /// go past rules, connection tracking and routing, by an nftables flowtable of ours.
    /// `None`: there is none. Observed without links: one that others changed.
    pub flowtable: Option<OrdSet<String>>,
    /// IPVS time-outs; `None`: not managed here.
    pub ipvs_timeouts: Option<Timeouts>,
    /// IPVS services keyed by firewall mark. Services with an address key are
    /// not ours and left out.
    pub services: OrdMap<(Family, Mark), VirtualService>,
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl From<IpAddr> for Family {
    fn from(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }
}

/// A link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// What it is.
    pub kind: LinkKind,
    /// Largest packet, in octets; `None` when it does not matter (`lo`).
    pub mtu: Option<u32>,
    /// Administratively up.
    pub up: bool,
}

/// What a link is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkKind {
    /// The loopback, which is there already.
    Loopback,
    /// The end of a veth pair that we make here; the other end is put into
    /// `place` under the name `peer` at once.
    Veth {
        /// Name of the other end.
        peer: String,
        /// Where the other end is.
        place: Place,
    },
    /// The other end of a veth pair that is made elsewhere.
    VethPeer,
}

/// A route of the main table unless `table` says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// Where to; a prefix length of 0 is the default route.
    pub to: IpNet,
    /// How.
    pub kind: RouteKind,
    /// Next hop.
    pub via: Option<IpAddr>,
    /// By this link. `None` for `unreachable`, whatever the kernel says
    /// (it reports `lo` for IPv6).
    pub dev: Option<String>,
    /// Preferred source address.
    pub src: Option<IpAddr>,
    /// Priority, lower is better; 0 is the kernel's default for IPv4.
    pub metric: u32,
}

/// How a route treats packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteKind {
    /// Forwards.
    Unicast,
    /// Delivers here (table `local`, as `ip route add local`).
    Local,
    /// Answers "no route to host".
    Unreachable,
}

/// An ipset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// What it holds.
    pub kind: SetKind,
    /// Entries, each with the mark that it maps to (skbinfo), if the kind has them.
    pub entries: OrdMap<Entry, Option<Mark>>,
}

/// What an ipset holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SetKind {
    /// `bitmap:port range 0-65535`
    BitmapPort,
    /// `hash:ip skbinfo`
    HashIpMark(Family),
    /// `hash:ip,port skbinfo`
    HashIpPortMark(Family),
    /// `hash:net`
    HashNet(Family),
    /// `hash:net,port`
    HashNetPort(Family),
    /// `hash:net,net`
    HashNetNet(Family),
}

/// One entry of an ipset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// Of `bitmap:port`.
    Port(u16),
    /// Of `hash:ip`.
    Ip(IpAddr),
    /// Of `hash:ip,port`.
    IpPort(IpAddr, Protocol, u16),
    /// Of `hash:net,port`; the kernel takes no prefix length of 0.
    NetPort(IpNet, Protocol, u16),
    /// Of `hash:net`.
    Net(IpNet),
    /// Of `hash:net,net`.
    NetNet(IpNet, IpNet),
}

/// An iptables table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    /// `raw`
    Raw,
    /// `mangle`
    Mangle,
    /// `nat`
    Nat,
    /// `filter`
    Filter,
}

impl Table {
    /// The name that iptables has for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Mangle => "mangle",
            Self::Nat => "nat",
            Self::Filter => "filter",
        }
    }
}

/// The rules of ours in one table, each as `iptables-save` prints it, without
/// its `-A CHAIN `.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chains {
    /// Chains that are wholly ours, in order of their rules. In namespaces of
    /// ours the built-in chains are among them where they have rules.
    pub own: BTreeMap<String, Vec<String>>,
    /// In the host: rules in chains that are not ours (built-in ones), which
    /// jump to ours.
    pub jumps: BTreeSet<Jump>,
}

/// A rule of ours in a chain that is not ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Jump {
    /// Built-in chain, such as `FORWARD`.
    pub chain: String,
    /// The rule, as `iptables-save` prints it, without `-A CHAIN `.
    pub rule: String,
    /// Whether it is to be the first of its chain when it is made (`-I`);
    /// where it is found later does not matter, so that two programs which
    /// both want to be first do not fight. Always false when observed.
    pub first: bool,
}

/// IPVS time-outs of a namespace, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// Idle established TCP connections.
    pub tcp: u32,
    /// TCP connections after a FIN.
    pub tcp_fin: u32,
    /// UDP flows.
    pub udp: u32,
}

/// An IPVS service keyed by firewall mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualService {
    /// How they are chosen.
    pub scheduling: Scheduling,
    /// By address and port; port 0 keeps the packet's.
    pub destinations: BTreeMap<(IpAddr, u16), Destination>,
}

/// How an IPVS service chooses a destination: all of it but these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduling {
    /// Scheduler, by its kernel name.
    pub scheduler: Cow<'static, str>,
    /// Flags without `IP_VS_SVC_F_HASHED`: persistent 1, one-packet 4, scheduler's 8, 16, 32.
    pub flags: u32,
    /// Persistence time-out in seconds; 0 without persistence.
    pub timeout: u32,
    /// Granularity of persistence: prefix length of client addresses.
    pub netmask: u8,
}

/// A real server of an IPVS service; forwarding is always NAT ("masq").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// 0: no new connections.
    pub weight: u32,
    /// No new connections above so many; 0: no limit.
    pub upper_threshold: u32,
    /// New ones again below so many.
    pub lower_threshold: u32,
}

/// One write to the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// Makes a link (the peer end at once, if it is a veth). Not for
    /// [`LinkKind::Loopback`] and [`LinkKind::VethPeer`].
    AddLink(String, Link),
    /// Sets MTU and up/down of a link that is there.
    SetLink(String, Link),
    /// Deletes a link, and with it its peer.
    DelLink(String),
    /// Adds an address.
    AddAddress(String, IpNet),
    /// Deletes an address.
    DelAddress(String, IpNet),
    /// Adds a route, or replaces one with the same destination and metric.
    AddRoute(Route),
    /// Deletes a route.
    DelRoute(Route),
    /// Writes a sysctl.
    SetSysctl(String, String),
    /// Makes a set with no entries.
    CreateSet(String, SetKind),
    /// Destroys a set.
    DestroySet(String),
    /// Adds an entry, or changes its mark.
    AddEntry(String, Entry, Option<Mark>),
    /// Deletes an entry.
    DelEntry(String, Entry),
    /// Makes these chains hold exactly these rules, deletes `gone` ones, adds and
    /// deletes jumps: one iptables-restore.
    Restore {
        /// iptables or ip6tables.
        family: Family,
        /// The table.
        table: Table,
        /// Chains to make or rewrite.
        set: BTreeMap<String, Vec<String>>,
        /// Own chains to delete (built-in ones: to empty).
        gone: BTreeSet<String>,
        /// Jumps to add.
        add: BTreeSet<Jump>,
        /// Jumps to delete, as observed.
        remove: BTreeSet<Jump>,
    },
    /// Makes the flowtable anew, for these links: one transaction.
    SetFlowtable(OrdSet<String>),
    /// Takes the flowtable away.
    DelFlowtable,
    /// Sets IPVS time-outs.
    SetTimeouts(Timeouts),
    /// Makes an IPVS service, without destinations.
    NewService(Family, Mark, Scheduling),
    /// Changes an IPVS service's own attributes.
    SetService(Family, Mark, Scheduling),
    /// Deletes an IPVS service with its destinations.
    DelService(Family, Mark),
    /// Adds a destination.
    NewDestination(Family, Mark, (IpAddr, u16), Destination),
    /// Changes a destination.
    SetDestination(Family, Mark, (IpAddr, u16), Destination),
    /// Deletes a destination.
    DelDestination(Family, Mark, (IpAddr, u16)),
}
