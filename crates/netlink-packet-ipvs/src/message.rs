// SPDX-License-Identifier: MIT OR Apache-2.0

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLA_F_NESTED, Nla, NlaBuffer, NlasIterator, Parseable,
    ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader};

use crate::{
    DaemonAttribute, Destination, DestinationAttribute, Service, ServiceAttribute, ServiceKey,
    attribute::{emit_nested, nested_len, octets, parse_all},
};

/// `IPVS_CMD_*`
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
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

/// An attribute of the first level: `IPVS_CMD_ATTR_*`, but `IPVS_INFO_ATTR_*`,
/// which has the same numbers, in `SetInfo`.
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

impl IpvsAttribute {
    /// What an attribute means depends on the command.
    fn parse(nla: &NlaBuffer<&[u8]>, cmd: IpvsCmd) -> Result<Self, DecodeError> {
        let value = nla.value();
        let number = |what| octets(value, what).map(u32::from_ne_bytes);
        let info = cmd == IpvsCmd::SetInfo;
        Ok(match nla.kind() {
            1 if info => Self::Version(number("IPVS_INFO_ATTR_VERSION")?),
            2 if info => Self::ConnectionTableSize(number("IPVS_INFO_ATTR_CONN_TAB_SIZE")?),
            1 => Self::Service(parse_all(value)?),
            2 => Self::Destination(parse_all(value)?),
            3 if !info => Self::Daemon(parse_all(value)?),
            4 if !info => Self::TimeoutTcp(number("IPVS_CMD_ATTR_TIMEOUT_TCP")?),
            5 if !info => Self::TimeoutTcpFin(number("IPVS_CMD_ATTR_TIMEOUT_TCP_FIN")?),
            6 if !info => Self::TimeoutUdp(number("IPVS_CMD_ATTR_TIMEOUT_UDP")?),
            _ => Self::Other(DefaultNla::parse(nla)?),
        })
    }
}

impl Nla for IpvsAttribute {
    fn value_len(&self) -> usize {
        match self {
            Self::Service(attributes) => nested_len(attributes),
            Self::Destination(attributes) => nested_len(attributes),
            Self::Daemon(attributes) => nested_len(attributes),
            Self::TimeoutTcp(_)
            | Self::TimeoutTcpFin(_)
            | Self::TimeoutUdp(_)
            | Self::Version(_)
            | Self::ConnectionTableSize(_) => 4,
            Self::Other(other) => other.value_len(),
        }
    }

    fn kind(&self) -> u16 {
        match self {
            Self::Service(_) => 1 | NLA_F_NESTED,
            Self::Destination(_) => 2 | NLA_F_NESTED,
            Self::Daemon(_) => 3 | NLA_F_NESTED,
            Self::TimeoutTcp(_) => 4,
            Self::TimeoutTcpFin(_) => 5,
            Self::TimeoutUdp(_) => 6,
            Self::Version(_) => 1,
            Self::ConnectionTableSize(_) => 2,
            Self::Other(other) => other.kind(),
        }
    }

    fn emit_value(&self, buffer: &mut [u8]) {
        match self {
            Self::Service(attributes) => emit_nested(attributes, buffer),
            Self::Destination(attributes) => emit_nested(attributes, buffer),
            Self::Daemon(attributes) => emit_nested(attributes, buffer),
            Self::TimeoutTcp(number)
            | Self::TimeoutTcpFin(number)
            | Self::TimeoutUdp(number)
            | Self::Version(number)
            | Self::ConnectionTableSize(number) => {
                buffer[..4].copy_from_slice(&number.to_ne_bytes());
            }
            Self::Other(other) => other.emit_value(buffer),
        }
    }
}

/// A message of the `IPVS` family, to or from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct IpvsMessage {
    /// What is to be done, or what an answer is about.
    pub cmd: IpvsCmd,
    /// With what.
    pub attributes: Vec<IpvsAttribute>,
}

impl IpvsMessage {
    /// A command with these attributes.
    pub fn new(cmd: IpvsCmd, attributes: Vec<IpvsAttribute>) -> Self {
        Self { cmd, attributes }
    }

    /// A command without attributes: a dump of services, `Flush`, `GetInfo`, ...
    pub fn bare(cmd: IpvsCmd) -> Self {
        Self::new(cmd, Vec::new())
    }

    /// Makes or changes a service.
    pub fn with_service(cmd: IpvsCmd, service: &Service) -> Self {
        Self {
            cmd,
            attributes: vec![IpvsAttribute::Service(service.attributes())],
        }
    }

    /// Names a service: to delete or zero it, or to read it or its destinations
    /// (a dump).
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

    /// Sets time-outs, in seconds; 0 keeps what is. The kernel refuses more than
    /// `i32::MAX / HZ` with `EINVAL`.
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
        self.attributes.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for IpvsMessage {
    fn parse_with_param(buffer: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        let cmd = IpvsCmd::try_from(header.cmd)?;
        let attributes = NlasIterator::new(buffer)
            .map(|nla| IpvsAttribute::parse(&nla?, cmd))
            .collect::<Result<_, _>>()?;
        Ok(Self { cmd, attributes })
    }
}
