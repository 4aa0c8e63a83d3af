//! New tasks: a node, and an address on each network.

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use model::{
    Attachment, DesiredState, Lease, NetworkId, NodeId, Object, Resource, Service, Task, TaskId,
    TaskSpec,
};

use super::{Planner, slots::Place};
use crate::{allocate::lease_prefix, placement};

impl Planner<'_> {
    /// Makes a task; whether there was room for one.
    pub(super) fn create(
        &mut self,
        service: &Service,
        place: &Place,
        spec: &TaskSpec,
        not_before: Option<Timestamp>,
    ) -> bool {
        let made = self.make(service, place, spec, not_before).is_some();
        self.short |= !made;
        made
    }

    fn make(
        &mut self,
        service: &Service,
        (slot, node): &Place,
        spec: &TaskSpec,
        not_before: Option<Timestamp>,
    ) -> Option<()> {
        let node = node.clone().or_else(|| self.choose_node(service, *slot))?;
        // as of global mode, where it is not chosen
        if !self.load.contains_key(&node) || self.must_leave(service, &node) {
            return None;
        }
        let id = TaskId::from_random((self.random)());
        let mut attachments = Vec::new();
        for wanted in &spec.networks {
            let lease = self.lease(&wanted.network, &node)?;
            let blocks = lease.blocks();
            let addresses: Option<Vec<IpAddr>> =
                blocks.map(|block| self.allocator.address(block)).collect();
            attachments.push(Attachment {
                network: wanted.network.clone(),
                addresses: addresses?,
            });
        }
        for address in attachments.iter().flat_map(|a| &a.addresses) {
            let resource = Resource::Address(*address);
            self.allocator
                .claim(&mut self.plan.tx, &resource, id.as_str());
        }
        if let Some(load) = self.load.get_mut(&node) {
            *load += 1;
        }
        let here = self.slots.entry(node.clone()).or_default();
        here.insert(*slot);
        let task = Task {
            id,
            service: service.id.clone(),
            service_name: service.spec.name.clone(),
            slot: *slot,
            node,
            spec: spec.clone(),
            attachments,
            desired: DesiredState::Running,
            created: self.now,
            not_before,
            elsewhere: None,
        };
        self.plan.tx.create(Object::Task(Box::new(task)));
        Some(())
    }

    /// The node that takes a task in this slot with the fewest tasks that shall run: of
    /// this service where those of its kind are, then of all.
    pub(super) fn choose_node(&self, service: &Service, slot: u32) -> Option<NodeId> {
        let nodes = self.load.iter().filter_map(|(id, load)| {
            let node = self.state.nodes.get(id)?;
            let takes = placement::must_leave(service, node).is_none()
                && !placement::is_full(service, &self.slots, id, slot);
            takes.then_some((node, *load))
        });
        let least = nodes.min_by_key(|(node, load)| {
            let crowd = placement::crowd(self.state, service, &self.slots, node);
            (crowd, *load)
        });
        least.map(|(node, _)| node.id.clone())
    }

    /// The node's blocks of a network, leased now if it has none.
    fn lease(&mut self, network: &NetworkId, node: &NodeId) -> Option<Lease> {
        if let Some(lease) = self.state.lease(network, node) {
            return Some(lease.clone());
        }
        let key = (network.clone(), node.clone());
        if let Some(lease) = self.leases.get(&key) {
            return Some(lease.clone());
        }
        let pools = self.state.networks.get(network)?.pools.iter();
        let subnets: Vec<IpNet> = pools.map(|pool| pool.subnet).collect();
        let mut blocks = Vec::new();
        for subnet in subnets {
            let prefix = lease_prefix(subnet);
            // of the whole subnet, the network itself has the claim
            let whole = prefix == subnet.prefix_len();
            let block = match whole {
                true => subnet,
                false => self.allocator.block(subnet, prefix, &[])?,
            };
            blocks.push((block, !whole));
        }
        for (block, _) in blocks.iter().filter(|(_, claim)| *claim) {
            let resource = Resource::Block(*block);
            self.allocator
                .claim(&mut self.plan.tx, &resource, network.as_str());
        }
        let mut blocks = blocks.into_iter().map(|(block, _)| block);
        let lease = Lease {
            network: network.clone(),
            node: node.clone(),
            block: blocks.next()?,
            block6: blocks.next(),
        };
        self.plan.tx.create(Object::Lease(lease.clone()));
        self.leases.insert(key, lease.clone());
        Some(lease)
    }
}
