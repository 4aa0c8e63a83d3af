//! Flags of where tasks are.

use api::preferences;
use clap::Args;
use model::{Constraint, Spread};
use serde_json::{Value, json};

use super::changed;

/// Of `service create`.
#[derive(Debug, Args)]
pub(super) struct Placement {
    /// What a node must be for its tasks to be there: KEY==VALUE or KEY!=VALUE, of node.id,
    /// node.hostname, node.role, node.platform.os, node.platform.arch, node.labels.NAME
    #[arg(long, value_name = "CONSTRAINT")]
    constraint: Vec<Constraint>,
    /// Spread its tasks over the values of a label of nodes: spread=node.labels.NAME
    #[arg(long, value_name = "PREFERENCE", value_parser = preference)]
    placement_pref: Vec<Spread>,
    #[command(flatten)]
    most: MaxPerNode,
}

/// Of `service update`.
#[derive(Debug, Args)]
pub(super) struct PlacementChanges {
    /// Add a placement constraint, such as node.labels.disk==ssd
    #[arg(long, value_name = "CONSTRAINT")]
    constraint_add: Vec<Constraint>,
    /// Remove a placement constraint
    #[arg(long, value_name = "CONSTRAINT")]
    constraint_rm: Vec<Constraint>,
    /// Add a placement preference: spread=node.labels.NAME
    #[arg(long, value_name = "PREFERENCE", value_parser = preference)]
    placement_pref_add: Vec<Spread>,
    /// Remove a placement preference
    #[arg(long, value_name = "PREFERENCE", value_parser = preference)]
    placement_pref_rm: Vec<Spread>,
    #[command(flatten)]
    most: MaxPerNode,
}

/// Of both.
#[derive(Debug, Args)]
struct MaxPerNode {
    /// The most tasks of it on one node (0: any number)
    #[arg(long, value_name = "N")]
    replicas_max_per_node: Option<u32>,
}

/// `spread=node.labels.rack`
fn preference(text: &str) -> Result<Spread, String> {
    match text.split_once('=') {
        Some(("spread", over)) => over
            .parse()
            .map_err(|error: model::InvalidSpread| error.to_string()),
        _ => Err("use spread=node.labels.NAME".to_owned()),
    }
}

impl Placement {
    /// Refuses a limit where there is one task a node anyway.
    pub(super) fn check(&self, is_global: bool) -> Result<(), String> {
        match is_global && self.most.replicas_max_per_node.is_some_and(|most| most > 0) {
            true => Err("replicas-max-per-node can only be used with replicated mode: leave out --replicas-max-per-node or --mode global".to_owned()),
            false => Ok(()),
        }
    }

    /// Writes what was given into a task template.
    pub(super) fn apply(&self, template: &mut Value) {
        if !self.constraint.is_empty() {
            template["Placement"]["Constraints"] = json!(self.constraint);
        }
        if !self.placement_pref.is_empty() {
            template["Placement"]["Preferences"] = preferences(&self.placement_pref);
        }
        self.most.apply(template);
    }
}

impl PlacementChanges {
    /// Writes what was given into a task template.
    pub(super) fn apply(&self, template: &mut Value) {
        let placement = &template["Placement"];
        if !self.constraint_add.is_empty() || !self.constraint_rm.is_empty() {
            let has = placement["Constraints"].as_array().into_iter().flatten();
            let has = has.filter_map(|text| text.as_str()?.parse().ok()).collect();
            let all = changed(has, &self.constraint_add, &self.constraint_rm);
            template["Placement"]["Constraints"] = json!(all);
        }
        let placement = &template["Placement"];
        if !self.placement_pref_add.is_empty() || !self.placement_pref_rm.is_empty() {
            let has = placement["Preferences"].as_array().into_iter().flatten();
            let over = |one: &Value| one["Spread"]["SpreadDescriptor"].as_str()?.parse().ok();
            let has = has.filter_map(over).collect();
            let all = changed(has, &self.placement_pref_add, &self.placement_pref_rm);
            template["Placement"]["Preferences"] = preferences(&all);
        }
        self.most.apply(template);
    }
}

impl MaxPerNode {
    fn apply(&self, template: &mut Value) {
        if let Some(most) = self.replicas_max_per_node {
            template["Placement"]["MaxReplicas"] = json!(most);
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Given {
        #[command(flatten)]
        changes: PlacementChanges,
    }

    #[test]
    fn what_is_there_is_changed_and_the_rest_stays() {
        let mut template = json!({"Placement": {
            "Constraints": ["node.labels.disk==ssd"],
            "Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.rack"}}],
            "MaxReplicas": 2,
        }});
        let mut given = |flags: &[&str]| {
            let words = std::iter::once("update").chain(flags.iter().copied());
            Given::parse_from(words).changes.apply(&mut template);
            template["Placement"].clone()
        };
        let before = given(&[]);
        assert_eq!(before["MaxReplicas"], 2);
        let after = given(&[
            "--constraint-rm=node.labels.disk==ssd",
            "--placement-pref-add=spread=node.labels.room",
            "--placement-pref-rm=spread=node.labels.rack",
            "--replicas-max-per-node=0",
        ]);
        let wanted = json!({
            "Constraints": [],
            "Preferences": [{"Spread": {"SpreadDescriptor": "node.labels.room"}}],
            "MaxReplicas": 0,
        });
        assert_eq!(after, wanted);
        preference("binpack=node.labels.room").unwrap_err();
        preference("spread=room").unwrap_err();
    }
}
