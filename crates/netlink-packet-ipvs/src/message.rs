use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, Nla, NlaBuffer, NlasIterator, Parseable,
    ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader};

use crate::{
    DaemonAttribute, Destination, DestinationAttribute, Service, ServiceAttribute, ServiceKey,
    attribute::attributes,
};

/// `IPVS_CMD_*`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum IpvsCmd {
    /// Makes a service.
    NewService = 1,
    /// Changes a service.
    SetService = 2,
    /// Deletes a service.
    DelService = 3,
    /// Reads services.
    GetService = 4,
    /// Adds a destination.
    NewDestination = 5,
    /// Changes a destination.
    SetDestination = 6,
    /// Deletes a destination.
    DelDestination = 7,
    /// Reads a service's destinations.
    GetDestination = 8,
    /// Starts a synchronisation daemon.
    NewDaemon = 9,
    /// Stops a synchronisation daemon.
    DelDaemon = 10,
    /// Reads synchronisation daemons.
    GetDaemon = 11,
    /// Sets time-outs.
    SetConfig = 12,
    /// Reads time-outs.
    GetConfig = 13,
    /// The answer to `GetInfo`.
    SetInfo = 14,
    /// Reads version and size of the connection table.
    GetInfo = 15,
    /// Zeroes counters, of one service or of all.
    Zero = 16,
    /// Deletes all services.
    Flush = 17,
}

impl IpvsCmd {
    const ALL: [Self; 17] = [
        Self::NewService,
        Self::SetService,
        Self::DelService,
        Self::GetService,
        Self::NewDestination,
        Self::SetDestination,
        Self::DelDestination,
        Self::GetDestination,
        Self::NewDaemon,
        Self::DelDaemon,
        Self::GetDaemon,
        Self::SetConfig,
        Self::GetConfig,
        Self::SetInfo,
        Self::GetInfo,
        Self::Zero,
        Self::Flush,
    ];
}

impl TryFrom<u8> for IpvsCmd {
    type Error = DecodeError;
    fn try_from(number: u8) -> Result<Self, DecodeError> {
        Self::ALL
            .into_iter()
            .find(|cmd| *cmd as u8 == number)
            .ok_or_else(|| DecodeError::from(format!("IPVS command {number}")))
    }
}

attributes! {
    /// `IPVS_CMD_ATTR_*`: the first level of every command but `SetInfo`.
    CommandAttribute {
        1 Service [ServiceAttribute],
        2 Destination [DestinationAttribute],
        3 Daemon [DaemonAttribute],
        4 TimeoutTcp u32,
        5 TimeoutTcpFin u32,
        6 TimeoutUdp u32,
    }
}

attributes! {
    /// `IPVS_INFO_ATTR_*`: the first level of `SetInfo`, with the same numbers.
    InfoAttribute {
        1 Version u32,
        2 ConnectionTableSize u32,
    }
}

/// An attribute of the first level.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IpvsAttribute {
    /// Which service, or all of one.
    Service(Vec<ServiceAttribute>),
    /// Which destination, or all of one.
    Destination(Vec<DestinationAttribute>),
    /// A synchronisation daemon.
    Daemon(Vec<DaemonAttribute>),
    /// Time-out of idle TCP connections, in seconds.
    TimeoutTcp(u32),
    /// Time-out of TCP connections after a FIN, in seconds.
    TimeoutTcpFin(u32),
    /// Time-out of UDP flows, in seconds.
    TimeoutUdp(u32),
    /// IPVS's version as `0xMMmmpp`; only in `SetInfo`.
    Version(u32),
    /// Buckets of the connection table; only in `SetInfo`.
    ConnectionTableSize(u32),
    /// One that this crate does not know.
    Other(DefaultNla),
}

macro_rules! convert {
    ($from:ident: $($variant:ident),*) => {
        impl From<$from> for IpvsAttribute {
            fn from(attribute: $from) -> Self {
                match attribute {
                    $( $from::$variant(value) => Self::$variant(value), )*
                    $from::Other(other) => Self::Other(other),
                }
            }
        }
    };
}
convert!(CommandAttribute: Service, Destination, Daemon, TimeoutTcp, TimeoutTcpFin, TimeoutUdp);
convert!(InfoAttribute: Version, ConnectionTableSize);

impl IpvsAttribute {
    /// Its form on the wire, where two kinds share numbers.
    fn wire(&self) -> Wire {
        let command = |attribute| Wire::Command(attribute);
        match self.clone() {
            Self::Service(value) => command(CommandAttribute::Service(value)),
            Self::Destination(value) => command(CommandAttribute::Destination(value)),
            Self::Daemon(value) => command(CommandAttribute::Daemon(value)),
            Self::TimeoutTcp(value) => command(CommandAttribute::TimeoutTcp(value)),
            Self::TimeoutTcpFin(value) => command(CommandAttribute::TimeoutTcpFin(value)),
            Self::TimeoutUdp(value) => command(CommandAttribute::TimeoutUdp(value)),
            Self::Other(value) => command(CommandAttribute::Other(value)),
            Self::Version(value) => Wire::Info(InfoAttribute::Version(value)),
            Self::ConnectionTableSize(value) => {
                Wire::Info(InfoAttribute::ConnectionTableSize(value))
            }
        }
    }
}

enum Wire {
    Command(CommandAttribute),
    Info(InfoAttribute),
}

impl Nla for Wire {
    fn value_len(&self) -> usize {
        match self {
            Self::Command(attribute) => attribute.value_len(),
            Self::Info(attribute) => attribute.value_len(),
        }
    }

    fn kind(&self) -> u16 {
        match self {
            Self::Command(attribute) => attribute.kind(),
            Self::Info(attribute) => attribute.kind(),
        }
    }

    fn emit_value(&self, buffer: &mut [u8]) {
        match self {
            Self::Command(attribute) => attribute.emit_value(buffer),
            Self::Info(attribute) => attribute.emit_value(buffer),
        }
    }
}

/// A message of the `IPVS` family, to or from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpvsMessage {
    /// What is to be done, or what an answer is about.
    pub cmd: IpvsCmd,
    /// With what.
    pub attributes: Vec<IpvsAttribute>,
}

impl IpvsMessage {
    /// A command without attributes: a dump of services, `Flush`, `GetInfo`, ...
    pub fn bare(cmd: IpvsCmd) -> Self {
        Self {
            cmd,
            attributes: Vec::new(),
        }
    }

    /// Makes or changes a service.
    pub fn with_service(cmd: IpvsCmd, service: &Service) -> Self {
        Self {
            cmd,
            attributes: vec![IpvsAttribute::Service(service.attributes())],
        }
    }

    /// Names a service: to delete or zero it, or to read it or its destinations.
    pub fn with_key(cmd: IpvsCmd, key: &ServiceKey) -> Self {
        Self {
            cmd,
            attributes: vec![IpvsAttribute::Service(key.attributes())],
        }
    }

    /// Adds, changes or deletes a destination of a service.
    pub fn with_destination(cmd: IpvsCmd, key: &ServiceKey, destination: &Destination) -> Self {
        let attributes = match cmd {
            IpvsCmd::DelDestination => destination.key_attributes(),
            _ => destination.attributes(),
        };
        Self {
            cmd,
            attributes: vec![
                IpvsAttribute::Service(key.attributes()),
                IpvsAttribute::Destination(attributes),
            ],
        }
    }

    /// Sets time-outs, in seconds; 0 keeps one.
    pub fn set_timeouts(tcp: u32, tcp_fin: u32, udp: u32) -> Self {
        Self {
            cmd: IpvsCmd::SetConfig,
            attributes: vec![
                IpvsAttribute::TimeoutTcp(tcp),
                IpvsAttribute::TimeoutTcpFin(tcp_fin),
                IpvsAttribute::TimeoutUdp(udp),
            ],
        }
    }
}

impl GenlFamily for IpvsMessage {
    fn family_name() -> &'static str {
        "IPVS"
    }

    fn command(&self) -> u8 {
        self.cmd as u8
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for IpvsMessage {
    fn buffer_len(&self) -> usize {
        self.attributes
            .iter()
            .map(|attribute| attribute.wire().buffer_len())
            .sum()
    }

    fn emit(&self, buffer: &mut [u8]) {
        let mut at = 0;
        for attribute in &self.attributes {
            let attribute = attribute.wire();
            let end = at + attribute.buffer_len();
            attribute.emit(&mut buffer[at..end]);
            at = end;
        }
    }
}

impl ParseableParametrized<[u8], GenlHeader> for IpvsMessage {
    fn parse_with_param(buffer: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        let cmd = IpvsCmd::try_from(header.cmd)?;
        let parse = |nla: NlaBuffer<&[u8]>| -> Result<IpvsAttribute, DecodeError> {
            Ok(if cmd == IpvsCmd::SetInfo {
                InfoAttribute::parse(&nla)?.into()
            } else {
                CommandAttribute::parse(&nla)?.into()
            })
        };
        let attributes = NlasIterator::new(buffer)
            .map(|nla| parse(nla?))
            .collect::<Result<_, _>>()?;
        Ok(Self { cmd, attributes })
    }
}
