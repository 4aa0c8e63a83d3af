//! `x-ipvsmesh` of a service: what compose has no words for. Each key is a label
//! `ipvsmesh.KEY` of the service, which the daemon reads.

use model::label;

use crate::{
    cursor::{Cursor, Fields},
    node::Value,
};

const PREFIX: &str = "ipvsmesh.";

/// Options of a service.
#[derive(Debug, Default)]
pub(super) struct Options(Vec<(String, String)>);

impl Options {
    pub(super) fn read(fields: &mut Fields<'_>) -> Self {
        let Some(at) = fields.take("x-ipvsmesh") else {
            return Self::default();
        };
        let one = |(key, at): (String, Cursor<'_>)| {
            let key = key.replace('_', "-");
            (format!("{PREFIX}{key}"), value(&at))
        };
        Self(at.entries().into_iter().map(one).collect())
    }

    /// Its tasks are commands of the host.
    pub(super) fn is_process(&self) -> bool {
        let mut labels = self.0.iter();
        labels.any(|(key, value)| key == label::RUNTIME && value == "process")
    }

    /// As labels; that tasks are containers goes without saying.
    pub(super) fn labels(self) -> Vec<(String, String)> {
        let process = self.is_process();
        let mut labels = self.0;
        labels.retain(|(key, _)| key != label::RUNTIME || process);
        labels
    }
}

/// `{1: 3, 2: 1}` is `1=3,2=1`, and `[a, b]` is `a,b`.
fn value(at: &Cursor<'_>) -> String {
    match at.node.value {
        Value::Map(_) => {
            let entries = at.entries().into_iter();
            let parts: Vec<_> = entries
                .map(|(key, at)| format!("{key}={}", at.text()))
                .collect();
            parts.join(",")
        }
        Value::List(_) => at.texts().join(","),
        _ => at.text(),
    }
}
