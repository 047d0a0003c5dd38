//! The container image: an archive with the layout of the Open Container Initiative, which containerd,
//! podman and skopeo import.
//!
//! ```text
//! base: Debian's files, chosen ──► layer ─┐
//! the program                 ──► layer ─┼─► configuration ─► manifest ─► index ─► archive
//! ```
//!
//! Neither a registry nor Docker has a part in it. The formats are those of the
//! [image specification](https://github.com/opencontainers/image-spec), version 1.0, which is four small
//! JSON documents.

mod layer;

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

use self::layer::{Layer, digest};
use crate::{
    contents::BINARY,
    debian::Compression,
    tree::{PROGRAM, Tree, put},
    version::Version,
};

/// The name under which the image is imported. No registry has it: one named `localhost` is asked of
/// no one.
pub const NAME: &str = "localhost/tunless";
/// What tells the program that it runs in a container (`dataplane-user/src/container.rs`).
const IN_CONTAINER: &str = "TUNLESS_CONTAINER=1";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIGURATION: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Builds `tunless_<version>_<architecture>.oci.tar` in a directory that is there; returns its path.
/// `base`: a directory with all that the program needs around it.
///
/// # Errors
/// If something cannot be read or written.
pub fn build(
    base: &Path,
    tree: &Tree,
    version: &Version,
    output: &Path,
    compression: Compression,
) -> Result<PathBuf> {
    let architecture = architecture(env::consts::ARCH)?;
    let date = u64::try_from(tree.date().as_second()).context("an image is from after 1970")?;
    let level = match compression {
        Compression::Best => flate2::Compression::best(),
        Compression::Fast => flate2::Compression::fast(),
    };
    let program = tempfile::tempdir().context("no directory can be made for the program")?;
    let copyright = "usr/share/doc/tunless/copyright";
    for (file, mode) in [(BINARY, PROGRAM), (copyright, crate::tree::DATA)] {
        let from = tree.root().join(file);
        let content = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        put(program.path(), Path::new(file), &content, mode)?;
    }
    let layers = [
        layer::pack(base, date, level)
            .with_context(|| format!("the base of the image, {}", base.display()))?,
        layer::pack(program.path(), date, level)?,
    ];
    let name = format!("tunless_{}_{architecture}.oci.tar", version.debian());
    let created = tree.date().to_string();
    let archive = archive(&layers, &About { architecture, version, created: &created }, date)?;
    let path = output.join(name);
    fs::write(&path, archive).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// What differs from image to image.
struct About<'a> {
    architecture: &'a str,
    version: &'a Version,
    /// RFC 3339.
    created: &'a str,
}

/// The architecture's name, which is Go's.
fn architecture(rust: &str) -> Result<&'static str> {
    match rust {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("no image is made for {other}: tunless is built for x86_64 and aarch64"),
    }
}

/// The layout as one file.
fn archive(layers: &[Layer], about: &About, date: u64) -> Result<Vec<u8>> {
    let configuration = serde_json::to_vec(&configuration(layers, about))?;
    let described: Vec<Value> =
        layers.iter().map(|layer| descriptor(LAYER, &layer.compressed)).collect();
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIGURATION, &configuration),
        "layers": described,
    }))?;
    let mut entry = descriptor(MANIFEST, &manifest);
    let tag = about.version.tag();
    entry["platform"] = json!({"architecture": about.architecture, "os": "linux"});
    entry["annotations"] = json!({
        "org.opencontainers.image.ref.name": tag,
        // containerd imports it by this one.
        "io.containerd.image.name": format!("{NAME}:{tag}"),
    });
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]});

    let mut archive = Builder::new(Vec::new());
    for directory in ["blobs/", "blobs/sha256/"] {
        add(&mut archive, directory, None, date)?;
    }
    let mut blobs: Vec<&[u8]> = layers.iter().map(|layer| layer.compressed.as_slice()).collect();
    blobs.extend([configuration.as_slice(), manifest.as_slice()]);
    for blob in blobs {
        let name = format!("blobs/{}", digest(blob).replace(':', "/"));
        add(&mut archive, &name, Some(blob), date)?;
    }
    add(&mut archive, "index.json", Some(&serde_json::to_vec(&index)?), date)?;
    let version = serde_json::to_vec(&json!({"imageLayoutVersion": "1.0.0"}))?;
    add(&mut archive, "oci-layout", Some(&version), date)?;
    Ok(archive.into_inner()?)
}

fn configuration(layers: &[Layer], about: &About) -> Value {
    let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    json!({
        "created": about.created,
        "architecture": about.architecture,
        "os": "linux",
        "config": {
            "User": "0:0",
            "WorkingDir": "/",
            "Env": [PATH, IN_CONTAINER],
            "Entrypoint": [format!("/{BINARY}")],
            "Cmd": ["run"],
            // A daemon that is asked to stop leaves what it attached.
            "StopSignal": "SIGTERM",
            "Labels": {
                "org.opencontainers.image.title": "tunless",
                "org.opencontainers.image.description":
                    "IP-in-IP between Calico nodes without the kernel's tunl0",
                "org.opencontainers.image.version": about.version.tag(),
                "org.opencontainers.image.licenses": "MIT OR Apache-2.0",
            },
        },
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [
            {"created": about.created, "created_by": "Debian's packages, chosen files"},
            {"created": about.created, "created_by": "tunless"},
        ],
    })
}

fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(content), "size": content.len()})
}

/// Adds a file, or a directory if there is no content.
fn add(
    archive: &mut Builder<Vec<u8>>,
    path: &str,
    content: Option<&[u8]>,
    date: u64,
) -> Result<()> {
    let mut header = Header::new_gnu();
    let (kind, mode) = match content {
        Some(_) => (EntryType::Regular, 0o644),
        None => (EntryType::Directory, 0o755),
    };
    let content = content.unwrap_or_default();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(date);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, path, content)?;
    Ok(())
}

#[cfg(test)]
mod tests;
