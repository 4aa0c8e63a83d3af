use std::{env::consts::ARCH, fmt, num::NonZeroU32, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Node, text::serde_by_text};

/// On which nodes a service's tasks are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    /// What a node must be: all of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub constraints: Vec<Constraint>,
    /// Labels over whose values tasks are spread, the most important one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spread: Vec<Spread>,
    /// The most slots that have a task on one node; `None`: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_per_node: Option<NonZeroU32>,
}

/// A label of nodes over whose values tasks are spread, as Docker names it:
/// `node.labels.rack`
/// (<https://docs.docker.com/reference/cli/docker/service/create/#placement-pref>).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Spread(String);

/// Nothing that tasks can be spread over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tasks cannot be spread over {0:?}: use node.labels.NAME")]
pub struct InvalidSpread(String);

impl FromStr for Spread {
    type Err = InvalidSpread;

    fn from_str(text: &str) -> Result<Self, InvalidSpread> {
        match text.strip_prefix(LABEL) {
            Some(label) if !label.is_empty() => Ok(Self(label.to_owned())),
            _ => Err(InvalidSpread(text.to_owned())),
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{LABEL}{}", self.0)
    }
}

serde_by_text!(Spread);

impl Spread {
    /// A node's value of it, which is empty where it does not have the label.
    pub fn of<'a>(&self, node: &'a Node) -> &'a str {
        node.label(&self.0)
    }
}

/// How Docker names labels of nodes.
const LABEL: &str = "node.labels.";

/// What a node must be for tasks of a service to be there, in Docker's words:
/// `node.hostname==one`, `node.labels.disk!=ssd`
/// (<https://docs.docker.com/reference/cli/docker/service/create/#constraint>).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Constraint {
    key: ConstraintKey,
    /// `==` rather than `!=`.
    equal: bool,
    value: String,
}

/// Of what a constraint is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ConstraintKey {
    Id,
    Hostname,
    Role,
    Os,
    Arch,
    Label(String),
}

/// Not a constraint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConstraint {
    /// It has another form.
    #[error("constraint {0:?} is not valid: use KEY==VALUE or KEY!=VALUE")]
    Form(String),
    /// Nodes have no such thing.
    #[error(
        "constraint {0:?} is of something that nodes do not have: use node.id, node.hostname, node.role, node.platform.os, node.platform.arch or node.labels.NAME"
    )]
    Key(String),
}

impl FromStr for Constraint {
    type Err = InvalidConstraint;

    fn from_str(text: &str) -> Result<Self, InvalidConstraint> {
        let (key, equal, value) = match (text.split_once("=="), text.split_once("!=")) {
            (Some((key, value)), _) => (key, true, value),
            (None, Some((key, value))) => (key, false, value),
            (None, None) => return Err(InvalidConstraint::Form(text.to_owned())),
        };
        let (key, value) = (key.trim(), value.trim());
        if key.is_empty() || value.is_empty() {
            return Err(InvalidConstraint::Form(text.to_owned()));
        }
        let key = match key {
            "node.id" => ConstraintKey::Id,
            "node.hostname" => ConstraintKey::Hostname,
            "node.role" => ConstraintKey::Role,
            "node.platform.os" => ConstraintKey::Os,
            "node.platform.arch" => ConstraintKey::Arch,
            _ => match key.strip_prefix(LABEL) {
                Some(label) if !label.is_empty() => ConstraintKey::Label(label.to_owned()),
                _ => return Err(InvalidConstraint::Key(text.to_owned())),
            },
        };
        Ok(Self {
            key,
            equal,
            value: value.to_owned(),
        })
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            ConstraintKey::Id => f.write_str("node.id"),
            ConstraintKey::Hostname => f.write_str("node.hostname"),
            ConstraintKey::Role => f.write_str("node.role"),
            ConstraintKey::Os => f.write_str("node.platform.os"),
            ConstraintKey::Arch => f.write_str("node.platform.arch"),
            ConstraintKey::Label(label) => write!(f, "{LABEL}{label}"),
        }?;
        let operator = if self.equal { "==" } else { "!=" };
        write!(f, "{operator}{}", self.value)
    }
}

serde_by_text!(Constraint);

impl Constraint {
    /// Whether a node is so; upper and lower case are one, as with Docker. A label that
    /// it does not have is empty.
    pub fn fits(&self, node: &Node) -> bool {
        let has = match &self.key {
            ConstraintKey::Id => node.id.as_str(),
            ConstraintKey::Hostname => &node.hostname,
            ConstraintKey::Role => "manager",
            ConstraintKey::Os => "linux",
            ConstraintKey::Arch => ARCH,
            ConstraintKey::Label(label) => node.label(label),
        };
        let mut equal = has.eq_ignore_ascii_case(&self.value);
        if self.key == ConstraintKey::Arch {
            // as Go calls them, and so Docker's tools
            let other = match ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                arch => arch,
            };
            equal |= other.eq_ignore_ascii_case(&self.value);
        }
        equal == self.equal
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Availability, NodeId};

    #[test]
    fn nodes_fit_as_with_docker() {
        let node = Node {
            id: NodeId::from_random([1; 16]),
            hostname: "One".to_owned(),
            number: 1,
            created: jiff::Timestamp::UNIX_EPOCH,
            labels: [("disk".to_owned(), "SSD".to_owned())].into(),
            availability: Availability::Active,
        };
        let fits = |text: &str| text.parse::<Constraint>().unwrap().fits(&node);
        for yes in [
            "node.hostname==one",
            "node.role == manager",
            "node.labels.disk==ssd",
            "node.labels.rack!=7",
            "node.platform.os==linux",
            &format!("node.id=={}", node.id),
            &format!("node.platform.arch=={ARCH}"),
        ] {
            assert!(fits(yes), "{yes}");
        }
        for no in [
            "node.role!=manager",
            "node.role==worker",
            "node.labels.rack==7",
            "node.hostname!=one",
        ] {
            assert!(!fits(no), "{no}");
        }
    }

    #[test]
    fn tasks_are_spread_over_labels_alone() {
        for wrong in ["", "node.labels.", "node.id", "engine.labels.os", "rack"] {
            wrong.parse::<Spread>().unwrap_err();
        }
        let rack: Spread = "node.labels.rack".parse().unwrap();
        assert_eq!(rack.to_string(), "node.labels.rack");
    }

    #[test]
    fn what_is_no_constraint_is_refused() {
        for wrong in [
            "",
            "node.role",
            "node.role=manager",
            "==x",
            "node.role==",
            "node.colour==red",
            "node.labels.==x",
        ] {
            wrong.parse::<Constraint>().unwrap_err();
        }
        let text = "node.labels.a.b!=c==d";
        assert_eq!(
            "node.labels.a.b != c"
                .parse::<Constraint>()
                .unwrap()
                .to_string(),
            "node.labels.a.b!=c"
        );
        assert!(text.parse::<Constraint>().is_ok());
    }
}
