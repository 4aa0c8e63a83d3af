//! Docker's `filters` query parameter.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::ApiError;

/// Values by key: `{"name": {"vote": true}}`, or `{"name": ["vote"]}` from old clients.
#[derive(Debug, Default)]
pub(crate) struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Reads the parameter; a key that is not among `known` is refused.
    pub(crate) fn of(query: &BTreeMap<String, String>, known: &[&str]) -> Result<Self, ApiError> {
        let Some(text) = query.get("filters").filter(|text| !text.is_empty()) else {
            return Ok(Self::default());
        };
        let wrong =
            |why: &str| ApiError::invalid(format!("filters {text:?} cannot be read: {why}"));
        let raw: BTreeMap<String, Value> =
            serde_json::from_str(text).map_err(|error| wrong(&error.to_string()))?;
        let mut filters = BTreeMap::new();
        for (key, value) in raw {
            if !known.contains(&key.as_str()) {
                return Err(ApiError::invalid(format!(
                    "invalid filter {key:?}: use one of {}",
                    known.join(", ")
                )));
            }
            let values = match value {
                Value::Object(map) => map.into_iter().map(|(value, _)| value).collect(),
                Value::Array(list) => list
                    .iter()
                    .filter_map(|value| value.as_str().map(str::to_owned))
                    .collect(),
                _ => return Err(wrong("each filter is an object or a list")),
            };
            filters.insert(key, values);
        }
        Ok(Self(filters))
    }

    /// Whether there is no such filter, or one of its values fits.
    pub(crate) fn pass(&self, key: &str, fits: impl Fn(&str) -> bool) -> bool {
        self.0
            .get(key)
            .is_none_or(|values| values.iter().any(|value| fits(value)))
    }

    /// Whether all `label` filters (`KEY` or `KEY=VALUE`) fit.
    pub(crate) fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.all_of("label", labels)
    }

    /// Whether all filters of this key, which are of labels, fit.
    pub(crate) fn all_of(&self, key: &str, labels: &BTreeMap<String, String>) -> bool {
        self.0.get(key).is_none_or(|values| {
            values.iter().all(|value| match value.split_once('=') {
                Some((key, value)) => labels.get(key).is_some_and(|has| has == value),
                None => labels.contains_key(value),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Filters, ApiError> {
        let query = BTreeMap::from([("filters".to_owned(), text.to_owned())]);
        Filters::of(&query, &["name", "label"])
    }

    #[test]
    fn both_forms_are_read() {
        for text in [r#"{"name":{"a":true,"b":true}}"#, r#"{"name":["a","b"]}"#] {
            let filters = read(text).unwrap();
            assert!(filters.pass("name", |name| name == "b"));
            assert!(!filters.pass("name", |name| name == "c"));
            assert!(filters.pass("id", |_| false));
        }
    }

    #[test]
    fn all_labels_must_fit() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        let fits = |text: &str| read(text).unwrap().labels(&labels);
        assert!(fits(r#"{"label":{"a":true}}"#) && fits(r#"{"label":{"a=1":true}}"#));
        assert!(!fits(r#"{"label":{"a=2":true}}"#) && !fits(r#"{"label":["a","b"]}"#));
    }

    #[test]
    fn wrong_filters_are_refused_by_name() {
        assert!(
            read(r#"{"color":["red"]}"#)
                .unwrap_err()
                .message
                .contains("color")
        );
        assert!(read("{").is_err() && read(r#"{"name":1}"#).is_err());
    }
}
