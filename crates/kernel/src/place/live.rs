//! What IPVS counts of services and their destinations, for showing.

use std::{collections::BTreeMap, net::IpAddr};

use model::Mark;
use nix::libc;
use plan::netns::{Family, Place};

use super::{Handles, Kernel, theirs};
use crate::{Error, netlink::code};

/// Totals since it was made, and rates a second: averages of some seconds, which the
/// kernel makes every two (`net/netfilter/ipvs/ip_vs_est.c`).
pub use netlink_packet_ipvs::Stats as Traffic;

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
            Ok(service) => service.stats,
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
            traffic: to.stats,
        });
        let live = LiveService {
            traffic,
            destinations: destinations.collect(),
        };
        all.insert(*key, live);
    }
    Ok(all)
}
