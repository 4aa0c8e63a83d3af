//! Connections that are open to tasks.
//!
//! A task's own sockets tell of all of them, however they came: by a VIP, a published
//! port, or to the task's address. IPVS counts the first two as well, and knows those
//! that a task hands on into a namespace of its own; the higher number is taken.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use model::{Mark, TaskId};
use netlink_packet_ipvs::{AddressFamily, ServiceKey};
use plan::netns::Place;

use crate::{Error, ipvs::Ipvs, place::Handles, sockets};

/// Where connections are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// Tasks with their addresses.
    pub tasks: BTreeMap<TaskId, BTreeSet<IpAddr>>,
    /// IPVS services that balance to them, of any family.
    pub services: BTreeSet<(Place, Mark)>,
}

/// Open connections by the address that they go to.
type Count = BTreeMap<IpAddr, u64>;

/// Counts; `inside` reads in a place, and gives nothing where there is no such
/// namespace.
pub(crate) fn count(
    watched: &Watched,
    mut inside: impl FnMut(
        &Place,
        &mut dyn FnMut(&mut Handles) -> Result<Count, Error>,
    ) -> Result<Count, Error>,
) -> Result<Count, Error> {
    let mut balanced = Count::new();
    for place in [Place::Ingress, Place::Router] {
        let services = watched.services.iter();
        let marks = services
            .filter(|(at, _)| *at == place)
            .map(|(_, mark)| mark);
        let marks: Vec<_> = marks.copied().collect();
        let here = inside(&place, &mut |handles| active(handles.ipvs()?, &marks))?;
        for (address, number) in here {
            *balanced.entry(address).or_default() += number;
        }
    }
    let mut count = Count::new();
    for (task, addresses) in &watched.tasks {
        let place = Place::Task(task.clone());
        let accepted = inside(&place, &mut |handles| {
            handles.netns.run(|| sockets::accepted(addresses))?
        })?;
        for address in addresses {
            let known = [&accepted, &balanced].map(|count| count.get(address).copied());
            let known = known.into_iter().flatten().max().unwrap_or_default();
            count.insert(*address, known);
        }
    }
    Ok(count)
}

/// What IPVS has as active connections of each destination of these services.
fn active(ipvs: &mut Ipvs, marks: &[Mark]) -> Result<Count, Error> {
    let mut count = Count::new();
    for mark in marks {
        for family in [AddressFamily::Ipv4, AddressFamily::Ipv6] {
            let mark = mark.get();
            for to in ipvs.uncounted_destinations(&ServiceKey::FwMark { family, mark })? {
                *count.entry(to.address).or_default() += u64::from(to.active_connections);
            }
        }
    }
    Ok(count)
}
