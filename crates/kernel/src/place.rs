//! The data plane's namespaces: reading one as a value, and whether it still is as
//! it is believed to be.

mod live;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use imbl::OrdSet;
use model::{Instance, Mark};
use netlink_packet_ipvs::{AddressFamily, ForwardingMethod, ServiceKey};
use nix::{
    libc,
    sys::epoll::{Epoll, EpollCreateFlags},
};
use plan::netns::{
    Destination, Family, Netns as Value, Op, Place, Route, Scheduling, Set, Timeouts,
    VirtualService,
};

use crate::{
    Counters, Error, Watched, connections,
    drift::{self, Check, Look, ServicesFile},
    flowtable::Flowtable,
    host,
    ipset::Ipset,
    iptables::{self, Ownership},
    ipvs::Ipvs,
    netlink::{Handle, code},
    netns::Netns,
    nftables::{self, Nftables},
    route::Rtnetlink,
    sysctl,
    watch::Watch,
    write,
};
use tokio::io::{Interest, unix::AsyncFd};

pub use live::{LiveDestination, LiveService, LiveServices, Traffic};

/// The kernel, as one daemon uses it.
///
/// Its work is done on a blocking thread, one piece after the other: what is read
/// is never half of what is being written. Its async functions must be called in
/// a tokio runtime; work that was begun is finished, though its caller be dropped.
#[derive(Clone)]
pub struct Kernel {
    places: Handle<Places>,
    counters: Arc<Mutex<Counters>>,
    /// Readable while a place's socket has been told something.
    told: Arc<Epoll>,
}

struct Places {
    instance: Instance,
    host: Netns,
    ipv6: bool,
    /// Not of tasks: an open socket would keep a namespace alive that has no name
    /// any more, and tasks come and go.
    open: BTreeMap<Place, Handles>,
    /// Places whose changes somebody was told of once: there must be no gap.
    watched: BTreeSet<Place>,
    told: Arc<Epoll>,
    /// Whether iptables' rules are nftables', once that was asked.
    by_generation: Option<bool>,
    /// The kernel's ticks a second, once they were seen.
    hz: Option<u32>,
    counters: Arc<Mutex<Counters>>,
}

/// Sockets in one namespace. They are opened once, since opening takes a thread.
pub(crate) struct Handles {
    pub(crate) netns: Netns,
    /// Which namespace, for people.
    pub(crate) name: String,
    pub(crate) route: Rtnetlink,
    /// Not in a task's namespace.
    pub(crate) watch: Option<Watch>,
    /// That of rules which were found to be as they are believed to be.
    pub(crate) generation: Option<u32>,
    /// The service whose destinations a check asked for last.
    pub(crate) asked_last: Option<(Family, Mark)>,
    inode: u64,
    ipset: Option<Ipset>,
    ipvs: Option<Ipvs>,
    nftables: Option<Nftables>,
    services: Option<ServicesFile>,
}

impl Handles {
    fn open(netns: Netns, name: String) -> Result<Self, Error> {
        let inode = netns.inode()?;
        let route = netns.run(Rtnetlink::open)??;
        Ok(Self {
            netns,
            name,
            route,
            watch: None,
            generation: None,
            asked_last: None,
            inode,
            ipset: None,
            ipvs: None,
            nftables: None,
            services: None,
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

    pub(crate) fn nftables(&mut self) -> Result<&mut Nftables, Error> {
        let opened = match self.nftables.take() {
            Some(opened) => opened,
            None => self.netns.run(Nftables::open)??,
        };
        Ok(self.nftables.insert(opened))
    }

    /// `/proc/net/ip_vs`
    pub(crate) fn services_text(&mut self) -> Result<&[u8], Error> {
        let opened = match self.services.take() {
            Some(opened) => opened,
            None => self.netns.run(ServicesFile::open)??,
        };
        self.services.insert(opened).read()
    }

    /// So many changes of ours were committed to rules: their generation is known
    /// still, unless somebody else's came in between.
    pub(crate) fn wrote_rules(&mut self, commits: usize) {
        let Some(before) = self.generation.take() else {
            return;
        };
        let expected = before.wrapping_add(commits as u32);
        let now = self.nftables().and_then(Nftables::generation);
        self.generation = now.ok().flatten().filter(|now| *now == expected);
    }
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

    /// The same, and reads IPv6 rules as well where the kernel has IPv6: one more process
    /// a namespace.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn with_ipv6(instance: Instance) -> Result<Self, Error> {
        Self::open(instance, host::has_ipv6())
    }

    fn open(instance: Instance, ipv6: bool) -> Result<Self, Error> {
        let counters = Arc::default();
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC);
        let told = Arc::new(epoll.map_err(|errno| waits(errno.into()))?);
        let places = Places {
            instance,
            host: Netns::current()?,
            ipv6,
            open: BTreeMap::new(),
            watched: BTreeSet::new(),
            told: Arc::clone(&told),
            by_generation: None,
            hz: None,
            counters: Arc::clone(&counters),
        };
        Ok(Self {
            places: Handle::new(places),
            counters,
            told,
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

    /// How many TCP and SCTP connections are open to each of these addresses; none
    /// to one that is not in the answer.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn connections(&self, watched: Watched) -> Result<BTreeMap<IpAddr, u64>, Error> {
        let count = move |places: &mut Places| {
            connections::count(&watched, |place, read| {
                places.with(place, read).map(Option::unwrap_or_default)
            })
        };
        self.places.run(count).await
    }

    /// The host's links that established connections of published ports may be shortened
    /// between: ours, and the Ethernet ones with an address; of bridges only those that
    /// lead out (a default route), since what containers send by others passes rules that
    /// keep them apart.
    ///
    /// # Errors
    /// The kernel refused.
    pub async fn ways_in(&self) -> Result<OrdSet<String>, Error> {
        let read = |places: &mut Places| {
            let link = places.instance.host_link();
            let found = places.with(&Place::Host, |handles| handles.route.ways_in())?;
            let found = found.unwrap_or_default().into_iter();
            Ok(found.chain([link]).collect())
        };
        self.places.run(read).await
    }

    /// Makes all writes in their order; gives back by index the ones that failed.
    /// What is there already, or gone already, is no failure. Of writes that go
    /// out together and fail together (no such namespace, an iptables-restore
    /// that is refused) the first is given.
    pub async fn apply(&self, ops: impl Into<Arc<Vec<(Place, Op)>>>) -> Vec<(usize, Error)> {
        let ops = ops.into();
        self.places.run(move |places| places.apply(&ops)).await
    }

    /// The places of the node (host, ingress and router; not tasks) that are not as
    /// they are believed to be, each with what differs, in words. Much cheaper than
    /// [`Self::observe`], and not as thorough: entries of a set that were exchanged
    /// for as many others, schedulers' own flags, and thresholds are not looked at.
    ///
    /// What the kernel told of changes is taken by this: a place that is given back
    /// must be observed before it is believed again. For one caller, who also makes
    /// the writes.
    ///
    /// With more than some twenty services in each of several namespaces the kernel
    /// does not list all of them in one go: their destinations are looked at in turn.
    ///
    /// # Errors
    /// The kernel refused; then nothing is known.
    pub async fn drifted(
        &self,
        believed: &plan::netns::Places,
    ) -> Result<BTreeMap<Place, &'static str>, Error> {
        self.differing(believed, Look::All).await
    }

    /// The same by what the kernel tells of changes only, which costs next to
    /// nothing: links, addresses, routes and, where iptables uses nftables, rules.
    /// To be called after [`Self::notified`].
    ///
    /// # Errors
    /// As for [`Self::drifted`].
    pub async fn told(
        &self,
        believed: &plan::netns::Places,
    ) -> Result<BTreeMap<Place, &'static str>, Error> {
        self.differing(believed, Look::Told).await
    }

    async fn differing(
        &self,
        believed: &plan::netns::Places,
        look: Look,
    ) -> Result<BTreeMap<Place, &'static str>, Error> {
        let node = [Place::Host, Place::Ingress, Place::Router].into_iter();
        let believed =
            node.filter_map(|place| Some((place.clone(), believed.get(&place)?.clone())));
        let believed: Vec<_> = believed.collect();
        let drift = move |places: &mut Places| {
            let mut differing = BTreeMap::new();
            for (place, value) in &believed {
                if let Some(what) = places.drift(place, value, look)? {
                    differing.insert(place.clone(), what);
                }
            }
            Ok(differing)
        };
        self.places.run(drift).await
    }

    /// Completes when the kernel has told of a change of links, addresses, routes or
    /// rules in the host (of our link only; of anybody's rules), ingress or router,
    /// whose sockets are open since the place was first observed. Our own writes do
    /// not count, but for what the kernel does later because of them. Must be called
    /// in a tokio runtime with I/O; what was told while nobody waited is not lost.
    ///
    /// # Errors
    /// The process has no file descriptors left.
    pub async fn notified(&self) -> Result<(), Error> {
        let told = self.told.0.try_clone().map_err(waits)?;
        #[expect(
            deprecated,
            reason = "unsound for types that close their descriptor early, which OwnedFd cannot"
        )]
        let told = AsyncFd::with_interest(told, Interest::READABLE).map_err(waits)?;
        loop {
            if self.places.run(Places::stirred).await {
                return Ok(());
            }
            let mut ready = told.readable().await.map_err(waits)?;
            // before what there is is read: what comes then makes it ready again
            ready.clear_ready();
        }
    }

    /// What was written so far.
    pub fn counters(&self) -> Counters {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn waits(source: io::Error) -> Error {
    Error::Netlink {
        what: "wait for what the kernel tells".to_owned(),
        source,
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
                    let mut handles = Handles::open(netns, name)?;
                    self.listen(place, &mut handles)?;
                    handles
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

    /// Begins to be told of changes.
    fn listen(&mut self, place: &Place, handles: &mut Handles) -> Result<(), Error> {
        let only = match place {
            Place::Host => Some(self.instance.host_link()),
            Place::Ingress | Place::Router => None,
            Place::Task(_) => return Ok(()),
        };
        let told = Arc::clone(&self.told);
        let mut watch = handles.netns.run(move || Watch::open(&told, only))??;
        if !self.watched.insert(place.clone()) {
            watch.lost();
        }
        handles.watch = Some(watch);
        Ok(())
    }

    /// Whether anything was told that may matter.
    fn stirred(&mut self) -> bool {
        self.drop_stale();
        let watches = self.open.values_mut();
        let watches = watches.filter_map(|handles| handles.watch.as_mut());
        let stirred = watches.filter_map(|watch| watch.stirred().then_some(()));
        // all are emptied
        stirred.count() > 0
    }

    /// What is not as believed in a place, in words.
    fn drift(
        &mut self,
        place: &Place,
        believed: &Value,
        look: Look,
    ) -> Result<Option<&'static str>, Error> {
        let by_generation = match self.by_generation {
            Some(known) => known,
            None => {
                self.count(|counters| counters.processes += 1);
                *self.by_generation.insert(nftables::is_iptables_back_end())
            }
        };
        let mut hz = self.hz;
        let mut check = Check {
            look,
            place,
            believed,
            ownership: self.ownership(place),
            ipv6: self.ipv6,
            set_prefix: (*place == Place::Host).then(|| self.set_prefix()),
            by_generation,
            flowtable: (*place == Place::Host).then(|| Flowtable::of(&self.instance)),
            hz: &mut hz,
            processes: 0,
        };
        let found = self.with(place, |handles| check.run(handles));
        let processes = check.processes;
        self.hz = hz;
        self.count(|counters| counters.processes += processes);
        Ok(found?.unwrap_or(Some("the namespace")))
    }

    fn ownership(&self, place: &Place) -> Ownership {
        match place {
            Place::Host => Ownership::Prefix(self.instance.chain_prefix()),
            Place::Ingress | Place::Router | Place::Task(_) => Ownership::All,
        }
    }

    fn set_prefix(&self) -> String {
        format!("{}-", self.instance.set_prefix())
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
        // what others did before is no write of ours
        self.each_watch(Watch::drain);
        for chunk in ops.chunk_by(|one, other| {
            one.0 == other.0 && write::group(&one.1) == write::group(&other.1)
        }) {
            let place = &chunk[0].0;
            let batch: Vec<&Op> = chunk.iter().map(|(_, op)| op).collect();
            let peers = self.peers(&batch);
            let context = write::Context {
                peers,
                host: (*place == Place::Host).then(|| self.instance.clone()),
            };
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
        self.each_watch(Watch::drain_own);
        failed
    }

    fn each_watch(&mut self, mut each: impl FnMut(&mut Watch)) {
        for handles in self.open.values_mut() {
            handles.watch.as_mut().map(&mut each);
        }
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
        links: seen.links.into(),
        addresses: seen.addresses.into(),
        routes: seen.routes.into(),
        sysctls: sysctl::read(&handles.netns, sysctls)?.into(),
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
    value.sets = observe_sets(handles, |_| true)?.into();
    value.tables = observe_tables(handles, &Ownership::All, ipv6)?;
    value.ipvs_timeouts = Some(observe_timeouts(handles.ipvs()?)?);
    value.services = observe_services(handles.ipvs()?)?.into();
    Ok(value)
}

/// Only what carries our names.
fn observe_host(
    handles: &mut Handles,
    sysctls: &BTreeSet<String>,
    instance: &Instance,
    ipv6: bool,
) -> Result<Value, Error> {
    let seen = observe_links(handles, sysctls)?;
    let link = instance.host_link();
    let by_link = |route: &Route| route.dev.as_ref() == Some(&link);
    let links = seen.links.into_iter().filter(|(name, _)| *name == link);
    let addresses = seen.addresses.into_iter().filter(|(on, _)| *on == link);
    let mut value = Value {
        links: links.collect(),
        addresses: addresses.collect(),
        routes: seen.routes.into_iter().filter(by_link).collect(),
        sysctls: seen.sysctls,
        ..Value::default()
    };
    let prefix = format!("{}-", instance.set_prefix());
    value.sets = observe_sets(handles, |name| drift::is_ours(name, &prefix))?.into();
    value.tables = observe_tables(handles, &Ownership::Prefix(instance.chain_prefix()), ipv6)?;
    value.flowtable = Flowtable::of(instance).observe(handles.nftables()?)?;
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
pub(crate) fn ours(key: &ServiceKey) -> Option<(Family, Mark)> {
    let ServiceKey::FwMark { family, mark } = key else {
        return None;
    };
    let family = match family {
        AddressFamily::Ipv4 => Family::V4,
        AddressFamily::Ipv6 => Family::V6,
    };
    Some((family, Mark::new(*mark)?))
}

/// IPVS's key of a service of the plan.
pub(crate) fn theirs((family, mark): (Family, Mark)) -> ServiceKey {
    let family = match family {
        Family::V4 => AddressFamily::Ipv4,
        Family::V6 => AddressFamily::Ipv6,
    };
    ServiceKey::FwMark {
        family,
        mark: mark.get(),
    }
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
    for service in ipvs.uncounted_services()? {
        let Some(key) = ours(&service.key) else {
            continue;
        };
        let destinations = observe_destinations(ipvs, &service.key)?;
        let value = VirtualService {
            scheduling: Scheduling {
                scheduler: service.scheduler.into(),
                flags: service.flags,
                timeout: service.timeout,
                netmask: service.prefix,
            },
            destinations,
        };
        services.insert(key, value);
    }
    Ok(services)
}

pub(crate) fn observe_destinations(
    ipvs: &mut Ipvs,
    key: &ServiceKey,
) -> Result<BTreeMap<(IpAddr, u16), Destination>, Error> {
    let destinations = ipvs.uncounted_destinations(key)?.into_iter();
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
    Ok(destinations.collect())
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
            let failed = block_on(self.kernel.apply(ops.to_vec()));
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
            links: FromIterator::from_iter([
                ("lo".to_owned(), link(LinkKind::Loopback, Some(65536))),
                ("eth0".to_owned(), link(LinkKind::VethPeer, MTU)),
            ]),
            addresses: FromIterator::from_iter([
                ("eth0".to_owned(), net("10.100.0.2/32")),
                ("eth0".to_owned(), net("fd00::2/64")),
                ("eth0".to_owned(), net("fe80::2/64")),
                ("lo".to_owned(), net("127.0.0.9/32")),
            ]),
            routes: FromIterator::from_iter([
                route("10.100.0.1/32", None, "eth0", None),
                route("0.0.0.0/0", Some("10.100.0.1"), "eth0", Some("10.100.0.2")),
                unreachable,
                local,
                six,
            ]),
            sysctls: FromIterator::from_iter([(
                "net/ipv4/conf/eth0/rp_filter".to_owned(),
                "1".to_owned(),
            )]),
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
            let seen = world.seen().unwrap();
            let links: Vec<_> = seen.links.keys().collect();
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
