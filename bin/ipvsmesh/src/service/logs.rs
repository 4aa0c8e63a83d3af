//! `ipvsmesh service logs`

use std::collections::BTreeMap;

use anyhow::bail;
use api::client::{Client, LogQuery};
use clap::Args;

use crate::output::{self, number, text};

/// `service logs`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ipvsmesh service logs --follow vote
  ipvsmesh service logs --tail 10 --timestamps vote.1")]
pub(crate) struct Logs {
    /// Wait for more
    #[arg(short, long)]
    follow: bool,
    /// Only so many last lines of each task, or all
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all", value_parser = tail)]
    tail: Tail,
    /// Print the time before each line
    #[arg(short, long)]
    timestamps: bool,
    /// Print the lines as they are, without the task's name
    #[arg(long)]
    raw: bool,
    /// Print whole ids
    #[arg(long)]
    no_trunc: bool,
    /// A service's or a task's name or id
    #[arg(value_name = "SERVICE|TASK")]
    target: String,
}

/// Value of `--tail`; `None` is all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tail(Option<u64>);

fn tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" => Ok(Tail(None)),
        number => match number.parse() {
            Ok(number) => Ok(Tail(Some(number))),
            Err(_) => Err("use a number of lines, or all".to_owned()),
        },
    }
}

/// Prints the lines: a task's output as our output, its errors as our errors.
pub(super) async fn run(client: &Client, options: &Logs) -> anyhow::Result<()> {
    let query = LogQuery {
        follow: options.follow,
        timestamps: options.timestamps,
        details: !options.raw,
        tail: options.tail.0,
    };
    let target = options.target.as_str();
    let mut digits = 1;
    let mut lines = match client.service(target).await {
        Ok(service) => {
            let replicas = number(&service, "/Spec/Mode/Replicated/Replicas");
            digits = replicas.to_string().len();
            client.service_logs(target, &query).await?
        }
        Err(error) if error.is_not_found() => match client.task_logs(target, &query).await {
            Err(error) if error.is_not_found() => bail!("no such task or service: {target}"),
            other => other?,
        },
        Err(error) => return Err(error.into()),
    };
    let mut names = BTreeMap::new();
    while let Some(frame) = lines.next().await? {
        let text = if options.raw {
            frame.text
        } else {
            let line = Line::of(&frame.text, options.timestamps);
            let name = match names.get(line.task) {
                Some(name) => name,
                None => {
                    let name = prefix(client, line.task, options.no_trunc, digits).await?;
                    names.entry(line.task.to_owned()).or_insert(name)
                }
            };
            line.under(name)
        };
        match frame.stderr {
            true => output::print_error(text)?,
            false => output::print(text)?,
        }
    }
    Ok(())
}

/// What docker puts before a line: `vote.1.f5lxx1zz5pno@host`.
async fn prefix(client: &Client, id: &str, whole: bool, digits: usize) -> anyhow::Result<String> {
    let short = if whole { id } else { output::short(id) };
    let task = match client.task(id).await {
        Ok(task) => task,
        // forgotten since
        Err(error) if error.is_not_found() => return Ok(short.to_owned()),
        Err(error) => return Err(error.into()),
    };
    let node = client.node(text(&task, "/NodeID")).await?;
    let name = text(&task, "/Name");
    let width = digits.saturating_sub(number(&task, "/Slot").to_string().len());
    let host = text(&node, "/Description/Hostname");
    Ok(format!("{name}.{short}@{host}{:width$}", ""))
}

/// A line as the daemon sends it with details.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    time: &'a [u8],
    task: &'a str,
    text: &'a [u8],
}

impl<'a> Line<'a> {
    fn of(mut rest: &'a [u8], timestamps: bool) -> Self {
        let mut word = || {
            let end = rest.iter().position(|b| *b == b' ').unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            rest = after.get(1..).unwrap_or_default();
            word
        };
        let time = if timestamps { word() } else { &[] };
        let details = std::str::from_utf8(word()).unwrap_or_default();
        let task = details
            .split(',')
            .find_map(|detail| detail.strip_prefix("com.docker.swarm.task.id="));
        Self {
            time,
            task: task.unwrap_or_default(),
            text: rest,
        }
    }

    fn under(&self, name: &str) -> Vec<u8> {
        let gap: &[u8] = if self.time.is_empty() { b"" } else { b" " };
        [self.time, gap, name.as_bytes(), b"    | ", self.text].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_under_their_tasks_name() {
        let sent = b"2026-01-01T00:00:00.5Z com.docker.swarm.node.id=n,com.docker.swarm.task.id=abc hello  world\n";
        let line = Line::of(sent, true);
        assert_eq!(line.task, "abc");
        assert_eq!(
            String::from_utf8(line.under("vote.1.abc@one")).unwrap(),
            "2026-01-01T00:00:00.5Z vote.1.abc@one    | hello  world\n"
        );
        let line = Line::of(b"com.docker.swarm.task.id=abc \n", false);
        assert_eq!(line.under("x"), b"x    | \n");
        // nothing that is sent can break it
        assert_eq!(Line::of(b"", true).text, b"");
    }

    #[test]
    fn tail_is_a_number_or_all() {
        assert_eq!(tail("all"), Ok(Tail(None)));
        assert_eq!(tail("0"), Ok(Tail(Some(0))));
        assert!(tail("-1").is_err() && tail("x").is_err());
    }
}
