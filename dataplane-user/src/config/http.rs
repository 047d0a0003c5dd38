//! `http`: where metrics and health are served.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The port, when the file names no other.
pub const PORT: u16 = 9469;

/// Metrics and health over HTTP.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields, default, expecting = "a mapping of keys to values like {listen: off}")]
pub struct HttpConfig {
    /// Where requests are answered.
    pub listen: Listen,
    /// Whether each node gets series of its own in `/metrics`.
    pub nodes: bool,
}

/// Where requests are answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listen {
    /// Nowhere: no socket is opened.
    Off,
    /// At an address of this host, and a port.
    At(SocketAddr),
}

impl Default for Listen {
    fn default() -> Self {
        Self::At((Ipv4Addr::LOCALHOST, PORT).into())
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::At(address) => address.fmt(f),
        }
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A visitor of its own, so that an error carries this very key's position.
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Listen;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "`off`, or an address with a port like 127.0.0.1:{PORT} or [::1]:{PORT}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Listen, E> {
                if text == "off" {
                    return Ok(Listen::Off);
                }
                let address: Result<SocketAddr, _> = text.parse();
                match address {
                    Ok(address) if address.port() != 0 => Ok(Listen::At(address)),
                    _ => Err(E::custom(format!(
                        "`{text}` is no address with a port; write one like 127.0.0.1:{PORT} or \
                         [::1]:{PORT}, or off"
                    ))),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn parse(text: &str) -> Result<HttpConfig, String> {
        let config: Result<Config, _> = serde_yaml::from_str(text);
        config.map(|config| config.http).map_err(|error| error.to_string())
    }

    #[test]
    fn an_address_with_a_port_or_off() {
        let at = |text: &str| Listen::At(text.parse().unwrap());
        for (text, listen) in [
            ("spoof: drop", at("127.0.0.1:9469")),
            ("http: {}", at("127.0.0.1:9469")),
            ("http: {nodes: true}", at("127.0.0.1:9469")),
            ("http: {listen: off}", Listen::Off),
            ("http: {listen: \"off\"}", Listen::Off),
            ("http: {listen: 10.0.0.7:80}", at("10.0.0.7:80")),
            ("http: {listen: \"[::1]:9469\"}", at("[::1]:9469")),
        ] {
            assert_eq!(parse(text).unwrap().listen, listen, "{text}");
        }
        assert!(!parse("http: {}").unwrap().nodes);
        assert!(parse("http: {nodes: true}").unwrap().nodes);
    }

    #[test]
    fn anything_else_is_refused_with_what_to_write() {
        for (text, said) in [
            ("http: {listen: 127.0.0.1}", "127.0.0.1:9469"),
            ("http: {listen: 127.0.0.1:0}", "no address with a port"),
            ("http: {listen: 127.0.0.1:65536}", "no address with a port"),
            ("http: {listen: localhost:9469}", "127.0.0.1:9469"),
            ("http: {listen: \":9469\"}", "127.0.0.1:9469"),
            ("http: {listen: 9469}", "expected `off`, or an address"),
            ("http: {listen: false}", "expected `off`, or an address"),
            ("http: {listen: }", "expected `off`, or an address"),
            ("http: off", "{listen: off}"),
            ("http: {port: 9469}", "port"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read() {
        for listen in [Listen::Off, Listen::default(), Listen::At("[::]:1".parse().unwrap())] {
            let shown = serde_yaml::to_string(&HttpConfig { listen, nodes: true }).unwrap();
            assert_eq!(serde_yaml::from_str::<HttpConfig>(&shown).unwrap().listen, listen);
        }
    }
}
