//! A connection that IPVS has, by `/proc/net/ip_vs_conn` (`ip_vs_conn_seq_show` in
//! `net/netfilter/ipvs/ip_vs_conn.c`): the only place where the kernel tells which
//! destination it chose.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use model::Protocol;

use super::Connection;
use crate::{Error, netns::Netns};

const CONNECTIONS: &str = "/proc/thread-self/net/ip_vs_conn";

/// What IPVS did with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balanced {
    /// The destination that it chose.
    pub to: SocketAddr,
}

/// The connection in a namespace's IPVS; `None` where it has no such one. All of them
/// are read, since the kernel cannot be asked for one.
///
/// # Errors
/// The namespace cannot be entered, or the file not be read.
pub fn balanced(netns: &Netns, connection: &Connection) -> Result<Option<Balanced>, Error> {
    netns
        .run(|| find(connection))?
        .map_err(|source| Error::File {
            action: "read",
            path: CONNECTIONS.into(),
            source,
        })
}

fn find(connection: &Connection) -> io::Result<Option<Balanced>> {
    let file = match File::open(CONNECTIONS) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    for line in BufReader::new(file).lines() {
        if let Some((found, balanced)) = read_line(&line?)
            && found == *connection
        {
            return Ok(Some(balanced));
        }
    }
    Ok(None)
}

/// `TCP 0A640005 BF62 0AC80001 0050 0A640002 0050 SYN_RECV         57`
fn read_line(line: &str) -> Option<(Connection, Balanced)> {
    let mut words = line.split_whitespace();
    let protocol = match words.next()? {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        _ => return None,
    };
    let mut end = || {
        let ip = address(words.next()?)?;
        let port = u16::from_str_radix(words.next()?, 16).ok()?;
        Some(SocketAddr::new(ip, port))
    };
    let (from, to, chosen) = (end()?, end()?, end()?);
    let connection = Connection { protocol, from, to };
    Some((connection, Balanced { to: chosen }))
}

/// IPv4 in hexadecimal, most significant octet first; IPv6 in full with colons.
fn address(text: &str) -> Option<IpAddr> {
    match text.contains(':') {
        true => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        false => {
            let number = u32::from_str_radix(text, 16).ok()?;
            Some(Ipv4Addr::from(number).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_families_are_read() {
        let line = "TCP 0A640005 BF62 0AC80001 0050 0A640002 1F90 SYN_RECV         57";
        let (connection, balanced) = read_line(line).unwrap();
        let expected = Connection {
            protocol: Protocol::Tcp,
            from: "10.100.0.5:48994".parse().unwrap(),
            to: "10.200.0.1:80".parse().unwrap(),
        };
        assert_eq!(connection, expected);
        assert_eq!(balanced.to, "10.100.0.2:8080".parse().unwrap());

        let line = "UDP fd01:0000:0000:0000:0000:0000:0000:0005 9C40 fd02:0000:0000:0000:0000:0000:0000:0001 0035 fd01:0000:0000:0000:0000:0000:0000:0002 0035 UDP             299";
        let (connection, balanced) = read_line(line).unwrap();
        assert_eq!(connection.from, "[fd01::5]:40000".parse().unwrap());
        assert_eq!(balanced.to, "[fd01::2]:53".parse().unwrap());
    }

    #[test]
    fn heads_and_nonsense_are_no_connection() {
        for line in [
            "Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData",
            "",
            "TCP 0A640005 BF62 0AC80001 0050 0A640002 ",
            "TCP 1A6400050 BF62 0AC80001 0050 0A640002 0050 X 1",
            "SCTP 0A640005 BF62 0AC80001 0050 0A640002 0050 X 1",
        ] {
            assert_eq!(read_line(line), None, "{line}");
        }
    }
}
