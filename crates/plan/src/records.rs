//! What the DNS responder shall answer: derived from the state, never from
//! events, so that nothing stale can stay.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use imbl::OrdSet;
use model::{
    DesiredState, EndpointMode, NodeId, State, Task, TaskId, TaskStatus,
    names::{Client, Snapshot, Zone},
};

use crate::datapath::NodeAddresses;

/// The snapshot for a node's responder: names of every network, and which of
/// them each task on this node may see.
pub fn records(
    state: &State,
    node: &NodeId,
    sandboxes: &OrdSet<TaskId>,
    upstreams: Vec<IpAddr>,
    ttl: u32,
) -> Snapshot {
    let mut networks: BTreeMap<String, Zone> = state
        .networks
        .values()
        .map(|n| {
            (
                n.id.to_string(),
                Zone {
                    name: n.spec.name.folded(),
                    ..Zone::default()
                },
            )
        })
        .collect();

    for service in state.services.values() {
        let name = service.spec.name.folded();
        for attachment in &service.spec.task.networks {
            let Some(zone) = networks.get_mut(attachment.network.as_str()) else {
                continue;
            };
            let vips: Vec<_> = service
                .endpoint
                .vips
                .iter()
                .filter(|vip| vip.network == attachment.network)
                .map(|vip| vip.address)
                .collect();
            for vip in &vips {
                zone.reverse.insert(*vip, format!("{name}.{}", zone.name));
            }
            // these exist while the service does, be there tasks or not
            zone.names.entry(format!("tasks.{name}")).or_default();
            let aliases = attachment
                .aliases
                .iter()
                .map(|alias| alias.to_ascii_lowercase());
            // an alias may be the name itself: no address is given twice
            let known: BTreeSet<_> = std::iter::once(name.clone()).chain(aliases).collect();
            for known_as in known {
                let addresses = zone.names.entry(known_as).or_default();
                if service.spec.endpoint.mode == EndpointMode::Vip {
                    addresses.extend(&vips);
                }
            }
        }
    }

    for task in state.tasks.values().filter(|task| serves(state, task)) {
        let Some(service) = state.services.get(&task.service) else {
            continue;
        };
        let name = service.spec.name.folded();
        for attachment in &task.attachments {
            let Some(zone) = networks.get_mut(attachment.network.as_str()) else {
                continue;
            };
            let mut names = BTreeSet::from([
                format!("tasks.{name}"),
                task.name().to_ascii_lowercase(),
                task.id.to_string(),
            ]);
            if service.spec.endpoint.mode == EndpointMode::DnsRr {
                let wanted = service.spec.task.networks.iter();
                let aliases = wanted
                    .filter(|wanted| wanted.network == attachment.network)
                    .flat_map(|wanted| wanted.aliases.iter().map(|a| a.to_ascii_lowercase()));
                names.extend(aliases);
                names.insert(name.clone());
            }
            for name in names {
                zone.names
                    .entry(name)
                    .or_default()
                    .extend(&attachment.addresses);
            }
            for address in &attachment.addresses {
                let name = format!("{}.{}", task.name().to_ascii_lowercase(), zone.name);
                zone.reverse.insert(*address, name);
            }
        }
    }

    let mut clients = BTreeMap::new();
    for task in sandboxes.iter().filter_map(|id| state.tasks.get(id)) {
        let on: Vec<_> = task.attachments.iter().map(|a| &a.network).collect();
        let forward = on
            .iter()
            .filter_map(|id| state.networks.get(*id))
            .any(|network| !network.spec.internal);
        let client = Client {
            networks: on.iter().map(ToString::to_string).collect(),
            forward,
        };
        for address in task
            .attachments
            .iter()
            .flat_map(|attachment| &attachment.addresses)
        {
            clients.insert(*address, client.clone());
        }
    }
    // the host itself may see everything
    if let (Some(pools), Some(me)) = (&state.pools, state.nodes.get(node)) {
        let all = networks.keys().cloned().collect();
        let host = Client {
            networks: all,
            forward: true,
        };
        for ranges in pools.ranges() {
            let address = NodeAddresses::new(&ranges, me.number).host();
            clients.insert(address, host.clone());
        }
    }
    Snapshot {
        revision: state.revision.0,
        ttl,
        networks,
        clients,
        upstreams,
    }
}

/// Whether a task's name is given out: it runs and is not leaving.
fn serves(state: &State, task: &Task) -> bool {
    task.desired == DesiredState::Running && state.status(&task.id).is_some_and(TaskStatus::serves)
}

#[cfg(test)]
mod tests;
