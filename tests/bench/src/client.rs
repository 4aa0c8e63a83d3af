//! An HTTP client that notices everything: each connection that is refused, reset or
//! silent, and each answer that is not whole. It repeats nothing by itself.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// How long a connection and each part of an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection on which one request follows another.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    requests: u32,
    closing: bool,
}

impl Connection {
    pub(crate) fn open(server: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream: BufReader::new(stream),
            requests: 0,
            closing: false,
        })
    }

    /// How many requests were answered.
    pub(crate) fn requests(&self) -> u32 {
        self.requests
    }

    /// Whether the server has said that it takes no further request.
    pub(crate) fn closing(&self) -> bool {
        self.closing
    }

    /// Asks and reads the whole answer. `last`: says that it is the last request.
    pub(crate) fn request(&mut self, last: bool) -> io::Result<()> {
        let connection = if last { "close" } else { "keep-alive" };
        let request = format!("GET / HTTP/1.1\r\nHost: web\r\nConnection: {connection}\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        let status = self.line()?;
        if !status.starts_with("HTTP/1.1 200") {
            return Err(io::Error::other(format!("answered {status:?}")));
        }
        let mut length = 0;
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            self.closing |= line == "connection: close";
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        self.requests += 1;
        Ok(())
    }

    /// A line of the answer's head, without its end.
    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    /// A server that answers each request on one connection with these.
    fn server(answers: Vec<&'static str>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for answer in answers {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        address
    }

    #[test]
    fn whole_answers_count_and_everything_else_is_an_error() {
        let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        let short = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok";
        let mut connection = Connection::open(server(vec![ok, short])).unwrap();
        connection.request(false).unwrap();
        assert_eq!((connection.requests(), connection.closing()), (1, false));
        connection.request(false).unwrap_err();
        assert_eq!(connection.requests(), 1);

        let bad = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
        let mut connection = Connection::open(server(vec![bad])).unwrap();
        let error = connection.request(false).unwrap_err();
        assert!(error.to_string().contains("503"), "{error}");
    }

    #[test]
    fn a_server_that_says_so_is_asked_no_more() {
        let last = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        let mut connection = Connection::open(server(vec![last])).unwrap();
        connection.request(false).unwrap();
        assert!(connection.closing());
    }
}
