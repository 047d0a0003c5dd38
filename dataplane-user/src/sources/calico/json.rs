//! What the parsers of Calico's objects have in common.

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _},
};
use serde_json::Value;

use crate::sources::error::Malformed;

/// An object that was read, and what in it does not count.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Understood<T> {
    /// What it comes to without that.
    pub object: T,
    /// A problem that takes nothing else of the object away.
    pub doubt: Option<Malformed>,
}

/// Collects what in an object does not count.
#[derive(Default, Debug)]
pub struct Doubts {
    first: Option<String>,
    more: usize,
}

impl Doubts {
    /// Adds one; the same one again is no other.
    pub fn add(&mut self, doubt: String) {
        match &self.first {
            None => self.first = Some(doubt),
            Some(first) if *first == doubt => {}
            Some(_) => self.more += 1,
        }
    }

    /// Returns the entries of a list, none if it is left out or not a list.
    pub fn entries<'v>(&mut self, name: &str, value: &'v Value) -> &'v [Value] {
        match value {
            Value::Array(entries) => entries,
            Value::Null => &[],
            other => {
                self.add(format!("{name} is `{other}` and not a list; it is skipped"));
                &[]
            }
        }
    }

    /// Returns them as one problem that names the first.
    #[must_use]
    pub fn problem(self) -> Option<Malformed> {
        let first = self.first?;
        Some(match self.more {
            0 => Malformed::new(first),
            more => Malformed::new(format!("{first} (and {more} more of the kind)")),
        })
    }
}

/// Returns a text as it is, and anything else as JSON.
#[must_use]
pub fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Reads an object of JSON; the error names what it should have been.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, Malformed> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(Malformed::new(format!("is empty instead of {what}")));
    }
    // serde would take a list for an object, field by field.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return Err(Malformed::new(format!("is no {what}: it is a list")));
    }
    serde_json::from_slice(bytes).map_err(|error| Malformed::new(format!("is no {what}: {error}")))
}

/// The same of JSON that was read already.
pub fn convert<T: DeserializeOwned>(value: Value, what: &str) -> Result<T, Malformed> {
    if value.is_array() {
        return Err(Malformed::new(format!("is no {what}: it is a list")));
    }
    serde_json::from_value(value).map_err(|error| Malformed::new(format!("is no {what}: {error}")))
}

/// A boolean, or its name: Calico's older resources say `deleted: "true"`.
pub fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Flag {
        Bool(bool),
        Text(String),
    }
    Ok(match Option::<Flag>::deserialize(deserializer)? {
        None => false,
        Some(Flag::Bool(flag)) => flag,
        Some(Flag::Text(text)) => text.eq_ignore_ascii_case("true"),
    })
}

/// What a resource says it is. Left out, it is what its place says.
#[derive(Deserialize)]
pub struct Header {
    kind: Option<String>,
    #[serde(rename = "apiVersion")]
    api_version: Option<String>,
}

/// The versions whose fields we know.
const VERSIONS: [&str; 2] = ["projectcalico.org/v3", "crd.projectcalico.org/v1"];

impl Header {
    /// Whether it is what it should be.
    pub fn check(&self, wanted: &str) -> Result<(), Malformed> {
        if let Some(kind) = self.kind.as_deref().filter(|kind| *kind != wanted) {
            return Err(Malformed::new(format!("is no {wanted} but of kind `{kind}`")));
        }
        match self.api_version.as_deref().filter(|version| !VERSIONS.contains(version)) {
            Some(version) => {
                Err(Malformed::new(format!("is a {wanted} of `{version}`, which is unknown")))
            }
            None => Ok(()),
        }
    }
}

/// An object and nothing else; `null` is an empty one.
pub fn object<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<T, D::Error> {
    let fields = Option::<serde_json::Map<String, Value>>::deserialize(deserializer)?;
    serde_json::from_value(Value::Object(fields.unwrap_or_default())).map_err(D::Error::custom)
}

/// `null` for what is as good as left out.
pub fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}
