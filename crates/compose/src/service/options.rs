//! `x-ipvsmesh` of a service: what compose has no words for. Each key is a label
//! `ipvsmesh.KEY` of the service, which the daemon reads.

use std::collections::BTreeMap;

use model::label;

use crate::{
    cursor::{Cursor, Fields},
    node::Value,
};

const PREFIX: &str = "ipvsmesh.";

/// What tasks are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Runtime {
    /// Containers of an image.
    #[default]
    Docker,
    /// Programs of the host.
    Process,
    /// Servers of others.
    Static,
}

/// Options of a service.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub(super) runtime: Runtime,
    pub(super) labels: BTreeMap<String, String>,
}

impl Options {
    pub(super) fn read(fields: &mut Fields<'_>) -> Self {
        let mut options = Self::default();
        let at = fields.take("x-ipvsmesh");
        for (key, at) in at.iter().flat_map(Cursor::entries) {
            let label = format!("{PREFIX}{}", key.replace('_', "-"));
            let text = value(&at);
            if label == label::RUNTIME {
                options.runtime = match text.as_str() {
                    "docker" => Runtime::Docker,
                    "process" => Runtime::Process,
                    "static" => Runtime::Static,
                    _ => {
                        at.wrong("use docker, process or static");
                        Runtime::Docker
                    }
                };
                // that tasks are containers goes without saying
                if options.runtime == Runtime::Docker {
                    continue;
                }
            }
            options.labels.insert(label, text);
        }
        options
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
