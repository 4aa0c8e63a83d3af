//! Commands that take several names: what the daemon refuses of one keeps no other from
//! its turn, as with docker.

use std::fmt;

use api::client::ClientError;

use crate::output::{self, Closed};

/// What became of several.
pub(crate) struct Several<T> {
    /// Of those that it worked for, in the order that was asked for.
    pub(crate) done: Vec<T>,
    /// Of the others.
    pub(crate) failures: Failures,
}

/// Does it to each. What would fail the others as well is the last: a daemon that does not
/// answer.
///
/// # Errors
/// Nobody reads the output any more.
pub(crate) async fn each<I, T>(
    items: impl IntoIterator<Item = I>,
    mut act: impl AsyncFnMut(I) -> anyhow::Result<T>,
) -> anyhow::Result<Several<T>> {
    let (mut done, mut failures) = (Vec::new(), Failures::default());
    for item in items {
        match act(item).await {
            Ok(value) => done.push(value),
            Err(error) if error.is::<Closed>() => return Err(error),
            Err(error) => {
                let goes_on = is_of_one(&error);
                failures.0.push(error);
                if !goes_on {
                    break;
                }
            }
        }
    }
    Ok(Several { done, failures })
}

/// Asks for each of these.
///
/// # Errors
/// As for [`each`].
pub(crate) async fn find<T>(
    names: &[String],
    mut ask: impl AsyncFnMut(&String) -> Result<T, ClientError>,
) -> anyhow::Result<Several<T>> {
    each(names, async |name| Ok(ask(name).await?)).await
}

/// Removes each of these, and prints its name.
///
/// # Errors
/// What could not be removed, and as for [`each`].
pub(crate) async fn remove(
    names: &[String],
    mut act: impl AsyncFnMut(&String) -> Result<(), ClientError>,
) -> anyhow::Result<()> {
    let remove = async |name| {
        act(name).await?;
        output::print(format!("{name}\n"))
    };
    each(names, remove).await?.failures.end()
}

/// Whether the next may fare better.
fn is_of_one(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref();
    error.is_none_or(|error| matches!(error, ClientError::Refused { .. }))
}

/// Errors, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Failures(Vec<anyhow::Error>);

impl Failures {
    /// Fails where something has; with just that, where it was one.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        match (self.0.pop(), self.0.is_empty()) {
            (None, _) => Ok(()),
            (Some(only), true) => Err(only),
            (Some(last), false) => {
                self.0.push(last);
                Err(self.into())
            }
        }
    }

    /// These, and then others.
    pub(crate) fn and(mut self, mut others: Self) -> Self {
        self.0.append(&mut others.0);
        self
    }

    /// Each of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &anyhow::Error> {
        self.0.iter()
    }
}

impl fmt::Display for Failures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Failures {}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::anyhow;

    use super::*;

    fn refused(name: &str) -> anyhow::Error {
        let message = format!("service {name} not found");
        ClientError::Refused {
            status: 404,
            message,
        }
        .into()
    }

    /// What became of these, and the words of the end; the first letter says what happens.
    async fn tried(names: &[&'static str]) -> (Vec<String>, Option<String>) {
        let act = async |name: &&'static str| match name.as_bytes()[0] {
            b'r' => Err(refused(name)),
            b'w' => Err(anyhow!("{name} is wrong")),
            b'u' => Err(ClientError::Unreachable {
                socket: "/s".into(),
                reason: io::ErrorKind::NotFound.into(),
            }
            .into()),
            _ => Ok((*name).to_owned()),
        };
        let several = each(names, act).await.unwrap();
        let end = several.failures.end().err().map(|error| error.to_string());
        (several.done, end)
    }

    #[tokio::test]
    async fn what_is_refused_keeps_no_other_from_its_turn() {
        let (done, end) = tried(&["a", "b"]).await;
        assert_eq!((done.len(), end), (2, None));
        let (done, end) = tried(&["r1", "a", "w1", "b"]).await;
        assert_eq!(done, ["a", "b"]);
        let words = "Error response from daemon: service r1 not found\nw1 is wrong";
        assert_eq!(end.as_deref(), Some(words));
    }

    #[tokio::test]
    async fn a_daemon_that_does_not_answer_is_asked_once() {
        let (done, end) = tried(&["a", "u1", "u2", "b"]).await;
        assert_eq!(done, ["a"]);
        assert_eq!(end.unwrap().lines().count(), 1);
    }

    #[tokio::test]
    async fn one_failure_is_itself() {
        let several = each(&["x"], async |x: &&str| Err::<(), _>(refused(x))).await;
        let error = several.unwrap().failures.end().unwrap_err();
        assert!(error.is::<ClientError>(), "{error:?}");
    }
}
