//! The data plane's namespaces: reading one as a value.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use model::{Instance, Mark};
use netlink_packet_ipvs::{AddressFamily, ForwardingMethod, ServiceKey};
use nix::libc;
use plan::netns::{
    Destination, Family, Netns as Value, Op, Place, Route, Set, Timeouts, VirtualService,
};

use crate::{
    Counters, Error,
    ipset::Ipset,
    iptables::{self, Ownership},
    ipvs::Ipvs,
    netlink::{Handle, code},
    netns::Netns,
    route::Rtnetlink,
    sysctl, write,
};

/// The kernel, as one daemon uses it.
///
/// Its work is done on a blocking thread, one piece after the other: what is read
/// is never half of what is being written. Its async functions must be called in
/// a tokio runtime; work that was begun is finished, though its caller be dropped.
#[derive(Clone)]
pub struct Kernel {
    places: Handle<Places>,
    counters: Arc<Mutex<Counters>>,
}

struct Places {
    instance: Instance,
    host: Netns,
    ipv6: bool,
    /// Not of tasks: an open socket would keep a namespace alive that has no name
    /// any more, and tasks come and go.
    open: BTreeMap<Place, Handles>,
    counters: Arc<Mutex<Counters>>,
}

/// Sockets in one namespace. They are opened once, since opening takes a thread.
pub(crate) struct Handles {
    pub(crate) netns: Netns,
    /// Which namespace, for people.
    pub(crate) name: String,
    pub(crate) route: Rtnetlink,
    inode: u64,
    ipset: Option<Ipset>,
    ipvs: Option<Ipvs>,
}

impl Handles {
    fn open(netns: Netns, name: String) -> Result<Self, Error> {
        let inode = netns.inode()?;
        let route = netns.run(Rtnetlink::open)??;
        Ok(Self {
            netns,
            name,
            route,
            inode,
            ipset: None,
            ipvs: None,
        })
    }

    pub(crate) fn ipset(&mut self) -> Result<&mut Ipset, Error> {
        let opened = match self.ipset.take() {
            Some(opened) => opened,
            None => self.netns.run(Ipset::open)??,
        };
        Ok(self.ipset.insert(opened))
    }

    pub(crate) fn ipvs(&mut self) -> Result<&mut Ipvs, Error> {
        let opened = match self.ipvs.take() {
            Some(opened) => opened,
            None => self.netns.run(Ipvs::open)??,
        };
        Ok(self.ipvs.insert(opened))
    }
}

/// A destination with its counters, for showing.
#[derive(Clone, Debug)]
pub struct LiveDestination {
    /// Address and port.
    pub at: (IpAddr, u16),
    /// Weight.
    pub weight: u32,
    /// Open connections.
    pub active: u32,
    /// Connections that are closing, and UDP flows.
    pub inactive: u32,
}

impl Kernel {
    /// Works on the namespace that the caller is in as the host, and on this
    /// instance's others.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn new(instance: Instance) -> Result<Self, Error> {
        Self::open(instance, false)
    }

    /// The same, and reads IPv6 rules as well: one more process a namespace.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn with_ipv6(instance: Instance) -> Result<Self, Error> {
        Self::open(instance, true)
    }

    fn open(instance: Instance, ipv6: bool) -> Result<Self, Error> {
        let counters = Arc::default();
        let places = Places {
            instance,
            host: Netns::current()?,
            ipv6,
            open: BTreeMap::new(),
            counters: Arc::clone(&counters),
        };
        Ok(Self {
            places: Handle::new(places),
            counters,
        })
    }

    /// Reads what is ours in a place, and these sysctls; `None` where there is
    /// no such namespace.
    ///
    /// # Errors
    /// The kernel refused, or a program is missing.
    pub async fn observe(
        &self,
        place: &Place,
        sysctls: &BTreeSet<String>,
    ) -> Result<Option<Value>, Error> {
        let (place, sysctls) = (place.clone(), sysctls.clone());
        self.places
            .run(move |places| places.observe(&place, &sysctls))
            .await
    }

    /// Connections of each destination of the services in a place.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn live(
        &self,
        place: &Place,
    ) -> Result<BTreeMap<(Family, Mark), Vec<LiveDestination>>, Error> {
        let place = place.clone();
        let live = self
            .places
            .run(move |places| places.with(&place, observe_live))
            .await?;
        Ok(live.unwrap_or_default())
    }

    /// Makes all writes in their order; gives back by index the ones that failed.
    /// What is there already, or gone already, is no failure. Of writes that go
    /// out together and fail together (no such namespace, an iptables-restore
    /// that is refused) the first is given.
    pub async fn apply(&self, ops: &[(Place, Op)]) -> Vec<(usize, Error)> {
        let ops = ops.to_vec();
        self.places.run(move |places| places.apply(&ops)).await
    }

    /// What was written so far.
    pub fn counters(&self) -> Counters {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    fn count(&self, add: impl FnOnce(&mut Counters)) {
        add(&mut self.counters.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn name(&self, place: &Place) -> Option<String> {
        match place {
            Place::Host => None,
            Place::Ingress => Some(self.instance.ingress_netns()),
            Place::Router => Some(self.instance.router_netns()),
            Place::Task(id) => Some(self.instance.task_netns(id)),
        }
    }

    fn netns(&self, place: &Place) -> Result<Netns, Error> {
        match self.name(place) {
            Some(name) => Netns::open(&name),
            None => Ok(self.host.clone()),
        }
    }

    /// Drops sockets into namespaces that have no name any more, or are others
    /// now: they would keep them and their links alive.
    fn drop_stale(&mut self) {
        let mut open = std::mem::take(&mut self.open);
        open.retain(|place, handles| {
            let now = self.netns(place).and_then(|netns| netns.inode());
            now.is_ok_and(|inode| inode == handles.inode)
        });
        self.open = open;
    }

    /// Does something with a place's sockets; `None` where there is no such namespace.
    fn with<T>(
        &mut self,
        place: &Place,
        work: impl FnOnce(&mut Handles) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        self.drop_stale();
        let mut handles = match self.open.remove(place) {
            Some(handles) => handles,
            None => match self.netns(place) {
                Ok(netns) => {
                    let name = self.name(place).map_or_else(
                        || "the host's namespace".to_owned(),
                        |name| format!("namespace {name}"),
                    );
                    Handles::open(netns, name)?
                }
                Err(Error::Namespace { source, .. })
                    if source.kind() == io::ErrorKind::NotFound =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            },
        };
        let result = work(&mut handles)?;
        // kept only after success: the next use begins with sockets in a known state
        if !matches!(place, Place::Task(_)) {
            self.open.insert(place.clone(), handles);
        }
        Ok(Some(result))
    }

    fn observe(
        &mut self,
        place: &Place,
        sysctls: &BTreeSet<String>,
    ) -> Result<Option<Value>, Error> {
        let (instance, ipv6) = (self.instance.clone(), self.ipv6);
        let seen = self.with(place, |handles| match place {
            Place::Task(_) => observe_links(handles, sysctls),
            Place::Host => observe_host(handles, sysctls, &instance, ipv6),
            Place::Ingress | Place::Router => observe_balancer(handles, sysctls, ipv6),
        })?;
        if seen.is_some() && !matches!(place, Place::Task(_)) {
            self.count(|counters| counters.processes += 1 + u64::from(ipv6));
        }
        Ok(seen)
    }

    fn apply(&mut self, ops: &[(Place, Op)]) -> Vec<(usize, Error)> {
        let mut failed = Vec::new();
        let mut start = 0;
        let instance = self.instance.clone();
        for chunk in ops.chunk_by(|one, other| {
            one.0 == other.0 && write::group(&one.1) == write::group(&other.1)
        }) {
            let place = &chunk[0].0;
            let batch: Vec<&Op> = chunk.iter().map(|(_, op)| op).collect();
            let peers = self.peers(&batch);
            let udp_ports =
                (*place == Place::Host).then(|| format!("{}-udp", instance.set_prefix()));
            let context = write::Context { peers, udp_ports };
            let errors = match self.with(place, |handles| write::write(handles, &batch, &context)) {
                Ok(Some(errors)) => errors,
                Ok(None) => vec![(0, self.absent(place))],
                Err(error) => vec![(0, error)],
            };
            let refused: BTreeSet<_> = errors.iter().map(|(index, _)| *index).collect();
            let done = (0..batch.len()).filter(|index| !refused.contains(index));
            self.count(|counters| write::count(counters, &batch, done.count()));
            failed.extend(
                errors
                    .into_iter()
                    .map(|(index, error)| (start + index, error)),
            );
            start += chunk.len();
        }
        failed
    }

    fn absent(&self, place: &Place) -> Error {
        Error::Namespace {
            action: "write to",
            name: self.name(place).unwrap_or_default(),
            source: io::ErrorKind::NotFound.into(),
        }
    }

    /// The namespaces where the other ends of these links go.
    fn peers(&self, ops: &[&Op]) -> BTreeMap<Place, Netns> {
        let places = ops.iter().filter_map(|op| write::peer(op));
        places
            .filter_map(|place| Some((place.clone(), self.netns(place).ok()?)))
            .collect()
    }
}

// === reading ===

/// Links, addresses, routes and sysctls: all that a task's namespace has.
fn observe_links(handles: &mut Handles, sysctls: &BTreeSet<String>) -> Result<Value, Error> {
    let seen = handles.route.observe()?;
    Ok(Value {
        links: seen.links,
        addresses: seen.addresses,
        routes: seen.routes,
        sysctls: sysctl::read(&handles.netns, sysctls)?,
        ..Value::default()
    })
}

/// A namespace that is all ours, with IPVS in it.
fn observe_balancer(
    handles: &mut Handles,
    sysctls: &BTreeSet<String>,
    ipv6: bool,
) -> Result<Value, Error> {
    let mut value = observe_links(handles, sysctls)?;
    value.sets = observe_sets(handles, |_| true)?;
    value.tables = observe_tables(handles, &Ownership::All, ipv6)?;
    value.ipvs_timeouts = Some(observe_timeouts(handles.ipvs()?)?);
    value.services = observe_services(handles.ipvs()?)?;
    Ok(value)
}

/// Only what carries our names.
fn observe_host(
    handles: &mut Handles,
    sysctls: &BTreeSet<String>,
    instance: &Instance,
    ipv6: bool,
) -> Result<Value, Error> {
    let mut value = observe_links(handles, sysctls)?;
    let link = instance.host_link();
    let by_link = |route: &Route| route.dev.as_ref() == Some(&link);
    value.links.retain(|name, _| *name == link);
    value.addresses.retain(|(on, _)| *on == link);
    value.routes.retain(by_link);
    let prefix = format!("{}-", instance.set_prefix());
    // another instance's have its name between prefix and word
    let ours = |name: &str| {
        name.strip_prefix(&prefix)
            .is_some_and(|word| !word.contains('-'))
    };
    value.sets = observe_sets(handles, ours)?;
    value.tables = observe_tables(handles, &Ownership::Prefix(instance.chain_prefix()), ipv6)?;
    Ok(value)
}

fn observe_sets(
    handles: &mut Handles,
    ours: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, Set>, Error> {
    let ipset = handles.ipset()?;
    let mut sets = BTreeMap::new();
    for name in ipset.names()?.into_iter().filter(|name| ours(name)) {
        match ipset.set(&name) {
            Ok(set) => sets.extend(set.map(|set| (name, set))),
            // destroyed since its name was read
            Err(Error::Netlink { source, .. }) if code(&source) == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sets)
}

fn observe_tables(
    handles: &Handles,
    ownership: &Ownership,
    ipv6: bool,
) -> Result<BTreeMap<(Family, plan::netns::Table), plan::netns::Chains>, Error> {
    let read = |family| iptables::observe(&handles.netns, &handles.name, family, ownership);
    let mut tables = read(Family::V4)?;
    if ipv6 {
        tables.extend(read(Family::V6)?);
    }
    Ok(tables)
}

/// The plan's key of a service by firewall mark.
fn ours(key: &ServiceKey) -> Option<(Family, Mark)> {
    let ServiceKey::FwMark { family, mark } = key else {
        return None;
    };
    let family = match family {
        AddressFamily::Ipv4 => Family::V4,
        AddressFamily::Ipv6 => Family::V6,
    };
    Some((family, Mark::new(*mark)?))
}

fn observe_timeouts(ipvs: &mut Ipvs) -> Result<Timeouts, Error> {
    let config = ipvs.config()?;
    Ok(Timeouts {
        tcp: config.tcp,
        tcp_fin: config.tcp_fin,
        udp: config.udp,
    })
}

fn observe_services(ipvs: &mut Ipvs) -> Result<BTreeMap<(Family, Mark), VirtualService>, Error> {
    let mut services = BTreeMap::new();
    for service in ipvs.services()? {
        let Some(key) = ours(&service.key) else {
            continue;
        };
        let destinations = ipvs.destinations(&service.key)?.into_iter();
        // one that forwards in another way is not what anybody wants: it is left
        // out, so that it is added anew, which changes it
        let nat = destinations.filter(|d| d.forwarding == ForwardingMethod::Masquerade);
        let destinations = nat.map(|d| {
            let value = Destination {
                weight: d.weight,
                upper_threshold: d.upper_threshold,
                lower_threshold: d.lower_threshold,
            };
            ((d.address, d.port), value)
        });
        let value = VirtualService {
            scheduler: service.scheduler,
            flags: service.flags,
            timeout: service.timeout,
            netmask: service.prefix,
            destinations: destinations.collect(),
        };
        services.insert(key, value);
    }
    Ok(services)
}

fn observe_live(
    handles: &mut Handles,
) -> Result<BTreeMap<(Family, Mark), Vec<LiveDestination>>, Error> {
    let ipvs = handles.ipvs()?;
    let mut all = BTreeMap::new();
    for service in ipvs.services()? {
        let Some(key) = ours(&service.key) else {
            continue;
        };
        let destinations = ipvs.destinations(&service.key)?.into_iter();
        let live = destinations.map(|d| LiveDestination {
            at: (d.address, d.port),
            weight: d.weight,
            active: d.active_connections,
            inactive: d.inactive_connections,
        });
        all.insert(key, live.collect());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use ipnet::IpNet;
    use model::TaskId;
    use netlink_packet_core::NLM_F_CREATE;
    use netlink_packet_route::{RouteNetlinkMessage, route::RouteProtocol};
    use plan::netns::{Link, LinkKind, RouteKind};
    use rtnetlink::RouteMessageBuilder;

    use super::*;
    use crate::{
        netlink::{Conversation, Request},
        netns,
    };

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread();
        { runtime }.build().unwrap().block_on(future)
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn route(to: &str, via: Option<&str>, dev: &str, src: Option<&str>) -> Route {
        let ip = |text: &str| text.parse().unwrap();
        Route {
            to: net(to),
            kind: RouteKind::Unicast,
            via: via.map(ip),
            dev: Some(dev.to_owned()),
            src: src.map(ip),
            metric: 0,
        }
    }

    /// A router with a task's veth in it; the sockets into a task are never kept.
    struct World {
        kernel: Kernel,
        router: String,
        task: Place,
        task_name: String,
    }

    const MTU: Option<u32> = Some(1450);

    fn veth(place: Place) -> Link {
        let peer = "eth0".to_owned();
        Link {
            kind: LinkKind::Veth { peer, place },
            mtu: MTU,
            up: true,
        }
    }

    impl World {
        fn new() -> Self {
            let instance: Instance = "a".parse().unwrap();
            let id = TaskId::from_random([7; 16]);
            let (router, task_name) = (instance.router_netns(), instance.task_netns(&id));
            netns::create(&router).unwrap();
            netns::create(&task_name).unwrap();
            Self {
                kernel: Kernel::new(instance).unwrap(),
                router,
                task: Place::Task(id),
                task_name,
            }
        }

        fn write(&self, ops: &[(Place, Op)]) -> Vec<String> {
            let failed = block_on(self.kernel.apply(ops));
            let words = |(index, error): (usize, Error)| {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                format!("{index}: {error}: {}", source.unwrap_or_default())
            };
            failed.into_iter().map(words).collect()
        }

        fn seen(&self) -> Option<Value> {
            let keys = BTreeSet::from(["net/ipv4/conf/eth0/rp_filter".to_owned()]);
            block_on(self.kernel.observe(&self.task, &keys)).unwrap()
        }
    }

    fn wanted() -> Value {
        let link = |kind, mtu| Link {
            kind,
            mtu,
            up: true,
        };
        let unreachable = Route {
            kind: RouteKind::Unreachable,
            metric: 1000,
            dev: None,
            ..route("10.101.0.0/16", None, "", None)
        };
        let local = Route {
            kind: RouteKind::Local,
            ..route("10.200.0.0/16", None, "lo", None)
        };
        let metric = 1024;
        let six = Route {
            metric,
            ..route("fd00:1::/64", Some("fe80::1"), "eth0", None)
        };
        Value {
            links: BTreeMap::from([
                ("lo".to_owned(), link(LinkKind::Loopback, Some(65536))),
                ("eth0".to_owned(), link(LinkKind::VethPeer, MTU)),
            ]),
            addresses: BTreeSet::from([
                ("eth0".to_owned(), net("10.100.0.2/32")),
                ("eth0".to_owned(), net("fd00::2/64")),
                ("eth0".to_owned(), net("fe80::2/64")),
                ("lo".to_owned(), net("127.0.0.9/32")),
            ]),
            routes: BTreeSet::from([
                route("10.100.0.1/32", None, "eth0", None),
                route("0.0.0.0/0", Some("10.100.0.1"), "eth0", Some("10.100.0.2")),
                unreachable,
                local,
                six,
            ]),
            sysctls: BTreeMap::from([("net/ipv4/conf/eth0/rp_filter".to_owned(), "1".to_owned())]),
            ..Value::default()
        }
    }

    /// All writes for [`wanted`], the router's end first.
    fn writes(task: &Place) -> Vec<(Place, Op)> {
        let value = wanted();
        let router = Place::Router;
        let mut ops = vec![
            (router.clone(), Op::AddLink("t1".into(), veth(task.clone()))),
            (router, Op::SetLink("t1".into(), veth(task.clone()))),
        ];
        let mut add = |op| ops.push((task.clone(), op));
        for (name, link) in value.links {
            let mtu = link.mtu.filter(|_| name != "lo");
            add(Op::SetLink(name, Link { mtu, ..link }));
        }
        for (key, text) in value.sysctls {
            add(Op::SetSysctl(key, text));
        }
        for (link, net) in value.addresses {
            add(Op::AddAddress(link, net));
        }
        let (direct, by): (Vec<_>, _) = value.routes.into_iter().partition(|r| r.via.is_none());
        for route in direct.into_iter().chain(by) {
            add(Op::AddRoute(route));
        }
        ops
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        netns::tests::privately(|| {
            let world = World::new();
            let ops = writes(&world.task);
            assert_eq!(world.write(&ops), [""; 0]);
            assert_eq!(world.seen(), Some(wanted()));
            let counted = world.kernel.counters();
            assert_eq!((counted.links, counted.routes), (4, 9));
            assert_eq!((counted.sysctls, counted.processes), (1, 0));
            assert_eq!(counted.writes(), 14);

            // all but making the link may be done again
            assert_eq!(world.write(&ops[1..]), [""; 0]);
            assert_eq!(world.seen(), Some(wanted()));
            let again = world.write(&ops[..1]);
            assert_eq!(
                again,
                [
                    "0: cannot make link t1 with eth0 at its other end in namespace ipvsmesh-a-router \
                  (delete the link of that name that is there: ip link del): File exists (os error 17)"
                ]
            );

            // and all of it be deleted, twice
            let value = wanted();
            let mut gone: Vec<_> = value.routes.into_iter().map(Op::DelRoute).collect();
            let addresses = value.addresses.into_iter();
            gone.extend(addresses.map(|(link, net)| Op::DelAddress(link, net)));
            let gone: Vec<_> = gone
                .into_iter()
                .map(|op| (world.task.clone(), op))
                .collect();
            for _ in 0..2 {
                assert_eq!(world.write(&gone), [""; 0]);
                let seen = world.seen().unwrap();
                assert_eq!(
                    (seen.routes.len(), seen.addresses.len()),
                    (0, 0),
                    "{seen:?}"
                );
            }
            let link = [(Place::Router, Op::DelLink("t1".into()))];
            for _ in 0..2 {
                assert_eq!(world.write(&link), [""; 0]);
                assert_eq!(world.seen().unwrap().links.len(), 1);
            }
        });
    }

    #[test]
    fn routes_of_any_origin_are_deleted() {
        netns::tests::privately(|| {
            let world = World::new();
            world.write(&writes(&world.task));
            let foreign = Netns::open(&world.task_name).unwrap().run(|| {
                let mut message = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                    .destination_prefix([192, 0, 2, 0].into(), 24)
                    .gateway([10, 100, 0, 1].into())
                    .build();
                message.header.protocol = RouteProtocol::Boot;
                let message = RouteNetlinkMessage::NewRoute(message);
                let mut conversation = Conversation::open(0).unwrap();
                conversation
                    .get(&Request::new(&message, NLM_F_CREATE))
                    .map(drop)
            });
            foreign.unwrap().unwrap();
            let route = route("192.0.2.0/24", Some("10.100.0.1"), "eth0", None);
            assert!(world.seen().unwrap().routes.contains(&route));
            let delete = [(world.task.clone(), Op::DelRoute(route))];
            assert_eq!(world.write(&delete), [""; 0]);
            assert_eq!(world.seen(), Some(wanted()));
        });
    }

    #[test]
    fn each_refusal_is_tied_to_its_write_and_stops_no_other() {
        netns::tests::privately(|| {
            let world = World::new();
            let mut ops = writes(&world.task);
            let task = |op| (world.task.clone(), op);
            ops.push(task(Op::AddAddress("eth9".into(), net("10.1.1.1/32"))));
            ops.push(task(Op::AddRoute(route(
                "10.2.0.0/16",
                Some("10.9.9.9"),
                "eth0",
                None,
            ))));
            ops.push(task(Op::SetSysctl("net/ipv4/nonsense".into(), "1".into())));
            let other = Place::Task(TaskId::from_random([8; 16]));
            ops.push((Place::Router, Op::AddLink("t2".into(), veth(other.clone()))));
            ops.push((other, Op::DelLink("eth0".into())));
            let at = ops.len() - 5;
            let said = world.write(&ops);
            let begins = [
                format!(
                    "{at}: cannot add address 10.1.1.1/32 to link eth9 in namespace {}: ",
                    world.task_name
                ),
                format!(
                    "{}: cannot add route 10.2.0.0/16 via 10.9.9.9 dev eth0 in namespace ",
                    at + 1
                ),
                format!("{}: cannot write /proc/sys/net/ipv4/nonsense: ", at + 2),
                format!(
                    "{}: cannot make link t2 with eth0 at its other end in namespace {}: the other end's",
                    at + 3,
                    world.router
                ),
                format!("{}: cannot write to network namespace ipvsmesh-a-", at + 4),
            ];
            assert_eq!(said.len(), begins.len(), "{said:#?}");
            for (said, begin) in said.iter().zip(begins) {
                assert!(said.starts_with(&begin), "{said}\n{begin}");
            }
            assert_eq!(world.seen(), Some(wanted()));
        });
    }

    #[test]
    fn a_namespace_that_is_gone_is_not_kept_alive_nor_taken_for_its_successor() {
        netns::tests::privately(|| {
            let world = World::new();
            world.write(&writes(&world.task));
            netns::delete(&world.task_name).unwrap();
            assert_eq!(world.seen(), None);
            netns::create(&world.task_name).unwrap();
            let links: Vec<_> = world.seen().unwrap().links.into_keys().collect();
            assert_eq!(links, ["lo"]);

            // the router's sockets were kept; with its name they go, and so does it
            let old = netns::inode(&world.router).unwrap();
            netns::delete(&world.router).unwrap();
            netns::create(&world.router).unwrap();
            assert_ne!(netns::inode(&world.router).unwrap(), old);
            let t1 = Op::AddLink("t1".into(), veth(world.task.clone()));
            assert_eq!(world.write(&[(Place::Router, t1)]), [""; 0]);
        });
    }
}
