//! Why a name has no address for the client.

use super::{
    evidence::{Asked, Responder, Silence},
    explain::{At, Obstacle, Scene},
    obstacles::{idle, idle_next, join_next, network_name, networks_of, obstacle},
};

/// Why a name has no address.
pub(crate) fn name(scene: &Scene<'_>, asked: &Asked) -> Obstacle {
    let (name, server) = (&asked.name, asked.server);
    let at = |what: String, next: String| obstacle(At::Name, what, next);
    // what is not to be seen is asked for elsewhere
    if let (Ok(_), Some(hidden)) = (&asked.said, hidden(scene, name)) {
        return hidden;
    }
    match (&asked.said, &asked.responder) {
        (Err(_), Some(Responder::Gone)) => at(
            format!("{server} does not answer: the DNS responder does not run"),
            "ipvsmeshd starts it again within seconds; if not, see: journalctl -u ipvsmeshd"
                .to_owned(),
        ),
        (Err(_), Some(Responder::Stuck { pid, state })) => {
            let what = match state {
                'T' | 't' => "is stopped",
                _ => "does not react",
            };
            at(
                format!("{server} does not answer: the DNS responder (pid {pid}) {what}"),
                format!(
                    "let it go on: kill -CONT {pid}; or end it, and ipvsmeshd starts another: kill -9 {pid}"
                ),
            )
        }
        (Err(silence), _) if asked.upstreams.is_empty() => {
            let why = match silence {
                Silence::Silent(patience) => {
                    format!("nothing came within {} ms", patience.as_millis())
                }
                Silence::Refused => "nobody has the port there".to_owned(),
                Silence::Failed(why) => why.clone(),
            };
            at(
                format!(
                    "{server} does not answer the client ({why}), though the DNS responder is well"
                ),
                "look at the way to it: --to the server's address with --port 53 --udp".to_owned(),
            )
        }
        (Ok(said), _) if said.code == dns::Code::NoError => no_address(scene, name),
        (Ok(said), _) if said.code == dns::Code::NoSuchName => no_such_name(scene, name, said),
        // somebody else's name
        (Err(_) | Ok(_), _) => {
            let told = asked.upstreams.iter().map(|(server, said)| match said {
                Ok(dns::Code::NoError | dns::Code::NoSuchName) => format!("{server} answers"),
                Ok(code) => format!("{server} says {code:?}"),
                Err(why) => format!("{server}: {why}"),
            });
            let told: Vec<_> = told.collect();
            let (why, next) = match told.is_empty() {
                true => (
                    "names no server".to_owned(),
                    "name one in the host's /etc/resolv.conf, or the file of --resolv-conf",
                ),
                false => (
                    format!("names {}", told.join(", ")),
                    "mend the host's own name servers: they are what other names are asked of",
                ),
            };
            at(
                format!(
                    "{name} is no name of the mesh, and is asked of the host's servers; resolv.conf {why}"
                ),
                next.to_owned(),
            )
        }
    }
}

fn no_address(scene: &Scene<'_>, name: &str) -> Obstacle {
    match scene.state.find_service(name) {
        Some(service) => {
            let what = format!("{name} has no address: {}", idle(scene, &service.id));
            obstacle(At::Name, what, idle_next(scene, &service.id))
        }
        None => obstacle(
            At::Name,
            format!("{name} is there, and has no address"),
            "ask for its records: dig ANY",
        ),
    }
}

/// A service of that name, on networks that the client is not on.
fn hidden(scene: &Scene<'_>, name: &str) -> Option<Obstacle> {
    let client = scene.client_task()?;
    let on = networks_of(scene, Some(client));
    // `tasks.SERVICE`, `SERVICE.SLOT`, `SERVICE.NETWORK.ipvsmesh`
    let mut labels = name.trim_start_matches("tasks.").split('.');
    let service = scene.state.find_service(labels.next()?)?;
    let ours = |label: &str| {
        label == "ipvsmesh"
            || label.bytes().all(|b| b.is_ascii_digit())
            || scene.state.find_network(label).is_some()
    };
    if !labels.all(ours) {
        return None;
    }
    let its = service.spec.task.networks.iter();
    let its: Vec<_> = its.map(|at| network_name(scene, &at.network)).collect();
    if its.iter().any(|network| on.contains(network)) {
        return None;
    }
    Some(obstacle(
        At::Name,
        format!(
            "{name} is not visible: service {} is on network {}, the client on {}",
            service.spec.name,
            its.join(", "),
            on.join(", ")
        ),
        join_next(client, &its),
    ))
}

fn no_such_name(scene: &Scene<'_>, name: &str, said: &dns::Said) -> Obstacle {
    let client = scene.client_task();
    let internal = client.is_some_and(|task| {
        let networks = task.attachments.iter();
        let mut networks = networks.filter_map(|at| scene.state.networks.get(&at.network));
        networks.all(|network| network.spec.internal)
    });
    if internal {
        let on = networks_of(scene, client.map(|task| &**task)).join(", ");
        return obstacle(
            At::Name,
            format!(
                "there is no {name} on network {on}, which is internal: other names are not asked for"
            ),
            "attach the client to a network that is not internal, too",
        );
    }
    let who = match said.authoritative {
        true => "the mesh",
        false => "the host's servers",
    };
    obstacle(
        At::Name,
        format!("there is no such name as {name}, say {who}"),
        "see which there are: ipvsmesh service ls; ipvsmesh inspect SERVICE",
    )
}
