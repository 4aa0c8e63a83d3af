//! What differs between two maps that share what they have in common.

use imbl::{OrdMap, ordmap::DiffItem};

/// Each key, in order, whose value differs, with the value that it had and the one that it
/// has. It costs what differs, where one map was made from the other.
pub fn differences<'a, K: Ord, V: PartialEq>(
    old: &'a OrdMap<K, V>,
    new: &'a OrdMap<K, V>,
) -> impl Iterator<Item = (&'a K, Option<&'a V>, Option<&'a V>)> {
    old.diff(new).map(|item| match item {
        DiffItem::Add(key, new) => (key, None, Some(new)),
        DiffItem::Remove(key, old) => (key, Some(old), None),
        DiffItem::Update { old, new } => (new.0, Some(old.1), Some(new.1)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_went_or_changed_is_told() {
        let before = OrdMap::from_iter([(1, 'a'), (2, 'a'), (3, 'a')]);
        let after = OrdMap::from_iter([(2, 'a'), (3, 'b'), (4, 'c')]);
        let told: Vec<_> = differences(&before, &after).collect();
        let gone = (&1, Some(&'a'), None);
        let changed = (&3, Some(&'a'), Some(&'b'));
        assert_eq!(told, [gone, changed, (&4, None, Some(&'c'))]);
    }
}
