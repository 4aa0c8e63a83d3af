//! What IPVS counts of services and their destinations, for showing.

use std::{collections::BTreeMap, net::IpAddr};

use model::Mark;
use netlink_packet_ipvs::Stats;
use nix::libc;
use plan::netns::{Family, Place};

use super::{Handles, Kernel, theirs};
use crate::{Error, netlink::code};

/// Totals since it was made, and rates a second: averages of some seconds, which the
/// kernel makes every two (`net/netfilter/ipvs/ip_vs_est.c`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Connections that were balanced.
    pub connections: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Octets from clients.
    pub bytes_in: u64,
    /// Octets to clients.
    pub bytes_out: u64,
    /// Connections a second.
    pub connection_rate: u64,
    /// Packets from clients a second.
    pub packet_rate_in: u64,
    /// Packets to clients a second.
    pub packet_rate_out: u64,
    /// Octets from clients a second.
    pub byte_rate_in: u64,
    /// Octets to clients a second.
    pub byte_rate_out: u64,
}

impl From<Stats> for Traffic {
    fn from(stats: Stats) -> Self {
        Self {
            connections: stats.connections,
            packets_in: stats.packets_in,
            packets_out: stats.packets_out,
            bytes_in: stats.bytes_in,
            bytes_out: stats.bytes_out,
            connection_rate: stats.connection_rate,
            packet_rate_in: stats.packet_rate_in,
            packet_rate_out: stats.packet_rate_out,
            byte_rate_in: stats.byte_rate_in,
            byte_rate_out: stats.byte_rate_out,
        }
    }
}

/// A service with its counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveService {
    /// What went by it, whichever destinations it has had.
    pub traffic: Traffic,
    /// Its destinations.
    pub destinations: Vec<LiveDestination>,
}

/// A destination with its counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveDestination {
    /// Address and port.
    pub at: (IpAddr, u16),
    /// Weight.
    pub weight: u32,
    /// Open connections.
    pub active: u32,
    /// Connections that are closing, and UDP flows.
    pub inactive: u32,
    /// Clients that affinity keeps with it.
    pub persistent: u32,
    /// What went by it.
    pub traffic: Traffic,
}

/// The services in a place, by their keys.
pub type LiveServices = BTreeMap<(Family, Mark), LiveService>;

impl Kernel {
    /// Counters of these services in a place; those that are not there are left out.
    /// Two questions a service.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn live(
        &self,
        place: &Place,
        keys: Vec<(Family, Mark)>,
    ) -> Result<LiveServices, Error> {
        let place = place.clone();
        let read =
            move |places: &mut super::Places| places.with(&place, |handles| read(handles, &keys));
        let live = self.places.run(read).await?;
        Ok(live.unwrap_or_default())
    }
}

fn read(handles: &mut Handles, keys: &[(Family, Mark)]) -> Result<LiveServices, Error> {
    let ipvs = handles.ipvs()?;
    let mut all = BTreeMap::new();
    for key in keys {
        let theirs = theirs(*key);
        let traffic = match ipvs.service(&theirs) {
            Ok(service) => service.stats.into(),
            Err(Error::Netlink { source, .. }) if code(&source) == Some(libc::ESRCH) => continue,
            Err(error) => return Err(error),
        };
        let destinations = ipvs.destinations(&theirs)?.into_iter();
        let destinations = destinations.map(|to| LiveDestination {
            at: (to.address, to.port),
            weight: to.weight,
            active: to.active_connections,
            inactive: to.inactive_connections,
            persistent: to.persistent_connections,
            traffic: to.stats.into(),
        });
        let live = LiveService {
            traffic,
            destinations: destinations.collect(),
        };
        all.insert(*key, live);
    }
    Ok(all)
}
