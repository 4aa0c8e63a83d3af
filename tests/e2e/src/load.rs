//! Clients that ask all the time while something happens.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

/// Some clients of one way to a service: a `whoami load`.
pub struct Load {
    way: String,
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

/// What came of the requests of one phase.
#[derive(Debug)]
pub struct Report {
    /// How many failed.
    pub failed: u64,
    /// All of it, for people.
    pub text: String,
}

impl Load {
    /// Begins to ask `target`, by a command that runs what follows it somewhere.
    pub fn start(way: &str, somewhere: &str, clients: u32, target: &str) -> Self {
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(format!(
                "exec {somewhere} whoami load --clients {clients} {target}"
            ))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh is installed");
        let to = child.stdin.take().expect("piped");
        let from = BufReader::new(child.stdout.take().expect("piped"));
        Self {
            way: way.to_owned(),
            child,
            to,
            from,
        }
    }

    /// Ends a phase, once it has had enough requests.
    pub fn report(&mut self, phase: &str) -> Report {
        writeln!(self.to, "{phase}").expect("whoami load listens");
        let mut line = String::new();
        self.from.read_line(&mut line).expect("whoami load answers");
        let mut numbers = line.split(' ').filter_map(|word| word.parse().ok());
        let (_, failed) = (numbers.next(), numbers.next());
        let text = format!("{phase}, by {}: {}", self.way, line.trim());
        println!("{text}");
        Report {
            failed: failed.unwrap_or_else(|| panic!("whoami load says {line:?}")),
            text,
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // one that ended already is what is wanted
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
