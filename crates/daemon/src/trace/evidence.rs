//! What is found out about a probe, as plain values: all that it is explained by.

use std::{collections::BTreeMap, net::IpAddr, net::SocketAddr, time::Duration};

use kernel::evidence::{Balanced, Counts, Holder, Sockets, Tracked};
use model::TaskId;
use plan::netns::{Place, Places};

use super::probe::Outcome;

/// A question for the name, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The name.
    pub(crate) name: String,
    /// Who was asked: the mesh's responder, at the client's address for it.
    pub(crate) server: SocketAddr,
    /// What it said.
    pub(crate) said: Result<dns::Said, Silence>,
    /// How the responder is, where it did not answer well.
    pub(crate) responder: Option<Responder>,
    /// What the host's own servers say to the same question, where it is theirs.
    pub(crate) upstreams: Vec<(IpAddr, Result<dns::Code, String>)>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// Nothing came in this time.
    Silent(Duration),
    /// Nobody has the port.
    Refused,
    /// Anything else, in words.
    Failed(String),
}

/// How the responder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Responder {
    /// It answers on its control socket.
    Well,
    /// Its process is there, in this state (proc(5)), and does not.
    Stuck { pid: u32, state: char },
    /// There is no such process.
    Gone,
}

/// A probe that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    /// Address and port that it was sent from, where it was.
    pub(crate) from: Option<SocketAddr>,
    /// What came back.
    pub(crate) outcome: Outcome,
    /// How long that took.
    pub(crate) took: Duration,
}

/// What a namespace had counted before the probe, and after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) before: Counts,
    pub(crate) after: Counts,
}

/// The task to which the probe was sent at last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// Address and port there.
    pub(crate) at: SocketAddr,
    /// Which task, if it is one.
    pub(crate) task: Option<TaskId>,
    /// Its namespace's sockets.
    pub(crate) sockets: Sockets,
    /// Who listens there.
    pub(crate) holder: Option<Holder>,
}

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// `None`: no name was asked for.
    pub(crate) asked: Option<Asked>,
    /// `None`: nothing was sent.
    pub(crate) probe: Option<Probe>,
    /// What the kernel had before the probe.
    pub(crate) seen: Places,
    /// By namespace.
    pub(crate) counted: BTreeMap<Place, Counted>,
    /// The host's connection tracking.
    pub(crate) tracked: Option<Tracked>,
    /// IPVS's choice.
    pub(crate) balanced: Option<Balanced>,
    /// Connections of each destination (active and inactive), by address and port.
    pub(crate) busy: BTreeMap<SocketAddr, u32>,
    /// The task that it was sent to.
    pub(crate) chosen: Option<Chosen>,
}
