//! `depends_on`: the order of the first start.

use std::collections::BTreeSet;

use crate::{
    After, Service, Until,
    cursor::{Cursor, Fields},
    node::Value,
};

/// What a service waits for.
pub(super) fn after(fields: &mut Fields<'_>) -> Vec<After> {
    let Some(at) = fields.take("depends_on") else {
        return Vec::new();
    };
    if let Value::List(_) = at.node.value {
        let until = Until::Running;
        let texts = at.texts().into_iter();
        return texts.map(|service| After { service, until }).collect();
    }
    let one = |(service, at): (String, Cursor<'_>)| {
        let mut until = Until::Running;
        let mut fields = at.fields();
        if let Some(at) = fields.take("condition") {
            let known = [
                "service_started",
                "service_healthy",
                "service_completed_successfully",
            ];
            if at.one_of(&known) == known[2] {
                until = Until::Completed;
            }
        }
        let required = fields.take("required").is_none_or(|at| at.boolean());
        fields.ignore(&["restart"]);
        fields.end();
        (After { service, until }, required)
    };
    let all = at.entries().into_iter().map(one);
    all.filter_map(|(after, required)| required.then_some(after))
        .collect()
}

/// Each after all that it waits for; else as they are in the file.
pub(super) fn ordered(services: Vec<Service>, at: &Cursor<'_>) -> Vec<Service> {
    let names: BTreeSet<_> = services
        .iter()
        .map(|service| service.name.clone())
        .collect();
    for service in &services {
        for after in &service.after {
            if !names.contains(&after.service) {
                at.wrong(format!(
                    "service {:?} depends on undefined service {:?}",
                    service.name, after.service
                ));
            }
        }
    }
    let mut left = services;
    let mut done: BTreeSet<String> = BTreeSet::new();
    let mut ordered = Vec::new();
    while !left.is_empty() {
        let ready = |service: &Service| {
            let mut after = service.after.iter();
            after.all(|after| done.contains(&after.service) || !names.contains(&after.service))
        };
        let Some(next) = left.iter().position(ready) else {
            let names: Vec<_> = left.iter().map(|service| service.name.as_str()).collect();
            at.wrong(format!(
                "dependency cycle detected: {} wait for each other",
                names.join(", ")
            ));
            ordered.append(&mut left);
            break;
        };
        let service = left.remove(next);
        done.insert(service.name.clone());
        ordered.push(service);
    }
    ordered
}
