//! What a new file changes, for the log of a reload.

use std::{collections::BTreeMap, fmt};

use serde_json::Value;

use super::Config;

/// So many changed keys are named.
const NAMED: usize = 8;

/// The difference between two configurations.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// How many routes of the file are new, or lead elsewhere.
    added: usize,
    /// How many are gone, or led elsewhere.
    removed: usize,
    /// There were routes, and none is left.
    empties_table: bool,
    /// Other keys and how they changed, like `mtu: auto → 1400`.
    keys: Vec<String>,
}

impl Changes {
    /// Returns what differs from `old` in `new`.
    #[must_use]
    pub fn between(old: &Config, new: &Config) -> Self {
        let (before, after) = (&old.routes.fixed, &new.routes.fixed);
        Self {
            added: after.iter().filter(|route| !before.contains(route)).count(),
            removed: before.iter().filter(|route| !after.contains(route)).count(),
            empties_table: after.is_empty() && !before.is_empty(),
            keys: changed_keys(old, new),
        }
    }

    /// Whether the two are the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the new file takes all routes of the old one away. Worth a warning: it may
    /// be a file that was cut off.
    #[must_use]
    pub fn empties_table(&self) -> bool {
        self.empties_table
    }
}

impl fmt::Display for Changes {
    /// `+2 −1 routes, node.tunnel_address: 10.0.0.1 → 10.0.0.2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { added, removed, keys, .. } = self;
        let routes = (added + removed > 0).then(|| format!("+{added} −{removed} routes"));
        let named = keys.iter().take(NAMED).cloned();
        let more = keys.len().saturating_sub(NAMED);
        let more = (more > 0).then(|| format!("{more} more keys"));
        let parts: Vec<String> = routes.into_iter().chain(named).chain(more).collect();
        match parts.is_empty() {
            true => f.write_str("nothing changed"),
            false => f.write_str(&parts.join(", ")),
        }
    }
}

/// All keys but the routes' whose values differ, in order, each with both values.
fn changed_keys(old: &Config, new: &Config) -> Vec<String> {
    let (old, new) = (leaves(old), leaves(new));
    let shown = |value: Option<&Value>| match value {
        None => "default".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    let mut keys: Vec<&String> = old.keys().chain(new.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    let changed = keys.into_iter().filter(|key| old.get(*key) != new.get(*key));
    changed.map(|key| format!("{key}: {} → {}", shown(old.get(key)), shown(new.get(key)))).collect()
}

/// Every value that is not a mapping, by its path.
fn leaves(config: &Config) -> BTreeMap<String, Value> {
    let mut leaves = BTreeMap::new();
    // What was read as YAML can be written as JSON; if not, nothing is named.
    let whole = serde_json::to_value(config).unwrap_or_default();
    collect(String::new(), whole, &mut leaves);
    leaves.remove("routes.static");
    leaves
}

fn collect(path: String, value: Value, leaves: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(mapping) => {
            for (key, value) in mapping {
                let path = if path.is_empty() { key } else { format!("{path}.{key}") };
                collect(path, value, leaves);
            }
        }
        value => drop(leaves.insert(path, value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(old: &str, new: &str) -> Changes {
        let config = |text| serde_yaml::from_str(text).expect("a configuration");
        Changes::between(&config(old), &config(new))
    }

    const TWO: &str = "routes: {static: [{cidr: 10.0.0.0/26, node: 1.2.3.4}, \
                       {cidr: 10.0.1.0/26, node: 1.2.3.5}]}\n";

    #[test]
    fn routes_are_counted_and_keys_named() {
        let new = "routes: {static: [{cidr: 10.0.0.0/26, node: 1.2.3.9}, \
                   {cidr: 10.0.1.0/26, node: 1.2.3.5}, {cidr: 10.0.2.0/26, node: 1.2.3.5}]}\n\
                   node: {tunnel_address: 10.0.3.0}\nspoof: stack\n";
        let changes = changes(TWO, new);
        assert_eq!(
            changes.to_string(),
            "+2 −1 routes, node.tunnel_address: default → 10.0.3.0, spoof: drop → stack"
        );
        assert!(!changes.empties_table() && !changes.is_empty());
    }

    #[test]
    fn an_emptied_table_is_noticed() {
        let changes = changes(TWO, "routes: {static: []}\n");
        assert_eq!(changes.to_string(), "+0 −2 routes");
        assert!(changes.empties_table());
    }

    #[test]
    fn the_same_again_is_nothing() {
        let changes = changes(TWO, TWO);
        assert!(changes.is_empty() && !changes.empties_table());
        assert_eq!(changes.to_string(), "nothing changed");
        assert!(!self::changes("{}", "{}").empties_table(), "there was nothing before");
    }

    #[test]
    fn a_new_source_is_named_and_much_is_cut_short() {
        let one = changes("{}", "sources: {bird: {}}\n").to_string();
        assert!(one.contains("sources.bird."), "{one}");
        let many = "node: {name: x, address: 1.2.3.4, tunnel_address: 10.0.0.1}\nspoof: stack\n\
                    mtu: 1400\nfastpath: off\nlog_spoofs: true\nmode: replace\nattach: tcx\n\
                    bpffs: /sys/fs/bpf/x\n";
        let many = changes("{}", many).to_string();
        assert!(many.ends_with(", 2 more keys"), "{many}");
    }
}
