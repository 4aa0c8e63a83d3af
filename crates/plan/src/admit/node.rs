//! Changing a node.

use std::collections::BTreeMap;

use model::{Availability, Node, NodeId, Object, Revision, State, Transaction};

use super::Refusal;

/// Changes a node that still has this version.
///
/// # Errors
/// There is none, or somebody else has changed it.
pub fn update_node(
    state: &State,
    id: &NodeId,
    version: Revision,
    labels: BTreeMap<String, String>,
    availability: Availability,
) -> Result<Transaction, Refusal> {
    let node = state.nodes.get(id).ok_or_else(|| Refusal::NotFound {
        what: "node",
        name: id.to_string(),
    })?;
    if node.version != version {
        return Err(Refusal::OutOfSequence {
            what: "node",
            name: node.hostname.clone(),
            is: node.version,
            given: version,
        });
    }
    let changed = Node {
        labels,
        availability,
        ..Node::clone(node)
    };
    let mut tx = Transaction::default();
    if changed != **node {
        tx.replace(version, Object::Node(changed));
    }
    Ok(tx)
}
