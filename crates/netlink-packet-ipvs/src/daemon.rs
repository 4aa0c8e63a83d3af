// SPDX-License-Identifier: MIT OR Apache-2.0

use crate::attribute::attributes;

attributes! {
    /// `IPVS_DAEMON_ATTR_*`: the connection synchronisation daemon.
    DaemonAttribute {
        /// `IP_VS_STATE_*`: 1 master, 2 backup.
        1 State u32,
        /// Interface for multicast.
        2 Interface text,
        /// Synchronisation group, 0 to 255.
        3 SyncId u32,
        /// Largest UDP payload, in octets.
        4 MaxLength u16,
        /// IPv4 multicast group.
        5 Group raw4,
        /// IPv6 multicast group.
        6 Group6 raw,
        /// UDP port of the first daemon thread, in host order.
        7 Port u16,
        /// Time to live.
        8 Ttl u8,
    }
}
