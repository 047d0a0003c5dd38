//! What has to happen for what is to become what should be: a pure function.

use std::collections::BTreeMap;

/// Changes to one table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan<K, V> {
    /// What is missing or different.
    pub upsert: Vec<(K, V)>,
    /// What is too much.
    pub delete: Vec<K>,
}

/// desired − actual.
#[must_use]
pub fn plan<K: Ord + Clone, V: PartialEq + Clone>(
    desired: &BTreeMap<K, V>,
    actual: &BTreeMap<K, V>,
) -> Plan<K, V> {
    Plan {
        upsert: desired
            .iter()
            .filter(|(key, value)| actual.get(key) != Some(value))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        delete: actual.keys().filter(|key| !desired.contains_key(key)).cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn applying_the_plan_gives_the_desired(
            desired: BTreeMap<u8, u8>, actual: BTreeMap<u8, u8>,
        ) {
            let Plan { upsert, delete } = plan(&desired, &actual);
            for (key, value) in &upsert {
                prop_assert_ne!(actual.get(key), Some(value), "needless");
            }
            let mut result = actual;
            result.extend(upsert);
            for key in delete {
                prop_assert!(!desired.contains_key(&key));
                result.remove(&key);
            }
            prop_assert_eq!(result, desired);
        }
    }

    #[test]
    fn nothing_to_do_is_an_empty_plan() {
        let same = BTreeMap::from([(1, 'a')]);
        assert_eq!(plan(&same, &same), Plan { upsert: vec![], delete: vec![] });
    }
}
