//! `whoami load`: clients that ask all the time, and say at each line of standard
//! input how it went since the last one.

use std::{
    collections::BTreeMap,
    io::BufRead as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

/// A request takes at most so long.
const PATIENCE: Duration = Duration::from_secs(20);
/// A connection that is kept is used for so long, or for [`REQUESTS`].
const KEPT: Duration = Duration::from_secs(5);
const REQUESTS: u32 = 50;
/// Each client rests so long between two requests.
const REST: Duration = Duration::from_millis(5);
/// One that keeps its connection for ever does so.
const LONG_REST: Duration = Duration::from_millis(200);

/// Asks all the time, every second client over connections that it keeps
#[derive(Args)]
pub(crate) struct Load {
    /// How many clients
    #[arg(long, default_value_t = 16)]
    clients: u32,
    /// Further clients, each with one connection that it keeps for ever
    #[arg(long, default_value_t = 0)]
    kept: u32,
    /// A report has at least so many requests
    #[arg(long, default_value_t = 200)]
    least: u64,
    /// HOST:PORT
    target: String,
}

/// What came of the requests since the last report.
#[derive(Default)]
struct Tally {
    requests: u64,
    slowest: Duration,
    failed: u64,
    /// Connections that were to be kept for ever, and ended.
    broken: u64,
    /// How many failed in which way.
    failures: BTreeMap<String, u64>,
    versions: BTreeMap<String, u64>,
}

impl Tally {
    fn take(&mut self, version: Option<String>, failure: Option<String>, took: Duration) {
        self.requests += 1;
        self.slowest = self.slowest.max(took);
        self.failed += u64::from(failure.is_some());
        if let Some(failure) = failure {
            *self.failures.entry(failure).or_default() += 1;
        }
        if let Some(version) = version {
            *self.versions.entry(version).or_default() += 1;
        }
    }
}

impl Load {
    /// Runs until standard input ends.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let tally = Arc::new(Mutex::new(Tally::default()));
        for number in 0..self.clients + self.kept {
            let (tally, target) = (tally.clone(), self.target.clone());
            let keeps = match number {
                number if number >= self.clients => Keeps::ForEver,
                number if number % 2 == 0 => Keeps::ForSome,
                _ => Keeps::Not,
            };
            tokio::spawn(async move {
                let mut client = Client::new(target, keeps);
                loop {
                    client.turn(&tally).await;
                }
            });
        }
        let (said, mut lines) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                // nobody listens any more: we are ending
                let _ = said.send(line);
            }
        });
        let mut begun = Instant::now();
        while lines.recv().await.is_some() {
            let done = || tally.lock().unwrap_or_else(PoisonError::into_inner);
            while done().requests < self.least {
                tokio::time::sleep(REST).await;
            }
            let Tally {
                requests,
                slowest,
                failed,
                broken,
                failures,
                versions,
            } = std::mem::take(&mut *done());
            #[allow(clippy::cast_precision_loss, reason = "for people")]
            let rate = requests as f64 / begun.elapsed().as_secs_f64();
            begun = Instant::now();
            println!(
                "{requests} requests, {failed} failed, {broken} connections broken, {rate:.0}/s, slowest {} ms, versions {versions:?}, failures {failures:?}",
                slowest.as_millis()
            );
        }
        Ok(())
    }
}

/// How long a client uses a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeps {
    /// For one request.
    Not,
    /// For [`KEPT`] or [`REQUESTS`].
    ForSome,
    /// Until it breaks.
    ForEver,
}

struct Client {
    target: String,
    keeps: Keeps,
    connection: Option<(BufReader<TcpStream>, Instant, u32)>,
}

impl Client {
    fn new(target: String, keeps: Keeps) -> Self {
        Self {
            target,
            keeps,
            connection: None,
        }
    }

    /// One request, counted, and the rest after it.
    async fn turn(&mut self, tally: &Mutex<Tally>) {
        let begun = Instant::now();
        let was_open = self.connection.is_some();
        let asked = tokio::time::timeout(PATIENCE, self.ask()).await;
        let answer = asked.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer")));
        let took = begun.elapsed();
        if answer.is_err() {
            self.connection = None;
        }
        let tally = || tally.lock().unwrap_or_else(PoisonError::into_inner);
        if self.keeps == Keeps::ForEver {
            // one that cannot be opened is the others' to count
            tally().broken += u64::from(was_open && answer.is_err());
            return tokio::time::sleep(LONG_REST).await;
        }
        let failure = answer.as_ref().err().map(|error| {
            let kept = if self.keeps == Keeps::Not {
                "new"
            } else {
                "kept"
            };
            format!("{kept}: {error:#}")
        });
        tally().take(answer.ok(), failure, took);
        tokio::time::sleep(REST).await;
    }

    /// One request, without a second try; the version that answered.
    async fn ask(&mut self) -> anyhow::Result<String> {
        let (mut stream, since, used) = match self.connection.take() {
            Some(kept) => kept,
            None => {
                let stream = TcpStream::connect(&self.target).await.context("connect")?;
                (BufReader::new(stream), Instant::now(), 0)
            }
        };
        let goes_on = match self.keeps {
            Keeps::Not => false,
            Keeps::ForSome => used + 1 < REQUESTS && since.elapsed() < KEPT,
            Keeps::ForEver => true,
        };
        let word = if goes_on { "keep-alive" } else { "close" };
        let request = format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: {word}\r\n\r\n");
        let sent = stream.get_mut().write_all(request.as_bytes()).await;
        sent.context("send")?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            let read = stream.read_line(&mut line).await.context("receive")?;
            anyhow::ensure!(read > 0, "closed");
            match line.trim_end().split_once(": ") {
                Some((key, value)) if key.eq_ignore_ascii_case("content-length") => {
                    length = value.parse().context("Content-Length")?;
                }
                None if line.trim_end().is_empty() => break,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.context("receive")?;
        if goes_on {
            self.connection = Some((stream, since, used + 1));
        }
        let body = String::from_utf8_lossy(&body).into_owned();
        let version = body.lines().find_map(|line| line.strip_prefix("Version: "));
        Ok(version.unwrap_or_default().to_owned())
    }
}
