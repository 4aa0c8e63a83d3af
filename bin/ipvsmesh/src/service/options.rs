//! Flags for what Docker's specs have no words for. Each is a label, which the
//! daemon reads, so that any client can say it.

use std::collections::BTreeMap;

use clap::Args;
use model::label;

/// How connections are spread over tasks; of `create` and of `update`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// How a task is chosen for a new connection: rr, wrr, lc, wlc, sh, mh, sed, nq, dh... (default rr)
    #[arg(long, value_name = "NAME", value_parser = valid(label::SCHEDULER), allow_hyphen_values = true)]
    scheduler: Option<String>,
    /// How much tasks get: a number for all of them, SLOT=NUMBER,... for some; 0 takes nothing new (default 1)
    #[arg(long, value_name = "WEIGHT", value_parser = valid(label::WEIGHT), allow_hyphen_values = true)]
    weight: Option<String>,
    /// Whether a client stays with its task: none, or client-ip[,TIMEOUT][,/PREFIX] (default none)
    #[arg(long, value_name = "AFFINITY", value_parser = valid(label::AFFINITY), allow_hyphen_values = true)]
    affinity: Option<String>,
    /// Connections a task takes at once, and below how many again: UPPER[:LOWER], 0 without end (default 0)
    #[arg(long, value_name = "LIMIT", value_parser = valid(label::CONNECTION_LIMIT), allow_hyphen_values = true)]
    connection_limit: Option<String>,
    /// How long connections may go on after their task is to leave (default 30s)
    #[arg(long, value_name = "DURATION", value_parser = valid(label::DRAIN_TIMEOUT), allow_hyphen_values = true)]
    drain_timeout: Option<String>,
    /// How it is found out whether a task serves: none, tcp:PORT or http:PORT[/PATH], and
    /// ,interval=5s,timeout=5s,retries=3,start-period=30s (default: it does once it listens on
    /// the first published TCP port, or has run for 5s)
    #[arg(long, value_name = "PROBE", value_parser = valid(label::PROBE), allow_hyphen_values = true)]
    probe: Option<String>,
    /// How long answers for its names may be remembered (default 2s)
    #[arg(long, value_name = "DURATION", value_parser = valid(label::DNS_TTL), allow_hyphen_values = true)]
    dns_ttl: Option<String>,
    /// How many addresses an answer has, drawn anew each time, 0 for all: with 1 also clients that
    /// sort addresses are spread over the tasks of --endpoint-mode dnsrr (default 0)
    #[arg(long, value_name = "N", value_parser = valid(label::DNS_ANSWERS), allow_hyphen_values = true)]
    dns_answers: Option<String>,
    /// Names of its ports, for SRV records: NAME=PORT[/PROTOCOL],...
    #[arg(long, value_name = "NAMES", value_parser = valid(label::PORT_NAMES), allow_hyphen_values = true)]
    port_names: Option<String>,
}

/// Reads a label's value as the daemon will.
fn valid(label: &'static str) -> impl Fn(&str) -> Result<String, String> + Clone {
    move |text| {
        let text = text.trim().to_owned();
        let labels = BTreeMap::from([(label.to_owned(), text.clone())]);
        match model::Options::of(&labels) {
            Ok(_) => Ok(text),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Options {
    /// Those that were given: label and value.
    pub(super) fn labels(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let flags = [
            (label::SCHEDULER, &self.scheduler),
            (label::WEIGHT, &self.weight),
            (label::AFFINITY, &self.affinity),
            (label::CONNECTION_LIMIT, &self.connection_limit),
            (label::DRAIN_TIMEOUT, &self.drain_timeout),
            (label::PROBE, &self.probe),
            (label::DNS_TTL, &self.dns_ttl),
            (label::DNS_ANSWERS, &self.dns_answers),
            (label::PORT_NAMES, &self.port_names),
        ];
        let given = flags.map(|(label, flag)| Some((label, flag.as_deref()?)));
        given.into_iter().flatten()
    }

    /// Refuses labels, given by `flag`, that say something else than the flag of
    /// the same option.
    pub(super) fn agree(&self, flag: &str, labels: &[(String, String)]) -> Result<(), String> {
        for (label, value) in self.labels() {
            let other = labels
                .iter()
                .find(|(key, other)| key == label && other != value);
            if let Some((_, other)) = other {
                let name = short(label);
                return Err(format!(
                    "--{name} {value} and {flag} {label}={other} contradict each other: leave one of them out"
                ));
            }
        }
        Ok(())
    }
}

/// A label's name without what all of ours begin with: its flag's name.
pub(super) fn short(label: &str) -> &str {
    label.trim_start_matches("ipvsmesh.")
}
