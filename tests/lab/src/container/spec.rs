//! The manifest's pod as a runtime gets it (OCI runtime specification), as a kubelet and containerd
//! would write it for a pod that is not privileged.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::Pod;

/// Where the account of a pod is.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What containerd hides from a container, and what it makes read-only
/// (`pkg/oci/spec.go`, `defaultUnixSpec`).
const MASKED: [&str; 7] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/timer_list",
    "/sys/firmware",
    "/proc/scsi",
];
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The node, as far as a container sees it.
pub struct Host {
    pub name: String,
    pub netns: PathBuf,
    /// What stands for `/sys/fs/bpf`.
    pub bpffs: PathBuf,
    /// What stands for `/run/tunless`.
    pub run: PathBuf,
    /// Where the kubelet keeps what it makes of volumes.
    pub volumes: PathBuf,
}

/// The configuration of the manifest's container. `image`: a directory with `rootfs` and `config.json`.
pub fn runtime(pod: &Pod, host: &Host, image: &Path) -> Result<Value> {
    let set = pod.manifest.iter().find(|one| one["kind"] == "DaemonSet");
    let spec = &set.context("the manifest has no DaemonSet")?["spec"]["template"]["spec"];
    ensure!(spec["hostNetwork"] == true, "the pod has a network of its own");
    let container = &spec["containers"][0];
    let text = fs::read(image.join("config.json")).context("the image was not unpacked")?;
    let of_image: Value = serde_json::from_slice(&text)?;
    let mut mounts = own_mounts();
    for mount in container["volumeMounts"].as_array().context("no mounts")? {
        let place = text_of(mount, "mountPath")?;
        if !pod.without_mounts.iter().any(|it| it == place) {
            mounts.push(volume_mount(pod, spec, mount, host)?);
        }
    }
    if spec["automountServiceAccountToken"] == true {
        mounts.push(account(pod, host)?);
    }
    let security = &container["securityContext"];
    ensure!(security["privileged"] == false, "the container is privileged");
    let granted = capabilities(pod, security)?;
    let seccomp = match text_of(&security["seccompProfile"], "type")? {
        "RuntimeDefault" => pod.profile.of(&granted)?,
        other => bail!("the lab has no seccomp profile {other}"),
    };
    Ok(json!({
        "ociVersion": "1.0.0",
        "root": {
            "path": image.join("rootfs"),
            "readonly": security["readOnlyRootFilesystem"],
        },
        "process": {
            "terminal": false,
            "user": {"uid": security["runAsUser"], "gid": security["runAsGroup"]},
            "args": container["command"],
            "env": environment(pod, container, &of_image, host)?,
            "cwd": "/",
            "capabilities": {
                "bounding": granted, "effective": granted, "permitted": granted,
                "inheritable": [], "ambient": [],
            },
            "noNewPrivileges": security["allowPrivilegeEscalation"] == false,
        },
        "mounts": mounts,
        "linux": {
            // Of the host: the network and, as with every pod that has it, the name.
            "namespaces": [
                {"type": "pid"}, {"type": "ipc"}, {"type": "mount"},
                {"type": "network", "path": host.netns},
            ],
            "seccomp": seccomp,
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    }))
}

/// What every container has.
fn own_mounts() -> Vec<Value> {
    let mount = |kind: &str, place: &str, options: &[&str]| json!({"type": kind, "source": kind, "destination": place, "options": options});
    vec![
        mount("proc", "/proc", &["nosuid", "noexec", "nodev"]),
        mount("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("sysfs", "/sys", &["nosuid", "noexec", "nodev", "ro"]),
    ]
}

fn text_of<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value[key].as_str().with_context(|| format!("no {key} in {value}"))
}

fn volume_mount(pod: &Pod, spec: &Value, mount: &Value, host: &Host) -> Result<Value> {
    let name = text_of(mount, "name")?;
    let volumes = spec["volumes"].as_array().context("no volumes")?;
    let volume = volumes.iter().find(|it| it["name"] == name);
    let volume = volume.with_context(|| format!("no volume {name}"))?;
    let mut source = match volume["hostPath"]["path"].as_str() {
        Some("/sys/fs/bpf") => host.bpffs.clone(),
        Some("/run/tunless") => host.run.clone(),
        Some("/proc/sys/net") => PathBuf::from("/proc/sys/net"),
        Some(other) => bail!("the lab has no {other} of a host"),
        None => config_map(pod, volume, host)?,
    };
    if let Some(path) = mount["subPath"].as_str() {
        source.push(path);
    }
    let access = if mount["readOnly"] == true { "ro" } else { "rw" };
    let propagation = match mount["mountPropagation"].as_str() {
        Some("HostToContainer") => "rslave",
        None => "rprivate",
        Some(other) => bail!("{name}: {other} is for privileged containers"),
    };
    Ok(json!({
        "type": "bind", "source": source, "destination": mount["mountPath"],
        "options": ["rbind", propagation, access],
    }))
}

/// Writes what is in a `ConfigMap`, as the kubelet does.
fn config_map(pod: &Pod, volume: &Value, host: &Host) -> Result<PathBuf> {
    let name = text_of(&volume["configMap"], "name")?;
    let maps = pod.manifest.iter().filter(|one| one["kind"] == "ConfigMap");
    let map = maps.into_iter().find(|one| one["metadata"]["name"] == name);
    let data = &map.with_context(|| format!("no ConfigMap {name}"))?["data"];
    let directory = host.volumes.join(name);
    fs::create_dir_all(&directory)?;
    for (file, text) in data.as_object().context("an empty ConfigMap")? {
        let text = pod.config.as_deref().or(text.as_str()).unwrap_or_default();
        fs::write(directory.join(file), text)?;
    }
    Ok(directory)
}

fn account(pod: &Pod, host: &Host) -> Result<Value> {
    let directory = host.volumes.join("account");
    fs::create_dir_all(&directory)?;
    for (file, text) in &pod.account {
        fs::write(directory.join(file), text)?;
    }
    Ok(json!({
        "type": "bind", "source": directory, "destination": ACCOUNT,
        "options": ["rbind", "rprivate", "ro"],
    }))
}

/// The image's, the manifest's, and what the kubelet adds.
fn environment(pod: &Pod, container: &Value, image: &Value, host: &Host) -> Result<Vec<String>> {
    let mut all: Vec<String> = Vec::new();
    for variable in image["process"]["env"].as_array().into_iter().flatten() {
        all.extend(variable.as_str().map(str::to_owned));
    }
    for variable in container["env"].as_array().into_iter().flatten() {
        let name = text_of(variable, "name")?;
        let value = match variable["valueFrom"]["fieldRef"]["fieldPath"].as_str() {
            Some("spec.nodeName") => host.name.as_str(),
            Some(other) => bail!("the lab does not know {other}"),
            None => text_of(variable, "value")?,
        };
        all.push(format!("{name}={value}"));
    }
    all.extend(pod.environment.iter().map(|(name, value)| format!("{name}={value}")));
    Ok(all)
}

fn capabilities(pod: &Pod, security: &Value) -> Result<Vec<String>> {
    let capabilities = &security["capabilities"];
    ensure!(capabilities["drop"] == json!(["ALL"]), "the container keeps default capabilities");
    let added = capabilities["add"].as_array().context("no capabilities")?;
    let names = added.iter().filter_map(Value::as_str);
    let names = names.filter(|name| !pod.without_capabilities.iter().any(|it| it == name));
    Ok(names.map(|name| format!("CAP_{name}")).collect())
}
