//! Whether a place is still as it is believed to be, without reading it whole: no
//! process, and no question a service.
//!
//! Not seen are entries of a set that were exchanged for as many others, schedulers'
//! own flags, and thresholds of destinations: reading all now and then finds these.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read as _, Seek as _},
    path::PathBuf,
};

use model::Mark;
use plan::netns::{Family, Netns as Value, Place, Places};

use crate::{
    Error,
    flowtable::Flowtable,
    iptables::{self, Ownership},
    place::{self, Handles},
    proc_ip_vs::{self, Verdict},
    sysctl,
};

/// Services whose destinations are asked for in one check, where the file with all
/// of them does not tell.
const AT_ONCE: usize = 512;
const SERVICES: &str = "/proc/thread-self/net/ip_vs";

/// What is to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// What the kernel tells by itself: links, addresses, routes and rules.
    Told,
    /// Everything.
    All,
}

/// What a check needs besides the place's sockets.
pub(crate) struct Check<'a> {
    pub(crate) look: Look,
    pub(crate) place: &'a Place,
    pub(crate) believed: &'a Value,
    /// Which chains are ours, and whether IPv6's are read.
    pub(crate) ownership: Ownership,
    pub(crate) ipv6: bool,
    /// Which sets are ours.
    pub(crate) set_prefix: Option<String>,
    /// What is looked at with the rules, if any.
    pub(crate) flowtable: Option<Flowtable>,
    /// Whether rules have a generation.
    pub(crate) by_generation: bool,
    /// The kernel's ticks a second, once they are known.
    pub(crate) hz: &'a mut Option<u32>,
    /// Processes started.
    pub(crate) processes: u64,
}

impl Check<'_> {
    /// The first thing that differs, in words.
    pub(crate) fn run(&mut self, handles: &mut Handles) -> Result<Option<&'static str>, Error> {
        let told = handles.watch.as_mut();
        if told.is_none_or(|watch| watch.differs(self.believed)) {
            return Ok(Some("links, addresses or routes"));
        }
        if (self.by_generation || self.look == Look::All) && self.rules_differ(handles)? {
            return Ok(Some("rules"));
        }
        if self.look == Look::Told {
            return Ok(None);
        }
        if self.sysctls_differ(handles)? {
            return Ok(Some("sysctls"));
        }
        if self.sets_differ(handles)? {
            return Ok(Some("sets"));
        }
        if self.time_outs_differ(handles)? {
            return Ok(Some("IPVS time-outs"));
        }
        if self.services_differ(handles)? {
            return Ok(Some("IPVS services"));
        }
        Ok(None)
    }

    /// Reads them only where their generation is another one.
    fn rules_differ(&mut self, handles: &mut Handles) -> Result<bool, Error> {
        let now = self.generation(handles)?;
        if now.is_some() && now == handles.generation {
            return Ok(false);
        }
        let read =
            |family| iptables::observe(&handles.netns, &handles.name, family, &self.ownership);
        self.processes += 1 + u64::from(self.ipv6);
        let mut tables = read(Family::V4)?;
        if self.ipv6 {
            tables.extend(read(Family::V6)?);
        }
        let flowtable = match &self.flowtable {
            Some(flowtable) => flowtable.observe(handles.nftables()?)?,
            None => None,
        };
        let only = |tables, flowtable| {
            let value = Value {
                tables,
                flowtable,
                ..Value::default()
            };
            Places::unit(self.place.clone(), value)
        };
        let mut wanted = self.believed.tables.clone();
        wanted.retain(|(family, _), _| self.ipv6 || *family == Family::V4);
        let wanted = only(wanted, self.believed.flowtable.clone());
        let differ = !plan::plan_writes(&only(tables, flowtable), &wanted).is_empty();
        let same = now == self.generation(handles)?;
        handles.generation = now.filter(|_| same && !differ);
        Ok(differ)
    }

    fn generation(&self, handles: &mut Handles) -> Result<Option<u32>, Error> {
        match self.by_generation {
            true => handles.nftables()?.generation(),
            false => Ok(None),
        }
    }

    fn sysctls_differ(&self, handles: &Handles) -> Result<bool, Error> {
        let keys = self.believed.sysctls.keys().cloned().collect();
        let read = sysctl::read(&handles.netns, &keys)?;
        let mut believed = self.believed.sysctls.iter();
        Ok(!believed.all(|(key, value)| read.get(key) == Some(value)))
    }

    fn sets_differ(&self, handles: &mut Handles) -> Result<bool, Error> {
        let ipset = handles.ipset()?;
        let mut found = 0;
        for header in ipset.headers()? {
            let ours = match &self.set_prefix {
                Some(prefix) => is_ours(&header.name, prefix),
                None => true,
            };
            let Some(kind) = header.kind.filter(|_| ours) else {
                continue;
            };
            let Some(set) = self.believed.sets.get(&header.name) else {
                return Ok(true);
            };
            let entries = match header.entries {
                Some(entries) => entries as usize,
                // kernels before 4.9 do not count them
                None => ipset.set(&header.name)?.map_or(0, |set| set.entries.len()),
            };
            if kind != set.kind || entries != set.entries.len() {
                return Ok(true);
            }
            found += 1;
        }
        Ok(found != self.believed.sets.len())
    }

    fn time_outs_differ(&self, handles: &mut Handles) -> Result<bool, Error> {
        let Some(believed) = self.believed.ipvs_timeouts else {
            return Ok(false);
        };
        let config = handles.ipvs()?.config()?;
        let read = (config.tcp, config.tcp_fin, config.udp);
        Ok(read != (believed.tcp, believed.tcp_fin, believed.udp))
    }

    fn services_differ(&mut self, handles: &mut Handles) -> Result<bool, Error> {
        // the host's are not ours
        if *self.place == Place::Host {
            return Ok(false);
        }
        let text = match handles.services_text() {
            Ok(text) => text,
            Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Ok(!self.believed.services.is_empty());
            }
            Err(error) => return Err(error),
        };
        match proc_ip_vs::compare(text, self.believed, self.hz) {
            Verdict::Same => Ok(false),
            Verdict::Differs => Ok(true),
            Verdict::Lacks(lacking) => self.lacking_differ(handles, &lacking),
        }
    }

    /// Asks for what the file passed over. Are these many services, some at a time.
    fn lacking_differ(
        &self,
        handles: &mut Handles,
        lacking: &BTreeSet<(Family, Mark)>,
    ) -> Result<bool, Error> {
        let believed = &self.believed.services;
        let mut found = 0;
        for service in handles.ipvs()?.uncounted_services()? {
            let Some(key) = place::ours(&service.key) else {
                continue;
            };
            let same = believed.get(&key).is_some_and(|shall| {
                let shall = &shall.scheduling;
                service.scheduler == shall.scheduler
                    && (service.flags, service.timeout) == (shall.flags, shall.timeout)
                    && service.prefix == shall.netmask
            });
            if !same {
                return Ok(true);
            }
            found += 1;
        }
        if found != believed.len() {
            return Ok(true);
        }
        let last = handles.asked_last;
        let after = lacking.iter().filter(|key| Some(**key) > last);
        let before = lacking.iter().filter(|key| Some(**key) <= last);
        for key in after.chain(before).take(AT_ONCE) {
            handles.asked_last = Some(*key);
            let there = place::observe_destinations(handles.ipvs()?, &place::theirs(*key))?;
            if believed
                .get(key)
                .is_none_or(|shall| !shall.destinations.iter().eq(there.iter()))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Another instance's have its name between prefix and word.
pub(crate) fn is_ours(set: &str, prefix: &str) -> bool {
    set.strip_prefix(prefix)
        .is_some_and(|word| !word.contains('-'))
}

/// A namespace's `/proc/net/ip_vs`, opened once, since opening takes a thread.
pub(crate) struct ServicesFile {
    file: File,
    text: Vec<u8>,
}

impl ServicesFile {
    /// In the calling thread's network namespace, where it stays.
    pub(crate) fn open() -> Result<Self, Error> {
        let file = File::open(SERVICES).map_err(unread)?;
        let text = Vec::new();
        Ok(Self { file, text })
    }

    pub(crate) fn read(&mut self) -> Result<&[u8], Error> {
        self.text.clear();
        self.file.rewind().map_err(unread)?;
        self.file.read_to_end(&mut self.text).map_err(unread)?;
        Ok(&self.text)
    }
}

fn unread(source: io::Error) -> Error {
    Error::File {
        action: "read",
        path: PathBuf::from(SERVICES),
        source,
    }
}
