// SPDX-License-Identifier: MIT OR Apache-2.0

use crate::attribute::attributes;

attributes! {
    /// `IPVS_STATS_ATTR_*` of the old counters (`..._ATTR_STATS`), which wrap at
    /// 32 bits, but for the octets.
    Stats32Attribute {
        /// Connections scheduled.
        1 Connections u32,
        /// Packets towards destinations.
        2 PacketsIn u32,
        /// Packets from destinations.
        3 PacketsOut u32,
        /// Octets towards destinations.
        4 BytesIn u64,
        /// Octets from destinations.
        5 BytesOut u64,
        /// Connections a second, now.
        6 ConnectionRate u32,
        /// Packets a second in, now.
        7 PacketRateIn u32,
        /// Packets a second out, now.
        8 PacketRateOut u32,
        /// Octets a second in, now.
        9 ByteRateIn u32,
        /// Octets a second out, now.
        10 ByteRateOut u32,
    }
}

attributes! {
    /// `IPVS_STATS_ATTR_*` of the 64-bit counters (`..._ATTR_STATS64`).
    StatsAttribute {
        /// Connections scheduled.
        1 Connections u64,
        /// Packets towards destinations.
        2 PacketsIn u64,
        /// Packets from destinations.
        3 PacketsOut u64,
        /// Octets towards destinations.
        4 BytesIn u64,
        /// Octets from destinations.
        5 BytesOut u64,
        /// Connections a second, now.
        6 ConnectionRate u64,
        /// Packets a second in, now.
        7 PacketRateIn u64,
        /// Packets a second out, now.
        8 PacketRateOut u64,
        /// Octets a second in, now.
        9 ByteRateIn u64,
        /// Octets a second out, now.
        10 ByteRateOut u64,
    }
}

/// Counters of a service or a destination; totals since it was made or zeroed,
/// and rates a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets towards destinations.
    pub packets_in: u64,
    /// Packets from destinations; only counted where replies pass here.
    pub packets_out: u64,
    /// Octets towards destinations.
    pub bytes_in: u64,
    /// Octets from destinations.
    pub bytes_out: u64,
    /// Connections a second.
    pub connection_rate: u64,
    /// Packets a second in.
    pub packet_rate_in: u64,
    /// Packets a second out.
    pub packet_rate_out: u64,
    /// Octets a second in.
    pub byte_rate_in: u64,
    /// Octets a second out.
    pub byte_rate_out: u64,
}

impl From<&[StatsAttribute]> for Stats {
    fn from(attributes: &[StatsAttribute]) -> Self {
        let mut stats = Self::default();
        for attribute in attributes {
            match attribute {
                StatsAttribute::Connections(n) => stats.connections = *n,
                StatsAttribute::PacketsIn(n) => stats.packets_in = *n,
                StatsAttribute::PacketsOut(n) => stats.packets_out = *n,
                StatsAttribute::BytesIn(n) => stats.bytes_in = *n,
                StatsAttribute::BytesOut(n) => stats.bytes_out = *n,
                StatsAttribute::ConnectionRate(n) => stats.connection_rate = *n,
                StatsAttribute::PacketRateIn(n) => stats.packet_rate_in = *n,
                StatsAttribute::PacketRateOut(n) => stats.packet_rate_out = *n,
                StatsAttribute::ByteRateIn(n) => stats.byte_rate_in = *n,
                StatsAttribute::ByteRateOut(n) => stats.byte_rate_out = *n,
                StatsAttribute::Other(_) => {}
            }
        }
        stats
    }
}
