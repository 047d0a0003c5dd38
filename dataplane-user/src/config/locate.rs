//! Finds the line of a key, so that an error found long after parsing can
//! still point at it.
//!
//! The YAML library knows positions only while it parses. So we parse once
//! more, follow the path, and fail on purpose where it ends: the error's
//! position is the value's.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// One step from a value to a part of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Into a mapping.
    Key(&'static str),
    /// Into a sequence.
    Index(usize),
}

impl From<&'static str> for Step {
    fn from(key: &'static str) -> Self {
        Self::Key(key)
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// A way into the file: `routes.static[1].node`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyPath(pub Vec<Step>);

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if position == 0 => write!(f, "{key}")?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Line of the value at `path` in `text`, counted from 1; `None` if the file
/// does not say it.
#[must_use]
pub fn line(text: &str, path: &KeyPath) -> Option<usize> {
    let error = Seek(&path.0).deserialize(serde_yaml::Deserializer::from_str(text)).err()?;
    // Any other error means that the path leads elsewhere than the file does.
    error.to_string().contains(FOUND).then(|| error.location()).flatten().map(|at| at.line())
}

struct Seek<'a>(&'a [Step]);

const FOUND: &str = "the end of the path";

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.0.is_empty() {
            // Whatever is here: its own visitor's error carries its position.
            deserializer.deserialize_any(Here)
        } else {
            deserializer.deserialize_any(self)
        }
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what the path leads through")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((Step::Key(wanted), rest)) = self.0.split_first() else { return Ok(()) };
        while let Some(key) = map.next_key::<String>()? {
            if key == *wanted {
                map.next_value_seed(Seek(rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Some((Step::Index(wanted), rest)) = self.0.split_first() else { return Ok(()) };
        for _ in 0..*wanted {
            seq.next_element::<IgnoredAny>()?;
        }
        seq.next_element_seed(Seek(rest))?;
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

struct Here;

macro_rules! found {
    ($($visit:ident: $type:ty),*) => {
        $(fn $visit<E: Error>(self, _: $type) -> Result<(), E> { Err(E::custom(FOUND)) })*
    };
}

impl<'de> Visitor<'de> for Here {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FOUND)
    }

    found!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Err(E::custom(FOUND))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        // The first key's position is that of the mapping.
        map.next_key_seed(Self)?;
        Err(A::Error::custom(FOUND))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        seq.next_element_seed(Self)?;
        Err(A::Error::custom(FOUND))
    }
}

impl<'de> DeserializeSeed<'de> for Here {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# comment
fastpath: off
routes:
  static:
    - {cidr: 10.0.0.0/8, node: 1.2.3.4}
    - cidr: 10.1.0.0/16
      node: 1.2.3.5
  nodes: []
";

    fn at(steps: &[Step]) -> Option<usize> {
        line(TEXT, &KeyPath(steps.to_vec()))
    }

    #[test]
    fn every_kind_of_value_is_found() {
        let fixed = |index: usize| vec![Step::Key("routes"), Step::Key("static"), index.into()];
        assert_eq!(at(&["fastpath".into()]), Some(2));
        assert_eq!(at(&fixed(0)), Some(5));
        assert_eq!(at(&[fixed(0), vec!["node".into()]].concat()), Some(5));
        assert_eq!(at(&fixed(1)), Some(6));
        assert_eq!(at(&[fixed(1), vec!["node".into()]].concat()), Some(7));
    }

    #[test]
    fn what_is_not_there_has_no_line() {
        assert_eq!(at(&["mode".into()]), None);
        assert_eq!(at(&["fastpath".into(), "deeper".into()]), None);
        assert_eq!(at(&["routes".into(), "static".into(), 2.into()]), None);
    }

    #[test]
    fn paths_read_as_people_write_them() {
        let path = KeyPath(vec!["routes".into(), "static".into(), 1.into(), "node".into()]);
        assert_eq!(path.to_string(), "routes.static[1].node");
    }
}
