//! What is written as JSON by hand, for its schema: patterns of texts, and the words that a text is one of.
//!
//! The types of output derive their schemas; `cli/schema.rs` lists them.

use std::borrow::Cow;

use dataplane_common::{Direction, Program, Reason, Verdict};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::{
    bpf::Hook,
    config::{Cidr, Listen, TunnelMtu},
    kernel::receive_queues::Cpus,
};

/// An IPv4 prefix.
const PREFIX: &str = "^([0-9]{1,3}[.]){3}[0-9]{1,3}/(3[0-2]|[12]?[0-9])$";
/// An IPv4 address and a port.
pub const ADDRESS_AND_PORT: &str = "^([0-9]{1,3}[.]){3}[0-9]{1,3}:[0-9]{1,5}$";
/// A MAC address.
pub const MAC: &str = "^([0-9a-f]{2}:){5}[0-9a-f]{2}$";
/// The number of a layout of maps.
pub const ABI: &str = "^[0-9a-f]{8}$";

/// Returns the names of all reasons, as `tunless counters list` has them.
#[must_use]
pub fn reasons() -> Vec<&'static str> {
    Reason::ALL.iter().map(|reason| reason.as_str()).collect()
}

/// Returns the names of all programs.
#[must_use]
pub fn programs() -> Vec<&'static str> {
    Program::ALL.map(Program::as_str).to_vec()
}

/// Returns the names of all programs, and `kernel` for what no program of tunless did.
#[must_use]
pub fn programs_and_kernel() -> Vec<&'static str> {
    [programs(), vec!["kernel"]].concat()
}

/// Returns the hooks of all programs, as `tunless status` has them, each once.
#[must_use]
pub fn hooks() -> Vec<&'static str> {
    let mut hooks = Program::ALL.map(Hook::place).to_vec();
    hooks.sort_unstable();
    hooks.dedup();
    hooks
}

/// Returns the hooks of all programs with the kinds of their interfaces, as `tunless counters list` has them.
#[must_use]
pub fn places() -> Vec<&'static str> {
    let mut places = Program::ALL.map(Program::hook).to_vec();
    places.sort_unstable();
    places.dedup();
    places
}

/// Returns the names of all verdicts.
#[must_use]
pub fn verdicts() -> Vec<&'static str> {
    [Verdict::Forwarded, Verdict::Passed, Verdict::Dropped].map(Verdict::as_str).to_vec()
}

/// Returns the names of both directions.
#[must_use]
pub fn directions() -> Vec<&'static str> {
    [Direction::Encap, Direction::Decap].map(Direction::as_str).to_vec()
}

/// Returns the same words, and `null`: for a value that may be missing.
pub fn or_null(words: Vec<&'static str>) -> Vec<Option<&'static str>> {
    words.into_iter().map(Some).chain([None]).collect()
}

impl JsonSchema for Cidr {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Cidr".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": PREFIX})
    }
}

impl JsonSchema for Cpus {
    fn schema_name() -> Cow<'static, str> {
        "Cpus".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A set of CPUs as the kernel's bitmap: hexadecimal words of 32 bits, the highest \
                            first, separated by commas.",
            "type": "string",
            "pattern": "^[0-9a-f]{8}(,[0-9a-f]{8})*$",
        })
    }
}

impl JsonSchema for Listen {
    fn schema_name() -> Cow<'static, str> {
        "Listen".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "An address of this host and a port, or `off`.",
            "type": "string",
            "pattern": "^(off|.+:[0-9]{1,5})$",
        })
    }
}

impl JsonSchema for TunnelMtu {
    fn schema_name() -> Cow<'static, str> {
        "TunnelMtu".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Bytes, or `auto`: the smallest of the underlay's, less the outer header.",
            "anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 68, "maximum": 65_515}],
        })
    }
}
