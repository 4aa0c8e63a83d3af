//! Names for the tests, in few words.

use std::{
    fs,
    net::IpAddr,
    path::Path,
    time::{Duration, SystemTime},
};

use model::{
    NetworkId, Protocol, ServiceId, TaskId,
    names::{Change, Client, Mesh, PortName, ServiceNames, TaskNames, Update, Zone},
};

use crate::names::Names;

/// Puts another file in the place of one, as systemd-resolved does it; it is newer than
/// the clock of a file system is coarse.
pub(crate) fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).unwrap();
    let later = SystemTime::now() + Duration::from_secs(5);
    let written = fs::File::options().append(true).open(&new).unwrap();
    written.set_modified(later).unwrap();
    fs::rename(&new, file).unwrap();
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn network(n: u8) -> NetworkId {
    NetworkId::from_random([n; 16])
}

pub(crate) fn service_id(n: u8) -> ServiceId {
    ServiceId::from_random([n; 16])
}

/// The id of the task with this number.
pub(crate) fn task_id(n: u16) -> TaskId {
    let mut random = [7; 16];
    random[..2].copy_from_slice(&n.to_be_bytes());
    TaskId::from_random(random)
}

/// A service whose tasks have these addresses, from slot 1 on.
pub(crate) fn service(name: &str, vips: &[&str], tasks: &[&[&str]]) -> ServiceNames {
    let addresses = |all: &[&str]| all.iter().map(|text| ip(text)).collect();
    let tasks = tasks.iter().zip(1..).map(|(all, slot)| TaskNames {
        id: task_id(u16::try_from(slot).unwrap()),
        slot,
        node: None,
        addresses: addresses(all),
    });
    ServiceNames {
        name: name.into(),
        vips: addresses(vips),
        tasks: tasks.collect(),
        ..ServiceNames::default()
    }
}

pub(crate) trait With {
    fn aliases(self, aliases: &[&str]) -> Self;
    fn port(self, name: &str, protocol: Protocol, port: u16) -> Self;
}

impl With for ServiceNames {
    fn aliases(mut self, aliases: &[&str]) -> Self {
        self.aliases = aliases.iter().map(|alias| Box::from(*alias)).collect();
        self
    }

    fn port(mut self, name: &str, protocol: Protocol, port: u16) -> Self {
        let one = PortName {
            name: name.into(),
            protocol,
            port,
        };
        self.ports = self.ports.into_iter().chain([one]).collect();
        self
    }
}

/// Networks by number and name, each with its services.
pub(crate) fn names(
    networks: &[(u8, &str, &[ServiceNames])],
    clients: &[(IpAddr, Client)],
) -> Update {
    let mesh = Mesh {
        ttl: 3,
        own: ["10.100.0.0/14", "10.200.0.0/14", "fd00::/48"]
            .map(|net| net.parse().unwrap())
            .to_vec(),
    };
    let mut changes = vec![Change::Mesh(mesh)];
    let mut count = 0;
    for (number, name, services) in networks {
        let id = network(*number);
        let zone = Zone {
            name: (*name).to_owned(),
        };
        changes.push(Change::Network(id.clone(), Some(zone)));
        for service in *services {
            count += 1;
            changes.push(Change::Service(
                id.clone(),
                service_id(count),
                Some(service.clone()),
            ));
        }
    }
    changes.extend(
        clients
            .iter()
            .cloned()
            .map(|(at, client)| Change::Client(at, Some(client))),
    );
    Update {
        since: None,
        revision: 7,
        more: false,
        changes,
    }
}

/// As a responder has it.
pub(crate) fn taken(update: Update) -> Names {
    let mut names = Names::default();
    names.apply(update).unwrap();
    names
}

/// A client on these networks.
pub(crate) fn sees(networks: &[u8], forward: bool) -> Client {
    Client {
        networks: networks.iter().map(|n| network(*n)).collect(),
        forward,
        servers: Box::default(),
    }
}
