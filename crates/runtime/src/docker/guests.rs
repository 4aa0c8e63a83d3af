//! Containers that are not ours, and ask by a label to belong to a service. They are
//! only looked at: nothing here starts, stops or changes one.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bollard::{
    Docker as Client,
    models::{ContainerSummary, ContainerSummaryStateEnum, EndpointSettings, EventMessage},
    query_parameters::{EventsOptionsBuilder, ListContainersOptionsBuilder},
};
use futures::StreamExt as _;
use ipnet::IpNet;
use jiff::Timestamp;
use model::{Candidate, Protocol, label as asked};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

use super::{container::label, engine::Engine, look};
use crate::RuntimeError;

/// How often Docker is tried while it is away.
const RETRY: Duration = Duration::from_secs(5);
/// How often all is looked at, though nothing was told.
const RESYNC: Duration = Duration::from_secs(60);
/// Events that come together are answered by one look.
const TOGETHER: Duration = Duration::from_millis(50);

/// What is seen: nothing before Docker was asked for the first time.
pub type Candidates = watch::Sender<Option<Arc<Vec<Candidate>>>>;

/// Follows what containers there are, for ever. What was seen last stays while Docker
/// is away: its containers may go on without it.
pub async fn follow(socket: PathBuf, seen: Arc<Candidates>) {
    let engine = Engine::new(socket.clone());
    let mut away = true;
    loop {
        if is_there(&socket)
            && let Err(error) = follow_once(&engine, &seen, &mut away).await
            && !away
        {
            tracing::warn!(%error, "labelled containers are believed to go on until Docker answers");
            away = true;
        }
        sleep(RETRY).await;
    }
}

/// Whether an engine listens. To ask would start one that systemd starts when it is
/// asked, which is not ours to decide: it writes its process id where it runs.
fn is_there(socket: &Path) -> bool {
    const USUAL: [&str; 2] = ["/var/run/docker.sock", "/run/docker.sock"];
    let usual = USUAL.iter().any(|path| socket == Path::new(path));
    socket.exists() && (!usual || Path::new("/run/docker.pid").exists())
}

async fn follow_once(
    engine: &Engine,
    seen: &Candidates,
    away: &mut bool,
) -> Result<(), RuntimeError> {
    let client = engine.client().await?;
    // what happens from here on is told even if it happens before the stream begins
    let begin = Timestamp::now();
    look_at_all(engine, &client, seen).await?;
    *away = false;
    let filters = [("type", vec!["container".to_owned(), "network".to_owned()])];
    let since = format!("{}.{:09}", begin.as_second(), begin.subsec_nanosecond());
    let options = EventsOptionsBuilder::default()
        .since(&since)
        .filters(&filters.into())
        .build();
    let mut events = client.events(Some(options)).boxed();
    let mut next = Instant::now() + RESYNC;
    loop {
        match timeout_at(next, events.next()).await {
            Ok(None) => return Err(engine.ended()),
            Ok(Some(event)) => {
                let event = event.map_err(|error| engine.failed("tell", "of events", &error))?;
                if concerns(&event) {
                    next = next.min(Instant::now() + TOGETHER);
                }
            }
            Err(_) => {
                look_at_all(engine, &client, seen).await?;
                next = Instant::now() + RESYNC;
            }
        }
    }
}

/// Whether an event may change what is seen. Commands that are run in containers, and
/// that they are looked at, change nothing.
fn concerns(event: &EventMessage) -> bool {
    let action = event.action.as_deref().unwrap_or_default();
    if action.starts_with("exec_") || ["top", "attach", "resize", "export"].contains(&action) {
        return false;
    }
    let attributes = event.actor.as_ref().and_then(|a| a.attributes.as_ref());
    let has = |key: &str| attributes.is_some_and(|all| all.contains_key(key));
    // of a network the container's labels are not said
    has(asked::SERVICE) || has("container")
}

async fn look_at_all(
    engine: &Engine,
    client: &Client,
    seen: &Candidates,
) -> Result<(), RuntimeError> {
    let filters = [("label", vec![asked::SERVICE.to_owned()])];
    let options = ListContainersOptionsBuilder::default()
        .all(true)
        .filters(&filters.into())
        .build();
    let listed = client.list_containers(Some(options)).await;
    let listed = listed.map_err(|error| engine.failed("list", "containers", &error))?;
    let all: Vec<_> = listed.into_iter().filter_map(candidate).collect();
    seen.send_if_modified(|before| {
        let changed = before.as_ref().is_none_or(|before| **before != all);
        if changed {
            *before = Some(Arc::new(all));
        }
        changed
    });
    Ok(())
}

/// What a container is to us; `None` for one of ours.
fn candidate(listed: ContainerSummary) -> Option<Candidate> {
    let labels: BTreeMap<_, _> = listed
        .labels
        .clone()
        .unwrap_or_default()
        .into_iter()
        .collect();
    if labels.contains_key(label::INSTANCE) || labels.contains_key(label::TASK) {
        return None;
    }
    let name = look::listed_name(&listed).unwrap_or_default();
    let running = listed.state == Some(ContainerSummaryStateEnum::RUNNING);
    let mode = listed.host_config.and_then(|host| host.network_mode);
    let networks = listed.network_settings.and_then(|all| all.networks);
    let networks: BTreeMap<_, _> = networks.unwrap_or_default().into_iter().collect();
    // Docker's default route is by the first, in the order of names
    let place = networks.values().find_map(place);
    let obstacle = match (running, &place, mode.as_deref()) {
        (false, ..) | (_, Some(_), _) => None,
        (_, None, Some("host")) => Some(
            "it is on the host's own network, and has no address of its own: put it on a bridge, or use its ports as they are",
        ),
        (_, None, Some(mode)) if mode.starts_with("container:") => {
            Some("it is on another container's network: give the labels to that one")
        }
        (_, None, _) => Some(
            "it is on no network with an address and a gateway: put it on a bridge that is not internal",
        ),
    };
    let ports = listed.ports.unwrap_or_default().into_iter();
    let exposed = ports.filter_map(|port| {
        let protocol: Protocol = port.typ?.to_string().parse().ok()?;
        Some((port.private_port, protocol))
    });
    let mut exposed: Vec<_> = exposed.collect();
    exposed.sort_unstable();
    exposed.dedup();
    let (addresses, bridges) = place.unwrap_or_default();
    Some(Candidate {
        id: listed.id.unwrap_or_default(),
        name,
        image: listed.image.unwrap_or_default(),
        labels,
        created: listed.created.unwrap_or_default(),
        running,
        health: look::health(listed.status.as_deref().unwrap_or_default()),
        addresses,
        bridges,
        exposed,
        obstacle,
    })
}

/// A container's addresses on a network, and the network's ranges, where answers can
/// leave it.
fn place(endpoint: &EndpointSettings) -> Option<(Vec<IpAddr>, Vec<IpNet>)> {
    let of = |address: &Option<String>, gateway: &Option<String>, prefix: Option<i64>| {
        let address: IpAddr = address.as_deref()?.parse().ok()?;
        let _: IpAddr = gateway.as_deref()?.parse().ok()?;
        let prefix = u8::try_from(prefix?).ok()?;
        Some((address, IpNet::new(address, prefix).ok()?.trunc()))
    };
    let four = of(
        &endpoint.ip_address,
        &endpoint.gateway,
        endpoint.ip_prefix_len,
    );
    let six = of(
        &endpoint.global_ipv6_address,
        &endpoint.ipv6_gateway,
        endpoint.global_ipv6_prefix_len,
    );
    let (addresses, bridges): (Vec<_>, Vec<_>) = four.into_iter().chain(six).unzip();
    (!addresses.is_empty()).then_some((addresses, bridges))
}

#[cfg(test)]
mod tests {
    use model::Health;
    use serde_json::json;

    use super::*;

    fn of(more: &serde_json::Value) -> Option<Candidate> {
        let mut listed = json!({
            "Id": "70f7", "Names": ["/proj_app_1"], "Image": "nginx:1.27", "Created": 7,
            "Labels": {"ipvsmesh.service": "web"}, "State": "running",
            "Status": "Up 2 minutes (healthy)",
            "Ports": [{"PrivatePort": 80, "Type": "tcp"}, {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}],
            "HostConfig": {"NetworkMode": "proj_default"},
            "NetworkSettings": {"Networks": {
                "proj_inner": {"IPAddress": "172.19.0.2", "IPPrefixLen": 16, "Gateway": ""},
                "proj_outer": {
                    "IPAddress": "172.20.0.2", "IPPrefixLen": 16, "Gateway": "172.20.0.1",
                    "GlobalIPv6Address": "fd00:20::2", "GlobalIPv6PrefixLen": 64, "IPv6Gateway": "fd00:20::1",
                },
            }},
        });
        if let (Some(listed), Some(more)) = (listed.as_object_mut(), more.as_object()) {
            listed.extend(more.clone());
        }
        candidate(serde_json::from_value(listed).unwrap())
    }

    #[test]
    fn a_container_is_where_its_answers_can_leave() {
        let found = of(&json!({})).unwrap();
        assert_eq!(
            (found.name.as_str(), found.image.as_str()),
            ("proj_app_1", "nginx:1.27")
        );
        assert_eq!((found.running, found.health), (true, Health::Healthy));
        assert_eq!(
            found.addresses,
            [
                "172.20.0.2".parse::<IpAddr>().unwrap(),
                "fd00:20::2".parse().unwrap()
            ]
        );
        let bridges: Vec<_> = found.bridges.iter().map(ToString::to_string).collect();
        assert_eq!(bridges, ["172.20.0.0/16", "fd00:20::/64"]);
        assert_eq!(found.exposed, [(80, Protocol::Tcp)]);
        assert_eq!(found.obstacle, None);
    }

    #[test]
    fn who_cannot_be_reached_is_told_why() {
        let none = json!({"Networks": {"x": {"IPAddress": "", "Gateway": ""}}});
        for (mode, word) in [
            ("host", "host's own"),
            ("container:7", "another container's"),
            ("none", "no network"),
        ] {
            let mode = json!({"HostConfig": {"NetworkMode": mode}, "NetworkSettings": none});
            let why = of(&mode).unwrap().obstacle.unwrap();
            assert!(why.contains(word), "{why}");
        }
        let stopped = json!({"State": "exited", "Status": "Exited (0)", "NetworkSettings": none});
        assert_eq!(of(&stopped).unwrap().obstacle, None);
    }

    #[test]
    fn the_meshs_own_are_none() {
        let labels = json!({"Labels": {"ipvsmesh.service": "web", "ipvsmesh.task": "x"}});
        assert_eq!(of(&labels), None);
    }
}
