//! TCP sockets and SCTP associations of a network namespace, by `/proc/net`
//! (`net/ipv4/tcp_ipv4.c`, `net/sctp/proc.c`), which every kernel has.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::Error;

/// Of the calling thread's network namespace.
const TCP: [&str; 2] = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
/// There only once somebody used SCTP.
const SCTP: &str = "/proc/thread-self/net/sctp/assocs";
/// Ports that clients get which ask for none.
const EPHEMERAL: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// A connection of this side's, open or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Socket {
    local: (IpAddr, u16),
    remote: IpAddr,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Listening,
    /// This side has not done with it: being made, made, or half closed by the other.
    Open,
    Closing,
}

/// How many connections that others made to these addresses of the calling thread's
/// network namespace are open, by the address.
pub(crate) fn accepted(own: &BTreeSet<IpAddr>) -> Result<BTreeMap<IpAddr, u64>, Error> {
    let mut sockets = Vec::new();
    for path in TCP {
        sockets.extend(read(path)?.lines().filter_map(tcp_socket));
    }
    sockets.extend(read(SCTP)?.lines().filter_map(association));
    let range = read(EPHEMERAL)?;
    let first = range.split_whitespace().next().and_then(|n| n.parse().ok());
    let ephemeral = first.ok_or_else(|| Error::Answer {
        what: "the range of local ports",
        why: range.clone(),
    })?;
    Ok(of_others(&sockets, own, ephemeral))
}

/// A file of /proc; nothing where the kernel has no such file.
pub(crate) fn read(path: &str) -> Result<String, Error> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other.map_err(|source| Error::File {
            action: "read",
            path: path.into(),
            source,
        }),
    }
}

fn of_others(sockets: &[Socket], own: &BTreeSet<IpAddr>, ephemeral: u16) -> BTreeMap<IpAddr, u64> {
    let listening = sockets.iter().filter(|s| s.state == State::Listening);
    let listening: BTreeSet<u16> = listening.map(|s| s.local.1).collect();
    let mut count = BTreeMap::new();
    for socket in sockets.iter().filter(|s| s.state == State::Open) {
        let (address, port) = socket.local;
        // who takes one connection only listens no more
        let accepted = listening.contains(&port) || port < ephemeral;
        if accepted && own.contains(&address) && !own.contains(&socket.remote) {
            *count.entry(address).or_default() += 1;
        }
    }
    count
}

/// An address and port of `/proc/net/tcp` and its kin: in hexadecimal, the address in
/// the host's byte order by 32-bit words.
pub(crate) fn endpoint(text: &str) -> Option<(IpAddr, u16)> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| {
        let digits = address.get(8 * at..8 * at + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip: IpAddr = if address.len() == 8 {
        Ipv4Addr::from(word(0)?).into()
    } else {
        let mut octets = [0; 16];
        for at in 0..4 {
            octets[4 * at..4 * at + 4].copy_from_slice(&word(at)?);
        }
        Ipv6Addr::from(octets).to_canonical()
    };
    Some((ip, u16::from_str_radix(port, 16).ok()?))
}

/// One line of `/proc/net/tcp`: number, local and remote address, state.
fn tcp_socket(line: &str) -> Option<Socket> {
    let mut words = line.split_whitespace().skip(1);
    let local = endpoint(words.next()?)?;
    let (remote, _) = endpoint(words.next()?)?;
    // include/net/tcp_states.h
    let state = match words.next()? {
        // ESTABLISHED, SYN_RECV, CLOSE_WAIT
        "01" | "03" | "08" => State::Open,
        "0A" => State::Listening,
        _ => State::Closing,
    };
    Some(Socket {
        local,
        remote,
        state,
    })
}

/// One line of `/proc/net/sctp/assocs`: the fifth word is the association's state, the
/// twelfth the local port; then come the local addresses and, behind an arrow, the
/// remote ones, the first of each with a star.
fn association(line: &str) -> Option<Socket> {
    let words: Vec<_> = line.split_whitespace().collect();
    // enum sctp_state: COOKIE_WAIT, COOKIE_ECHOED, ESTABLISHED
    let state = match *words.get(4)? {
        "1" | "2" | "3" => State::Open,
        _ => State::Closing,
    };
    let address = |word: &&str| word.trim_start_matches('*').parse::<IpAddr>().ok();
    let arrow = words.iter().position(|word| *word == "<->")?;
    let local = words.get(13..arrow)?.iter().find_map(address)?;
    Some(Socket {
        local: (local.to_canonical(), words.get(11)?.parse().ok()?),
        remote: words
            .get(arrow + 1..)?
            .iter()
            .find_map(address)?
            .to_canonical(),
        state,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn tcp(local: &str, remote: &str, state: &str) -> String {
        format!(
            "   0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000     0        0 4711 1 0"
        )
    }

    #[test]
    fn open_is_what_this_side_has_not_done_with() {
        let state = |text: &str| {
            let line = tcp("0200640A:0050", "0300640A:9C40", text);
            tcp_socket(&line).unwrap().state
        };
        let open: Vec<_> = (1..=12)
            .filter(|n| state(&format!("{n:02X}")) == State::Open)
            .collect();
        assert_eq!(open, [1, 3, 8]);
        assert_eq!(state("0A"), State::Listening);
        let line = tcp("0200640A:0050", "0300640A:9C40", "01");
        let socket = tcp_socket(&line).unwrap();
        if cfg!(target_endian = "little") {
            assert_eq!(socket.local, (ip("10.100.0.2"), 80));
            assert_eq!(socket.remote, ip("10.100.0.3"));
        }
    }

    #[test]
    fn associations_are_read() {
        let line = "ffff8 ffff9 2   1   3  0       1        0        0       0  7421 80    40000  *10.100.0.2 10.100.16.2 <-> *10.100.0.3 \t    7500     2    10     0";
        let socket = association(line).unwrap();
        assert_eq!(socket.local, (ip("10.100.0.2"), 80));
        assert_eq!(
            (socket.remote, socket.state),
            (ip("10.100.0.3"), State::Open)
        );
        assert_eq!(association(" ASSOC     SOCK   STY SST ST HBKT"), None);
    }

    #[test]
    fn only_what_others_made_from_elsewhere_is_counted() {
        let (task, client) = (ip("10.100.0.2"), ip("10.100.0.3"));
        let own = BTreeSet::from([task]);
        let socket = |address, port, remote, state| Socket {
            local: (address, port),
            remote,
            state,
        };
        let sockets = [
            socket(ip("0.0.0.0"), 40000, ip("0.0.0.0"), State::Listening),
            socket(task, 40000, client, State::Open),
            // its listener is gone
            socket(task, 80, client, State::Open),
            socket(task, 80, client, State::Closing),
            // the task's own way out, and itself
            socket(task, 40001, client, State::Open),
            socket(task, 80, task, State::Open),
            socket(ip("127.0.0.1"), 80, ip("127.0.0.1"), State::Open),
        ];
        assert_eq!(
            of_others(&sockets, &own, 32768),
            BTreeMap::from([(task, 2)])
        );
    }

    #[test]
    fn a_connection_of_this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.2:0").unwrap();
        let address = listener.local_addr().unwrap();
        let own = BTreeSet::from([address.ip()]);
        assert_eq!(accepted(&own).unwrap(), BTreeMap::new());
        let client = std::net::TcpStream::connect(address).unwrap();
        assert_eq!(accepted(&own).unwrap(), BTreeMap::from([(address.ip(), 1)]));
        let (server, _) = listener.accept().unwrap();
        // it has said all, and may hear the rest
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(accepted(&own).unwrap(), BTreeMap::from([(address.ip(), 1)]));
        drop((server, client));
        assert_eq!(accepted(&own).unwrap(), BTreeMap::new());
    }

    #[test]
    fn nonsense_is_no_socket() {
        for line in [
            "",
            "sl local",
            "0: 1:2 3:4 01",
            "0: 0200640A 0300640A:1 01",
            "é: é:é é:é 01",
        ] {
            assert_eq!(tcp_socket(line), None, "{line}");
            assert_eq!(association(line), None, "{line}");
        }
    }
}
