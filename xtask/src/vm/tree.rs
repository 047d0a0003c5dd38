//! A tree of files, written as the archive that the kernel unpacks at boot
//! (cpio "newc", Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! The same tree gives the same bytes: sorted, owned by root, without times.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::{Path, PathBuf},
};

use cpio::newc::{self, ModeFileType};

/// What is at a path.
enum Entry {
    Directory,
    File { mode: u32, content: Vec<u8> },
    Link(PathBuf),
}

/// The tree.
#[derive(Default)]
pub struct Tree(BTreeMap<PathBuf, Entry>);

impl Tree {
    /// Adds an empty directory, and those it is in.
    pub fn directory(&mut self, path: impl AsRef<Path>) {
        let path = relative(path.as_ref());
        if path.as_os_str().is_empty() || self.0.contains_key(path) {
            return;
        }
        self.parent_of(path);
        self.0.insert(path.to_owned(), Entry::Directory);
    }

    /// Adds a file, and the directories it is in.
    pub fn file(&mut self, path: impl AsRef<Path>, mode: u32, content: Vec<u8>) {
        let path = relative(path.as_ref());
        self.parent_of(path);
        self.0.insert(path.to_owned(), Entry::File { mode, content });
    }

    /// Adds a symbolic link, and the directories it is in.
    pub fn link(&mut self, path: impl AsRef<Path>, target: impl Into<PathBuf>) {
        let path = relative(path.as_ref());
        self.parent_of(path);
        self.0.insert(path.to_owned(), Entry::Link(target.into()));
    }

    fn parent_of(&mut self, path: &Path) {
        if let Some(parent) = path.parent() {
            self.directory(parent);
        }
    }

    /// Writes the archive.
    pub fn write(&self, mut out: impl Write) -> io::Result<()> {
        // A parent sorts before what is in it.
        for (number, (path, entry)) in self.0.iter().enumerate() {
            let (kind, mode, content): (_, _, &[u8]) = match entry {
                Entry::Directory => (ModeFileType::Directory, 0o755, &[]),
                Entry::File { mode, content } => (ModeFileType::Regular, *mode, content),
                Entry::Link(target) => {
                    (ModeFileType::Symlink, 0o777, target.as_os_str().as_encoded_bytes())
                }
            };
            let too_much = |_| io::Error::other(format!("{} is too large", path.display()));
            let size = u32::try_from(content.len()).map_err(too_much)?;
            // Equal numbers would make hard links.
            let number = u32::try_from(number).map_err(too_much)? + 1;
            let mut writer = newc::Builder::new(&path.to_string_lossy())
                .ino(number)
                .mode(mode)
                .set_mode_file_type(kind)
                .write(&mut out, size);
            writer.write_all(content)?;
            writer.finish()?;
        }
        newc::trailer(out)?;
        Ok(())
    }
}

fn relative(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn archive(tree: &Tree) -> Vec<u8> {
        let mut bytes = Vec::new();
        tree.write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut tree = Tree::default();
        tree.link("/init", "usr/bin/x");
        tree.file("/usr/bin/x", 0o755, b"odd".to_vec());
        tree.directory("/usr/bin");
        tree.directory("/proc");

        let bytes = archive(&tree);
        let (mut rest, mut found) = (bytes.as_slice(), Vec::new());
        loop {
            let mut reader = newc::Reader::new(rest).unwrap();
            let entry = reader.entry().clone();
            if entry.is_trailer() {
                break;
            }
            let mut content = String::new();
            reader.read_to_string(&mut content).unwrap();
            rest = reader.finish().unwrap();
            found.push((entry.name().to_owned(), entry.mode(), content));
        }
        let expected = [
            ("init", 0o120_777, "usr/bin/x"),
            ("proc", 0o040_755, ""),
            ("usr", 0o040_755, ""),
            ("usr/bin", 0o040_755, ""),
            ("usr/bin/x", 0o100_755, "odd"),
        ];
        assert_eq!(found, expected.map(|(name, mode, text)| (name.into(), mode, text.into())));
    }

    #[test]
    fn the_order_of_adding_does_not_show() {
        let (mut one, mut other) = (Tree::default(), Tree::default());
        one.file("/a/b", 0o644, vec![1]);
        one.file("/c", 0o644, vec![2]);
        other.file("/c", 0o644, vec![2]);
        other.file("/a/b", 0o644, vec![1]);
        assert_eq!(archive(&one), archive(&other));
    }
}
