//! What is logged: `RUST_LOG`, if it makes sense.

use std::{
    env,
    ffi::{OsStr, OsString},
};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

const VARIABLE: &str = "RUST_LOG";

/// What is logged by default. The Kubernetes client calls every failed attempt an error;
/// the source reports what is worth it.
const DEFAULT: &str = "info,kube_client=off";

/// What is logged by default by a command whose output is all that it has to report.
const SILENCE: &str = "off";

/// Returns the filter that `RUST_LOG` asks for; a value that makes no sense is the
/// default, and a complaint. `is_silent`: without the variable nothing is logged.
pub fn from_environment(is_silent: bool) -> (EnvFilter, Option<String>) {
    from_value(env::var_os(VARIABLE), is_silent)
}

fn from_value(value: Option<OsString>, is_silent: bool) -> (EnvFilter, Option<String>) {
    let default = || EnvFilter::new(DEFAULT);
    match value {
        Some(value) if !value.is_empty() => match parse(&value) {
            Ok(filter) => (filter, None),
            Err(why) => {
                let shown = value.display();
                let complaint = format!(
                    "{VARIABLE}={shown} is ignored: {why}; write a level (error, warn, info, \
                     debug, trace), or levels by target like `info,dataplane_user=debug`"
                );
                (default(), Some(complaint))
            }
        },
        _ if is_silent => (EnvFilter::new(SILENCE), None),
        _ => (default(), None),
    }
}

fn parse(value: &OsStr) -> Result<EnvFilter, String> {
    let text = value.to_str().ok_or("it is not UTF-8 text")?;
    // The library takes any word for a target, at all levels: a misspelt level would
    // silence everything else. (In brackets are spans, which it knows best.)
    for directive in text.split(',').filter(|_| !text.contains('[')) {
        let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level).trim();
        if level.parse::<LevelFilter>().is_err() {
            return Err(format!("`{level}` is not a level"));
        }
    }
    EnvFilter::builder().parse(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(value: &str) -> Option<String> {
        from_value(Some(value.into()), true).1
    }

    #[test]
    fn what_makes_sense_is_taken() {
        for (value, filter) in [
            ("debug", "debug"),
            ("WARN", "warn"),
            ("dataplane_user=debug", "dataplane_user=debug"),
            ("off", "off"),
        ] {
            let (taken, complaint) = from_value(Some(value.into()), true);
            assert_eq!((taken.to_string().as_str(), complaint), (filter, None));
        }
        assert_eq!(complaint("info,dataplane_user::sources=trace"), None);
    }

    #[test]
    fn without_a_value_there_is_a_default() {
        let default = EnvFilter::new(DEFAULT).to_string();
        for value in [None, Some(OsString::new())] {
            let (filter, complaint) = from_value(value.clone(), false);
            assert_eq!((filter.to_string(), complaint), (default.clone(), None));
            let (filter, complaint) = from_value(value, true);
            assert_eq!((filter.to_string().as_str(), complaint), ("off", None));
        }
    }

    #[test]
    fn what_makes_none_is_named_and_ignored() {
        for (value, why) in [
            ("inof", "`inof` is not a level"),
            ("info,verbose", "`verbose` is not a level"),
            ("dataplane_user=loud", "`loud` is not a level"),
            ("[span=", "invalid filter directive"),
        ] {
            let (filter, complaint) = from_value(Some(value.into()), true);
            let complaint = complaint.expect("a complaint");
            assert!(complaint.contains(why) && complaint.contains(value), "{complaint}");
            assert_eq!(filter.to_string(), EnvFilter::new(DEFAULT).to_string());
        }
    }
}
