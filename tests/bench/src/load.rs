//! Clients that ask without pause for breath while services change, and what became
//! of their requests in each phase.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;

use crate::client::Connection;

/// Whom they ask, and how
#[derive(Args)]
pub(crate) struct Options {
    /// Address and port
    server: SocketAddr,
    /// Which side of the comparison this is
    #[arg(long)]
    side: String,
    /// Clients with a new connection for each request
    #[arg(long, default_value_t = 8)]
    close: u32,
    /// Clients that use a connection for `--requests` requests
    #[arg(long, default_value_t = 8)]
    keep_alive: u32,
    /// Requests a connection of those
    #[arg(long, default_value_t = 50)]
    requests: u32,
    /// Connections that are kept for ever, each asked now and then
    #[arg(long, default_value_t = 0)]
    kept: u32,
    /// Milliseconds between two requests of one client
    #[arg(long, default_value_t = 20)]
    pause: u64,
}

/// What became of a phase's requests.
#[derive(Default)]
struct Tally {
    asked: u64,
    failed: u64,
    slowest: Duration,
    /// Kept connections that ended.
    broken: u64,
    why: Option<String>,
}

struct Shared {
    tally: Mutex<Tally>,
    over: AtomicBool,
    pause: Duration,
    server: SocketAddr,
}

impl Shared {
    fn count(&self, since: Instant, outcome: &io::Result<()>) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.asked += 1;
        tally.slowest = tally.slowest.max(since.elapsed());
        if let Err(error) = outcome {
            tally.failed += 1;
            tally.why.get_or_insert_with(|| error.to_string());
        }
    }

    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    fn turns(&self, requests: u32) {
        let mut connection: Option<Connection> = None;
        while self.goes_on() {
            let since = Instant::now();
            let outcome = connection
                .take()
                .map_or_else(|| Connection::open(self.server), Ok)
                .and_then(|mut open| {
                    open.request(open.requests() + 1 >= requests)?;
                    Ok(open)
                });
            self.count(since, &outcome.as_ref().map(drop).map_err(again));
            connection = outcome
                .ok()
                .filter(|open| open.requests() < requests && !open.closing());
            thread::sleep(self.pause);
        }
    }

    /// One connection, until it breaks; then another one.
    fn keep(&self) {
        while self.goes_on() {
            let Ok(mut open) = Connection::open(self.server) else {
                thread::sleep(self.pause);
                continue;
            };
            while self.goes_on() {
                if let Err(error) = open.request(false) {
                    let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
                    tally.broken += 1;
                    tally.why.get_or_insert_with(|| error.to_string());
                    break;
                }
                thread::sleep(self.pause * 10);
            }
        }
    }
}

fn again(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

/// Asks until standard input ends. Each line of it is the name of the phase that ends
/// with it, or empty: then nothing is told of it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let shared = Shared {
        tally: Mutex::default(),
        over: AtomicBool::new(false),
        pause: Duration::from_millis(options.pause),
        server: options.server,
    };
    thread::scope(|scope| {
        for _ in 0..options.close {
            scope.spawn(|| shared.turns(1));
        }
        for _ in 0..options.keep_alive {
            scope.spawn(|| shared.turns(options.requests));
        }
        for _ in 0..options.kept {
            scope.spawn(|| shared.keep());
        }
        let mut begin = Instant::now();
        for line in io::stdin().lines() {
            let Ok(phase) = line else { break };
            let tally =
                std::mem::take(&mut *shared.tally.lock().unwrap_or_else(PoisonError::into_inner));
            if !phase.is_empty() {
                tell(&phase, &options.side, &tally, begin.elapsed());
            }
            begin = Instant::now();
        }
        shared.over.store(true, Ordering::Relaxed);
    });
    Ok(())
}

fn tell(phase: &str, side: &str, tally: &Tally, took: Duration) {
    println!("figure {phase}-asked {side} {}", tally.asked);
    println!("figure {phase}-failed {side} {}", tally.failed);
    println!("figure {phase}-broken {side} {}", tally.broken);
    let slowest = tally.slowest.as_secs_f64();
    println!("figure {phase}-slowest {side} {slowest:.3}");
    println!(
        "{phase}, {side}: {} requests in {:.1} s, {} failed, slowest {slowest:.3} s, {} kept connections broke{}",
        tally.asked,
        took.as_secs_f64(),
        tally.failed,
        tally.broken,
        match &tally.why {
            Some(why) => format!(" (the first: {why})"),
            None => String::new(),
        }
    );
}
