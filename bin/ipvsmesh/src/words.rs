//! Values of flags, in docker's forms, and times in docker's words.

use std::time::Duration;

use api::client::Filters;
use jiff::Timestamp;
use model::PublishedPort;

/// `5s`, `1m30s`, `500ms`: a Go duration, as docker takes them.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    model::duration(text).map_err(|error| error.to_string())
}

/// Nanoseconds as Go writes a duration, to the millisecond: `1m30s`, `1.5s`, `500ms`.
pub(crate) fn go_duration(nanoseconds: u64) -> String {
    let milliseconds = nanoseconds / 1_000_000;
    let (hours, minutes) = (milliseconds / 3_600_000, milliseconds / 60_000 % 60);
    let (seconds, rest) = (milliseconds / 1000 % 60, milliseconds % 1000);
    if milliseconds < 1000 && rest > 0 {
        return format!("{rest}ms");
    }
    let fraction = match rest {
        0 => String::new(),
        rest => format!(".{rest:03}").trim_end_matches('0').to_owned(),
    };
    match (hours, minutes) {
        (0, 0) => format!("{seconds}{fraction}s"),
        (0, _) => format!("{minutes}m{seconds}{fraction}s"),
        _ => format!("{hours}h{minutes}m{seconds}{fraction}s"),
    }
}

/// A number of tasks.
pub(crate) fn replicas(text: &str) -> Result<u32, String> {
    let wrong = || "use a whole number, 0 or more".to_owned();
    if text.starts_with('+') {
        return Err(wrong());
    }
    text.parse().map_err(|_| wrong())
}

/// `SERVICE=REPLICAS`
pub(crate) fn scale(text: &str) -> Result<(String, u32), String> {
    match text.split_once('=') {
        Some((name, number)) if !name.is_empty() => Ok((name.to_owned(), replicas(number)?)),
        _ => Err("use SERVICE=REPLICAS".to_owned()),
    }
}

/// One `--publish`, which may be a range of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publish(pub(crate) Vec<PublishedPort>);

/// Reads a `--publish`.
pub(crate) fn publish(text: &str) -> Result<Publish, String> {
    let ports = PublishedPort::parse(text);
    ports.map(Publish).map_err(|error| error.to_string())
}

/// `--network`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attachment {
    network: String,
    aliases: Vec<String>,
}

impl Attachment {
    /// As Docker has it.
    pub(crate) fn spec(&self) -> serde_json::Value {
        match self.aliases.is_empty() {
            true => serde_json::json!({"Target": self.network}),
            false => serde_json::json!({"Target": self.network, "Aliases": self.aliases}),
        }
    }
}

/// `NETWORK`, or `name=NETWORK,alias=NAME,...`
pub(crate) fn attachment(text: &str) -> Result<Attachment, String> {
    let mut attachment = Attachment {
        network: text.to_owned(),
        aliases: Vec::new(),
    };
    if !text.contains('=') {
        return Ok(attachment);
    }
    attachment.network.clear();
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("name", name)) => attachment.network = name.to_owned(),
            Some(("alias", alias)) => attachment.aliases.push(alias.to_owned()),
            _ => return Err(format!("{part:?}: use name=NETWORK,alias=NAME")),
        }
    }
    match attachment.network.is_empty() {
        true => Err("network name must be specified: use name=NETWORK,alias=NAME".to_owned()),
        false => Ok(attachment),
    }
}

/// `KEY=VALUE`, or `KEY` for an empty value.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=').unwrap_or((text, "")) {
        ("", _) => Err("use KEY=VALUE".to_owned()),
        (key, value) => Ok((key.to_owned(), value.to_owned())),
    }
}

/// `KEY=VALUE`; `KEY` alone takes the value from our own environment, and is
/// left out where that has none.
pub(crate) fn environment(text: &str) -> Result<Option<String>, String> {
    match text.split_once('=') {
        Some(("", _)) => Err("use KEY=VALUE".to_owned()),
        Some(_) => Ok(Some(text.to_owned())),
        None if text.is_empty() => Err("use KEY=VALUE".to_owned()),
        None => Ok(std::env::var(text)
            .ok()
            .map(|value| format!("{text}={value}"))),
    }
}

/// `KEY=VALUE` of a list's `--filter`.
pub(crate) fn filter(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => {
            Ok((key.trim().to_ascii_lowercase(), value.trim().to_owned()))
        }
        _ => Err("use KEY=VALUE".to_owned()),
    }
}

/// Filters as the API has them.
pub(crate) fn filters(given: &[(String, String)]) -> Filters {
    let mut filters = Filters::default();
    for (key, value) in given {
        filters.add(key, value);
    }
    filters
}

/// Arguments as a shell would part them.
pub(crate) fn arguments(text: &str) -> Result<Arguments, String> {
    let parted = shlex::split(text).ok_or("a quotation mark or a backslash is left open")?;
    Ok(Arguments(parted))
}

/// What [`arguments`] gives; a type of its own, so that it is one flag's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arguments(pub(crate) Vec<String>);

/// How long something took or is ago, in docker's words (`HumanDuration`).
pub(crate) fn roughly(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".to_owned(),
        120..3600 => format!("{minutes} minutes"),
        _ => match hours {
            1 => "About an hour".to_owned(),
            2..48 => format!("{hours} hours"),
            48..336 => format!("{} days", hours / 24),
            336..1440 => format!("{} weeks", hours / 24 / 7),
            1440..17520 => format!("{} months", hours / 24 / 30),
            _ => format!("{} years", hours / 24 / 365),
        },
    }
}

/// `5 seconds ago`; empty where the time cannot be read.
pub(crate) fn ago(time: &str, now: Timestamp) -> String {
    let Ok(time) = time.parse::<Timestamp>() else {
        return String::new();
    };
    let seconds = now.duration_since(time).as_secs();
    format!("{} ago", roughly(seconds).to_lowercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_written_as_go_does() {
        for text in ["0s", "5s", "1m30s", "1h0m0s", "500ms", "1.5s", "2h3m4.25s"] {
            let nanoseconds = duration(text).unwrap().as_nanos();
            let written = go_duration(u64::try_from(nanoseconds).unwrap());
            assert_eq!(written, text);
        }
    }

    #[test]
    fn wrong_values_are_refused() {
        for bad in ["-1", "+1", "x", "", "1.5", "4294967296"] {
            assert!(replicas(bad).is_err(), "{bad}");
        }
        for bad in ["web", "=1", "web=", "web=-1", ""] {
            assert!(scale(bad).is_err(), "{bad}");
        }
        assert!(label("=x").is_err() && label("").is_err());
        assert!(environment("=x").is_err() && environment("").is_err());
        assert!(filter("name").is_err() && filter("=x").is_err());
        assert!(arguments("'open").is_err());
        assert!(publish("99999:80").is_err());
    }

    #[test]
    fn values_are_read() {
        assert_eq!(scale("web=3"), Ok(("web".to_owned(), 3)));
        assert_eq!(label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(label("a"), Ok(("a".to_owned(), String::new())));
        assert_eq!(environment("A=b=c"), Ok(Some("A=b=c".to_owned())));
        assert_eq!(environment("IPVSMESH_IS_NOT_SET_HERE"), Ok(None));
        assert_eq!(arguments("a 'b c'").unwrap().0, ["a", "b c"]);
        assert_eq!(publish("80-82:80-82").unwrap().0.len(), 3);
    }

    #[test]
    fn times_are_in_dockers_words() {
        for (seconds, words) in [
            (-5, "Less than a second"),
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5399, "About an hour"),
            (5400, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (14 * 86400, "2 weeks"),
            (60 * 86400, "2 months"),
            (3 * 365 * 86400, "3 years"),
        ] {
            assert_eq!(roughly(seconds), words, "{seconds}");
        }
        let now = "2026-01-01T00:00:05.5Z".parse().unwrap();
        assert_eq!(ago("2026-01-01T00:00:00Z", now), "5 seconds ago");
        assert_eq!(ago("yesterday", now), "");
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_readers(text in "\\PC*") {
            let _ = (duration(&text), replicas(&text), scale(&text), label(&text));
            let _ = (filter(&text), arguments(&text), publish(&text));
        }
    }
}
