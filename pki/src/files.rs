//! Files that hold keys, and files that don't: modes, owners, and writes that a crash cannot halve.

use std::{
    fs::{DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// No file of ours is larger.
const MAX_LEN: u64 = 1 << 20;

/// A file could not be read or written, or is not as private as it must be.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Others than the owner may use it.
    #[error(
        "{} has mode {found:04o}, so that others than its owner may use it; run: chmod {wanted:o} {}",
        path.display(), path.display()
    )]
    Loose {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        found: u32,
        /// The loosest that is accepted.
        wanted: u32,
    },
    /// It belongs to another user than the one we run as, and to another than its directory where that is root.
    #[error(
        "{} belongs to uid {found} and this runs as uid {ours}; run: chown {ours} {}",
        path.display(), path.display()
    )]
    Owner {
        /// The file or directory.
        path: PathBuf,
        /// Its owner.
        found: u32,
        /// The effective uid of this process.
        ours: u32,
    },
    /// It is something else than a file, or a directory, as the case may be.
    #[error("{} is not a {wanted}", path.display())]
    Kind {
        /// The path.
        path: PathBuf,
        /// `regular file` or `directory`.
        wanted: &'static str,
    },
    /// It is larger than any file of ours.
    #[error("{} is larger than {MAX_LEN} bytes", path.display())]
    Large {
        /// The path.
        path: PathBuf,
    },
}

/// Writes a new file of mode 0600, whole or not at all, and syncs it.
///
/// # Errors
/// When the path exists, whatever it is, or the system refuses.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let temporary = Temporary::write(path, bytes, 0o600)?;
    // A link, because it fails where a rename would replace.
    std::fs::hard_link(&temporary.path, path).map_err(io_error("create", path))?;
    drop(temporary);
    sync_parent(path)
}

/// Writes a file of mode 0600 in place of the one that may be there, atomically, and syncs it.
///
/// # Errors
/// When the system refuses.
pub fn replace_secret(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    Temporary::write(path, bytes, 0o600)?.rename(path)
}

/// Writes a file of mode 0644 in place of the one that may be there, atomically, and syncs it.
///
/// # Errors
/// When the system refuses.
pub fn write_public(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    Temporary::write(path, bytes, 0o644)?.rename(path)
}

/// Renames within a directory, atomically, and syncs that.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    std::fs::rename(from, to).map_err(io_error("replace", to))?;
    sync_parent(to)
}

/// Reads a file that must be private: ours, regular, and of mode 0600 or stricter. Root also reads those of the user
/// whose directory they are in: a service's, which it looks at.
///
/// # Errors
/// When it is not, or the system refuses.
pub fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let file = open(path)?;
    // Of the open file: the path may name another by now.
    let metadata = file.metadata().map_err(io_error("inspect", path))?;
    if !metadata.is_file() {
        return Err(FileError::Kind { path: path.to_owned(), wanted: "regular file" });
    }
    let ours = rustix::process::geteuid().as_raw();
    let owner = match ours {
        0 => expected_by_root(metadata.uid(), directory_owner(path)),
        ours => ours,
    };
    private(path, &metadata, owner, 0o600)?;
    read_to_end(path, file, metadata.len()).map(Zeroizing::new)
}

/// Reads a file that anybody may see, of at most 1 MiB.
///
/// # Errors
/// When it is larger, or the system refuses.
pub fn read_public(path: &Path) -> Result<Vec<u8>, FileError> {
    let file = open(path)?;
    let metadata = file.metadata().map_err(io_error("inspect", path))?;
    read_to_end(path, file, metadata.len())
}

/// Makes a directory of mode 0700, with its parents, or accepts one that is there already.
///
/// # Errors
/// When what is there is no directory, another user's, or open to others; or the system refuses.
pub fn ensure_private_dir(path: &Path) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io_error("create the directory", path))?;
    let metadata = std::fs::metadata(path).map_err(io_error("inspect", path))?;
    if !metadata.is_dir() {
        return Err(FileError::Kind { path: path.to_owned(), wanted: "directory" });
    }
    private(path, &metadata, rustix::process::geteuid().as_raw(), 0o700)
}

/// Whose a file may be that root reads: root's, or the user's who has its directory too.
fn expected_by_root(found: u32, directory: Option<u32>) -> u32 {
    if directory == Some(found) { found } else { 0 }
}

fn directory_owner(path: &Path) -> Option<u32> {
    Some(std::fs::metadata(parent(path)).ok()?.uid())
}

fn private(
    path: &Path,
    metadata: &std::fs::Metadata,
    ours: u32,
    wanted: u32,
) -> Result<(), FileError> {
    let path = || path.to_owned();
    if metadata.uid() != ours {
        return Err(FileError::Owner { path: path(), found: metadata.uid(), ours });
    }
    let found = metadata.mode() & 0o7777;
    if found & !wanted != 0 {
        return Err(FileError::Loose { path: path(), found, wanted });
    }
    Ok(())
}

fn open(path: &Path) -> Result<File, FileError> {
    // Non-blocking, because opening a FIFO would wait for a writer.
    OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(io_error("read", path))
}

fn read_to_end(path: &Path, file: File, expected: u64) -> Result<Vec<u8>, FileError> {
    let large = || FileError::Large { path: path.to_owned() };
    if expected > MAX_LEN {
        return Err(large());
    }
    // Room for one more byte than expected, so that the buffer doesn't move and leave a copy behind.
    let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or(0) + 1);
    file.take(MAX_LEN + 1).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    if bytes.len() as u64 > MAX_LEN {
        return Err(large());
    }
    Ok(bytes)
}

/// A file beside its destination that is removed unless it is renamed to it.
struct Temporary {
    path: PathBuf,
    renamed: bool,
}

impl Temporary {
    fn write(destination: &Path, bytes: &[u8], mode: u32) -> Result<Self, FileError> {
        let mut random = [0; 8];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| FileError::Io {
            action: "draw a random name to write",
            path: destination.to_owned(),
            source: io::Error::other("the system's random source failed"),
        })?;
        let mut name = std::ffi::OsString::from(".");
        name.push(destination.file_name().unwrap_or_default());
        name.push(format!(".{:016x}.tmp", u64::from_ne_bytes(random)));
        let path = destination.with_file_name(name);

        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)
            .map_err(io_error("create", &path))?;
        let temporary = Self { path, renamed: false };
        // The umask may have taken bits away that a public file needs.
        file.set_permissions(Permissions::from_mode(mode))
            .and_then(|()| file.write_all(bytes))
            .and_then(|()| file.sync_all())
            .map_err(io_error("write", &temporary.path))?;
        Ok(temporary)
    }

    fn rename(mut self, destination: &Path) -> Result<(), FileError> {
        rename(&self.path, destination)?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // What cannot be removed is private all the same.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn sync_parent(path: &Path) -> Result<(), FileError> {
    let parent = parent(path);
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(io_error("sync the directory", parent))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Io { action, path, source }
}

#[cfg(test)]
mod tests;
