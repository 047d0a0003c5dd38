//! What the parsers of Calico's objects have in common.

use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::Value;

/// Reads an object of JSON; the error names what it should have been.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, String> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(format!("is empty instead of {what}"));
    }
    serde_json::from_slice(bytes).map_err(|error| format!("is no {what}: {error}"))
}

/// The same of JSON that was read already.
pub fn convert<T: DeserializeOwned>(value: Value, what: &str) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| format!("is no {what}: {error}"))
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

/// `null` for what is as good as left out.
pub fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}
