//! `networks` of a service.

use serde_json::{Value, json};

use crate::{cursor::Fields, node::Value as Yaml, object::Objects};

/// `Networks` of a `TaskTemplate`, each with the service's own name as an alias.
pub(super) fn networks(
    service: &str,
    fields: &mut Fields<'_>,
    objects: &mut Objects,
) -> Vec<Value> {
    let at = fields.take("networks");
    let mut wanted: Vec<(i64, String, Vec<String>)> = Vec::new();
    match at.as_ref().map(|at| &at.node.value) {
        Some(Yaml::List(_)) => {
            let texts = at.iter().flat_map(|at| at.texts());
            wanted.extend(texts.map(|name| (0, name, Vec::new())));
        }
        _ => {
            for (name, at) in at.iter().flat_map(|at| at.entries()) {
                let mut fields = at.fields();
                let aliases = fields.take("aliases").map(|at| at.texts());
                // the first one has the way out
                let priority = ["gw_priority", "priority"].map(|key| fields.take(key));
                let priority = priority.into_iter().flatten().next();
                let priority = priority.map_or(0, |at| at.number::<i64>());
                fields.ignore(&[
                    "ipv4_address",
                    "ipv6_address",
                    "link_local_ips",
                    "mac_address",
                    "interface_name",
                    "driver_opts",
                ]);
                fields.end();
                wanted.push((priority, name, aliases.unwrap_or_default()));
            }
        }
    }
    if wanted.is_empty() {
        wanted.push((0, "default".to_owned(), Vec::new()));
    }
    wanted.sort_by_key(|(priority, ..)| std::cmp::Reverse(*priority));
    let at = at.unwrap_or_else(|| fields.at.clone());
    let attached = wanted.into_iter().map(|(_, name, mut aliases)| {
        let target = Objects::need(&mut objects.networks, "network", &name, &at);
        if !aliases.iter().any(|alias| alias == service) {
            aliases.push(service.to_owned());
        }
        json!({"Target": target, "Aliases": aliases})
    });
    attached.collect()
}
