//! What the parsers of Calico's objects have in common.

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _},
};
use serde_json::Value;

use crate::sources::error::Malformed;

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
