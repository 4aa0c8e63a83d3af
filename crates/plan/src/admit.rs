//! What people may ask for: each request is checked against the state, given
//! all that it needs, and becomes one transaction — or a refusal, and nothing.

mod blob;
mod container;
mod elsewhere;
mod lifecycle;
mod node;

use std::{collections::BTreeSet, net::Ipv4Addr};

use ipnet::IpNet;
use jiff::Timestamp;
use model::{
    ANY_INGRESS, AllocatedPort, DesiredState, Endpoint, EndpointMode, Key, Listener, Mode, Name,
    Network, NetworkAttachment, NetworkId, NetworkSpec, Node, NodeId, Object, Options, Pool, Pools,
    ProcessSpec, Ranges, Resource, Revision, RuntimeSpec, Service, ServiceId, ServiceSpec, State,
    Task, TaskId, Transaction, Vip,
};

use crate::{
    allocate::{Allocator, lease_prefix, overlap, release},
    publish::{self, Publisher},
    template::Placeholders,
};
use lifecycle::Cause;

pub use blob::{create_blob, label_blob, remove_blob};
pub use node::update_node;

/// Tasks of one service, at most: a typing error is refused before it hurts.
const MOST_REPLICAS: u32 = 10_000;
/// Restarts that can be counted, at most: each is a task that is remembered.
const MOST_ATTEMPTS: u64 = 100;
/// The network of services that name none.
const DEFAULT_NETWORK: &str = "mesh";
/// `tasks.NAME` are the addresses of NAME's tasks; a service of this name would
/// have tasks called `tasks.1`.
const KEPT_NAME: &str = "tasks";
/// What no pool may overlap: addresses that mean something else to every host.
const SPECIAL: [(Ipv4Addr, u8, &str); 5] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8, "\"this network\""),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "loopback"),
    (Ipv4Addr::new(169, 254, 0, 0), 16, "link-local"),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "multicast"),
    (Ipv4Addr::new(240, 0, 0, 0), 4, "reserved"),
];

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such thing.
    #[error("{what} {name} not found")]
    NotFound {
        /// Service, network, task, config or secret.
        what: &'static str,
        /// As asked.
        name: String,
    },
    /// The name is taken.
    #[error(
        "{what} with name {name} already exists ({id}): remove it first, or choose another name"
    )]
    NameTaken {
        /// Service, network, config or secret.
        what: &'static str,
        /// The name.
        name: String,
        /// Who has it.
        id: String,
    },
    /// The port is taken.
    #[error(
        "port {listener} is already in use by {holder}: choose another published port, or stop that first"
    )]
    PortTaken {
        /// Address, port, protocol.
        listener: Listener,
        /// Services or processes.
        holder: String,
    },
    /// A port is asked for twice in one spec.
    #[error("port {0} is published twice in this service")]
    PortTwice(Listener),
    /// Subnets overlap.
    #[error("subnet {subnet} overlaps {with}: choose another --subnet")]
    Overlap {
        /// As asked.
        subnet: IpNet,
        /// A network, a pool or a route.
        with: String,
    },
    /// Something is still in use.
    #[error("network {name} is in use by {by}: remove that first")]
    InUse {
        /// Which.
        name: Name,
        /// Services or tasks.
        by: String,
    },
    /// The same, for a moment: tasks of what was removed are ending.
    #[error("network {name} is in use by task {by} (still stopping): try again")]
    StillStopping {
        /// Which network.
        name: Name,
        /// Tasks.
        by: String,
    },
    /// A value makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A pool is empty.
    #[error("no free {what} left in {pool}: {remedy}")]
    Exhausted {
        /// Address, mark, block, port.
        what: &'static str,
        /// Of which pool.
        pool: String,
        /// What to do.
        remedy: &'static str,
    },
    /// More tasks than addresses.
    #[error(
        "network {name} has room for {room} tasks, and {wanted} would be wanted on it: ask for fewer replicas, or use another network"
    )]
    Crowded {
        /// The network.
        name: Name,
        /// Addresses for tasks.
        room: u64,
        /// Tasks of all its services.
        wanted: u64,
    },
    /// Somebody changed it in between.
    #[error(
        "update out of sequence: {what} {name} is at version {is}, not {given}; look at it again"
    )]
    OutOfSequence {
        /// Service or node.
        what: &'static str,
        /// Which.
        name: String,
        /// Its version; of a service, one that only tells of its update is no other.
        is: Revision,
        /// The version in the request.
        given: Revision,
    },
}

/// What kind of refusal it is, for status codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// There is no such thing.
    NotFound,
    /// Something else is in the way.
    Conflict,
    /// The request itself makes no sense.
    Invalid,
}

impl Refusal {
    /// What kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NotFound { .. } => Kind::NotFound,
            Self::NameTaken { .. }
            | Self::PortTaken { .. }
            | Self::InUse { .. }
            | Self::StillStopping { .. }
            | Self::Exhausted { .. }
            | Self::Crowded { .. }
            | Self::OutOfSequence { .. } => Kind::Conflict,
            Self::PortTwice(_) | Self::Overlap { .. } | Self::Invalid(_) => Kind::Invalid,
        }
    }
}

/// A port that a process of the host listens on.
#[derive(Clone, Debug)]
pub struct HeldPort {
    /// Address, port, protocol.
    pub listener: Listener,
    /// Who.
    pub holder: String,
}

/// What a decision needs from outside.
pub struct Context<'a> {
    /// The time.
    pub now: Timestamp,
    /// 128 fresh random bits a call.
    pub random: &'a mut dyn FnMut() -> [u8; 16],
    /// Ports that others listen on.
    pub held: &'a [HeldPort],
    /// Networks that the host has routes to, with the link.
    pub routes: &'a [(IpNet, String)],
}

/// The first objects of a mesh, and this node. Pools that are too small for
/// networks of the wanted size get smaller networks.
///
/// # Errors
/// The pools are not usable, they are not the ones that the mesh has, or the
/// nodes' pool is full.
pub fn init(
    state: &State,
    node: &NodeId,
    hostname: &str,
    pools: &Pools,
    routes: &[(IpNet, String)],
    now: Timestamp,
) -> Result<Transaction, Refusal> {
    let mut tx = Transaction::default();
    let pools = match &state.pools {
        None => {
            let pools = check_pools(pools, routes)?;
            tx.create(Object::Pools(pools.clone()));
            pools
        }
        Some(kept) if ranges(kept).eq(ranges(pools)) => {
            let kept_six = kept.six;
            if let (None, Some(six)) = (kept_six, pools.six) {
                // a mesh from before it had IPv6, or whose node had none
                tx.replace(
                    kept.version,
                    Object::Pools(Pools {
                        six: Some(check_six(six, routes)?),
                        ..Pools::clone(kept)
                    }),
                );
            }
            Pools::clone(kept)
        }
        Some(kept) => {
            return Err(Refusal::Invalid(format!(
                "the mesh was made with task pool {}, VIP pool {} and node pool {}, which cannot be changed: start with these or without any",
                kept.tasks, kept.vips, kept.nodes
            )));
        }
    };
    if !state.nodes.contains_key(node) {
        let used: BTreeSet<u8> = state.nodes.values().map(|node| node.number).collect();
        // a /24 each; the first one is nobody's
        let most = (1u32 << 24u8.saturating_sub(pools.nodes.prefix_len()).min(8)) - 1;
        let number = (1..=u8::MAX)
            .take_while(|n| u32::from(*n) <= most)
            .find(|n| !used.contains(n))
            .ok_or_else(|| Refusal::Exhausted {
                what: "node number",
                pool: pools.nodes.to_string(),
                remedy: "this mesh cannot have more nodes",
            })?;
        let node = Node {
            id: node.clone(),
            hostname: hostname.to_owned(),
            number,
            created: now,
            labels: std::collections::BTreeMap::new(),
            availability: model::Availability::default(),
        };
        tx.create(Object::Node(node));
    }
    Ok(tx)
}

/// The pools with the words for each: its name and its flag.
fn ranges(pools: &Pools) -> impl Iterator<Item = (IpNet, &'static str, &'static str)> {
    [
        (pools.tasks, "task pool", "--task-pool"),
        (pools.vips, "VIP pool", "--vip-pool"),
        (pools.nodes, "node pool", "--node-pool"),
    ]
    .into_iter()
}

/// The pools, if a mesh can be made of them, with prefix lengths that fit.
fn check_pools(pools: &Pools, routes: &[(IpNet, String)]) -> Result<Pools, Refusal> {
    let no = |why: String| Err(Refusal::Invalid(why));
    for (number, (pool, what, flag)) in ranges(pools).enumerate() {
        if !pool.addr().is_ipv4() {
            return no(format!(
                "{what} {pool} is IPv6: give an IPv4 {flag}; IPv6 ranges come from --ipv6-prefix"
            ));
        }
        if pool.trunc() != pool {
            return no(format!(
                "{what} {pool} has host bits set: did you mean {flag} {}?",
                pool.trunc()
            ));
        }
        // nodes have a /24 each, and the first one is not used
        let smallest = if pool == pools.nodes { 23 } else { 24 };
        if !(8..=smallest).contains(&pool.prefix_len()) {
            return no(format!(
                "{what} {pool}: use a prefix length of 8 to {smallest} for {flag}"
            ));
        }
        for (address, prefix, kind) in SPECIAL {
            let special = IpNet::new_assert(address.into(), prefix);
            if overlap(pool, special) {
                return no(format!(
                    "{what} {pool} overlaps the {kind} addresses {special}: choose another {flag}"
                ));
            }
        }
        if let Some((other, name, _)) = ranges(pools)
            .take(number)
            .find(|(other, ..)| overlap(*other, pool))
        {
            return no(format!(
                "{what} {pool} overlaps the {name} {other}: choose another {flag}"
            ));
        }
        if let Some((route, link)) = routes.iter().find(|(route, _)| overlap(*route, pool)) {
            return no(format!(
                "{what} {pool} overlaps the host's route to {route} (dev {link}): choose another {flag}"
            ));
        }
    }
    let six = pools.six.map(|six| check_six(six, routes)).transpose()?;
    // room for 16 networks at least
    let fit = |wanted: u8, pool: IpNet| wanted.max(pool.prefix_len() + 4).min(28);
    Ok(Pools {
        subnet_prefix: fit(pools.subnet_prefix, pools.tasks),
        vip_prefix: fit(pools.vip_prefix, pools.vips),
        six,
        ..pools.clone()
    })
}

/// The IPv6 ranges, if a mesh can have them.
fn check_six(six: Ranges, routes: &[(IpNet, String)]) -> Result<Ranges, Refusal> {
    for range in [six.tasks, six.vips, six.nodes] {
        // a default route is none of these
        if let Some((route, link)) = routes.iter().find(|(route, _)| overlap(*route, range)) {
            return Err(Refusal::Invalid(format!(
                "IPv6 range {range} overlaps the host's route to {route} (dev {link}): choose another --ipv6-prefix, or none"
            )));
        }
    }
    Ok(six)
}

/// Makes a network.
///
/// # Errors
/// The name is taken, the subnet overlaps something, or no address is left.
pub fn create_network(
    state: &State,
    spec: &NetworkSpec,
    raw: &serde_json::Value,
    context: &mut Context<'_>,
) -> Result<(NetworkId, Transaction), Refusal> {
    let mut tx = Transaction::default();
    let mut allocator = Allocator::new(state, context.now);
    let network = add_network(state, &mut allocator, &mut tx, spec, raw, context)?;
    Ok((network.id, tx))
}

fn add_network(
    state: &State,
    allocator: &mut Allocator<'_>,
    tx: &mut Transaction,
    spec: &NetworkSpec,
    raw: &serde_json::Value,
    context: &mut Context<'_>,
) -> Result<Network, Refusal> {
    let pools = state
        .pools
        .as_ref()
        .ok_or_else(|| Refusal::Invalid("the mesh is not set up yet".to_owned()))?;
    // subnets that overlap are different claims: so networks are made one at a time
    tx.replace(pools.version, Object::Pools(Pools::clone(pools)));
    let name = Resource::NetworkName(spec.name.folded());
    if let Some(id) = allocator.owner(&name) {
        let id = id.to_owned();
        return Err(Refusal::NameTaken {
            what: "network",
            name: spec.name.to_string(),
            id,
        });
    }
    let id = NetworkId::from_random((context.random)());
    allocator.claim(tx, &name, id.as_str());

    let mut network_pools = Vec::new();
    for ranges in pools.ranges() {
        let four = ranges.tasks.addr().is_ipv4();
        if four || spec.ipv6 {
            let pool = network_pool(state, allocator, tx, spec, &id, &ranges, pools, context)?;
            network_pools.push(pool);
        }
    }
    check_subnets(spec, pools)?;
    let network = Network {
        id,
        spec: spec.clone(),
        pools: network_pools,
        created: context.now,
        raw: raw.clone(),
    };
    tx.create(Object::Network(network.clone()));
    Ok(network)
}

/// At most one subnet a family, of families that the network has.
fn check_subnets(spec: &NetworkSpec, pools: &Pools) -> Result<(), Refusal> {
    let of = |four: bool| {
        let subnets = spec.subnets.iter();
        subnets.filter(move |subnet| subnet.addr().is_ipv4() == four)
    };
    if of(true).count() > 1 || of(false).count() > 1 {
        return Err(Refusal::Invalid(
            "a network has one subnet of each family at most: give one IPv4 and one IPv6 --subnet"
                .to_owned(),
        ));
    }
    match of(false).next() {
        Some(subnet) if !spec.ipv6 => Err(Refusal::Invalid(format!(
            "subnet {subnet} is IPv6, and the network is not to have IPv6: add --ipv6, or leave the subnet out"
        ))),
        Some(subnet) if pools.six.is_none() => Err(Refusal::Invalid(format!(
            "subnet {subnet} is IPv6, which this mesh does not have: see --ipv6-prefix of ipvsmeshd, and whether the host's kernel has IPv6"
        ))),
        _ => Ok(()),
    }
}

/// The subnet and the VIP block of a network in one family.
#[allow(clippy::too_many_arguments, reason = "one transaction's parts")]
fn network_pool(
    state: &State,
    allocator: &mut Allocator<'_>,
    tx: &mut Transaction,
    spec: &NetworkSpec,
    id: &NetworkId,
    ranges: &Ranges,
    pools: &Pools,
    context: &Context<'_>,
) -> Result<Pool, Refusal> {
    let four = ranges.tasks.addr().is_ipv4();
    let mut asked = spec.subnets.iter();
    let asked = asked.find(|subnet| subnet.addr().is_ipv4() == four);
    let subnets = state.networks.values().flat_map(|n| &n.pools);
    let used: Vec<IpNet> = subnets
        .map(|pool| pool.subnet)
        .chain(foreign(ranges.tasks, context.routes).map(|(route, _)| *route))
        .collect();
    let subnet = match asked {
        None => allocator
            .block(ranges.tasks, ranges.subnet_prefix, &used)
            .ok_or_else(|| Refusal::Exhausted {
                what: "subnet",
                pool: ranges.tasks.to_string(),
                remedy: "remove networks that are unused, or give a smaller --subnet of it that is free",
            })?,
        Some(subnet) => {
            check_subnet(state, pools, ranges, *subnet, context.routes)?;
            *subnet
        }
    };
    allocator.claim(tx, &Resource::Block(subnet), id.as_str());
    let used: Vec<IpNet> = foreign(ranges.vips, context.routes)
        .map(|(route, _)| *route)
        .collect();
    let vips = allocator
        .block(ranges.vips, ranges.vip_prefix, &used)
        .ok_or_else(|| Refusal::Exhausted {
            what: "VIP block",
            pool: ranges.vips.to_string(),
            remedy: "remove networks that are unused",
        })?;
    allocator.claim(tx, &Resource::Block(vips), id.as_str());
    Ok(Pool { subnet, vips })
}

/// Routes into a part of a pool: our own are to the whole pool, and a wider one
/// gives way to them.
fn foreign(
    pool: IpNet,
    routes: &[(IpNet, String)],
) -> impl Iterator<Item = &(IpNet, String)> + use<'_> {
    let inside = move |route: IpNet| pool.contains(&route) && route != pool;
    routes.iter().filter(move |(route, _)| inside(*route))
}

fn check_subnet(
    state: &State,
    pools: &Pools,
    ranges: &Ranges,
    subnet: IpNet,
    routes: &[(IpNet, String)],
) -> Result<(), Refusal> {
    let clash = |with: String| Err(Refusal::Overlap { subnet, with });
    if subnet.trunc() != subnet {
        return Err(Refusal::Invalid(format!(
            "subnet {subnet} has host bits set: did you mean {}?",
            subnet.trunc()
        )));
    }
    let (widest, smallest) = if subnet.addr().is_ipv4() {
        (8, 29)
    } else {
        (48, 112)
    };
    if !(widest..=smallest).contains(&subnet.prefix_len()) {
        return Err(Refusal::Invalid(format!(
            "subnet {subnet}: use a prefix length of {widest} to {smallest}"
        )));
    }
    for network in state.networks.values() {
        if let Some(pool) = network
            .pools
            .iter()
            .find(|pool| overlap(pool.subnet, subnet))
        {
            return clash(format!("network {} ({})", network.spec.name, pool.subnet));
        }
    }
    let others = pools.ranges().flat_map(|ranges| {
        [
            (ranges.vips, "the VIP pool"),
            (ranges.nodes, "the nodes' pool"),
        ]
    });
    for (pool, what) in others {
        if overlap(pool, subnet) {
            return clash(format!("{what} ({pool})"));
        }
    }
    let routed = |(route, link): &(IpNet, String)| {
        clash(format!("the host's route to {route} (dev {link})"))
    };
    if let Some(route) = foreign(ranges.tasks, routes).find(|(route, _)| overlap(*route, subnet)) {
        return routed(route);
    }
    if !ranges.tasks.contains(&subnet) {
        if let Some(route) = routes
            .iter()
            .find(|(route, _)| *route != ranges.tasks && overlap(*route, subnet))
        {
            return routed(route);
        }
        return Err(Refusal::Invalid(format!(
            "subnet {subnet} is not within the mesh's task pool {}: choose one there",
            ranges.tasks
        )));
    }
    Ok(())
}

/// Removes a network.
///
/// # Errors
/// There is none, or it is in use.
pub fn remove_network(
    state: &State,
    id: &NetworkId,
    now: Timestamp,
) -> Result<Transaction, Refusal> {
    let network = state.networks.get(id).ok_or_else(|| Refusal::NotFound {
        what: "network",
        name: id.to_string(),
    })?;
    let name = &network.spec.name;
    let services: Vec<_> = state
        .services
        .values()
        .filter(|s| s.spec.task.networks.iter().any(|a| a.network == *id))
        .map(|s| s.spec.name.to_string())
        .collect();
    if !services.is_empty() {
        let by = format!("service {}", services.join(", "));
        return Err(Refusal::InUse {
            name: name.clone(),
            by,
        });
    }
    // those that are only remembered have nothing there any more
    let gone = |task: &TaskId| {
        let status = state.status(task);
        status.is_some_and(|status| status.state.is_final() && !status.attached)
    };
    let tasks = state
        .tasks
        .values()
        .filter(|t| t.attachments.iter().any(|a| a.network == *id) && !gone(&t.id));
    let tasks: Vec<_> = tasks.map(|task| task.name()).collect();
    if !tasks.is_empty() {
        return Err(Refusal::StillStopping {
            name: name.clone(),
            by: tasks.join(", "),
        });
    }
    let mut tx = Transaction::default();
    tx.delete(network.version, Key::Network(id.clone()));
    let mut held = BTreeSet::from([Resource::NetworkName(name.folded())]);
    let blocks = network
        .pools
        .iter()
        .flat_map(|pool| [pool.subnet, pool.vips]);
    held.extend(blocks.map(Resource::Block));
    for lease in state.leases.values().filter(|lease| lease.network == *id) {
        tx.delete(lease.version, Key::Lease(id.clone(), lease.node.clone()));
        held.extend(lease.blocks().map(Resource::Block));
    }
    release(state, &mut tx, id.as_str(), now, held);
    Ok(tx)
}

/// Makes a service. One that names no network is put on the network `mesh`,
/// which is made when it is first needed.
///
/// # Errors
/// [`Refusal`] says what is wrong.
pub fn create_service(
    state: &State,
    mut spec: ServiceSpec,
    raw: &serde_json::Value,
    context: &mut Context<'_>,
) -> Result<(ServiceId, Transaction), Refusal> {
    let mut tx = Transaction::default();
    let mut allocator = Allocator::new(state, context.now);
    let id = ServiceId::from_random((context.random)());
    let network = default_network(state, &mut allocator, &mut tx, &mut spec, context)?;
    check_spec(state, &spec, network.as_ref())?;
    check_room(state, &spec, network.as_ref(), None)?;
    let endpoint = allocate(
        state,
        &mut allocator,
        &mut tx,
        &id,
        &spec,
        &Endpoint::default(),
        network.as_ref(),
        context.held,
    )?;
    let service = Service {
        id: id.clone(),
        spec,
        spec_after: Revision::default(),
        previous: None,
        endpoint,
        created: context.now,
        updated: context.now,
        update_status: None,
        raw: raw.clone(),
        raw_previous: serde_json::Value::Null,
    };
    expect_networks(state, &mut tx, &service.spec, None);
    blob::expect(state, &mut tx, &service.spec, None);
    tx.create(Object::Service(Box::new(service)));
    Ok((id, tx))
}

/// Changes a service to another spec; what both have in common stays allocated.
/// Tasks of another task spec are to be replaced. `version` is one that the client
/// has seen: nobody may have asked for another spec since, but how far the update
/// is may have been written meanwhile, which Swarm refuses.
///
/// # Errors
/// [`Refusal`] says what is wrong.
pub fn update_service(
    state: &State,
    id: &ServiceId,
    version: Revision,
    spec: ServiceSpec,
    raw: &serde_json::Value,
    context: &mut Context<'_>,
) -> Result<Transaction, Refusal> {
    elsewhere::check_asked(find(state, id)?)?;
    change_service(state, id, version, spec, raw, Cause::Asked, context)
}

/// Changes the service of containers that are not ours to what those say.
///
/// # Errors
/// [`Refusal`] says what cannot be had.
pub(crate) fn change_adopted(
    state: &State,
    service: &model::Versioned<Service>,
    spec: ServiceSpec,
    context: &mut Context<'_>,
) -> Result<Transaction, Refusal> {
    let (id, version, raw) = (&service.id, service.version, &service.raw);
    change_service(state, id, version, spec, raw, Cause::Asked, context)
}

/// Changes a service back to its previous spec.
///
/// # Errors
/// There is none, or [`Refusal`] says what else is wrong.
pub fn rollback_service(
    state: &State,
    id: &ServiceId,
    version: Revision,
    context: &mut Context<'_>,
) -> Result<Transaction, Refusal> {
    elsewhere::check_asked(find(state, id)?)?;
    change_back(state, id, version, Cause::Rollback, context)
}

/// Changes a service back to its previous spec because too many tasks of the one
/// that it has failed, of which `message` tells.
///
/// # Errors
/// As of [`rollback_service`].
pub fn rollback_failed(
    state: &State,
    id: &ServiceId,
    version: Revision,
    message: String,
    context: &mut Context<'_>,
) -> Result<Transaction, Refusal> {
    change_back(state, id, version, Cause::Failure(message), context)
}

/// Stops a service's update where it is.
///
/// # Errors
/// There is no such service.
pub fn pause_update(
    state: &State,
    id: &ServiceId,
    message: String,
) -> Result<Transaction, Refusal> {
    let service = find(state, id)?;
    let mut tx = Transaction::default();
    if let Some(status) = &service.update_status
        && status.state.in_progress()
    {
        let paused = Service {
            update_status: Some(status.paused(message)),
            ..Service::clone(service)
        };
        tx.replace(service.version, Object::Service(Box::new(paused)));
    }
    Ok(tx)
}

fn change_back(
    state: &State,
    id: &ServiceId,
    version: Revision,
    cause: Cause,
    context: &mut Context<'_>,
) -> Result<Transaction, Refusal> {
    let service = find(state, id)?;
    let Some(previous) = &service.previous else {
        return Err(Refusal::Invalid(format!(
            "service {} does not have a previous spec to go back to",
            service.spec.name
        )));
    };
    let raw = service.raw_previous.clone();
    let spec = ServiceSpec::clone(previous);
    change_service(state, id, version, spec, &raw, cause, context)
}

fn change_service(
    state: &State,
    id: &ServiceId,
    version: Revision,
    mut spec: ServiceSpec,
    raw: &serde_json::Value,
    cause: Cause,
    context: &mut Context<'_>,
) -> Result<Transaction, Refusal> {
    let before = find(state, id)?;
    if !(before.spec_after < version && version <= before.version) {
        let name = before.spec.name.clone();
        return Err(Refusal::OutOfSequence {
            what: "service",
            name: name.to_string(),
            is: before.version,
            given: version,
        });
    }
    elsewhere::check_change(&before.spec, &spec)?;
    let mut tx = Transaction::default();
    let mut allocator = Allocator::new(state, context.now);
    let network = default_network(state, &mut allocator, &mut tx, &mut spec, context)?;
    check_spec(state, &spec, network.as_ref())?;
    check_room(state, &spec, network.as_ref(), Some(before))?;
    let endpoint = allocate(
        state,
        &mut allocator,
        &mut tx,
        id,
        &spec,
        &before.endpoint,
        network.as_ref(),
        context.held,
    )?;
    let had = resources(&before.spec, &before.endpoint);
    let has = resources(&spec, &endpoint);
    let gone = had.difference(&has).cloned();
    release(state, &mut tx, id.as_str(), context.now, gone);
    expect_networks(state, &mut tx, &spec, Some(before));
    blob::expect(state, &mut tx, &spec, Some(&before.spec));
    let elsewhere = spec.task.runtime.is_elsewhere();
    let memory = cause.remember(state, before, &spec, context.now);
    let service = Service {
        id: id.clone(),
        spec_after: before.version,
        previous: memory.previous,
        spec,
        endpoint,
        created: before.created,
        updated: context.now,
        // tasks that are not ours are never replaced
        update_status: memory.status.filter(|_| !elsewhere),
        raw: raw.clone(),
        raw_previous: memory.raw_previous,
    };
    tx.replace(before.version, Object::Service(Box::new(service)));
    Ok(tx)
}

/// Removes a service; its tasks are drained, stopped and forgotten.
///
/// # Errors
/// There is none, or it is one of containers that are not ours.
pub fn remove_service(
    state: &State,
    id: &ServiceId,
    now: Timestamp,
) -> Result<Transaction, Refusal> {
    elsewhere::check_asked(find(state, id)?)?;
    remove(state, id, now)
}

/// Removes any service.
///
/// # Errors
/// There is none.
pub(crate) fn remove(
    state: &State,
    id: &ServiceId,
    now: Timestamp,
) -> Result<Transaction, Refusal> {
    let service = find(state, id)?;
    let mut tx = Transaction::default();
    tx.delete(service.version, Key::Service(id.clone()));
    let mut tasks = false;
    for task in state.tasks_of(id) {
        tasks = true;
        if task.desired != DesiredState::Remove {
            let leaving = Task {
                desired: DesiredState::Remove,
                ..Task::clone(task)
            };
            tx.replace(task.version, Object::Task(Box::new(leaving)));
        }
    }
    // a client is told by its task's last words, which must come from where it asked
    let mut gone = resources(&service.spec, &service.endpoint);
    if tasks {
        tx.create(Object::Leaving(Box::new(Service::clone(service))));
        let kept = ways_in(&service.endpoint);
        gone.retain(|resource| !kept.contains(resource));
    }
    release(state, &mut tx, id.as_str(), now, gone);
    Ok(tx)
}

/// The addresses and marks by which connections come to a service.
pub(crate) fn ways_in(endpoint: &Endpoint) -> BTreeSet<Resource> {
    let vips = endpoint.vips.iter();
    let vips = vips.flat_map(|vip| {
        let marks = [vip.tcp, vip.udp].map(Resource::Mark);
        marks.into_iter().chain([Resource::Address(vip.address)])
    });
    let ports = endpoint.ports.iter();
    vips.chain(ports.map(|port| Resource::Mark(port.mark)))
        .collect()
}

fn find<'a>(state: &'a State, id: &ServiceId) -> Result<&'a model::Versioned<Service>, Refusal> {
    let missing = || Refusal::NotFound {
        what: "service",
        name: id.to_string(),
    };
    state.services.get(id).ok_or_else(missing)
}

/// Puts a service without a network on the default one; gives that if it is new.
fn default_network(
    state: &State,
    allocator: &mut Allocator<'_>,
    tx: &mut Transaction,
    spec: &mut ServiceSpec,
    context: &mut Context<'_>,
) -> Result<Option<Network>, Refusal> {
    if !spec.task.networks.is_empty() {
        return Ok(None);
    }
    let attach = |network| NetworkAttachment {
        network,
        aliases: Vec::new(),
    };
    // by its whole name: a network's id may begin with the same letters
    let owner = allocator.owner(&Resource::NetworkName(DEFAULT_NETWORK.to_owned()));
    if let Some(network) = owner.and_then(|id| id.parse().ok()) {
        spec.task.networks.push(attach(network));
        return Ok(None);
    }
    let name: Name = DEFAULT_NETWORK
        .parse()
        .map_err(|error: model::InvalidName| Refusal::Invalid(error.to_string()))?;
    let asked = NetworkSpec {
        name,
        labels: Default::default(),
        internal: false,
        ipv6: true,
        subnets: Vec::new(),
    };
    let network = add_network(
        state,
        allocator,
        tx,
        &asked,
        &serde_json::Value::Null,
        context,
    )?;
    spec.task.networks.push(attach(network.id.clone()));
    Ok(Some(network))
}

/// Networks must still be there when the transaction is made. Those that the
/// service is new on are written, so that a removal which did not see it fails.
fn expect_networks(
    state: &State,
    tx: &mut Transaction,
    spec: &ServiceSpec,
    before: Option<&Service>,
) {
    for attachment in &spec.task.networks {
        let Some(network) = state.networks.get(&attachment.network) else {
            continue;
        };
        if before.is_some_and(|service| is_on(service, &network.id)) {
            tx.expect.push(model::Expect {
                key: Key::Network(network.id.clone()),
                version: Some(network.version),
            });
        } else {
            tx.replace(network.version, Object::Network(Network::clone(network)));
        }
    }
}

fn is_on(service: &Service, network: &NetworkId) -> bool {
    let mut networks = service.spec.task.networks.iter();
    networks.any(|attachment| attachment.network == *network)
}

/// Each task needs an address on each network.
fn check_room(
    state: &State,
    spec: &ServiceSpec,
    new: Option<&Network>,
    before: Option<&Service>,
) -> Result<(), Refusal> {
    let nodes = u32::try_from(state.nodes.len()).unwrap_or(u32::MAX);
    // those elsewhere have no addresses of ours
    let tasks = |spec: &ServiceSpec| match spec.mode {
        _ if spec.task.runtime.is_elsewhere() => 0,
        Mode::Replicated { replicas } => replicas,
        Mode::Global => nodes,
    };
    for attachment in &spec.task.networks {
        let stored = state.networks.get(&attachment.network);
        let Some(network) = stored.map(|network| &**network).or(new) else {
            continue;
        };
        let Some(subnet) = network.pools.first().map(|pool| pool.subnet) else {
            continue;
        };
        let had = before.filter(|service| is_on(service, &network.id));
        // fewer than before is always welcome
        if had.is_some_and(|service| tasks(spec) <= tasks(&service.spec)) {
            continue;
        }
        let prefix = lease_prefix(subnet);
        let blocks = 1u64 << (prefix - subnet.prefix_len());
        // without the block's name, the gateway, and broadcast
        let room = ((1u64 << (32 - prefix)) - 3) * blocks.min(u64::from(nodes.max(1)));
        let others = state
            .services
            .values()
            .filter(|other| before.is_none_or(|before| before.id != other.id))
            .filter(|other| is_on(other, &network.id));
        let wanted = others
            .map(|other| u64::from(tasks(&other.spec)))
            .sum::<u64>()
            + u64::from(tasks(spec));
        if wanted > room {
            return Err(Refusal::Crowded {
                name: network.spec.name.clone(),
                room,
                wanted,
            });
        }
    }
    Ok(())
}

fn check_process(process: &ProcessSpec) -> Result<(), Refusal> {
    let no = |why: String| Err(Refusal::Invalid(why));
    if process.command.first().is_none_or(String::is_empty) {
        return no("a process service needs a command: give it after --".to_owned());
    }
    if let Some(bad) = process.command.iter().find(|word| word.contains('\0')) {
        return no(format!("command word {bad:?} has a zero byte in it"));
    }
    if let Some(bad) = process
        .env
        .iter()
        .find(|e| e.is_empty() || e.starts_with('=') || e.contains('\0'))
    {
        return no(format!("environment {bad:?} is not KEY=VALUE"));
    }
    if let Some(dir) = &process.dir
        && (!dir.starts_with('/') || dir.contains('\0'))
    {
        return no(format!(
            "working directory {dir:?} is not valid: give an absolute path"
        ));
    }
    if let Some(user) = &process.user
        && (user.is_empty() || user.starts_with(':') || user.contains('\0'))
    {
        return no(format!(
            "user {user:?} is not valid: use NAME[:GROUP] or numbers"
        ));
    }
    Ok(())
}

fn check_spec(state: &State, spec: &ServiceSpec, new: Option<&Network>) -> Result<(), Refusal> {
    if spec.name.folded() == KEPT_NAME {
        return Err(Refusal::Invalid(format!(
            "service name {} is kept for tasks.NAME: choose another name",
            spec.name
        )));
    }
    let mut runtime = spec.task.runtime.clone();
    let filled = Placeholders::example(spec).expand(&mut runtime);
    filled.map_err(|error| Refusal::Invalid(error.to_string()))?;
    match &runtime {
        RuntimeSpec::Process(process) => check_process(process)?,
        RuntimeSpec::Docker(container) => container::check(container)?,
        RuntimeSpec::Static => elsewhere::check_static(state, spec, new)?,
        RuntimeSpec::Adopted { .. } => {}
    }
    blob::check(state, &runtime)?;
    if let Mode::Replicated { replicas } = spec.mode
        && replicas > MOST_REPLICAS
    {
        return Err(Refusal::Invalid(format!(
            "{replicas} replicas are too many: {MOST_REPLICAS} at most"
        )));
    }
    let attempts = spec.task.restart.max_attempts;
    if attempts > MOST_ATTEMPTS {
        return Err(Refusal::Invalid(format!(
            "{attempts} restart attempts are too many: {MOST_ATTEMPTS} at most, or 0 for no limit"
        )));
    }
    let mut seen = BTreeSet::new();
    for attachment in &spec.task.networks {
        let id = &attachment.network;
        if !state.networks.contains_key(id) && new.is_none_or(|network| network.id != *id) {
            return Err(Refusal::NotFound {
                what: "network",
                name: id.to_string(),
            });
        }
        if !seen.insert(id) {
            return Err(Refusal::Invalid(format!("network {id} is attached twice")));
        }
        if let Some(bad) = attachment
            .aliases
            .iter()
            .find(|alias| alias.parse::<Name>().is_err())
        {
            return Err(Refusal::Invalid(format!(
                "alias {bad:?} is not valid as a DNS name component"
            )));
        }
    }
    publish::check(&spec.endpoint.ports, has_six(state, spec, new))?;
    Options::of(&spec.labels).map_err(|error| Refusal::Invalid(error.to_string()))?;
    Ok(())
}

/// Whether one of the service's networks has IPv6.
fn has_six(state: &State, spec: &ServiceSpec, new: Option<&Network>) -> bool {
    let networks = spec.task.networks.iter().filter_map(|attachment| {
        let stored = state.networks.get(&attachment.network);
        stored.map(|network| &**network).or(new)
    });
    let mut pools = networks.flat_map(|network| &network.pools);
    pools.any(|pool| pool.subnet.addr().is_ipv6())
}

/// What a service needs, out of what it has and what is free.
#[allow(clippy::too_many_arguments, reason = "one transaction's parts")]
fn allocate(
    state: &State,
    allocator: &mut Allocator<'_>,
    tx: &mut Transaction,
    id: &ServiceId,
    spec: &ServiceSpec,
    before: &Endpoint,
    new: Option<&Network>,
    held: &[HeldPort],
) -> Result<Endpoint, Refusal> {
    let name = Resource::ServiceName(spec.name.folded());
    match allocator.owner(&name) {
        Some(owner) if owner == id.as_str() => {}
        Some(owner) => {
            let (name, id) = (spec.name.to_string(), owner.to_owned());
            return Err(Refusal::NameTaken {
                what: "service",
                name,
                id,
            });
        }
        None => allocator.claim(tx, &name, id.as_str()),
    }
    let mut endpoint = Endpoint::default();
    if spec.endpoint.mode == EndpointMode::Vip {
        for attachment in &spec.task.networks {
            let stored = state
                .networks
                .get(&attachment.network)
                .map(|network| &**network);
            let network = stored.or(new);
            let pools = network.iter().flat_map(|network| &network.pools);
            let pools = pools.filter(|pool| elsewhere::has(spec, pool.vips));
            for pool in pools {
                let same = |vip: &&Vip| {
                    vip.network == attachment.network && pool.vips.contains(&vip.address)
                };
                if let Some(vip) = before.vips.iter().find(same) {
                    endpoint.vips.push(vip.clone());
                    continue;
                }
                let none = || Refusal::Exhausted {
                    what: "VIP",
                    pool: pool.vips.to_string(),
                    remedy: "remove services that are unused, or use another network",
                };
                let address = allocator.vip(pool.vips).ok_or_else(none)?;
                allocator.claim(tx, &Resource::Address(address), id.as_str());
                let (tcp, udp) = (
                    allocator.new_mark(tx, id.as_str())?,
                    allocator.new_mark(tx, id.as_str())?,
                );
                endpoint.vips.push(Vip {
                    network: attachment.network.clone(),
                    address,
                    tcp,
                    udp,
                });
            }
        }
    }
    let publisher = Publisher {
        state,
        id,
        before: &before.ports,
        held,
        // labels were checked
        affinity: Options::of(&spec.labels).is_ok_and(|options| options.affinity.is_some()),
    };
    endpoint.ports = publisher.allocate(allocator, tx, &spec.endpoint.ports)?;
    let numbers = |port: &AllocatedPort| {
        let own = (port.ingress > ANY_INGRESS).then_some(port.ingress);
        own.into_iter().chain(port.affine)
    };
    let used = state.services.values().flat_map(|s| &s.endpoint.ports);
    let used: BTreeSet<u8> = used.flat_map(numbers).collect();
    let mut wanted = endpoint.ports.iter().flat_map(numbers);
    if let Some(pools) = &state.pools
        && wanted.any(|number| !used.contains(&number))
        && !tx.changes.iter().any(|change| change.key() == Key::Pools)
    {
        // two services may not choose one ingress address for two host addresses
        tx.replace(pools.version, Object::Pools(Pools::clone(pools)));
    }
    Ok(endpoint)
}

/// Everything that a service with this endpoint has claimed.
fn resources(spec: &ServiceSpec, endpoint: &Endpoint) -> BTreeSet<Resource> {
    let mut all = ways_in(endpoint);
    all.insert(Resource::ServiceName(spec.name.folded()));
    let listeners = endpoint.ports.iter();
    let listeners = listeners.filter_map(|port| publish::listener(&port.port));
    all.extend(listeners.map(Resource::Listener));
    all
}

#[cfg(test)]
mod tests;
