//! An HTTP server that costs next to nothing, so that a request's way there and
//! back is most of what is measured: one read and one write a request, and each
//! connection has a thread that was there before it came.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;

/// Where it answers.
#[derive(Args)]
pub(crate) struct Options {
    /// TCP port, on all IPv4 addresses
    #[arg(long)]
    port: u16,
    /// So many connections at once; more wait
    #[arg(long, default_value_t = 16)]
    connections: usize,
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
const LAST_ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nok\n";

/// Serves until it is killed.
pub(crate) fn run(options: &Options) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, options.port))
        .with_context(|| format!("cannot listen on TCP port {}", options.port))?;
    thread::scope(|scope| {
        for _ in 0..options.connections {
            scope.spawn(|| {
                while let Ok((stream, _)) = listener.accept() {
                    // a client that is gone is no reason to end
                    let _ = answer(stream);
                }
            });
        }
    });
    bail!("cannot accept on TCP port {}", options.port)
}

/// Answers the requests of one connection; each comes in one piece, as those of
/// clients without a body do.
fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = [0; 2048];
    loop {
        let count = stream.read(&mut request)?;
        if count == 0 {
            return Ok(());
        }
        if closes(&request[..count]) {
            return stream.write_all(LAST_ANSWER);
        }
        stream.write_all(ANSWER)?;
    }
}

/// Whether this request is its connection's only one.
fn closes(request: &[u8]) -> bool {
    const WORDS: &[u8] = b"connection: close";
    request
        .windows(WORDS.len())
        .any(|at| at.eq_ignore_ascii_case(WORDS))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn keeps_a_connection_unless_told_to_close() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || answer(listener.accept().unwrap().0));
        let mut client = TcpStream::connect(address).unwrap();
        let mut got = vec![0; ANSWER.len()];
        for _ in 0..2 {
            client
                .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                .unwrap();
            client.read_exact(&mut got).unwrap();
            assert_eq!(got, ANSWER);
        }
        let last = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\n\r\n";
        client.write_all(last).unwrap();
        got.clear();
        client.read_to_end(&mut got).unwrap();
        assert_eq!(got, LAST_ANSWER);
        server.join().unwrap().unwrap();
    }
}
