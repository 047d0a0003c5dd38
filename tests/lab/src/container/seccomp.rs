//! The system calls that a container may make: the runtimes' default profile.
//!
//! Debian's podman has it as a file, which Docker's profile was once; CRI-O's is the same. It lets
//! processes with `CAP_SYS_ADMIN` alone call bpf(2). Docker (moby/moby#43987) and containerd
//! (containerd/containerd#7301) go by `CAP_BPF` and `CAP_PERFMON`.

use std::{env, fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::daemon::target_dir;

/// What containerd and Docker allow to the newer capabilities.
const OF_BPF: [(&str, &str); 2] = [("bpf", "CAP_BPF"), ("perf_event_open", "CAP_PERFMON")];

/// Whose default it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// That of containerd and Docker.
    #[default]
    Containerd,
    /// That of CRI-O and podman.
    CriO,
}

/// Where `cargo xtask setup` puts Debian's.
pub fn file() -> Result<PathBuf> {
    Ok(target_dir()?.join("image/seccomp.json"))
}

impl Profile {
    /// As a runtime gets it (`linux.seccomp`), for a process with these capabilities.
    pub(super) fn of(self, granted: &[String]) -> Result<Value> {
        let path = file()?;
        let text = fs::read(&path)
            .with_context(|| format!("no {}: run `cargo xtask setup`", path.display()))?;
        let profile: Value = serde_json::from_slice(&text)?;
        self.for_capabilities(&profile, granted)
    }

    fn for_capabilities(self, profile: &Value, granted: &[String]) -> Result<Value> {
        let (debian, name) = match env::consts::ARCH {
            "x86_64" => ("amd64", "SCMP_ARCH_X86_64"),
            "aarch64" => ("arm64", "SCMP_ARCH_AARCH64"),
            other => bail!("no name of {other} for seccomp"),
        };
        let has = |list: &Value, key: &str, wanted: &dyn Fn(&str) -> bool| {
            list[key].as_array().is_some_and(|all| all.iter().filter_map(Value::as_str).any(wanted))
        };
        let is_granted = |capability: &str| granted.iter().any(|it| it == capability);
        let is_here = |architecture: &str| architecture == debian;
        let mut rules = Vec::new();
        for rule in profile["syscalls"].as_array().context("a profile has rules")? {
            let (only, never) = (&rule["includes"], &rule["excludes"]);
            let is_left_out = has(never, "caps", &is_granted)
                || has(never, "arches", &is_here)
                || (only["caps"].is_array() && !has(only, "caps", &is_granted))
                || (only["arches"].is_array() && !has(only, "arches", &is_here));
            if is_left_out {
                continue;
            }
            let mut rule = rule.clone();
            if let Value::Object(fields) = &mut rule {
                fields.retain(|key, value| {
                    ["names", "action", "args", "errnoRet"].contains(&key.as_str())
                        && !value.is_null()
                });
            }
            if let (Self::Containerd, Some(names)) = (self, rule["names"].as_array_mut()) {
                names.retain(|name| OF_BPF.iter().all(|(call, _)| name != call));
            }
            rules.push(rule);
        }
        if self == Self::Containerd {
            rules.extend(OF_BPF.iter().map(|(call, capability)| match is_granted(capability) {
                true => json!({"names": [call], "action": "SCMP_ACT_ALLOW"}),
                // EPERM.
                false => json!({"names": [call], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}),
            }));
        }
        Ok(json!({
            "defaultAction": profile["defaultAction"],
            "defaultErrnoRet": profile["defaultErrnoRet"],
            "architectures": [name],
            "syscalls": rules,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(profile: Profile, granted: &[&str]) -> Vec<Value> {
        let text = json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
            "syscalls": [
                {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [], "includes": {}, "excludes": {}},
                {"names": ["bpf", "fanotify_init"], "action": "SCMP_ACT_ALLOW",
                 "includes": {"caps": ["CAP_SYS_ADMIN"]}, "excludes": {}},
                {"names": ["bpf", "fanotify_init"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
                 "includes": {}, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
                {"names": ["s390_x"], "action": "SCMP_ACT_ALLOW",
                 "includes": {"arches": ["s390"]}, "excludes": {}},
            ],
        });
        let granted: Vec<String> = granted.iter().map(|it| (*it).to_owned()).collect();
        let made = profile.for_capabilities(&text, &granted).unwrap();
        made["syscalls"].as_array().unwrap().clone()
    }

    #[test]
    fn bpf_is_allowed_to_whom_the_runtime_allows_it() {
        let names = |rules: &[Value], action: &str| -> Vec<String> {
            let of_action = rules.iter().filter(|rule| rule["action"] == action);
            let names = of_action.flat_map(|rule| rule["names"].as_array().unwrap());
            names.map(|name| name.as_str().unwrap().to_owned()).collect()
        };
        let allow = |profile, granted: &[&str]| names(&rules(profile, granted), "SCMP_ACT_ALLOW");
        assert_eq!(allow(Profile::Containerd, &["CAP_BPF"]), ["read", "bpf"]);
        assert_eq!(allow(Profile::Containerd, &["CAP_NET_RAW"]), ["read"]);
        assert_eq!(allow(Profile::CriO, &["CAP_BPF"]), ["read"]);
        assert_eq!(allow(Profile::CriO, &["CAP_SYS_ADMIN"]), ["read", "bpf", "fanotify_init"]);
        let refused = names(&rules(Profile::CriO, &["CAP_BPF"]), "SCMP_ACT_ERRNO");
        assert_eq!(refused, ["bpf", "fanotify_init"]);
        assert_eq!(rules(Profile::CriO, &["CAP_BPF"])[1]["errnoRet"], 1);
    }
}
