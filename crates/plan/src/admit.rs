//! What people may ask for: each request is checked against the state, given
//! all that it needs, and becomes one transaction — or a refusal, and nothing.

use std::collections::BTreeSet;

use ipnet::IpNet;
use jiff::Timestamp;
use model::{
    AllocatedPort, DesiredState, Endpoint, EndpointMode, Key, Listener, Mode, Name, Network,
    NetworkAttachment, NetworkId, NetworkSpec, Node, NodeId, Object, Pool, Pools, PublishMode,
    PublishedPort, Resource, Revision, RuntimeSpec, Service, ServiceId, ServiceSpec, State,
    Transaction, Vip,
};

use crate::allocate::{Allocator, release};

/// Tasks of one service, at most: a typing error is refused before it hurts.
const MOST_REPLICAS: u32 = 10_000;
/// Where ports are picked from that nobody chose; as in Swarm and Kubernetes.
const AUTOMATIC_PORTS: std::ops::RangeInclusive<u16> = 30_000..=32_767;
/// The network of services that name none.
const DEFAULT_NETWORK: &str = "mesh";

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such thing.
    #[error("{what} {name} not found")]
    NotFound {
        /// Service, network or task.
        what: &'static str,
        /// As asked.
        name: String,
    },
    /// The name is taken.
    #[error(
        "{what} with name {name} already exists ({id}): remove it first, or choose another name"
    )]
    NameTaken {
        /// Service or network.
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
        /// A service or a process.
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
    /// A value makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// A pool is empty.
    #[error(
        "no free {what} left in {pool}: remove what is unused, or use a network with a larger subnet"
    )]
    Exhausted {
        /// Address, mark, block, port.
        what: &'static str,
        /// Of which pool.
        pool: String,
    },
    /// Somebody changed it in between.
    #[error(
        "update out of sequence: service {name} is at version {is}, not {given}; look at it again"
    )]
    OutOfSequence {
        /// Which.
        name: Name,
        /// Its version.
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
            | Self::Exhausted { .. }
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

/// The first objects of a mesh, and this node.
///
/// # Errors
/// The node's pool is full.
pub fn init(
    state: &State,
    node: &NodeId,
    hostname: &str,
    pools: &Pools,
    now: Timestamp,
) -> Result<Transaction, Refusal> {
    let mut tx = Transaction::default();
    if state.pools.is_none() {
        tx.create(Object::Pools(pools.clone()));
    }
    if !state.nodes.contains_key(node) {
        let used: BTreeSet<u8> = state.nodes.values().map(|node| node.number).collect();
        let number =
            (1..=u8::MAX)
                .find(|n| !used.contains(n))
                .ok_or_else(|| Refusal::Exhausted {
                    what: "node number",
                    pool: pools.nodes.to_string(),
                })?;
        let node = Node {
            id: node.clone(),
            hostname: hostname.to_owned(),
            number,
            created: now,
        };
        tx.create(Object::Node(node));
    }
    Ok(tx)
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
    let pools = &state
        .pools
        .as_ref()
        .ok_or_else(|| Refusal::Invalid("the mesh is not set up yet".to_owned()))?
        .value;
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

    let used: Vec<IpNet> = state
        .networks
        .values()
        .flat_map(|n| n.pools.iter().map(|pool| pool.subnet))
        .collect();
    let subnet = match spec.subnets.as_slice() {
        [] => allocator
            .block(pools.tasks, pools.subnet_prefix, &used)
            .ok_or_else(|| Refusal::Exhausted {
                what: "subnet",
                pool: pools.tasks.to_string(),
            })?,
        [subnet] => {
            check_subnet(state, pools, *subnet, context.routes)?;
            *subnet
        }
        _ => {
            return Err(Refusal::Invalid(
                "a network has one IPv4 subnet; IPv6 is not available in this version".to_owned(),
            ));
        }
    };
    allocator.claim(tx, &Resource::Block(subnet), id.as_str());
    let vips = allocator
        .block(pools.vips, pools.vip_prefix, &[])
        .ok_or_else(|| Refusal::Exhausted {
            what: "VIP block",
            pool: pools.vips.to_string(),
        })?;
    allocator.claim(tx, &Resource::Block(vips), id.as_str());
    let network = Network {
        id,
        spec: spec.clone(),
        pools: vec![Pool { subnet, vips }],
        created: context.now,
        raw: raw.clone(),
    };
    tx.create(Object::Network(network.clone()));
    Ok(network)
}

fn overlap(one: IpNet, two: IpNet) -> bool {
    one.contains(&two.network()) || two.contains(&one.network())
}

fn check_subnet(
    state: &State,
    pools: &Pools,
    subnet: IpNet,
    routes: &[(IpNet, String)],
) -> Result<(), Refusal> {
    let clash = |with: String| Err(Refusal::Overlap { subnet, with });
    if !subnet.addr().is_ipv4() {
        return Err(Refusal::Invalid(format!(
            "subnet {subnet}: IPv6 is not available in this version"
        )));
    }
    if subnet.trunc() != subnet {
        return Err(Refusal::Invalid(format!(
            "subnet {subnet} has host bits set: did you mean {}?",
            subnet.trunc()
        )));
    }
    if !(8..=29).contains(&subnet.prefix_len()) {
        return Err(Refusal::Invalid(format!(
            "subnet {subnet}: use a prefix length of 8 to 29"
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
    for (pool, what) in [
        (pools.vips, "the VIP pool"),
        (pools.nodes, "the nodes' pool"),
    ] {
        if overlap(pool, subnet) {
            return clash(format!("{what} ({pool})"));
        }
    }
    if !pools.tasks.contains(&subnet) {
        // our own route to the task pool is no clash
        if let Some((route, link)) = routes.iter().find(|(route, _)| overlap(*route, subnet)) {
            return clash(format!("the host's route to {route} (dev {link})"));
        }
        return Err(Refusal::Invalid(format!(
            "subnet {subnet} is not within the mesh's task pool {}: choose one there",
            pools.tasks
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
    let tasks = state
        .tasks
        .values()
        .filter(|t| t.attachments.iter().any(|a| a.network == *id));
    let tasks: Vec<_> = tasks.map(|task| task.name()).collect();
    if !tasks.is_empty() {
        let by = format!("task {} (still stopping)", tasks.join(", "));
        return Err(Refusal::InUse {
            name: name.clone(),
            by,
        });
    }
    let mut tx = Transaction::default();
    tx.delete(network.version, Key::Network(id.clone()));
    for lease in state.leases.values().filter(|lease| lease.network == *id) {
        tx.delete(lease.version, Key::Lease(id.clone(), lease.node.clone()));
    }
    release(state, &mut tx, id.as_str(), now, &BTreeSet::new());
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
        previous: None,
        endpoint,
        created: context.now,
        updated: context.now,
        raw: raw.clone(),
        raw_previous: serde_json::Value::Null,
    };
    expect_networks(state, &mut tx, &service.spec);
    tx.create(Object::Service(Box::new(service)));
    Ok((id, tx))
}

/// Changes a service to another spec; what both have in common stays allocated.
///
/// # Errors
/// [`Refusal`] says what is wrong.
pub fn update_service(
    state: &State,
    id: &ServiceId,
    version: Revision,
    mut spec: ServiceSpec,
    raw: &serde_json::Value,
    context: &mut Context<'_>,
) -> Result<Transaction, Refusal> {
    let before = find(state, id)?;
    if before.version != version {
        let name = before.spec.name.clone();
        return Err(Refusal::OutOfSequence {
            name,
            is: before.version,
            given: version,
        });
    }
    let mut tx = Transaction::default();
    let mut allocator = Allocator::new(state, context.now);
    let network = default_network(state, &mut allocator, &mut tx, &mut spec, context)?;
    check_spec(state, &spec, network.as_ref())?;
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
    let keep = resources(&spec, &endpoint);
    release(state, &mut tx, id.as_str(), context.now, &keep);
    expect_networks(state, &mut tx, &spec);
    let service = Service {
        id: id.clone(),
        previous: Some(Box::new(before.spec.clone())),
        spec,
        endpoint,
        created: before.created,
        updated: context.now,
        raw: raw.clone(),
        raw_previous: before.raw.clone(),
    };
    tx.replace(version, Object::Service(Box::new(service)));
    Ok(tx)
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
    let service = find(state, id)?;
    let Some(previous) = &service.previous else {
        return Err(Refusal::Invalid(format!(
            "service {} does not have a previous spec to go back to",
            service.spec.name
        )));
    };
    let raw = service.raw_previous.clone();
    update_service(state, id, version, (**previous).clone(), &raw, context)
}

/// Removes a service; its tasks are drained, stopped and forgotten.
///
/// # Errors
/// There is none.
pub fn remove_service(
    state: &State,
    id: &ServiceId,
    now: Timestamp,
) -> Result<Transaction, Refusal> {
    let service = find(state, id)?;
    let mut tx = Transaction::default();
    tx.delete(service.version, Key::Service(id.clone()));
    for task in state.tasks_of(id) {
        if task.desired != DesiredState::Remove {
            let mut task = task.clone();
            task.value.desired = DesiredState::Remove;
            tx.replace(task.version, Object::Task(Box::new(task.value)));
        }
    }
    release(state, &mut tx, id.as_str(), now, &BTreeSet::new());
    Ok(tx)
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
    if let Some(network) = state.find_network(DEFAULT_NETWORK) {
        spec.task.networks.push(attach(network.id.clone()));
        return Ok(None);
    }
    let name: Name = DEFAULT_NETWORK
        .parse()
        .map_err(|error: model::InvalidName| Refusal::Invalid(error.to_string()))?;
    let asked = NetworkSpec {
        name,
        labels: Default::default(),
        internal: false,
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

/// Networks must still be there when the transaction is made.
fn expect_networks(state: &State, tx: &mut Transaction, spec: &ServiceSpec) {
    for attachment in &spec.task.networks {
        if let Some(network) = state.networks.get(&attachment.network) {
            let key = Key::Network(network.id.clone());
            tx.expect.push(model::Expect {
                key,
                version: Some(network.version),
            });
        }
    }
}

fn check_spec(state: &State, spec: &ServiceSpec, new: Option<&Network>) -> Result<(), Refusal> {
    let RuntimeSpec::Process(process) = &spec.task.runtime;
    if process.command.first().is_none_or(String::is_empty) {
        return Err(Refusal::Invalid(
            "a process service needs a command: give it after --".to_owned(),
        ));
    }
    if let Some(bad) = process
        .env
        .iter()
        .find(|e| e.starts_with('=') || e.contains('\0'))
    {
        return Err(Refusal::Invalid(format!(
            "environment {bad:?} is not KEY=VALUE"
        )));
    }
    if let Mode::Replicated { replicas } = spec.mode
        && replicas > MOST_REPLICAS
    {
        return Err(Refusal::Invalid(format!(
            "{replicas} replicas are too many: {MOST_REPLICAS} at most"
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
    let mut listeners = BTreeSet::new();
    for port in &spec.endpoint.ports {
        if port.target == 0 {
            return Err(Refusal::Invalid(
                "target port 0 is not valid: use 1 to 65535".to_owned(),
            ));
        }
        if port.mode == PublishMode::Host {
            return Err(Refusal::Invalid(
                "publish mode host is not available in this version: use ingress".to_owned(),
            ));
        }
        if port.host_ip.is_some() {
            return Err(Refusal::Invalid("publishing on one host address is not available in this version: leave the address out".to_owned()));
        }
        if port.protocol == model::Protocol::Sctp {
            return Err(Refusal::Invalid(
                "publishing SCTP is not available in this version: use tcp or udp".to_owned(),
            ));
        }
        if let Some(listener) = listener(port)
            && !listeners.insert(listener)
        {
            return Err(Refusal::PortTwice(listener));
        }
    }
    Ok(())
}

fn listener(port: &PublishedPort) -> Option<Listener> {
    let published = port.published.filter(|port| *port > 0)?;
    Some(Listener {
        host_ip: port.host_ip,
        protocol: port.protocol,
        port: published,
    })
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
    let mark = |allocator: &mut Allocator<'_>, tx: &mut Transaction| {
        let none = || Refusal::Exhausted {
            what: "mark",
            pool: "the marks".to_owned(),
        };
        let mark = allocator.mark().ok_or_else(none)?;
        allocator.claim(tx, &Resource::Mark(mark), id.as_str());
        Ok::<_, Refusal>(mark)
    };
    if spec.endpoint.mode == EndpointMode::Vip {
        for attachment in &spec.task.networks {
            let stored = state
                .networks
                .get(&attachment.network)
                .map(|network| &network.value);
            let network = stored.or(new);
            for pool in network.iter().flat_map(|network| &network.pools) {
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
                };
                let address = allocator.vip(pool.vips).ok_or_else(none)?;
                allocator.claim(tx, &Resource::Address(address), id.as_str());
                let (tcp, udp) = (mark(allocator, tx)?, mark(allocator, tx)?);
                endpoint.vips.push(Vip {
                    network: attachment.network.clone(),
                    address,
                    tcp,
                    udp,
                });
            }
        }
    }
    let mut kept = BTreeSet::new();
    for port in &spec.endpoint.ports {
        // one without a number keeps the number it got
        let same = |(_, had): &(usize, &AllocatedPort)| {
            let had = &had.port;
            (had.target, had.protocol, had.mode, had.host_ip)
                == (port.target, port.protocol, port.mode, port.host_ip)
                && (port.published.is_none_or(|p| p == 0) || port.published == had.published)
        };
        let had = before
            .ports
            .iter()
            .enumerate()
            .filter(|(n, _)| !kept.contains(n))
            .find(same);
        if let Some((number, had)) = had {
            kept.insert(number);
            endpoint.ports.push(had.clone());
            continue;
        }
        let listener = match listener(port) {
            Some(listener) => listener,
            None => automatic(state, allocator, port, held)?,
        };
        // one that this service had for another target is its own
        let own = before
            .ports
            .iter()
            .any(|had| self::listener(&had.port) == Some(listener));
        check_listener(state, id, listener, held, own)?;
        let resource = Resource::Listener(listener);
        if !own {
            allocator.claim(tx, &resource, id.as_str());
        }
        let port = PublishedPort {
            published: Some(listener.port),
            ..port.clone()
        };
        endpoint.ports.push(AllocatedPort {
            port,
            mark: mark(allocator, tx)?,
        });
    }
    Ok(endpoint)
}

fn check_listener(
    state: &State,
    id: &ServiceId,
    listener: Listener,
    held: &[HeldPort],
    own: bool,
) -> Result<(), Refusal> {
    for service in state.services.values().filter(|service| service.id != *id) {
        for port in &service.endpoint.ports {
            if self::listener(&port.port).is_some_and(|other| other.clashes(&listener)) {
                let holder = format!("service {} ({})", service.spec.name, service.id);
                return Err(Refusal::PortTaken { listener, holder });
            }
        }
    }
    if let Some(other) = held
        .iter()
        .find(|other| !own && other.listener.clashes(&listener))
    {
        let holder = format!("process {}", other.holder);
        return Err(Refusal::PortTaken { listener, holder });
    }
    Ok(())
}

fn automatic(
    state: &State,
    allocator: &Allocator<'_>,
    port: &PublishedPort,
    held: &[HeldPort],
) -> Result<Listener, Refusal> {
    let used: BTreeSet<u16> = state
        .services
        .values()
        .flat_map(|service| &service.endpoint.ports)
        .filter(|other| other.port.protocol == port.protocol)
        .map(AllocatedPort::published)
        .collect();
    let make = |number| Listener {
        host_ip: port.host_ip,
        protocol: port.protocol,
        port: number,
    };
    AUTOMATIC_PORTS
        .map(make)
        .find(|listener| {
            !used.contains(&listener.port)
                && allocator.is_free(&Resource::Listener(*listener))
                && !held.iter().any(|other| other.listener.clashes(listener))
        })
        .ok_or_else(|| Refusal::Exhausted {
            what: "port",
            pool: "30000-32767".to_owned(),
        })
}

/// Everything that a service with this endpoint has claimed.
fn resources(spec: &ServiceSpec, endpoint: &Endpoint) -> BTreeSet<Resource> {
    let mut all = BTreeSet::from([Resource::ServiceName(spec.name.folded())]);
    for vip in &endpoint.vips {
        all.insert(Resource::Address(vip.address));
        all.insert(Resource::Mark(vip.tcp));
        all.insert(Resource::Mark(vip.udp));
    }
    for port in &endpoint.ports {
        all.insert(Resource::Mark(port.mark));
        all.extend(listener(&port.port).map(Resource::Listener));
    }
    all
}
