//! Finds out what there is to know of a probe. Reads only, but for the probe itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use api::ApiError;
use kernel::{
    evidence::{self, Connection, Counts, End, Sockets},
    netns::Netns,
};
use model::{Protocol, TaskId};
use plan::{
    datapath::NodeAddresses,
    netns::{Entry, Family, Place},
};

use super::{
    Tracer,
    evidence::{Asked, Chosen, Counted, Evidence, Probe, Responder, Silence},
    explain::Scene,
    probe::{self, Outcome},
    scene::{self, Client, Target},
};

/// How long the responder has to say on its control socket that it is well.
const SAYS: Duration = Duration::from_millis(500);
/// How long each of the host's own servers has.
const UPSTREAM: Duration = Duration::from_secs(1);
/// How many of the host's own servers are asked; resolv.conf(5) has three at most.
const UPSTREAMS: usize = 3;
/// Tasks of a service whose counters are read before the probe: each takes a process.
const COUNTED: usize = 8;
/// How long a program has to take a connection that the kernel has made.
const ACCEPTS: Duration = Duration::from_millis(700);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(20);

fn internal(error: &dyn std::error::Error) -> ApiError {
    ApiError::internal(crate::chain(error))
}

/// Reads off the event loop: each reading takes a thread that enters a namespace.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|error| internal(&error))
}

/// The lowest port that something in a task listens on for others.
pub(super) fn first_listening(netns: &str, protocol: Protocol) -> Option<u16> {
    let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let netns = Netns::open(netns).ok()?;
    let found = evidence::sockets(&netns, protocol, nobody, nobody).ok()?;
    let others = found.listening.iter().filter(|l| !l.at.ip().is_loopback());
    others.map(|listening| listening.at.port()).min()
}

impl Tracer<'_> {
    fn netns(&self, place: &Place) -> Result<Netns, kernel::Error> {
        match place {
            Place::Host => Netns::current(),
            Place::Ingress => Netns::open(&self.instance.ingress_netns()),
            Place::Router => Netns::open(&self.instance.router_netns()),
            Place::Task(task) => Netns::open(&self.instance.task_netns(task)),
        }
    }

    // === names ===

    /// Asks for a name as the client's resolver does.
    pub(super) async fn ask(
        &self,
        client: &Client,
        name: &str,
        patience: Duration,
    ) -> Result<Asked, ApiError> {
        let (place, server) = match client {
            Client::Task(id) => (Place::Task(id.clone()), self.name_server(id)),
            Client::Host => {
                let pools = self.state.pools.as_ref();
                let stub = pools.and_then(|pools| pools.ranges().next().map(|r| r.stub()));
                (Place::Host, stub)
            }
            Client::Elsewhere(_) => {
                return Err(ApiError::invalid(
                    "another machine cannot ask the mesh for names: trace its way to a published port, as --to 8080",
                ));
            }
        };
        let no_server = || ApiError::internal("the client has no name server");
        let server = SocketAddr::new(server.ok_or_else(no_server)?, 53);
        let mut said = self.ask_at(&place, server, name, false, patience).await;
        // a name of IPv6 only
        if let Ok(four) = &said
            && (four.code, four.addresses.len()) == (dns::Code::NoError, 0)
            && let Ok(six) = self.ask_at(&place, server, name, true, patience).await
            && !six.addresses.is_empty()
        {
            said = Ok(six);
        }
        let failed = !matches!(&said, Ok(said) if !matches!(said.code, dns::Code::Failed | dns::Code::Refused));
        let responder = match failed {
            true => Some(self.responder().await),
            false => None,
        };
        let mut upstreams = Vec::new();
        if failed && responder == Some(Responder::Well) {
            upstreams = self.ask_upstreams(name).await;
        }
        Ok(Asked {
            name: name.to_owned(),
            server,
            said,
            responder,
            upstreams,
        })
    }

    /// The server that the task's `/etc/resolv.conf` names.
    fn name_server(&self, task: &TaskId) -> Option<IpAddr> {
        let task = self.state.tasks.get(task)?;
        let first = task.attachments.first()?;
        let lease = self.state.lease(&first.network, &task.node)?;
        Some(lease.gateway())
    }

    async fn ask_at(
        &self,
        place: &Place,
        server: SocketAddr,
        name: &str,
        ipv6: bool,
        patience: Duration,
    ) -> Result<dns::Said, Silence> {
        let failed = |error: &dyn std::error::Error| Silence::Failed(crate::chain(error));
        let netns = self.netns(place).map_err(|error| failed(&error))?;
        let any: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let open = move || netns.run(|| std::net::UdpSocket::bind((any, 0)));
        let opened = tokio::task::spawn_blocking(open).await;
        let socket = opened
            .map_err(|error| failed(&error))?
            .map_err(|error| failed(&error))?
            .map_err(|error| failed(&error))?;
        let asked = dns::ask(socket, server, name, ipv6, patience).await;
        asked.map_err(|error| match error {
            dns::AskError::Silent(patience) => Silence::Silent(patience),
            dns::AskError::Socket(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                Silence::Refused
            }
            other => failed(&other),
        })
    }

    async fn responder(&self) -> Responder {
        let control = crate::responder::control(self.instance);
        if dns::request(&control, "status", SAYS).await.is_ok() {
            return Responder::Well;
        }
        let pid = self.responder;
        match evidence::process_state(pid).filter(|state| !"ZX".contains(*state)) {
            Some(state) => Responder::Stuck { pid, state },
            None => Responder::Gone,
        }
    }

    async fn ask_upstreams(&self, name: &str) -> Vec<(IpAddr, Result<dns::Code, String>)> {
        let text = std::fs::read_to_string(self.resolv_conf).unwrap_or_default();
        let mut said = Vec::new();
        for server in dns::nameservers(&text).into_iter().take(UPSTREAMS) {
            let at = SocketAddr::new(server, 53);
            let answer = self.ask_at(&Place::Host, at, name, false, UPSTREAM).await;
            let answer = answer.map(|said| said.code).map_err(|why| match why {
                Silence::Silent(patience) => {
                    format!("no answer within {} ms", patience.as_millis())
                }
                Silence::Refused => "nobody listens there".to_owned(),
                Silence::Failed(why) => why,
            });
            said.push((server, answer));
        }
        said
    }

    // === the probe ===

    /// Sends a probe where one can be sent, and finds out what became of it.
    pub(super) async fn gather(
        &self,
        scene: &Scene<'_>,
        patience: Duration,
    ) -> Result<Evidence, ApiError> {
        let Some(to) = scene.at else {
            return Ok(Evidence::default());
        };
        let family = Family::from(to.ip());
        let mut evidence = Evidence::default();
        let sender = match &scene.client {
            Client::Task(id) => Some(Place::Task(id.clone())),
            Client::Host => Some(Place::Host),
            Client::Elsewhere(_) => None,
        };
        let candidates = self.candidates(scene);
        let tasks = candidates.values().cloned().map(Place::Task);
        let counted: BTreeSet<Place> = scene
            .places()
            .into_iter()
            .chain(sender.clone())
            .chain(tasks.take(COUNTED))
            .collect();

        self.observe(&mut evidence, sender.as_ref(), scene).await?;
        if let Some(sender) = &sender {
            let before = self.counts(&counted, family).await?;
            let netns = self.netns(sender).map_err(|error| internal(&error))?;
            let sent = probe::send(&netns, scene.protocol, to, patience).await;
            evidence.probe = Some(Probe {
                from: sent.from,
                outcome: sent.outcome.clone(),
                took: sent.took,
            });
            // while the connection is open
            self.follow(&mut evidence, scene, to).await?;
            let after = self.counts(&counted, family).await?;
            drop(sent);
            evidence.counted = counted_of(before, after);
        } else {
            let now = self.counts(&counted, family).await?;
            evidence.counted = counted_of(now.clone(), now);
            if let Some(at) = candidates.keys().next() {
                evidence.chosen = self.chosen(scene, to, *at, false).await?;
            }
        }
        if let Some(task) = evidence
            .chosen
            .as_ref()
            .and_then(|chosen| chosen.task.clone())
        {
            self.observe_place(&mut evidence, &Place::Task(task))
                .await?;
        }
        Ok(evidence)
    }

    /// The tasks that may be chosen, by address and port.
    fn candidates(&self, scene: &Scene<'_>) -> BTreeMap<SocketAddr, TaskId> {
        let mut found = BTreeMap::new();
        if let (Target::Task(task), Some(at)) = (&scene.target, scene.at) {
            found.insert(at, task.clone());
        }
        let balanced = scene.balancer().and_then(|(place, key)| {
            let netns = self.wanted.get(&place)?;
            netns.services.get(&key)
        });
        for (ip, port) in balanced
            .iter()
            .flat_map(|service| service.destinations.keys())
        {
            let port = match (port, scene.at) {
                (0, Some(at)) => at.port(),
                (port, _) => *port,
            };
            if let Some(task) = scene::task_at(&self.state, *ip) {
                found.insert(SocketAddr::new(*ip, port), task.id.clone());
            }
        }
        found
    }

    async fn observe(
        &self,
        evidence: &mut Evidence,
        sender: Option<&Place>,
        scene: &Scene<'_>,
    ) -> Result<(), ApiError> {
        let node = scene.places();
        for place in node.iter().chain(sender.filter(|at| **at != Place::Host)) {
            self.observe_place(evidence, place).await?;
        }
        if let Some((place, key)) = scene.balancer() {
            let live = self.kernel.live(&place, vec![key]).await;
            let live = live.map_err(|error| internal(&error))?;
            let destinations = live.values().flat_map(|service| &service.destinations);
            let busy = destinations.map(|one| {
                let at = SocketAddr::new(one.at.0, one.at.1);
                (at, one.active.saturating_add(one.inactive))
            });
            evidence.busy = busy.collect();
        }
        Ok(())
    }

    async fn observe_place(&self, evidence: &mut Evidence, place: &Place) -> Result<(), ApiError> {
        let wanted = self.wanted.get(place);
        let keys = wanted.map(|netns| netns.sysctls.keys().cloned().collect());
        let keys: BTreeSet<String> = keys.unwrap_or_default();
        let seen = self.kernel.observe(place, &keys).await;
        if let Some(seen) = seen.map_err(|error| internal(&error))? {
            evidence.seen.insert(place.clone(), seen);
        }
        Ok(())
    }

    async fn counts(
        &self,
        places: &BTreeSet<Place>,
        family: Family,
    ) -> Result<BTreeMap<Place, Counts>, ApiError> {
        let opened = places.iter().filter_map(|place| {
            // a namespace that is gone has counted nothing
            Some((place.clone(), self.netns(place).ok()?))
        });
        let opened: Vec<_> = opened.collect();
        let read = move || {
            let read = opened.into_iter().map(|(place, netns)| {
                let counts = evidence::counts(&netns, family)?;
                Ok::<_, kernel::Error>((place, counts))
            });
            read.collect::<Result<BTreeMap<_, _>, _>>()
        };
        blocking(read).await?.map_err(|error| internal(&error))
    }

    /// Follows the connection from namespace to namespace.
    async fn follow(
        &self,
        evidence: &mut Evidence,
        scene: &Scene<'_>,
        to: SocketAddr,
    ) -> Result<(), ApiError> {
        let Some(probe) = &evidence.probe else {
            return Ok(());
        };
        let Some(from) = probe.from else {
            return Ok(());
        };
        let answered = probe.outcome == Outcome::Answered;
        let protocol = scene.protocol;
        let sent = Connection { protocol, from, to };
        // as it may be where IPVS gets it
        let mut ways = vec![sent];
        if matches!(scene.target, Target::Port { .. } | Target::Outside) {
            let host = self.netns(&Place::Host).map_err(|error| internal(&error))?;
            // a kernel without it cannot be asked
            let found = blocking(move || evidence::tracked(&host, &sent)).await?;
            evidence.tracked = found.unwrap_or_default();
            ways = match evidence.tracked {
                Some(tracked) => vec![Connection {
                    from: tracked.from,
                    to: tracked.to,
                    ..sent
                }],
                // what was refused is not tracked any more
                None => self.translated(scene, sent),
            };
        }
        let mut at = matches!(scene.target, Target::Task(_)).then_some((to, from));
        if let Some((place, _)) = scene.balancer() {
            let netns = self.netns(&place).map_err(|error| internal(&error))?;
            for way in ways {
                let netns = netns.clone();
                let found = blocking(move || evidence::balanced(&netns, &way)).await?;
                if let Some(balanced) = found.map_err(|error| internal(&error))? {
                    at = Some((balanced.to, way.from));
                    evidence.balanced = Some(balanced);
                    break;
                }
            }
        }
        if let Some((at, from)) = at {
            evidence.chosen = self.chosen(scene, from, at, answered).await?;
        }
        Ok(())
    }

    /// How the host translates a connection to a published port: as itself, or as it is.
    fn translated(&self, scene: &Scene<'_>, sent: Connection) -> Vec<Connection> {
        let Some(way) = scene.way() else {
            return Vec::new();
        };
        let Entry::IpPort(ip, _, port) = way.ingress.1 else {
            return Vec::new();
        };
        let to = SocketAddr::new(ip, port);
        let pools = self.state.pools.as_ref();
        let number = self.state.nodes.get(self.node).map(|node| node.number);
        let ranges = pools.into_iter().flat_map(|pools| pools.ranges());
        let mut ranges = ranges.filter(|ranges| Family::from(ranges.nodes.addr()) == way.family);
        let host = ranges.next().zip(number);
        let host = host.map(|(ranges, number)| NodeAddresses::new(&ranges, number).host());
        let from = host.map(|ip| SocketAddr::new(ip, sent.from.port()));
        let from = from.into_iter().chain([sent.from]);
        from.map(|from| Connection { from, to, ..sent }).collect()
    }

    /// What the task has of the connection; once a program has taken it, if one does.
    async fn chosen(
        &self,
        scene: &Scene<'_>,
        from: SocketAddr,
        at: SocketAddr,
        answered: bool,
    ) -> Result<Option<Chosen>, ApiError> {
        let task = scene::task_at(&self.state, at.ip()).map(|task| task.id.clone());
        let mut sockets = Sockets::default();
        let place = task.clone().map(Place::Task);
        let netns = place.and_then(|place| self.netns(&place).ok());
        if let Some(netns) = netns {
            let begun = Instant::now();
            loop {
                let (netns, protocol) = (netns.clone(), scene.protocol);
                let read = move || evidence::sockets(&netns, protocol, from, at);
                sockets = blocking(read).await?.map_err(|error| internal(&error))?;
                let unread = sockets
                    .listening
                    .iter()
                    .any(|l| l.takes(at) && l.waiting > 0);
                let waits = match scene.protocol {
                    Protocol::Udp => unread,
                    _ => answered && sockets.end == Some(End::Waiting),
                };
                if !waits || begun.elapsed() > ACCEPTS {
                    break;
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        let takes = sockets.listening.iter().filter(|l| l.takes(at));
        let inodes: BTreeSet<u64> = takes.map(|listening| listening.inode).collect();
        let holder = match inodes.is_empty() {
            true => None,
            false => {
                let find = move || evidence::process(&inodes);
                tokio::task::spawn_blocking(find).await.unwrap_or_default()
            }
        };
        Ok(Some(Chosen {
            at,
            task,
            sockets,
            holder,
        }))
    }
}

fn counted_of(
    mut before: BTreeMap<Place, Counts>,
    after: BTreeMap<Place, Counts>,
) -> BTreeMap<Place, Counted> {
    let both = after.into_iter().map(|(place, after)| {
        let before = before.remove(&place).unwrap_or_default();
        (place, Counted { before, after })
    });
    both.collect()
}
