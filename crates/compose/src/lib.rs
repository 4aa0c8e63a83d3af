//! Compose files (<https://github.com/compose-spec/compose-spec>) as stacks: from their
//! text, variables and the files that they name to the bodies of the requests that make
//! up the stack, as `docker stack deploy` would send them. Nothing here reads a file or
//! asks a daemon. What is wrong is told with file, line and key, all of it at once; what
//! means nothing to a mesh is told as a warning, in docker's words.
//!
//! ```text
//! text -> node (YAML) -> interpolate -> merge -> service, object -> Stack
//! ```
#![forbid(unsafe_code)]

mod cursor;
pub mod diff;
mod env_file;
mod interpolate;
mod merge;
mod node;
mod object;
mod problem;
mod service;
mod words;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

pub use env_file::variables;
pub use problem::{Problem, Problems};

use crate::{cursor::Cursor, node::Node, problem::Log};

/// The label that names a thing's stack.
pub const NAMESPACE: &str = "com.docker.stack.namespace";
/// The label that has a service's image as its compose file says it.
pub const IMAGE: &str = "com.docker.stack.image";

/// A compose file.
#[derive(Clone, Debug)]
pub struct Source {
    /// What it is called in messages.
    pub name: String,
    /// What it says.
    pub text: String,
}

/// Reads a file that a compose file names, by its absolute path.
pub type Read<'a> = dyn Fn(&Path) -> Result<Vec<u8>, String> + 'a;

/// What a stack is made from.
pub struct Input<'a> {
    /// The stack's name.
    pub stack: &'a str,
    /// Its files: a later one is laid over those before.
    pub sources: &'a [Source],
    /// Absolute paths are below this directory where they are relative in a file.
    pub directory: &'a Path,
    /// What a variable is.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// Reads files.
    pub read: &'a Read<'a>,
}

/// A stack: bodies of requests to Docker's API, and in which order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stack {
    /// Bodies of `POST /networks/create`.
    pub networks: Vec<Value>,
    /// Names of networks that must be there.
    pub external_networks: Vec<String>,
    /// Bodies of `POST /configs/create`.
    pub configs: Vec<Value>,
    /// Names of configs that must be there.
    pub external_configs: Vec<String>,
    /// Bodies of `POST /secrets/create`.
    pub secrets: Vec<Value>,
    /// Names of secrets that must be there.
    pub external_secrets: Vec<String>,
    /// In the order in which they are first started.
    pub services: Vec<Service>,
    /// What of the files means nothing here.
    pub warnings: Vec<Problem>,
}

/// A service of a stack.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its name in the file.
    pub name: String,
    /// Body of `POST /services/create`. Networks, configs and secrets are named by name.
    pub spec: Value,
    /// Services of the stack that are started first.
    pub after: Vec<After>,
}

/// What a service waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct After {
    /// The other one's name in the file.
    pub service: String,
    /// Until when.
    pub until: Until,
}

/// How far a service must be for those that depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Its tasks run; where they have a check, are healthy: no name of the mesh and no
    /// connection leads to them before.
    Running,
    /// Its tasks have ended well.
    Completed,
}

/// The name of a thing of a stack.
fn scoped(stack: &str, name: &str) -> String {
    format!("{stack}_{name}")
}

/// Labels with the one of the stack.
fn labelled(stack: &str, labels: Vec<(String, String)>) -> Map<String, Value> {
    let mut all: Map<_, _> = labels.into_iter().map(|(k, v)| (k, json!(v))).collect();
    all.insert(NAMESPACE.to_owned(), json!(stack));
    all
}

/// An absolute path without `.` and `..`; `~` is the user's home.
fn absolute(input: &Input<'_>, path: &str) -> PathBuf {
    let home = path.strip_prefix("~/").and_then(|rest| {
        let home = (input.variable)("HOME")?;
        Some(PathBuf::from(home).join(rest))
    });
    let whole = home.unwrap_or_else(|| input.directory.join(path));
    let mut clean = PathBuf::new();
    for part in whole.components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    clean
}

/// The files as one tree with all variables filled in.
fn tree(input: &Input<'_>, log: &Log) -> Option<Node> {
    let mut whole: Option<Node> = None;
    for source in input.sources {
        let file = source.name.as_str().into();
        let mut node = match Node::parse(&file, &source.text) {
            Ok(node) => node,
            Err(problem) => {
                log.wrong(problem);
                continue;
            }
        };
        if let node::Value::Map(map) = &mut node.value {
            for (key, value) in map {
                // extensions are read where they are referred to
                if !key.starts_with("x-") {
                    interpolate::interpolate(value, key, input.variable, log);
                }
            }
        }
        match &mut whole {
            Some(whole) => merge::merge(whole, node),
            None => whole = Some(node),
        }
    }
    whole
}

/// Makes a stack of compose files.
///
/// # Errors
/// All that is wrong with them.
pub fn compile(input: &Input<'_>) -> Result<Stack, Problems> {
    let log = Log::default();
    let mut stack = Stack::default();
    if let Some(root) = tree(input, &log) {
        stack = read(input, &root, &log);
    }
    let (mut stack, warnings) = log.end(stack)?;
    stack.warnings = warnings;
    Ok(stack)
}

/// The files as one, with all variables filled in, as YAML. Its services are not looked
/// at.
///
/// # Errors
/// A file is no YAML, or a variable is missing.
pub fn config(input: &Input<'_>) -> Result<String, Problems> {
    let log = Log::default();
    let root = tree(input, &log);
    let (root, _) = log.end(root)?;
    let json = root.as_ref().map(Node::json).unwrap_or_default();
    serde_saphyr::to_string(&json).map_err(|error| {
        Problems(vec![Problem {
            file: input.stack.into(),
            line: 0,
            key: String::new(),
            what: format!("it cannot be written: {error}"),
        }])
    })
}

fn read(input: &Input<'_>, root: &Node, log: &Log) -> Stack {
    let mut fields = Cursor::new(root, "", log).fields();
    // of old files, and of compose's own projects
    for key in ["version", "name"] {
        fields.take(key);
    }
    fields.ignore(&["include"]);
    let mut objects = object::Objects::read(input, &mut fields);
    let services = fields.take("services");
    let services = services.map(|at| service::read(input, &at, &mut objects));
    if services.as_ref().is_none_or(Vec::is_empty) {
        fields.at.wrong("no services are defined");
    }
    fields.end();
    let mut stack = objects.stack();
    stack.services = services.unwrap_or_default();
    stack
}

#[cfg(test)]
mod tests;
