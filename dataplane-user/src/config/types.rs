//! The values of single keys.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use dataplane_common::{Mtu, Settings, ipv4::OUTER_LENGTH};
use ipnet::{IpNet, Ipv4Net};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::address::{Unreadable, parse_address, parse_prefix};

/// With or without the kernel's tunl0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Beside tunl0 where one carries pod routes when the daemon starts, else
    /// without.
    #[default]
    Auto,
    /// Our own tunnel device and routes; no tunl0.
    Replace,
    /// Beside tunl0, whose device, address and routes stay others'.
    Accelerate,
    /// Beside tunl0, which carries every packet: tunless only looks, and reports what it would have done.
    Shadow,
}

impl Mode {
    /// As it is written in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Replace => "replace",
            Self::Accelerate => "accelerate",
            Self::Shadow => "shadow",
        }
    }
}

/// What becomes of packets whose inner source is spoofed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Spoof {
    /// Dropped and counted.
    #[default]
    Drop,
    /// Decapsulated, and left to the kernel's rules: for clusters where blocks move
    /// faster than routes.
    Stack,
}

impl Spoof {
    /// From `Settings::spoof`.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        if number == Settings::SPOOF_STACK { Self::Stack } else { Self::Drop }
    }

    /// As it is written in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Stack => "stack",
        }
    }
}

/// Whether packets may skip the stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fastpath {
    /// Never: netfilter sees every packet.
    Off,
    /// Always, for known pods: `NetworkPolicy` and Services never see them.
    Trusted,
    /// For as long as a flow's lease: netfilter sees a packet of each flow every
    /// few seconds, and all of those it would not let pass untouched.
    #[default]
    Verified,
}

impl Fastpath {
    /// As it is written in the file.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Trusted => "trusted",
            Self::Verified => "verified",
        }
    }
}

impl From<Fastpath> for u8 {
    /// As in `Settings::fastpath`.
    fn from(fastpath: Fastpath) -> Self {
        match fastpath {
            Fastpath::Off => Settings::OFF,
            Fastpath::Trusted => Settings::TRUSTED,
            Fastpath::Verified => Settings::VERIFIED,
        }
    }
}

impl From<u8> for Fastpath {
    /// From `Settings::fastpath`; a number of no meaning is no fast path.
    fn from(number: u8) -> Self {
        let all = [Self::Trusted, Self::Verified];
        all.into_iter().find(|fastpath| u8::from(*fastpath) == number).unwrap_or(Self::Off)
    }
}

/// Where packets are unwrapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DecapHook {
    /// XDP where the driver is native and supports metadata, else TC.
    #[default]
    Auto,
    /// TC ingress.
    Tc,
    /// XDP, delivery by TC ingress.
    Xdp,
}

/// Whether received packets are spread over the CPUs by RPS, Receive Packet Steering.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Spread {
    /// They stay with the CPU that their receive queue interrupts.
    #[default]
    Off,
    /// Always.
    Rps,
    /// While one CPU has no time left and others have.
    Auto,
}

impl Spread {
    /// As the file has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Rps => "rps",
            Self::Auto => "auto",
        }
    }
}

/// How TC programs are attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Attach {
    /// TCX links where the kernel has them (6.6), else filters.
    #[default]
    Auto,
    /// TCX links.
    Tcx,
    /// Filters on a `clsact` qdisc.
    Clsact,
}

/// MTU of the tunnel device, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TunnelMtu {
    /// The smallest of the underlay's, less the outer header.
    #[default]
    Auto,
    /// This much.
    Bytes(Mtu),
}

/// Smallest MTU an IPv4 interface may have (RFC 791 §3.2).
const MIN_MTU: u64 = 68;
/// Largest inner packet an outer header can carry.
const MAX_MTU: u64 = 65_515;

impl<'de> Deserialize<'de> for TunnelMtu {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = TunnelMtu;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "`auto` or a number of bytes from {MIN_MTU} to {MAX_MTU}")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<TunnelMtu, E> {
                u32::try_from(bytes)
                    .ok()
                    .filter(|_| (MIN_MTU..=MAX_MTU).contains(&bytes))
                    .map(|bytes| TunnelMtu::Bytes(Mtu(bytes)))
                    .ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(bytes), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<TunnelMtu, E> {
                match text {
                    "auto" => Ok(TunnelMtu::Auto),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for TunnelMtu {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Bytes(bytes) => serializer.serialize_u32(bytes.0),
        }
    }
}

/// Reads an MTU of the underlay.
///
/// # Errors
/// For a number that no IPv4 packet can have as its length.
pub fn path_mtu<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Mtu, D::Error> {
    let bytes = u32::deserialize(deserializer)?;
    let most = MAX_MTU + OUTER_LENGTH as u64;
    if !(MIN_MTU..=most).contains(&u64::from(bytes)) {
        return Err(de::Error::custom(format!(
            "{bytes} is no MTU; write a number of bytes from {MIN_MTU} to {most}"
        )));
    }
    Ok(Mtu(bytes))
}

/// An IPv4 prefix without host bits: `10.20.42.0/26`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Cidr(pub Ipv4Net);

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let net = match parse_prefix(text) {
            Ok(IpNet::V4(net)) => net,
            Err(zeros @ Unreadable::LeadingZeros(_)) => return Err(format!("`{text}` {zeros}")),
            _ => {
                return Err(format!(
                    "`{text}` is no IPv4 prefix; write one like 10.20.42.0/26 or 10.20.42.7/32"
                ));
            }
        };
        if net.addr() != net.network() {
            return Err(format!(
                "`{text}` has bits set behind its prefix length; did you mean {}?",
                net.trunc()
            ));
        }
        Ok(Self(net))
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // A visitor of its own, so that an error carries this very key's position.
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Cidr;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an IPv4 prefix like 10.20.42.0/26")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Cidr, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Deserializes an IPv4 address of a host.
///
/// # Errors
/// If it is anything else: what, and what to write.
pub fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Ipv4Addr, D::Error> {
    // A visitor of its own, so that an error carries this very key's position.
    struct Visitor;
    impl de::Visitor<'_> for Visitor {
        type Value = Ipv4Addr;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an IPv4 address like 172.16.36.10")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Ipv4Addr, E> {
            match parse_address(text) {
                Ok(IpAddr::V4(address)) => Ok(address),
                Ok(IpAddr::V6(_)) | Err(Unreadable::Address | Unreadable::Prefix) => Err(
                    E::custom(format!("`{text}` is no IPv4 address; write one like 172.16.36.10")),
                ),
                Err(why) => Err(E::custom(format!("`{text}` {why}"))),
            }
        }
    }
    deserializer.deserialize_str(Visitor)
}

/// Deserializes as [`address`] does, for a key that may be missing or `null`.
///
/// # Errors
/// As those of [`address`].
pub fn some_address<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Ipv4Addr>, D::Error> {
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Given(#[serde(deserialize_with = "address")] Ipv4Addr);
    Option::<Given>::deserialize(deserializer).map(|given| given.map(|given| given.0))
}

/// An interface name in which a trailing `*` stands for any rest.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema, Serialize)]
#[serde(transparent)]
pub struct Pattern(String);

impl From<&str> for Pattern {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Pattern {
    /// Whether it stands for `name`.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == self.0,
        }
    }

    /// Whether it stands for one name only.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        !self.0.ends_with('*')
    }

    /// Whether it stands for a program that the kernel shows with this name, of which it keeps 15
    /// characters; `None`: the name cannot be read.
    #[must_use]
    pub fn matches_program(&self, name: Option<&str>) -> bool {
        /// `BPF_OBJ_NAME_LEN` without the zero at the end.
        const KEPT: usize = 15;
        match name {
            None => self.is_everything(),
            Some(name) => self.matches(name) || (name.len() == KEPT && self.0.starts_with(name)),
        }
    }

    /// Whether it would stand for every interface, the underlay's included.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.0 == "*" || self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_have_no_host_bits() {
        assert!("10.20.42.0/26".parse::<Cidr>().is_ok());
        assert!("10.20.42.31/32".parse::<Cidr>().is_ok());
        let error = "10.20.42.1/26".parse::<Cidr>().unwrap_err();
        assert!(error.contains("did you mean 10.20.42.0/26"), "{error}");
        for bad in ["10.20.42.0", "10.20.42.0/33", "fd00::/64", "", "10.20.42/24"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns_match_by_prefix() {
        assert!(Pattern::from("cali*").matches("cali0123456789a"));
        assert!(!Pattern::from("cali*").matches("eth0"));
        assert!(Pattern::from("eth0").matches("eth0"));
        assert!(!Pattern::from("eth0").matches("eth01"));
    }

    #[test]
    fn patterns_match_names_that_the_kernel_cut_off() {
        let accepts = |pattern: &str, name| Pattern::from(pattern).matches_program(name);
        assert!(accepts("tcx_ingress_flow_parse", Some("tcx_ingress_flo")));
        assert!(accepts("tcx_*", Some("tcx_ingress_flo")));
        assert!(accepts("watch", Some("watch")));
        assert!(!accepts("watcher", Some("watch")));
        assert!(!accepts("tcx_ingress", Some("tcx_ingress_flo")));
        assert!(accepts("*", None) && accepts("*", Some("")));
        assert!(!accepts("tcx_*", None));
    }

    #[test]
    fn mtu_is_auto_or_bytes() {
        let parse = |text: &str| serde_yaml::from_str::<TunnelMtu>(text);
        assert_eq!(parse("auto").unwrap(), TunnelMtu::Auto);
        assert_eq!(parse("1480").unwrap(), TunnelMtu::Bytes(Mtu(1480)));
        for bad in ["67", "65516", "big", "-1", "1.5"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
