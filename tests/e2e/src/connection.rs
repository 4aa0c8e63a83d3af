//! A connection that is kept open.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};

use crate::until;

/// A TCP connection from some namespace, kept by a `socat` whose ends we hold.
pub struct Connection {
    socat: Child,
    to: Option<ChildStdin>,
    lines: Receiver<String>,
    /// Who answers on it.
    pub host: String,
}

impl Connection {
    /// Connects, and asks once.
    pub fn open(netns: &str, address: &str) -> Self {
        let mut socat = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{netns}"))
            .args(["socat", "-t0.2", "STDIO"])
            .arg(format!("TCP:{address}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("socat is installed");
        let to = socat.stdin.take();
        let from = BufReader::new(socat.stdout.take().expect("piped"));
        let (said, lines) = channel();
        std::thread::spawn(move || {
            for line in from.lines().map_while(Result::ok) {
                if said.send(line).is_err() {
                    break;
                }
            }
        });
        let host = String::new();
        let mut this = Self {
            socat,
            to,
            lines,
            host,
        };
        let asked = this.ask();
        this.host = asked.unwrap_or_else(|| panic!("{address} does not answer"));
        this
    }

    /// Sends a request.
    pub fn send(&mut self, path: &str) {
        // one that is broken is noticed by its missing answer
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        if let Some(to) = &mut self.to {
            let _ = to.write_all(request.as_bytes());
        }
    }

    /// Who answers a request on this connection; `None` where it is broken.
    pub fn ask(&mut self) -> Option<String> {
        self.send("/");
        let mut host = None;
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(20)).ok()?;
            if let Some(name) = line.strip_prefix("Hostname: ") {
                host = Some(name.trim().to_owned());
            } else if line.starts_with("Host: ") {
                return host;
            }
        }
    }

    /// Asserts that the same task as ever answers.
    pub fn lives(&mut self) {
        let host = self.ask();
        assert_eq!(host.as_ref(), Some(&self.host), "the connection broke");
    }

    /// Whether its other end has closed or reset it.
    pub fn is_over(&mut self) -> bool {
        self.socat.try_wait().expect("it is ours").is_some()
    }

    /// Waits until its other end closes or resets it.
    pub fn wait_over(&mut self, seconds: u64) {
        until("the connection ends", seconds, || {
            self.is_over().then_some(())
        });
    }

    /// Closes it, and waits until that is done.
    pub fn close(mut self) {
        self.to = None;
        while self.lines.recv_timeout(Duration::from_secs(20))
            != Err(RecvTimeoutError::Disconnected)
        {}
        self.socat.wait().expect("it is ours");
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // one that was closed is gone already
        let _ = self.socat.kill();
        let _ = self.socat.wait();
    }
}
