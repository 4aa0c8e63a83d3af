//! What static services may be.

use std::collections::BTreeSet;

use ipnet::IpNet;
use model::{
    Network, Options, PublishMode, RuntimeSpec, Server, Service, ServiceSpec, State, label,
};

use super::Refusal;

/// Whether a service needs a VIP of this family: one of others' only where one of
/// those has it, since a client that tries it first would be refused.
pub(super) fn has(spec: &ServiceSpec, vips: IpNet) -> bool {
    match &spec.task.runtime {
        RuntimeSpec::Static => {
            let servers = Server::of_labels(&spec.labels).unwrap_or_default();
            let mut servers = servers.iter();
            servers.any(|server| server.ip.is_ipv4() == vips.addr().is_ipv4())
        }
        RuntimeSpec::Adopted { ipv6, .. } => *ipv6 || vips.addr().is_ipv4(),
        RuntimeSpec::Process(_) | RuntimeSpec::Docker(_) => true,
    }
}

/// Refuses what somebody asks of a service that containers ask for.
pub(super) fn check_asked(service: &Service) -> Result<(), Refusal> {
    match service.spec.task.runtime {
        RuntimeSpec::Adopted { .. } => Err(Refusal::Invalid(format!(
            "service {0} is there because of containers with the label {1}={0}, and is what these say: change, stop or remove them",
            service.spec.name,
            label::SERVICE
        ))),
        RuntimeSpec::Process(_) | RuntimeSpec::Docker(_) | RuntimeSpec::Static => Ok(()),
    }
}

/// Refuses what would make other tasks of a service's.
pub(super) fn check_change(before: &ServiceSpec, spec: &ServiceSpec) -> Result<(), Refusal> {
    let kind = |spec: &ServiceSpec| match &spec.task.runtime {
        RuntimeSpec::Static => "static",
        RuntimeSpec::Adopted { .. } => "adopted",
        RuntimeSpec::Process(_) | RuntimeSpec::Docker(_) => "of tasks",
    };
    match (kind(before), kind(spec)) {
        (one, other) if one == other => Ok(()),
        (one, other) => Err(Refusal::Invalid(format!(
            "service {} is {one}, and cannot become {other}: remove it and make another one",
            before.name
        ))),
    }
}

/// Refuses servers that cannot be reached.
pub(super) fn check_static(
    state: &State,
    spec: &ServiceSpec,
    new: Option<&Network>,
) -> Result<(), Refusal> {
    let no = |why: String| Err(Refusal::Invalid(why));
    let servers = match Server::of_labels(&spec.labels) {
        Ok(servers) => servers,
        Err(error) => return no(error.to_string()),
    };
    let ranges = state.pools.iter().flat_map(|pools| pools.ranges());
    let ours: Vec<IpNet> = ranges.flat_map(|r| [r.tasks, r.vips, r.nodes]).collect();
    let mine = |server: &&Server| ours.iter().any(|range| range.contains(&server.ip));
    if let Some(server) = servers.iter().find(mine) {
        return no(format!(
            "endpoint {server} is in the mesh's own ranges: it is no server outside of it"
        ));
    }
    for attachment in &spec.task.networks {
        let stored = state.networks.get(&attachment.network);
        let network = stored.map(|network| &**network).or(new);
        if let Some(network) = network.filter(|network| network.spec.internal) {
            return no(format!(
                "network {} is internal: its tasks reach nothing outside of it, such as {}; use another network",
                network.spec.name,
                servers
                    .first()
                    .map_or_else(String::new, ToString::to_string)
            ));
        }
    }
    let mut ports = spec.endpoint.ports.iter();
    if let Some(port) = ports.find(|port| port.mode == PublishMode::Host) {
        return no(format!(
            "port {} has mode=host, but the tasks of a static service are on no host: use mode=ingress",
            port.target
        ));
    }
    // IPVS translates no port of a persistent service that is known by a mark
    let affine = Options::of(&spec.labels).is_ok_and(|options| options.affinity.is_some());
    let own: BTreeSet<u16> = servers.iter().filter_map(|server| server.port).collect();
    let targets: BTreeSet<u16> = spec.endpoint.ports.iter().map(|port| port.target).collect();
    let other = own
        .iter()
        .find(|port| targets.iter().any(|target| target != *port));
    if let (true, Some(port)) = (affine, other) {
        return no(format!(
            "with {} all endpoints have the target port of the published one: {port} is another",
            label::AFFINITY
        ));
    }
    Ok(())
}
