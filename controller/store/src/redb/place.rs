//! The store's file in its directory, and whether only this program has written to it.

use std::{
    fs::Metadata,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::file::Failure;

/// A file and its directory entry. What is written to a file that was deleted or replaced is lost when it is closed.
pub(super) struct Place {
    path: PathBuf,
    /// Device and inode.
    file: (u64, u64),
    /// Its size and the time of its last change, after the last write of this program.
    written: Option<Content>,
}

/// Bytes.
const MIN_AVAILABLE: u64 = 256 << 10;

type Content = (u64, i64, i64);

/// What is in a file's place.
pub(super) enum Found {
    /// The file, as it was written last.
    Own,
    /// The file, and somebody else has written to it.
    Changed,
}

impl Place {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let found = std::fs::metadata(path)?;
        Ok(Self { path: path.to_owned(), file: identity(&found), written: None })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// After a write.
    pub(super) fn record_written(&mut self) {
        self.written = std::fs::metadata(&self.path).ok().map(|found| content(&found));
    }

    /// Whether there is something in it. Opening would make an empty file into a new store.
    pub(super) fn check_not_empty(&self) -> Result<(), Failure> {
        match std::fs::metadata(&self.path) {
            Ok(found) if found.len() == 0 => Err(Failure::damaged("it is empty")),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Fails unless the file is still in its place.
    pub(super) fn check(&self) -> Result<Found, Failure> {
        let shown = self.path.display();
        match std::fs::metadata(&self.path) {
            Ok(found) if identity(&found) != self.file => Err(Failure::Other(format!(
                "another file was put at {shown} while the store was open; restart the controller to use it"
            ))),
            Ok(found) if self.written.is_none_or(|written| written == content(&found)) => {
                Ok(Found::Own)
            }
            Ok(_) => Ok(Found::Changed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Failure::Other(format!(
                "{shown} was deleted while the store was open, and what is written now would be lost: on this host run \
                 `cframe-controller backup --out FILE`, stop the controller, run `cframe-controller restore --in FILE` and \
                 start it again"
            ))),
            Err(error) => Err(Failure::new(redb::Error::Io(error))),
        }
    }
}

/// What is wrong if the file system has no room for a large write.
pub(super) fn full_disk(path: &Path) -> Option<String> {
    let found = rustix::fs::statvfs(path).ok()?;
    let available = found.f_bavail.saturating_mul(found.f_frsize);
    (available < MIN_AVAILABLE).then(|| {
        format!(
            "the disk is full: {} KiB are left for {}; free some space there",
            available / 1024,
            path.display()
        )
    })
}

fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

fn content(found: &Metadata) -> Content {
    (found.len(), found.mtime(), found.mtime_nsec())
}
