//! Reads the machine.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, SystemTime},
};

use ipnet::IpNet;
use kernel::machine;
use model::{Instance, TaskId};
use runtime::Docker;

use super::{Check, judge};
use crate::Config;

/// How long a name server has.
const PATIENCE: Duration = Duration::from_secs(2);
/// resolv.conf(5) has three at most.
const SERVERS: usize = 3;
/// Where those that keep the clock say that they do.
const SYNCHRONIZED: &str = "/run/systemd/timesync/synchronized";

/// Looks at everything, as a daemon with this configuration would need it.
pub async fn look(config: &Config) -> Vec<Check> {
    let instance = &config.instance;
    let mut checks = kernel_features();
    let number = |path| machine::sysctl(path).and_then(|text| text.parse().ok());
    let forwards = machine::sysctl("net/ipv4/ip_forward");
    checks.push(judge::iptables(
        machine::iptables_version().ok().as_deref(),
        &machine::legacy_tables(),
    ));
    let link = instance.host_link();
    checks.push(judge::flowtable(
        config.flowtable,
        machine::is_root().then(kernel::preflight::without_flowtable),
    ));
    checks.push(judge::firewalld(
        &link,
        machine::firewalld_zone(&link).ok().as_deref(),
    ));
    let here = kernel::netns::inode(&instance.router_netns()).is_ok();
    checks.push(judge::forwarding(forwards.as_deref(), here));
    checks.push(judge::tracking(
        number("net/netfilter/nf_conntrack_count"),
        number("net/netfilter/nf_conntrack_max"),
    ));
    checks.push(judge::table_bits(machine::ipvs_table_bits()));
    checks.push(pools(config));
    let said = Docker::version(&config.docker).await;
    checks.push(judge::docker(
        said.map_err(|error| error.to_string()),
        &config.docker.socket,
    ));
    let names = kernel::netns::list("ipvsmesh").unwrap_or_default();
    checks.push(judge::leftovers(&dead(&names)));
    let made = std::env::current_exe()
        .and_then(|program| std::fs::metadata(program)?.modified())
        .ok();
    checks.push(judge::clock(
        SystemTime::now(),
        made,
        Path::new(SYNCHRONIZED).exists(),
    ));
    checks.push(judge::files(machine::most_files()));
    let is_task = |name: &&String| {
        let (_, last) = name.rsplit_once('-').unwrap_or_default();
        last.parse::<TaskId>().is_ok()
    };
    let tasks = names.iter().filter(is_task).count() as u64;
    checks.push(judge::neighbours(
        number("net/ipv4/neigh/default/gc_thresh3"),
        tasks,
    ));
    let file = &config.names.resolv_conf;
    checks.push(judge::name_servers(file, &name_servers(file).await));
    checks.push(judge::mtu(config.settings.mtu, &links(instance)));
    let data_dir = config.data_dir.clone();
    let data_dir = data_dir.unwrap_or_else(|| instance.data_dir());
    let room = machine::room(&data_dir).map_err(|error| error.to_string());
    checks.push(judge::room(&data_dir, room));
    checks
}

/// Modules, options, programs: each is tried, which takes root.
fn kernel_features() -> Vec<Check> {
    const NAME: &str = "kernel";
    if !machine::is_root() {
        return vec![Check::warning(
            NAME,
            "you are not root, so that the kernel's features and others' sockets were not tried",
            "sudo ipvsmesh doctor",
        )];
    }
    let problems = kernel::preflight::check();
    let mut checks: Vec<_> = problems
        .into_iter()
        .map(|one| Check::failure(NAME, format!("{}: {}", one.what, one.why), one.remedy))
        .collect();
    if checks.is_empty() {
        checks.push(Check::ok(
            NAME,
            "namespaces, veth, IPVS, sets, rules and cgroups can be made",
        ));
    }
    checks.push(match kernel::preflight::without_ipv6() {
        None => Check::ok("ipv6", "can be used"),
        Some(why) => Check::warning(
            "ipv6",
            format!("the mesh will have none: {why}"),
            "boot with IPv6 and ip6tables' modules; or say that none is wanted: ipvsmeshd --ipv6-prefix none",
        ),
    });
    checks
}

/// Routes of the host that the mesh's ranges overlap: those that it has, or would take.
fn pools(config: &Config) -> Check {
    let routes = match kernel::host::routes() {
        Ok(routes) => routes,
        Err(error) => {
            let why = crate::chain(&error);
            return Check::warning("pools", why, "sudo ipvsmesh doctor");
        }
    };
    let link = config.instance.host_link();
    let (own, others): (Vec<_>, Vec<_>) = routes.into_iter().partition(|(_, on)| *on == link);
    // host routes are parts of ranges
    let wide = own.into_iter().map(|(to, _)| to);
    let wide: BTreeSet<IpNet> = wide
        .filter(|to| to.prefix_len() < to.max_prefix_len())
        .collect();
    let own: Vec<_> = wide.into_iter().collect();
    if !own.is_empty() {
        return judge::conflicts(&own, &others);
    }
    match crate::free_pools(&config.pools, &others) {
        Ok(pools) => judge::conflicts(&[pools.tasks, pools.vips, pools.nodes], &others),
        Err(error) => Check::failure(
            "pools",
            error.to_string(),
            "give free ranges: ipvsmeshd --task-pool, --vip-pool, --node-pool",
        ),
    }
}

/// The instances of these namespaces whose daemon does not answer.
fn dead(names: &[String]) -> Vec<String> {
    let instances = names.iter().filter_map(|name| {
        let instance = name.strip_prefix("ipvsmesh")?.strip_suffix("-router")?;
        Instance::try_from(instance.trim_start_matches('-').to_owned()).ok()
    });
    let answers = |instance: &Instance| match UnixStream::connect(instance.socket()) {
        Ok(_) => true,
        // not ours to know
        Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied,
    };
    let dead = instances.filter(|instance| !answers(instance));
    dead.map(|instance| instance.to_string()).collect()
}

async fn name_servers(file: &Path) -> Vec<(IpAddr, Result<(), String>)> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut asked = Vec::new();
    for server in dns::nameservers(&text).into_iter().take(SERVERS) {
        let any: IpAddr = match server {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let said = match UdpSocket::bind((any, 0)) {
            // whatever it says of the name, it answers
            Ok(socket) => {
                let at = SocketAddr::new(server, 53);
                dns::ask(socket, at, "localhost", false, PATIENCE).await
            }
            Err(error) => Err(error.into()),
        };
        asked.push((server, said.map(drop).map_err(|error| error.to_string())));
    }
    asked
}

/// The host's links that lead out, with the largest packet of each.
fn links(instance: &Instance) -> Vec<(String, u32)> {
    let addresses = kernel::host::addresses().unwrap_or_default();
    let names: BTreeSet<String> = addresses.into_iter().map(|(_, link)| link).collect();
    let outer = names
        .into_iter()
        .filter(|link| link != "lo" && *link != instance.host_link() && !link.starts_with("ivm0"));
    outer
        .filter_map(|link| Some((link.clone(), machine::mtu(&link)?)))
        .collect()
}
