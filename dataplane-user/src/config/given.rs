//! A key without a value is refused where it would mean "none of them": so looks a file
//! that was cut off while it was written, and taken at its word it would remove routes.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{
        Error, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, SeqAccessDeserializer},
    },
};

/// Deserializes a list that has to be there, if only as `[]`.
///
/// # Errors
/// If there is none, or it is not what it has to be.
pub fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_any(List(PhantomData))
}

/// Deserializes a mapping that has to be there, if only as `{}`.
///
/// # Errors
/// If there is none, or it is not what it has to be.
pub fn mapping<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_any(Mapping(PhantomData))
}

/// Deserializes as [`mapping`] does, for a key that may be missing.
///
/// # Errors
/// As those of [`mapping`].
pub fn some_mapping<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    mapping(deserializer).map(Some)
}

struct List<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E: Error>(self) -> Result<Vec<T>, E> {
        Err(E::custom("this key has no value; write [] for nothing, or remove the key"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Vec<T>, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list))
    }
}

struct Mapping<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Mapping<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping of keys to values")
    }

    fn visit_unit<E: Error>(self) -> Result<T, E> {
        Err(E::custom("this key has no value; write {} for defaults, or remove the key"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mapping: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(mapping))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{BirdConfig, Config};

    fn parse(text: &str) -> Result<Config, String> {
        serde_yaml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_that_was_cut_off_is_refused_with_key_and_line() {
        for (text, key, line) in [
            ("mode: auto\nroutes:\n", "routes: ", "line 2"),
            ("routes:\n  static:\n", "routes.static: ", "line 2"),
            ("routes:\n  static: null\n", "routes.static: ", "line 2"),
            ("routes:\n  static: []\n  pools:\nmtu: auto\n", "routes.pools: ", "line 3"),
            ("routes:\n  nodes: ~\n", "routes.nodes: ", "line 2"),
            ("sources:\n", "sources: ", "line 1"),
            ("sources:\n  bird:\n", "sources.bird: ", "line 2"),
        ] {
            let error = parse(text).unwrap_err();
            for said in [key, line, "no value"] {
                assert!(error.contains(said), "no `{said}` in `{error}`, of {text:?}");
            }
        }
    }

    #[test]
    fn an_empty_value_is_a_value() {
        assert_eq!(parse("routes: {}\n").unwrap(), Config::default());
        assert_eq!(
            parse("routes: {static: [], pools: [], nodes: []}\n").unwrap(),
            Config::default()
        );
        let bird = parse("sources: {bird: {}}\n").unwrap().sources.bird;
        assert_eq!(bird, Some(BirdConfig::default()));
        for (text, expected) in
            [("routes: {static: 5}\n", "expected a list"), ("routes: []\n", "expected a mapping")]
        {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn errors_inside_keep_their_line() {
        let error = parse("routes:\n  static:\n    - {cidr: 10.0.0.0/26,\n       nod: x}\n");
        let error = error.unwrap_err();
        assert!(error.contains("nod") && error.contains("line 4"), "{error}");
    }
}
