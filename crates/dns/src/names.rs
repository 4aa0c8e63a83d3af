//! The names as the responder keeps them: each service once, and one index of
//! numbers over all that it is called, so that 10,000 services are a few MB.

use std::{hash::BuildHasher as _, net::IpAddr};

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};
use model::{
    NetworkId, ServiceId,
    names::{Change, Client, Mesh, ServiceNames, TaskNames, Update},
};

/// All names, as of one revision.
#[derive(Default)]
pub(crate) struct Names {
    pub(crate) revision: u64,
    pub(crate) mesh: Mesh,
    zones: HashMap<NetworkId, Zone>,
    clients: HashMap<IpAddr, Client>,
}

/// An update that does not lead on from the revision that we have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Behind {
    pub(crate) at: u64,
}

impl Names {
    /// Makes the changes of an update, or of a part of one.
    pub(crate) fn apply(&mut self, update: Update) -> Result<(), Behind> {
        if update.since.is_some_and(|since| since != self.revision) {
            return Err(Behind { at: self.revision });
        }
        for change in update.changes {
            self.change(change);
        }
        if !update.more {
            self.revision = update.revision;
        }
        Ok(())
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Mesh(mesh) => self.mesh = mesh,
            Change::Network(id, Some(zone)) => self.zones.entry(id).or_default().name = zone.name,
            Change::Network(id, None) => drop(self.zones.remove(&id)),
            Change::Service(network, id, names) => {
                if let Some(zone) = self.zones.get_mut(&network) {
                    zone.remove(&id);
                    if let Some(names) = names {
                        zone.insert(id, names);
                    }
                }
            }
            Change::Client(address, Some(client)) => drop(self.clients.insert(address, client)),
            Change::Client(address, None) => drop(self.clients.remove(&address)),
        }
    }

    pub(crate) fn client(&self, address: IpAddr) -> Option<&Client> {
        self.clients.get(&address)
    }

    pub(crate) fn zone(&self, id: &NetworkId) -> Option<&Zone> {
        self.zones.get(id)
    }

    /// Whether an address is the mesh's: given to somebody, or out of its ranges.
    pub(crate) fn owns(&self, address: IpAddr) -> bool {
        self.mesh.covers(address)
            || self
                .zones
                .values()
                .any(|zone| zone.holder(address).is_some())
    }
}

/// The names of one network.
#[derive(Default)]
pub(crate) struct Zone {
    pub(crate) name: String,
    services: Vec<Option<ServiceNames>>,
    free: Vec<u32>,
    numbers: HashMap<ServiceId, u32>,
    index: HashTable<Entry>,
    /// Fast rather than safe from chosen keys: what is put in is the mesh's own.
    hasher: DefaultHashBuilder,
}

/// What one of a service's words and addresses is. There are many: 8 octets each.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry {
    /// The service's place in the vector.
    service: u32,
    at: At,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    Name,
    Alias(u16),
    Vip(u16),
    /// A task by its id.
    Task(u16),
    /// A task's address: the first one, or the second.
    Address(u16),
    Second(u16),
}

const _: () = assert!(size_of::<Entry>() == 8);

/// A word or an address, to look for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key<'a> {
    Text(&'a str),
    Address(IpAddr),
}

/// Which addresses of a service are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which<'a> {
    /// The service's own: its VIPs, if it has any.
    Service,
    /// All tasks'.
    Tasks,
    /// Those of `SERVICE.LABEL`.
    Labelled(&'a str),
    /// That of the task of this place in the list.
    Task(u16),
}

/// Of whom an address is.
pub(crate) enum Holder<'a> {
    Service(&'a ServiceNames),
    Task(&'a ServiceNames, &'a TaskNames),
}

/// What a name means: of whom which addresses. More than one service where an alias
/// is shared.
pub(crate) type Found<'a> = Vec<(&'a ServiceNames, Which<'a>)>;

impl Zone {
    fn insert(&mut self, id: ServiceId, names: ServiceNames) {
        let number = match self.free.pop() {
            Some(number) => number,
            None => {
                self.services.push(None);
                u32::try_from(self.services.len() - 1).unwrap_or(u32::MAX)
            }
        };
        for (at, key) in keys(&names) {
            let hash = self.hasher.hash_one(key);
            let entry = Entry {
                service: number,
                at,
            };
            let (services, hasher) = (&self.services, &self.hasher);
            self.index.insert_unique(hash, entry, |other| {
                let one = if other.service == number {
                    Some(&names)
                } else {
                    None
                };
                let one = one.or_else(|| services.get(other.service as usize)?.as_ref());
                one.and_then(|names| key_at(names, other.at))
                    .map_or(0, |key| hasher.hash_one(key))
            });
        }
        self.services[number as usize] = Some(names);
        self.numbers.insert(id, number);
    }

    fn remove(&mut self, id: &ServiceId) {
        let Some(number) = self.numbers.remove(id) else {
            return;
        };
        let slot = self.services.get_mut(number as usize);
        let Some(names) = slot.and_then(Option::take) else {
            return;
        };
        for (at, key) in keys(&names) {
            let entry = Entry {
                service: number,
                at,
            };
            let hash = self.hasher.hash_one(key);
            if let Ok(found) = self.index.find_entry(hash, |other| *other == entry) {
                found.remove();
            }
        }
        self.free.push(number);
    }

    /// All entries of a key, with their services.
    fn entries<'a>(&'a self, key: Key<'a>) -> impl Iterator<Item = (&'a ServiceNames, At)> {
        let entries = self.index.iter_hash(self.hasher.hash_one(key));
        entries.filter_map(move |entry| {
            let names = self.services.get(entry.service as usize)?.as_ref()?;
            (key_at(names, entry.at) == Some(key)).then_some((names, entry.at))
        })
    }

    /// The services that have this name or alias.
    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ServiceNames> {
        let entries = self.entries(Key::Text(name));
        entries.filter_map(|(names, at)| matches!(at, At::Name | At::Alias(_)).then_some(names))
    }

    /// What a name means, in lower case and without the network's name; empty: nothing.
    pub(crate) fn find<'a>(&'a self, name: &'a str) -> Found<'a> {
        let entries = self.entries(Key::Text(name));
        let mut found: Found<'a> = entries
            .filter_map(|(names, at)| match at {
                At::Name | At::Alias(_) => Some((names, Which::Service)),
                At::Task(task) => Some((names, Which::Task(task))),
                At::Vip(_) | At::Address(_) | At::Second(_) => None,
            })
            .collect();
        if found.is_empty()
            && let Some(name) = name.strip_prefix("tasks.")
        {
            found = self
                .named(name)
                .map(|names| (names, Which::Tasks))
                .collect();
        }
        if found.is_empty()
            && let Some((name, label)) = name.rsplit_once('.')
            && is_label(label)
        {
            let named = self.named(name);
            found = named.map(|names| (names, Which::Labelled(label))).collect();
        }
        found
    }

    /// Of whom an address is.
    pub(crate) fn holder(&self, address: IpAddr) -> Option<Holder<'_>> {
        let mut entries = self.entries(Key::Address(address));
        entries.find_map(|(names, at)| match at {
            At::Vip(_) => Some(Holder::Service(names)),
            At::Address(task) | At::Second(task) => {
                Some(Holder::Task(names, names.tasks.get(usize::from(task))?))
            }
            At::Name | At::Alias(_) | At::Task(_) => None,
        })
    }
}

/// Whether this can be what a task's name ends with: a slot, or a node's id.
fn is_label(label: &str) -> bool {
    let digits = !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_digit());
    digits || label.parse::<model::NodeId>().is_ok()
}

/// The tasks that are meant; none where there are no such.
pub(crate) fn tasks<'a>(
    names: &'a ServiceNames,
    which: Which<'a>,
) -> impl Iterator<Item = &'a TaskNames> {
    let tasks = names.tasks.iter().enumerate();
    tasks
        .filter(move |(place, task)| match which {
            Which::Service | Which::Tasks => true,
            Which::Labelled(label) => match &task.node {
                Some(node) => node.as_str() == label,
                // only as it is written: 1 is not 01
                None => label == task.slot.to_string(),
            },
            Which::Task(at) => *place == usize::from(at),
        })
        .map(|(_, task)| task)
}

/// `SERVICE.SLOT`
pub(crate) fn task_name(names: &ServiceNames, task: &TaskNames) -> String {
    match &task.node {
        Some(node) => format!("{}.{node}", names.name),
        None => format!("{}.{}", names.name, task.slot),
    }
}

/// The places of a list, as the index has them: no list of ours is longer.
fn places(length: usize) -> impl Iterator<Item = u16> {
    (0..length).map_while(|at| u16::try_from(at).ok())
}

/// All that a service is found by.
fn keys(names: &ServiceNames) -> impl Iterator<Item = (At, Key<'_>)> {
    let aliases = places(names.aliases.len()).map(At::Alias);
    let vips = places(names.vips.len()).map(At::Vip);
    let tasks = places(names.tasks.len()).zip(&names.tasks);
    let tasks = tasks.flat_map(|(at, task)| {
        // one of each family at most
        let addresses = [At::Address(at), At::Second(at)].into_iter();
        std::iter::once(At::Task(at)).chain(addresses.take(task.addresses.len()))
    });
    let all = std::iter::once(At::Name)
        .chain(aliases)
        .chain(vips)
        .chain(tasks);
    all.filter_map(|at| Some((at, key_at(names, at)?)))
}

fn key_at(names: &ServiceNames, at: At) -> Option<Key<'_>> {
    let task = |at: u16| names.tasks.get(usize::from(at));
    match at {
        At::Name => Some(Key::Text(&names.name)),
        At::Alias(n) => names
            .aliases
            .get(usize::from(n))
            .map(|alias| Key::Text(alias)),
        At::Vip(n) => names.vips.get(usize::from(n)).copied().map(Key::Address),
        At::Task(n) => task(n).map(|task| Key::Text(task.id.as_str())),
        At::Address(n) => task(n)?.addresses.first().copied().map(Key::Address),
        At::Second(n) => task(n)?.addresses.get(1).copied().map(Key::Address),
    }
}
