//! `ipvsmesh events`: what the mesh does, and why, as `docker events` prints it.

use api::client::{Client, EventQuery};
use clap::Args;
use jiff::{Timestamp, tz::TimeZone};
use serde_json::Value;

use crate::{
    output::{self, OneFormat, text},
    words,
};

/// `events`
#[derive(Debug, Args)]
#[command(after_help = "\
Filters: type, event, service, task, node, network, config, secret, container, daemon, scope; one
key twice is either of two values, different keys must all fit. docs/events.md has all types and events.

Examples:
  ipvsmesh events
  ipvsmesh events --since 10m --filter service=vote --filter type=destination
  ipvsmesh events --since 1h --until 0s --filter event=repair --format json
  ipvsmesh events --format '{{.Type}} {{.Action}} {{.Actor.Attributes.name}}'")]
pub(crate) struct Events {
    /// Only those that fit: KEY=VALUE
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = words::filter)]
    filter: Vec<(String, String)>,
    /// First those that are remembered since then: a time, or how long ago
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// Only until then, and end
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Timestamp>,
    /// json, or a Go template
    #[arg(long, value_name = "json|TEMPLATE")]
    format: Option<OneFormat>,
}

/// `10m` ago, a time of RFC 3339 (without an offset: here), a day, or seconds since 1970.
fn moment(text: &str) -> Result<Timestamp, String> {
    let wrong = || "use 10m, 2026-01-31T13:00:00, 2026-01-31, or seconds since 1970".to_owned();
    if let Ok(ago) = words::duration(text).map(jiff::SignedDuration::try_from) {
        let ago = ago.map_err(|_| wrong())?;
        return Timestamp::now().checked_sub(ago).map_err(|_| wrong());
    }
    if let Ok(seconds) = text.parse::<f64>() {
        let since = jiff::SignedDuration::try_from_secs_f64(seconds).map_err(|_| wrong())?;
        return Timestamp::from_duration(since).map_err(|_| wrong());
    }
    let here = || {
        let time: jiff::civil::DateTime = text.parse().ok()?;
        Some(time.to_zoned(TimeZone::system()).ok()?.timestamp())
    };
    text.parse().ok().or_else(here).ok_or_else(wrong)
}

/// Prints events until there are no more.
pub(crate) async fn run(client: &Client, options: &Events) -> anyhow::Result<()> {
    let query = EventQuery {
        filters: words::filters(&options.filter),
        since: options.since,
        until: options.until,
    };
    let mut events = client.events(&query).await?;
    let zone = TimeZone::system();
    while let Some(event) = events.next().await? {
        let line = match &options.format {
            Some(format) => format.render(&event)?,
            None => line(&event, &zone) + "\n",
        };
        output::print(line)?;
    }
    Ok(())
}

/// Docker's line: time, type, action, id, and attributes in the order of their keys.
fn line(event: &Value, zone: &TimeZone) -> String {
    let nanoseconds = event["timeNano"].as_i64().unwrap_or_default();
    let at = Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or_default();
    let at = at.to_zoned(zone.clone());
    let offset = match at.offset().seconds() {
        0 => "Z".to_owned(),
        _ => at.strftime("%:z").to_string(),
    };
    let mut line = format!(
        "{}{offset} {} {} {}",
        at.strftime("%Y-%m-%dT%H:%M:%S.%9f"),
        text(event, "/Type"),
        text(event, "/Action"),
        text(event, "/Actor/ID")
    );
    let attributes = event
        .pointer("/Actor/Attributes")
        .and_then(Value::as_object);
    let attributes = attributes.into_iter().flatten();
    let attributes: Vec<_> = attributes
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    if !attributes.is_empty() {
        line.push_str(&format!(" ({})", attributes.join(", ")));
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_are_dockers() {
        let event = json!({
            "Type": "task", "Action": "running", "scope": "swarm",
            "Actor": {"ID": "abc", "Attributes": {"service": "vote", "name": "vote.1"}},
            "time": 1_767_225_600, "timeNano": 1_767_225_600_500_000_000_i64,
        });
        assert_eq!(
            line(&event, &TimeZone::UTC),
            "2026-01-01T00:00:00.500000000Z task running abc (name=vote.1, service=vote)"
        );
        let east = TimeZone::fixed(jiff::tz::offset(2));
        assert!(line(&event, &east).starts_with("2026-01-01T02:00:00.500000000+02:00 task"));
    }

    #[test]
    fn times_are_dockers() {
        let half = Timestamp::new(1_767_225_600, 500_000_000).unwrap();
        assert_eq!(moment("1767225600.5"), Ok(half));
        assert_eq!(moment("2026-01-01T00:00:00.5Z"), Ok(half));
        assert_eq!(moment("2026-01-01T02:00:00.5+02:00"), Ok(half));
        assert!(moment("2026-01-01T13:00:00").is_ok() && moment("2026-01-01").is_ok());
        let ago = Timestamp::now().duration_since(moment("10m").unwrap());
        assert!((599..602).contains(&ago.as_secs()), "{ago}");
        for wrong in ["yesterday", "", "-5m", "1e300"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }
}
