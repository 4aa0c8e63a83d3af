//! The sockets at the end of a connection, by `/proc/net/tcp` and `/proc/net/udp`
//! (`net/ipv4/tcp_ipv4.c`, `udp.c`), and the program behind them.

use std::{collections::BTreeSet, fs, net::SocketAddr};

use model::Protocol;

use crate::{
    Error, host,
    netns::Netns,
    sockets::{endpoint, read},
};

/// What a namespace has of sockets for one client's connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    /// TCP sockets that listen, or UDP sockets that are not connected.
    pub listening: Vec<Listening>,
    /// This side's end of the connection, where it has one.
    pub end: Option<End>,
}

/// A socket that waits for whoever comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Its address, which may be the unspecified one, and port.
    pub at: SocketAddr,
    /// Connections that were not accepted yet (TCP), octets that were not read yet (UDP).
    pub waiting: u32,
    /// The inode, which says whose it is: see [`process`].
    pub inode: u64,
}

impl Listening {
    /// Whether packets to this address and port are for it.
    pub fn takes(&self, to: SocketAddr) -> bool {
        let any = self.at.ip().is_unspecified();
        self.at.port() == to.port() && (any || self.at.ip() == to.ip())
    }
}

/// This side's end of a TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The first packet came, and was answered; nothing came back.
    Answered,
    /// It is made, and no program has taken it over from the kernel.
    Waiting,
    /// A program has taken it.
    Accepted,
    /// It was, and is being closed.
    Closing,
}

/// The process that holds a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// As the host numbers it.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// The letter of its state (proc(5)): `T` is stopped, `D` waits for a device.
    pub state: char,
}

/// Reads the sockets of a namespace. `from` is who asks, as packets have it there.
///
/// # Errors
/// The namespace cannot be entered, or /proc not be read.
pub fn sockets(
    netns: &Netns,
    protocol: Protocol,
    from: SocketAddr,
    to: SocketAddr,
) -> Result<Sockets, Error> {
    let files = match protocol {
        Protocol::Tcp => ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"],
        _ => ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"],
    };
    netns.run(|| {
        let mut found = Sockets::default();
        for file in files {
            for line in read(file)?.lines() {
                let Some(socket) = Socket::read(line) else {
                    continue;
                };
                if let Some(end) = socket.end(from, to) {
                    found.end = Some(end);
                } else if socket.waits(protocol) {
                    found.listening.push(Listening {
                        at: socket.local,
                        waiting: socket.queued,
                        inode: socket.inode,
                    });
                }
            }
        }
        Ok(found)
    })?
}

/// Who holds one of these sockets; `None` where no process of the machine is found.
pub fn process(inodes: &BTreeSet<u64>) -> Option<Holder> {
    let holders = host::holders();
    let (pid, name) = inodes.iter().find_map(|inode| holders.get(inode))?.clone();
    let state = process_state(pid)?;
    Some(Holder { pid, name, state })
}

/// The letter of a process's state (proc(5)); `None` where there is no such process.
pub fn process_state(pid: u32) -> Option<char> {
    state(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The third field; the second one, in brackets, may hold blanks.
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// A line of `/proc/net/tcp` or its kin.
struct Socket<'a> {
    local: SocketAddr,
    remote: SocketAddr,
    /// `include/net/tcp_states.h`, in hexadecimal.
    state: &'a str,
    /// The receive queue.
    queued: u32,
    inode: u64,
}

impl<'a> Socket<'a> {
    /// Number, local and remote address, state, queues, timer, retransmissions, user,
    /// time-out, inode.
    fn read(line: &'a str) -> Option<Self> {
        let words: Vec<_> = line.split_whitespace().collect();
        let address =
            |at: usize| endpoint(words.get(at)?).map(|(ip, port)| SocketAddr::new(ip, port));
        let (_, queued) = words.get(4)?.split_once(':')?;
        Some(Self {
            local: address(1)?,
            remote: address(2)?,
            state: words.get(3)?,
            queued: u32::from_str_radix(queued, 16).ok()?,
            inode: words.get(9)?.parse().ok()?,
        })
    }

    fn waits(&self, protocol: Protocol) -> bool {
        self.state
            == if protocol == Protocol::Tcp {
                "0A"
            } else {
                "07"
            }
    }

    /// Its place in the connection, if it is an end of it.
    fn end(&self, from: SocketAddr, to: SocketAddr) -> Option<End> {
        if (self.local, self.remote) != (to, from) {
            return None;
        }
        match self.state {
            "03" => Some(End::Answered),
            // a connection that no program has accepted has no inode (sock_i_ino)
            "01" | "08" if self.inode == 0 => Some(End::Waiting),
            "01" | "08" => Some(End::Accepted),
            "0A" | "07" => None,
            _ => Some(End::Closing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: &str = "10.100.0.5:40000";
    const TASK: &str = "10.100.0.2:80";

    fn line(remote: &str, state: &str, inode: u64) -> String {
        format!(
            "   0: 0200640A:0050 {remote} {state} 00000000:00000003 00:00000000 00000000     0        0 {inode} 1 0"
        )
    }

    fn end(state: &str, inode: u64) -> Option<End> {
        let line = line("0500640A:9C40", state, inode);
        let socket = Socket::read(&line).unwrap();
        assert_eq!(
            socket.end(TASK.parse().unwrap(), CLIENT.parse().unwrap()),
            None
        );
        socket.end(CLIENT.parse().unwrap(), TASK.parse().unwrap())
    }

    #[test]
    fn how_far_a_connection_came_is_told_by_state_and_inode() {
        if cfg!(target_endian = "big") {
            return;
        }
        assert_eq!(end("03", 0), Some(End::Answered));
        assert_eq!(end("01", 0), Some(End::Waiting));
        assert_eq!(end("01", 77), Some(End::Accepted));
        assert_eq!(end("08", 77), Some(End::Accepted));
        assert_eq!(end("06", 0), Some(End::Closing));
        assert_eq!(end("0A", 7), None);
    }

    #[test]
    fn a_listener_takes_what_is_for_its_address() {
        let listening = |at: &str| Listening {
            at: at.parse().unwrap(),
            waiting: 0,
            inode: 1,
        };
        let task = TASK.parse().unwrap();
        assert!(listening("0.0.0.0:80").takes(task));
        assert!(listening("[::]:80").takes(task));
        assert!(listening(TASK).takes(task));
        assert!(!listening("127.0.0.1:80").takes(task));
        assert!(!listening("0.0.0.0:81").takes(task));
    }

    #[test]
    fn a_connection_is_accepted_once_a_program_has_taken_it() {
        let listener = std::net::TcpListener::bind("127.0.0.3:0").unwrap();
        let to = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(to).unwrap();
        let from = client.local_addr().unwrap();
        let here = Netns::current().unwrap();
        let seen = || sockets(&here, Protocol::Tcp, from, to).unwrap();
        let before = seen();
        assert_eq!(before.end, Some(End::Waiting));
        let listening = before.listening.iter().find(|l| l.at == to).unwrap();
        assert_eq!(listening.waiting, 1);
        let holder = process(&BTreeSet::from([listening.inode])).unwrap();
        assert_eq!(holder.pid, std::process::id());
        assert!("RSD".contains(holder.state), "{holder:?}");
        let _server = listener.accept().unwrap();
        assert_eq!(seen().end, Some(End::Accepted));
    }

    #[test]
    fn nonsense_is_no_socket() {
        for line in ["", "sl local", "0: 1:2 3:4 01", "é é é é é é é é é é"] {
            assert!(Socket::read(line).is_none(), "{line}");
        }
        assert_eq!(state("12 (a) b) T 1"), Some('T'));
        assert_eq!(state(""), None);
    }
}
