//! Private and public files: modes, owners, and atomic writes.

use std::{
    fs::{DirBuilder, File, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// Bytes that are read of a file.
const MAX_LEN: u64 = 1 << 20;

/// A file could not be read or written, or others can use it.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} has mode {found:04o}, so others than its owner can use it; run: chmod {wanted:o} {}",
        path.display(), path.display()
    )]
    Loose {
        path: PathBuf,
        found: u32,
        /// Every permission bit that is accepted.
        wanted: u32,
    },
    #[error(
        "{} belongs to uid {found} and this runs as uid {ours}; run: chown {ours} {}",
        path.display(), path.display()
    )]
    Owner {
        path: PathBuf,
        found: u32,
        /// The effective uid of this process.
        ours: u32,
    },
    #[error("{} is not a {wanted}", path.display())]
    Kind {
        path: PathBuf,
        /// `regular file` or `directory`.
        wanted: &'static str,
    },
    #[error("{} is larger than {MAX_LEN} bytes", path.display())]
    Large { path: PathBuf },
}

/// Writes and syncs a new file of mode 0600, atomically. Fails if the path exists.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let temporary = Temporary::write(path, bytes, 0o600)?;
    // A rename would replace an existing file.
    std::fs::hard_link(&temporary.path, path).map_err(io_error("create", path))?;
    drop(temporary);
    sync_parent(path)
}

/// Writes and syncs a file of mode 0600, atomically. Replaces an existing file.
pub fn replace_secret(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    Temporary::write(path, bytes, 0o600)?.rename(path)
}

/// Writes and syncs a file of mode 0644, atomically. Replaces an existing file.
pub fn write_public(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    Temporary::write(path, bytes, 0o644)?.rename(path)
}

/// Renames a file within its directory and syncs the directory.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    std::fs::rename(from, to).map_err(io_error("replace", to))?;
    sync_parent(to)
}

/// Reads a regular file of mode 0600 or stricter that belongs to this process's user. Root also
/// reads files whose owner owns their directory, so that it can inspect a service's state.
pub fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let file = open(path)?;
    // Metadata of the open file: the path may name another one by now.
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

/// Reads a file of at most 1 MiB with any owner and mode.
pub fn read_public(path: &Path) -> Result<Vec<u8>, FileError> {
    let file = open(path)?;
    let metadata = file.metadata().map_err(io_error("inspect", path))?;
    read_to_end(path, file, metadata.len())
}

/// Makes a directory of mode 0700 and its parents. An existing one must belong to this process's
/// user and have mode 0700 or stricter.
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

/// The owner that a file must have for root to read it: root, or the owner of its directory.
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
    // Opening a FIFO would wait for a writer.
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
    // One spare byte, so that the buffer doesn't grow and leave a copy of a secret in memory.
    let mut bytes = Vec::with_capacity(usize::try_from(expected).unwrap_or(0) + 1);
    file.take(MAX_LEN + 1).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    if bytes.len() as u64 > MAX_LEN {
        return Err(large());
    }
    Ok(bytes)
}

/// A file next to its destination. Dropping it removes it, unless it was renamed to the destination.
struct Temporary {
    path: PathBuf,
    renamed: bool,
}

impl Temporary {
    fn write(destination: &Path, bytes: &[u8], mode: u32) -> Result<Self, FileError> {
        let mut random = [0; 8];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| FileError::Io {
            action: "choose a temporary name to write",
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
        // The umask may have removed bits that a public file needs.
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
            // A file that cannot be removed still has its mode.
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
