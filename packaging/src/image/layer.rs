//! A layer: a directory tree as a compressed tar, the same bytes each time.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use flate2::{GzBuilder, write::GzEncoder};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// A layer of an image.
pub struct Layer {
    /// As it is stored.
    pub compressed: Vec<u8>,
    /// The digest of the tar inside, by which the image's configuration names it.
    pub diff_id: String,
}

/// Packs all that is below `root`, but for `root` itself: everything is root's, and was changed at
/// `date` (Unix seconds).
pub fn pack(root: &Path, date: u64, level: flate2::Compression) -> Result<Layer> {
    let mut archive = Builder::new(Vec::new());
    for path in paths(root)? {
        append(&mut archive, root, &path, date)
            .with_context(|| format!("cannot pack {}", root.join(&path).display()))?;
    }
    let tar = archive.into_inner()?;
    let diff_id = digest(&tar);
    // Neither a name nor a time in its head.
    let mut encoder: GzEncoder<Vec<u8>> = GzBuilder::new().write(Vec::new(), level);
    std::io::Write::write_all(&mut encoder, &tar)?;
    Ok(Layer { compressed: encoder.finish()?, diff_id })
}

/// As OCI names content.
pub fn digest(content: &[u8]) -> String {
    let sum = Sha256::digest(content);
    sum.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// All paths below `root`, a directory before what is in it.
fn paths(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        let place = root.join(&directory);
        for entry in fs::read_dir(&place).with_context(|| format!("reading {}", place.display()))? {
            let entry = entry?;
            let path = directory.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                directories.push(path.clone());
            }
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn append(archive: &mut Builder<Vec<u8>>, root: &Path, path: &Path, date: u64) -> Result<()> {
    let place = root.join(path);
    let metadata = fs::symlink_metadata(&place)?;
    let mut header = Header::new_gnu();
    header.set_mtime(date);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header.set_mode(metadata.permissions().mode() & 0o7777);
    if metadata.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        header.set_mode(0o777);
        archive.append_link(&mut header, path, fs::read_link(&place)?)?;
    } else if metadata.is_dir() {
        header.set_entry_type(EntryType::Directory);
        // By a name that ends in a slash, as tar(1) writes it.
        archive.append_data(&mut header, path.join(""), std::io::empty())?;
    } else if metadata.is_file() {
        let content = fs::read(&place)?;
        header.set_entry_type(EntryType::Regular);
        header.set_size(content.len() as u64);
        archive.append_data(&mut header, path, content.as_slice())?;
    } else {
        bail!("it is neither a file, nor a directory, nor a symlink");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, os::unix::fs::symlink};

    use flate2::{Compression, read::GzDecoder};

    use super::*;

    fn tree(names: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for name in names {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, name).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        symlink("usr/bin", root.path().join("bin")).unwrap();
        root
    }

    fn listed(layer: &Layer) -> Vec<(String, u64, u64, u32)> {
        let mut tar = tar::Archive::new(GzDecoder::new(layer.compressed.as_slice()));
        let entries = tar.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
            (path, header.uid().unwrap(), header.mtime().unwrap(), header.mode().unwrap())
        });
        entries.collect()
    }

    #[test]
    fn the_same_tree_is_the_same_layer_whenever_it_was_made() {
        let names = ["usr/bin/b", "usr/bin/a", "etc/passwd"];
        let one = tree(&names);
        let mut backwards = names;
        backwards.reverse();
        let other = tree(&backwards);
        let pack = |root: &tempfile::TempDir| pack(root.path(), 7, Compression::best()).unwrap();
        let (one, other) = (pack(&one), pack(&other));
        assert_eq!(one.compressed, other.compressed);
        let paths: Vec<_> = listed(&one).into_iter().map(|it| it.0).collect();
        assert_eq!(
            paths,
            ["bin", "etc/", "etc/passwd", "usr/", "usr/bin/", "usr/bin/a", "usr/bin/b"]
        );
        assert!(listed(&one).iter().all(|(_, user, date, _)| (*user, *date) == (0, 7)));
        assert_eq!(listed(&one)[2].3, 0o755);
    }

    #[test]
    fn the_configuration_names_the_tar_and_not_what_it_is_compressed_to() {
        let root = tree(&["a"]);
        let pack = |level| pack(root.path(), 7, level).unwrap();
        let (best, fast) = (pack(Compression::best()), pack(Compression::fast()));
        assert_eq!(best.diff_id, fast.diff_id);
        let mut tar = Vec::new();
        GzDecoder::new(best.compressed.as_slice()).read_to_end(&mut tar).unwrap();
        assert_eq!(digest(&tar), best.diff_id);
        assert_eq!(
            digest(b""),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn what_has_no_place_in_an_image_is_refused() {
        let root = tree(&["a"]);
        let socket = root.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let error = pack(root.path(), 7, Compression::fast()).err().unwrap();
        assert!(format!("{error:#}").contains("socket: it is neither"), "{error:#}");
    }
}
