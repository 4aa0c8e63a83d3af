//! A handle on one namespace's IPVS.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_packet_generic::{
    GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_packet_ipvs::{
    Destination, DestinationAttribute, IpvsAttribute, IpvsCmd, IpvsMessage, Service, ServiceKey,
};

use crate::{
    Error,
    netlink::{Conversation, Request, parse},
};

const NETLINK_GENERIC: isize = 16;

/// IPVS of the network namespace in which this was opened.
pub struct Ipvs {
    conversation: Conversation,
    family: u16,
}

/// IPVS time-outs, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Idle TCP connections.
    pub tcp: u32,
    /// TCP connections after a FIN.
    pub tcp_fin: u32,
    /// UDP flows.
    pub udp: u32,
}

/// What the kernel's IPVS is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Version, `0xMMmmpp`.
    pub version: u32,
    /// Buckets of the connection table.
    pub table_size: u32,
}

fn netlink(what: &str) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::Netlink {
        what: what.to_owned(),
        source,
    }
}

impl Ipvs {
    /// Opens IPVS in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::Module`] where the kernel has no IPVS.
    pub fn open() -> Result<Self, Error> {
        let open = Conversation::open(NETLINK_GENERIC);
        let mut conversation = open.map_err(netlink("open a generic netlink socket"))?;
        let family = resolve(&mut conversation)?;
        Ok(Self {
            conversation,
            family,
        })
    }

    fn request(&self, message: IpvsMessage, flags: u16) -> Request {
        let mut message = GenlMessage::from_payload(message);
        message.set_resolved_family_id(self.family);
        Request::new(&message, flags)
    }

    fn dump(
        &mut self,
        message: &IpvsMessage,
        what: &'static str,
    ) -> Result<Vec<IpvsMessage>, Error> {
        // one that was interrupted by a change is asked again
        for _ in 0..8 {
            let request = self.request(message.clone(), NLM_F_DUMP);
            let mut answers = Vec::new();
            let mut wrong = None;
            let done = self.conversation.dump(&request, |kind, body| {
                match parse::<GenlMessage<IpvsMessage>>(kind, body) {
                    Ok(message) => answers.push(message.payload),
                    Err(why) => wrong = Some(why),
                }
            });
            match (done, wrong) {
                (Ok(()), None) => return Ok(answers),
                (Ok(()), Some(why)) => return Err(Error::Answer { what, why }),
                (Err(error), _) if error.kind() == io::ErrorKind::Interrupted => {}
                (Err(source), _) => {
                    return Err(Error::Netlink {
                        what: format!("read {what}"),
                        source,
                    });
                }
            }
        }
        Err(Error::Answer {
            what,
            why: "it kept changing".to_owned(),
        })
    }

    /// All services, without their destinations, in no order.
    ///
    /// # Errors
    /// The kernel refused, or its answer has no sense.
    pub fn services(&mut self) -> Result<Vec<Service>, Error> {
        let answers = self.dump(&IpvsMessage::bare(IpvsCmd::GetService), "IPVS services")?;
        let read = |attributes: &[_]| {
            Service::try_from(attributes).map_err(|error| Error::Answer {
                what: "an IPVS service",
                why: error.to_string(),
            })
        };
        let attributes = answers.iter().flat_map(|answer| &answer.attributes);
        attributes
            .filter_map(|attribute| match attribute {
                IpvsAttribute::Service(attributes) => Some(read(attributes)),
                _ => None,
            })
            .collect()
    }

    /// The destinations of a service, in no order.
    ///
    /// # Errors
    /// There is no such service, or the kernel's answer has no sense.
    pub fn destinations(&mut self, key: &ServiceKey) -> Result<Vec<Destination>, Error> {
        let ask = IpvsMessage::with_key(IpvsCmd::GetDestination, key);
        let answers = self.dump(&ask, "IPVS destinations")?;
        let read = |attributes: &[DestinationAttribute]| {
            Destination::parse(attributes, key.family()).map_err(|error| Error::Answer {
                what: "an IPVS destination",
                why: error.to_string(),
            })
        };
        let attributes = answers.iter().flat_map(|answer| &answer.attributes);
        attributes
            .filter_map(|attribute| match attribute {
                IpvsAttribute::Destination(attributes) => Some(read(attributes)),
                _ => None,
            })
            .collect()
    }

    /// One service.
    ///
    /// # Errors
    /// There is no such service (`ESRCH`).
    pub fn service(&mut self, key: &ServiceKey) -> Result<Service, Error> {
        let request = self.request(IpvsMessage::with_key(IpvsCmd::GetService, key), 0);
        let answer = self
            .conversation
            .get(&request)
            .map_err(netlink("read an IPVS service"))?;
        let what = "an IPVS service";
        let (kind, body) = answer.ok_or_else(|| Error::Answer {
            what,
            why: "no answer".to_owned(),
        })?;
        let message = parse::<GenlMessage<IpvsMessage>>(kind, &body)
            .map_err(|why| Error::Answer { what, why })?;
        for attribute in &message.payload.attributes {
            if let IpvsAttribute::Service(attributes) = attribute {
                return Service::try_from(attributes.as_slice()).map_err(|error| Error::Answer {
                    what,
                    why: error.to_string(),
                });
            }
        }
        Err(Error::Answer {
            what,
            why: "no service in it".to_owned(),
        })
    }

    /// Does all commands, in as few sends as possible; gives back by index the
    /// ones that the kernel refused (`EEXIST` for what is there already,
    /// `ESRCH` or `ENOENT` for what is not). An error does not keep the others
    /// from being done. `lo` must be up before destinations are added (`EINVAL`).
    ///
    /// # Errors
    /// The socket failed; then it is unknown what was done.
    pub fn apply(&mut self, commands: &[IpvsMessage]) -> Result<Vec<(usize, io::Error)>, Error> {
        let requests: Vec<_> = commands
            .iter()
            .map(|command| self.request(command.clone(), 0))
            .collect();
        let failed = self
            .conversation
            .batch(&requests)
            .map_err(netlink("write IPVS services"))?;
        Ok(failed.into_iter().collect())
    }

    /// The time-outs.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn config(&mut self) -> Result<Config, Error> {
        let mut config = Config {
            tcp: 0,
            tcp_fin: 0,
            udp: 0,
        };
        for attribute in self.get(IpvsCmd::GetConfig)? {
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
        let mut info = Info {
            version: 0,
            table_size: 0,
        };
        for attribute in self.get(IpvsCmd::GetInfo)? {
            match attribute {
                IpvsAttribute::Version(version) => info.version = version,
                IpvsAttribute::ConnectionTableSize(size) => info.table_size = size,
                _ => {}
            }
        }
        Ok(info)
    }

    fn get(&mut self, cmd: IpvsCmd) -> Result<Vec<IpvsAttribute>, Error> {
        let request = self.request(IpvsMessage::bare(cmd), NLM_F_ACK);
        let answer = self
            .conversation
            .get(&request)
            .map_err(netlink("read IPVS settings"))?;
        let what = "IPVS settings";
        let Some((kind, body)) = answer else {
            return Err(Error::Answer {
                what,
                why: "no answer".to_owned(),
            });
        };
        parse::<GenlMessage<IpvsMessage>>(kind, &body)
            .map(|message| message.payload.attributes)
            .map_err(|why| Error::Answer { what, why })
    }
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
    let answer = conversation.get(&Request::new(&ask, 0)).map_err(|error| {
        absent(format!(
            "the kernel knows no generic netlink family IPVS ({error})"
        ))
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
