//! What the DNS responder knows: a snapshot that the daemon derives from the
//! state and hands over whole, and that the responder keeps when the daemon dies.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

/// All names, as of one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Revision of the state it was made from.
    pub revision: u64,
    /// TTL of our own answers, in seconds.
    pub ttl: u32,
    /// Networks by id.
    pub networks: BTreeMap<String, Zone>,
    /// Which networks a client may see, by its source address; in the order in
    /// which they are searched. An address that is not here sees none of our
    /// names, and is only forwarded for.
    pub clients: BTreeMap<IpAddr, Client>,
    /// Servers for all other names, in order: the host's.
    pub upstreams: Vec<IpAddr>,
}

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// Ids of the networks whose names it sees.
    pub networks: Vec<String>,
    /// Whether its other questions are forwarded; not from internal networks.
    pub forward: bool,
}

/// The names of one network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    /// The network's name: `vote` is `vote.NETWORK` as well.
    pub name: String,
    /// Lower-case names without a final dot, each with its addresses. A name
    /// that is here with no address (a dnsrr service without running tasks)
    /// exists: the answer is NODATA, not NXDOMAIN.
    pub names: BTreeMap<String, Vec<IpAddr>>,
    /// Addresses to names, for PTR; all under the network's name (`vote.1.back`).
    pub reverse: BTreeMap<IpAddr, String>,
}
