//! `cargo xtask test`: every area in turn, whatever became of those before.

mod area;
mod boot;
mod results;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{place, progress::seconds};
use area::Area;
use results::{Counts, Results};

/// Which tests.
#[derive(Args)]
pub(crate) struct Options {
    /// Go on for longer where chance is part of a test: properties, storms
    #[arg(long)]
    pub(crate) long: bool,
    /// Only tests with this in their names, and no other checks
    pub(crate) filter: Option<String>,
}

/// What became of an area.
struct Outcome {
    area: Area,
    results: Results,
    failure: Option<anyhow::Error>,
    time: Duration,
}

/// Runs them; 0 if nothing failed.
pub(crate) fn run(options: &Options) -> Result<u8> {
    let workspace = place::workspace()
        .context("the tests are built from the project's sources, which are not here")?;
    let outcomes: Vec<_> = Area::ALL
        .iter()
        .filter(|area| options.filter.is_none() || area.has_tests())
        .map(|area| attempt(*area, &workspace, options))
        .collect();
    let (table, whole) = summary(&outcomes);
    println!("\n{}{table}\n{whole}", failures(&outcomes));
    Ok(u8::from(whole.failed > 0))
}

fn attempt(area: Area, workspace: &Path, options: &Options) -> Outcome {
    println!("\n=== {}: {}", area.name(), area.about());
    let since = Instant::now();
    let mut results = Results::default();
    let failure = area.run(workspace, options, &mut results).err();
    let time = since.elapsed();
    match &failure {
        None => println!("=== {}: ok, {}", area.name(), seconds(time)),
        Some(error) => println!("=== {}: FAILED, {}: {error:#}", area.name(), seconds(time)),
    }
    Outcome {
        area,
        results,
        failure,
        time,
    }
}

/// The tests that failed and why, last: what they printed is far above.
fn failures(outcomes: &[Outcome]) -> String {
    let all = outcomes
        .iter()
        .flat_map(|outcome| &outcome.results.failures);
    all.map(|failure| format!("FAILED {failure}\n\n")).collect()
}

/// A table with a line an area, and all counts together. An area that failed
/// otherwise than by a test (it was not formatted, did not compile, did not
/// boot) counts as one failure.
fn summary(outcomes: &[Outcome]) -> (String, Counts) {
    let mut table = String::new();
    let mut whole = Counts::default();
    let mut time = Duration::ZERO;
    for outcome in outcomes {
        let mut counts = outcome.results.counts;
        if outcome.failure.is_some() && counts.failed == 0 {
            counts.failed = 1;
        }
        let verdict = if outcome.failure.is_some() {
            "FAILED"
        } else {
            "ok"
        };
        let said = if outcome.area.has_tests() {
            counts.to_string()
        } else {
            String::new()
        };
        let line = format!(
            "{:<8} {verdict:<7} {:>13}  {said}",
            outcome.area.name(),
            seconds(outcome.time)
        );
        table.push_str(line.trim_end());
        table.push('\n');
        whole.add(counts);
        time += outcome.time;
    }
    table.push_str(&format!("{:<16} {:>13}", "in all", seconds(time)));
    (table, whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(area: Area, counts: Counts, failure: Option<&'static str>) -> Outcome {
        Outcome {
            area,
            results: Results {
                counts,
                failures: Vec::new(),
            },
            failure: failure.map(anyhow::Error::msg),
            time: Duration::from_secs(61),
        }
    }

    #[test]
    fn a_check_that_fails_is_a_failure() {
        let counts = Counts {
            passed: 3,
            failed: 1,
            ignored: 0,
        };
        let outcomes = [
            outcome(Area::Fmt, Counts::default(), Some("not formatted")),
            outcome(Area::Unit, counts, Some("a test failed")),
        ];
        let (table, whole) = summary(&outcomes);
        assert_eq!(whole.to_string(), "3 passed, 2 failed");
        assert_eq!(
            table,
            "fmt      FAILED     1 min 01 s\n\
             unit     FAILED     1 min 01 s  3 passed, 1 failed\n\
             in all              2 min 02 s"
        );
    }

    #[test]
    fn nothing_failed() {
        let counts = Counts {
            passed: 3,
            failed: 0,
            ignored: 2,
        };
        let (_, whole) = summary(&[outcome(Area::Unit, counts, None)]);
        assert_eq!(whole.to_string(), "3 passed, 0 failed, 2 skipped");
    }
}
