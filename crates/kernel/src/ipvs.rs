//! A handle on one namespace's IPVS, by address and port or by firewall mark.
//!
//! It blocks, since the kernel does a request's work inside `send(2)`; async
//! code wraps it in a [`Handle`](crate::netlink::Handle).
//!
//! The kernel takes these commands from the initial user namespace only
//! (`EPERM` elsewhere), takes destinations only after `lo` has been up once
//! (`EINVAL`), and tells nobody of changes: read again to see what others did.

use std::{collections::BTreeMap, io};

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_generic::{
    GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_packet_ipvs::{
    Destination, DestinationAttribute, IpvsAttribute, IpvsCmd, IpvsMessage, Service, ServiceKey,
};
use nix::libc;

use crate::{
    Error,
    ipvs_read::uncounted,
    ipvs_write::{Message, Write},
    netlink::{Conversation, Request, code, parse},
};

const NETLINK_GENERIC: isize = 16;

/// IPVS of the network namespace in which this was opened.
pub struct Ipvs {
    conversation: Conversation,
    family: u16,
}

/// IPVS time-outs, in seconds. When setting them, 0 keeps what is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Idle TCP connections.
    pub tcp: u32,
    /// TCP connections after a FIN.
    pub tcp_fin: u32,
    /// UDP flows.
    pub udp: u32,
}

/// What the kernel's IPVS is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// Version, `0xMMmmpp`.
    pub version: u32,
    /// Buckets of the connection table.
    pub table_size: u32,
}

fn netlink(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Netlink {
        what: what.into(),
        source,
    }
}

fn request(family: u16, message: &IpvsMessage, flags: u16) -> Request {
    let mut message = GenlMessage::from_payload(message.clone());
    message.set_resolved_family_id(family);
    Request::new(&message, flags)
}

impl Ipvs {
    /// Opens IPVS in the calling thread's network namespace, where it stays;
    /// [`Netns::run`](crate::netns::Netns::run) gives a thread in another. The
    /// kernel loads its module where it is allowed to.
    ///
    /// # Errors
    /// [`Error::Module`] where the kernel has no IPVS.
    pub fn open() -> Result<Self, Error> {
        let open = Conversation::open(NETLINK_GENERIC);
        let open = open.map_err(netlink("open a generic netlink socket"))?;
        // destinations are dumped by service
        let mut conversation = open.for_small_dumps();
        let family = resolve(&mut conversation)?;
        Ok(Self {
            conversation,
            family,
        })
    }

    /// A dump, each of whose answers is read by this.
    fn list<T>(
        &mut self,
        message: &IpvsMessage,
        what: &'static str,
        read: impl Fn(u16, &[u8]) -> Result<T, String>,
    ) -> Result<Vec<T>, Error> {
        // one that was interrupted by a change is asked again
        for _ in 0..8 {
            let request = request(self.family, message, NLM_F_DUMP);
            let mut answers = Vec::new();
            let mut wrong = None;
            let done = self
                .conversation
                .dump(&request, |kind, body| match read(kind, body) {
                    Ok(answer) => answers.push(answer),
                    Err(why) => wrong = Some(why),
                });
            match (done, wrong) {
                (Ok(()), None) => return Ok(answers),
                (Ok(()), Some(why)) => return Err(Error::Answer { what, why }),
                (Err(error), _) if error.kind() == io::ErrorKind::Interrupted => {}
                (Err(error), _) => return Err(netlink(format!("read {what}"))(error)),
            }
        }
        Err(Error::Answer {
            what,
            why: "it kept changing".to_owned(),
        })
    }

    fn get(
        &mut self,
        message: &IpvsMessage,
        what: &'static str,
    ) -> Result<Vec<IpvsAttribute>, Error> {
        let request = request(self.family, message, 0);
        let answer = self.conversation.get(&request);
        let answer = answer.map_err(netlink(format!("read {what}")))?;
        let unread = |why: String| Error::Answer { what, why };
        let (kind, body) = answer.ok_or_else(|| unread("no answer".to_owned()))?;
        let message = parse::<GenlMessage<IpvsMessage>>(kind, &body).map_err(unread)?;
        Ok(message.payload.attributes)
    }

    /// One command, with the words for its failure.
    fn one(&mut self, message: &IpvsMessage, what: String) -> Result<(), Error> {
        let request = request(self.family, message, 0);
        self.conversation
            .get(&request)
            .map(|_| ())
            .map_err(netlink(what))
    }

    // === reading ===

    /// All services, without their destinations, in no order.
    ///
    /// # Errors
    /// The kernel refused, or its answer has no sense.
    pub fn services(&mut self) -> Result<Vec<Service>, Error> {
        let ask = IpvsMessage::bare(IpvsCmd::GetService);
        let answers = self.list(&ask, "IPVS services", attributes)?;
        let attributes = answers.iter().flatten();
        attributes.filter_map(read_service).collect()
    }

    /// The same without their counters, for a fraction of the work.
    pub(crate) fn uncounted_services(&mut self) -> Result<Vec<Service>, Error> {
        let ask = IpvsMessage::bare(IpvsCmd::GetService);
        self.list(&ask, "IPVS services", |_, body| {
            let read = uncounted(body).and_then(|read: Vec<_>| Service::try_from(&*read));
            read.map_err(|error| error.to_string())
        })
    }

    /// The destinations of a service, in no order; none where there is no such
    /// service, which the kernel does not tell apart.
    ///
    /// # Errors
    /// The kernel refused, or its answer has no sense.
    pub fn destinations(&mut self, key: &ServiceKey) -> Result<Vec<Destination>, Error> {
        let ask = IpvsMessage::with_key(IpvsCmd::GetDestination, key);
        let answers = self.list(&ask, "IPVS destinations", attributes)?;
        let read = |attributes: &[DestinationAttribute]| {
            Destination::parse(attributes, key.family()).map_err(|error| Error::Answer {
                what: "an IPVS destination",
                why: error.to_string(),
            })
        };
        let attributes = answers.iter().flatten();
        attributes
            .filter_map(|attribute| match attribute {
                IpvsAttribute::Destination(attributes) => Some(read(attributes)),
                _ => None,
            })
            .collect()
    }

    /// The same without their counters, for a fraction of the work; connections are
    /// counted all the same.
    pub(crate) fn uncounted_destinations(
        &mut self,
        key: &ServiceKey,
    ) -> Result<Vec<Destination>, Error> {
        let ask = IpvsMessage::with_key(IpvsCmd::GetDestination, key);
        self.list(&ask, "IPVS destinations", |_, body| {
            let read = uncounted(body);
            let read = read.and_then(|read: Vec<_>| Destination::parse(&read, key.family()));
            read.map_err(|error| error.to_string())
        })
    }

    /// All services with their destinations. It takes a question a service: what
    /// changes meanwhile may be seen half.
    ///
    /// # Errors
    /// The kernel refused, or its answer has no sense.
    pub fn dump(&mut self) -> Result<BTreeMap<ServiceKey, (Service, Vec<Destination>)>, Error> {
        let services = self.services()?.into_iter();
        services
            .map(|service| {
                let destinations = self.destinations(&service.key)?;
                Ok((service.key, (service, destinations)))
            })
            .collect()
    }

    /// One service, without its destinations.
    ///
    /// # Errors
    /// There is no such service (`ESRCH`).
    pub fn service(&mut self, key: &ServiceKey) -> Result<Service, Error> {
        let what = "an IPVS service";
        let attributes = self.get(&IpvsMessage::with_key(IpvsCmd::GetService, key), what)?;
        let service = attributes.iter().find_map(read_service);
        service.unwrap_or_else(|| {
            Err(Error::Answer {
                what,
                why: "no service in it".to_owned(),
            })
        })
    }

    /// The time-outs.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn config(&mut self) -> Result<Config, Error> {
        let mut config = Config::default();
        for attribute in self.get(&IpvsMessage::bare(IpvsCmd::GetConfig), "IPVS time-outs")? {
            match attribute {
                IpvsAttribute::TimeoutTcp(seconds) => config.tcp = seconds,
                IpvsAttribute::TimeoutTcpFin(seconds) => config.tcp_fin = seconds,
                IpvsAttribute::TimeoutUdp(seconds) => config.udp = seconds,
                _ => {}
            }
        }
        Ok(config)
    }

    /// Version and table size.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn info(&mut self) -> Result<Info, Error> {
        let mut info = Info::default();
        for attribute in self.get(&IpvsMessage::bare(IpvsCmd::GetInfo), "IPVS's version")? {
            match attribute {
                IpvsAttribute::Version(version) => info.version = version,
                IpvsAttribute::ConnectionTableSize(size) => info.table_size = size,
                _ => {}
            }
        }
        Ok(info)
    }

    // === writing ===

    /// Does all commands, in as few sends as possible; gives back by index the
    /// ones that the kernel refused (`EEXIST` for what is there already,
    /// `ESRCH` or `ENOENT` for what is not). An error does not keep the others
    /// from being done.
    ///
    /// # Errors
    /// The socket failed; then it is unknown what was done.
    pub fn apply(&mut self, commands: &[IpvsMessage]) -> Result<Vec<(usize, io::Error)>, Error> {
        let family = self.family;
        let requests = commands.iter().map(|command| request(family, command, 0));
        let failed = self.conversation.batch(requests);
        let failed = failed.map_err(netlink("write IPVS services"))?;
        Ok(failed.into_iter().collect())
    }

    /// The same for writes of a plan, without a value a message in between.
    pub(crate) fn write<'a>(
        &mut self,
        writes: impl Iterator<Item = Write<'a>>,
    ) -> Result<Vec<(usize, io::Error)>, Error> {
        let family = self.family;
        let messages = writes.map(|write| Message { family, write });
        let failed = self.conversation.batch(messages);
        let failed = failed.map_err(netlink("write IPVS services"))?;
        Ok(failed.into_iter().collect())
    }

    /// Makes a service, without destinations.
    ///
    /// # Errors
    /// There is one with this key (`EEXIST`), the kernel has no such scheduler
    /// (`ENOENT`), or it takes no such value (`EINVAL`).
    pub fn new_service(&mut self, service: &Service) -> Result<(), Error> {
        let message = IpvsMessage::with_service(IpvsCmd::NewService, service);
        self.one(&message, format!("make IPVS service {}", service.key))
    }

    /// Changes all of a service but its key and destinations.
    ///
    /// # Errors
    /// There is none with this key (`ESRCH`), or as for [`Self::new_service`].
    pub fn set_service(&mut self, service: &Service) -> Result<(), Error> {
        let message = IpvsMessage::with_service(IpvsCmd::SetService, service);
        self.one(&message, format!("change IPVS service {}", service.key))
    }

    /// Deletes a service with its destinations.
    ///
    /// # Errors
    /// There is none with this key (`ESRCH`).
    pub fn del_service(&mut self, key: &ServiceKey) -> Result<(), Error> {
        let message = IpvsMessage::with_key(IpvsCmd::DelService, key);
        self.one(&message, format!("delete IPVS service {key}"))
    }

    /// Adds a destination to a service.
    ///
    /// # Errors
    /// It is there (`EEXIST`), there is no such service (`ESRCH`), or the kernel
    /// takes no such value (`EINVAL`): none at all before `lo` has been up once.
    pub fn new_destination(&mut self, key: &ServiceKey, to: &Destination) -> Result<(), Error> {
        let message = IpvsMessage::with_destination(IpvsCmd::NewDestination, key, to);
        self.one(&message, destination_words("add", key, to))
    }

    /// Changes all of a destination but its address and port.
    ///
    /// # Errors
    /// There is no such destination (`ENOENT`) or service (`ESRCH`).
    pub fn set_destination(&mut self, key: &ServiceKey, to: &Destination) -> Result<(), Error> {
        let message = IpvsMessage::with_destination(IpvsCmd::SetDestination, key, to);
        self.one(&message, destination_words("change", key, to))
    }

    /// Deletes a destination, by its address and port.
    ///
    /// # Errors
    /// There is no such destination (`ENOENT`) or service (`ESRCH`).
    pub fn del_destination(&mut self, key: &ServiceKey, to: &Destination) -> Result<(), Error> {
        let message = IpvsMessage::with_destination(IpvsCmd::DelDestination, key, to);
        self.one(&message, destination_words("delete", key, to))
    }

    /// Sets time-outs; 0 keeps what is.
    ///
    /// # Errors
    /// One is longer than the kernel can count (`EINVAL`).
    pub fn set_config(&mut self, config: &Config) -> Result<(), Error> {
        let message = IpvsMessage::set_timeouts(config.tcp, config.tcp_fin, config.udp);
        self.one(&message, "set IPVS time-outs".to_owned())
    }

    /// Zeroes the counters of a service and its destinations, or of everything.
    ///
    /// # Errors
    /// There is no such service (`ESRCH`).
    pub fn zero(&mut self, key: Option<&ServiceKey>) -> Result<(), Error> {
        let (message, what) = match key {
            Some(key) => (
                IpvsMessage::with_key(IpvsCmd::Zero, key),
                format!("zero the counters of IPVS service {key}"),
            ),
            None => (
                IpvsMessage::bare(IpvsCmd::Zero),
                "zero IPVS's counters".to_owned(),
            ),
        };
        self.one(&message, what)
    }

    /// Deletes all services.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn flush(&mut self) -> Result<(), Error> {
        let message = IpvsMessage::bare(IpvsCmd::Flush);
        self.one(&message, "delete all IPVS services".to_owned())
    }
}

fn attributes(kind: u16, body: &[u8]) -> Result<Vec<IpvsAttribute>, String> {
    let message = parse::<GenlMessage<IpvsMessage>>(kind, body)?;
    Ok(message.payload.attributes)
}

fn destination_words(verb: &str, key: &ServiceKey, to: &Destination) -> String {
    let at = std::net::SocketAddr::new(to.address, to.port);
    format!("{verb} destination {at} of IPVS service {key}")
}

fn read_service(attribute: &IpvsAttribute) -> Option<Result<Service, Error>> {
    let IpvsAttribute::Service(attributes) = attribute else {
        return None;
    };
    let read = Service::try_from(attributes.as_slice());
    Some(read.map_err(|error| Error::Answer {
        what: "an IPVS service",
        why: error.to_string(),
    }))
}

/// The number that the kernel gave the IPVS family.
fn resolve(conversation: &mut Conversation) -> Result<u16, Error> {
    let ask = GenlMessage::from_payload(GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName("IPVS".to_owned())],
    });
    let absent = |why: String| Error::Module {
        module: "ip_vs",
        why,
    };
    let answer = conversation.get(&Request::new(&ask, 0));
    let answer = answer.map_err(|error| match code(&error) {
        Some(libc::ENOENT) => absent("the kernel knows no generic netlink family IPVS".to_owned()),
        _ => netlink("ask for the generic netlink family IPVS")(error),
    })?;
    let (kind, body) = answer.ok_or_else(|| absent("no answer".to_owned()))?;
    let message = parse::<GenlMessage<GenlCtrl>>(kind, &body).map_err(absent)?;
    let id = message
        .payload
        .nlas
        .iter()
        .find_map(|attribute| match attribute {
            GenlCtrlAttrs::FamilyId(id) => Some(*id),
            _ => None,
        });
    id.ok_or_else(|| absent("the family has no number".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs no rights, and says the same on every kernel without IPVS.
    #[test]
    fn a_kernel_without_ipvs_is_named() {
        let Err(error) = Ipvs::open() else { return };
        let Error::Module { .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(
            error.to_string(),
            "kernel module ip_vs is not available: the kernel knows no generic netlink family \
             IPVS; load it (modprobe ip_vs) or boot a kernel that has it"
        );
    }
}
