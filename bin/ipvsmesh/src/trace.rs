//! `ipvsmesh trace`: a probe, and what became of it at every station.

use std::process::ExitCode;

use api::{
    client::Client,
    trace::{Trace as Way, TraceRequest, Verdict},
};
use clap::Args;
use serde_json::json;

use crate::output::{self, OneFormat, table};

/// `trace`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ipvsmesh trace --from client.1 --to vote
  ipvsmesh trace --from host --to 8080
  ipvsmesh trace --from 203.0.113.7 --to 8080     # from another machine: what would happen
  ipvsmesh trace --from client.1 --to example.com --port 443
  ipvsmesh trace --udp --from client.1 --to dns --port 53

Exit status: 0 if it arrived, 1 if it was lost, 2 if the command makes no sense.

What is sent is a connection on which nothing is said, or with --udp one datagram.")]
pub(crate) struct Trace {
    /// Who asks: a task, host, or the address of another machine
    #[arg(long, value_name = "TASK|host|ADDRESS")]
    from: String,
    /// Who is asked: a name, an address, or the number of a published port
    #[arg(long, value_name = "NAME|VIP|PORT")]
    to: String,
    /// The port [default: the first that the service publishes, or listens on]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Ask by UDP
    #[arg(long)]
    udp: bool,
    /// Wait so many seconds for an answer
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = milliseconds)]
    timeout: u64,
    /// How to print it
    #[arg(short, long, value_name = "json|TEMPLATE")]
    format: Option<OneFormat>,
}

/// Seconds, as `0.5`, in milliseconds.
fn milliseconds(text: &str) -> Result<u64, String> {
    let seconds = text.parse().ok().filter(|n| (0.1..=60.0).contains(n));
    let seconds: f64 = seconds.ok_or_else(|| "use 0.1 to 60 seconds".to_owned())?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is between 100 and 60,000"
    )]
    Ok((seconds * 1000.0) as u64)
}

/// Prints the way; fails if the probe was lost.
pub(crate) async fn run(client: &Client, trace: &Trace) -> anyhow::Result<ExitCode> {
    let request = TraceRequest {
        from: trace.from.clone(),
        to: trace.to.clone(),
        udp: trace.udp,
        port: trace.port,
        patience_ms: trace.timeout,
    };
    let way = client.trace(&request).await?;
    match &trace.format {
        Some(format) => output::print(format.render(&json!(way))?)?,
        None => output::print(render(&way))?,
    }
    Ok(match way.arrived {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn render(way: &Way) -> String {
    let mut text = format!("{} -> {}\n\n", way.from, way.to);
    let heading = ["STATION", "VERDICT", "WHERE", "WHAT"];
    let heading = heading.iter().map(ToString::to_string).collect();
    let rows = way.stations.iter().map(|station| {
        // where it was lost is said below, in full
        let what = match station.verdict {
            Verdict::Lost => "see below",
            _ => &station.what,
        };
        vec![
            station.station.clone(),
            station.verdict.as_str().to_owned(),
            station.place.clone(),
            what.to_owned(),
        ]
    });
    let rows: Vec<_> = std::iter::once(heading).chain(rows).collect();
    for line in table(&rows).lines() {
        text.push_str(&format!("  {}\n", line.trim_end()));
    }
    let (lost, not_sent) = match way.sent {
        true => ("Lost", ""),
        false => ("Would be lost", "No probe was sent from there. "),
    };
    // a name that is not resolved: no probe could be
    let not_sent = match way.destination {
        Some(_) => not_sent,
        None => "",
    };
    match way.lost() {
        Some(station) => {
            let place = match station.place.as_str() {
                "" | "-" => String::new(),
                place if place == station.station => String::new(),
                place => format!(" ({place})"),
            };
            let lost = if way.destination.is_some() {
                lost
            } else {
                "Lost"
            };
            text.push_str(&format!(
                "\n{not_sent}{lost} at {}{place}: {}\n",
                station.station, station.what
            ));
            if !station.next.is_empty() {
                text.push_str(&format!("Next: {}\n", station.next));
            }
        }
        None if way.sent => text.push_str("\nIt arrived.\n"),
        None => text.push_str(&format!("\n{not_sent}Nothing is in its way.\n")),
    }
    let warnings = way.stations.iter();
    let warnings = warnings.filter(|one| one.verdict == Verdict::Warning && !one.next.is_empty());
    for station in warnings {
        text.push_str(&format!("At {}: {}\n", station.station, station.next));
    }
    text
}

#[cfg(test)]
mod tests {
    use api::trace::Station;

    use super::*;

    fn station(name: &str, verdict: Verdict, what: &str) -> Station {
        Station {
            station: name.to_owned(),
            place: "ipvsmesh-router".to_owned(),
            verdict,
            what: what.to_owned(),
            next: String::new(),
        }
    }

    fn way() -> Way {
        Way {
            from: "client.1".to_owned(),
            to: "vote:80/tcp".to_owned(),
            source: Some("10.100.0.5:40000".to_owned()),
            destination: Some("10.200.0.1:80".to_owned()),
            sent: true,
            arrived: true,
            stations: vec![
                station(
                    "mark",
                    Verdict::Ok,
                    "set vips-tcp gives 10.200.0.1 mark 0x100",
                ),
                station(
                    "ipvs",
                    Verdict::Ok,
                    "rr, mark 0x100 chose vote.1 (10.100.0.2:80)",
                ),
            ],
        }
    }

    #[test]
    fn time_is_in_seconds() {
        assert_eq!(milliseconds("3"), Ok(3000));
        assert_eq!(milliseconds("0.5"), Ok(500));
        for bad in ["0", "61", "-1", "NaN", "inf", "x", ""] {
            assert!(milliseconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn stations_are_lines() {
        let expected = "\
client.1 -> vote:80/tcp

  STATION   VERDICT   WHERE             WHAT
  mark      ok        ipvsmesh-router   set vips-tcp gives 10.200.0.1 mark 0x100
  ipvs      ok        ipvsmesh-router   rr, mark 0x100 chose vote.1 (10.100.0.2:80)

It arrived.
";
        assert_eq!(render(&way()), expected);
    }

    #[test]
    fn where_it_was_lost_is_said_with_the_next_step() {
        let mut way = way();
        way.arrived = false;
        way.stations[0] = Station {
            next: "mend it".to_owned(),
            ..station(
                "mark",
                Verdict::Lost,
                "set vips-tcp has no entry 10.200.0.1",
            )
        };
        way.stations[1] = station("ipvs", Verdict::Unreached, "");
        let expected = "\
client.1 -> vote:80/tcp

  STATION   VERDICT   WHERE             WHAT
  mark      LOST      ipvsmesh-router   see below
  ipvs      -         ipvsmesh-router

Lost at mark (ipvsmesh-router): set vips-tcp has no entry 10.200.0.1
Next: mend it
";
        assert_eq!(render(&way), expected);
        way.sent = false;
        assert!(render(&way).contains("No probe was sent from there. Would be lost at mark"));
    }

    #[test]
    fn what_is_not_sent_and_not_in_the_way_is_said_so() {
        let mut way = way();
        (way.sent, way.source) = (false, None);
        let text = render(&way);
        assert!(
            text.ends_with("\nNo probe was sent from there. Nothing is in its way.\n"),
            "{text}"
        );
    }
}
