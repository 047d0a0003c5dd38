use std::{collections::BTreeMap, io::Read as _};

use super::*;

/// An image of any program, and what is in its archive.
fn built() -> (Vec<u8>, BTreeMap<String, Vec<u8>>) {
    let base = tempfile::tempdir().unwrap();
    put(base.path(), Path::new("etc/passwd"), b"root:x:0:0::/:\n", 0o644).unwrap();
    let tree = Tree::of(Path::new("/bin/true")).unwrap();
    let output = tempfile::tempdir().unwrap();
    let version = Version::new("0.2.0-rc.1", 1).unwrap();
    let path = build(base.path(), &tree, &version, output.path(), Compression::Fast).unwrap();
    let architecture = architecture(env::consts::ARCH).unwrap();
    let name = format!("tunless_0.2.0~rc.1-1_{architecture}.oci.tar");
    assert_eq!(path.file_name().unwrap().to_str().unwrap(), name);
    let bytes = fs::read(path).unwrap();
    let mut archive = tar::Archive::new(bytes.as_slice());
    let files = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (path, content)
    });
    let files = files.collect();
    (bytes, files)
}

#[test]
fn the_same_files_are_the_same_image() {
    let (one, _) = built();
    let (other, _) = built();
    assert_eq!(digest(&one), digest(&other));
}

#[test]
fn every_blob_is_where_its_digest_says_and_is_named() {
    let (_, files) = built();
    let json = |content: &[u8]| serde_json::from_slice::<Value>(content).unwrap();
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        let content = &files[&format!("blobs/{}", digest.replace(':', "/"))];
        assert_eq!(super::digest(content), digest);
        assert_eq!(descriptor["size"], content.len());
        content.clone()
    };
    assert_eq!(json(&files["oci-layout"]), json!({"imageLayoutVersion": "1.0.0"}));
    let index = json(&files["index.json"]);
    let entry = &index["manifests"][0];
    // A tag has no tilde.
    assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "0.2.0-rc.1");
    let manifest = json(&blob(entry));
    let configuration = json(&blob(&manifest["config"]));
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 2);
    for (layer, diff_id) in
        layers.iter().zip(configuration["rootfs"]["diff_ids"].as_array().unwrap())
    {
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(blob(layer).as_slice()).read_to_end(&mut tar).unwrap();
        assert_eq!(digest(&tar), diff_id.as_str().unwrap());
    }
    assert_eq!(configuration["config"]["Entrypoint"], json!(["/usr/bin/tunless"]));
    let env = configuration["config"]["Env"].as_array().unwrap();
    assert!(env.contains(&"TUNLESS_CONTAINER=1".into()), "{env:?}");
    // Two directories, and as many blobs as are named.
    let blobs = files.keys().filter(|path| path.starts_with("blobs/sha256/") && path.len() > 13);
    assert_eq!(blobs.count(), 4);
}

#[test]
fn architectures_are_gos() {
    assert_eq!(architecture("x86_64").unwrap(), "amd64");
    assert_eq!(architecture("aarch64").unwrap(), "arm64");
    assert!(architecture("riscv64").unwrap_err().to_string().contains("riscv64"));
}
