//! The file as redb uses it, with a switch that ends all writing.

use std::{
    fmt,
    fs::File,
    io,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use redb::{BackendError, DatabaseError, StorageBackend, backends::FileBackend};

/// Ends all writing to a file, also that of a database that is closed: what another program has put into the file must
/// not be mixed with pages of the content before it.
#[derive(Clone, Debug, Default)]
pub(super) struct WriteStop(Arc<AtomicBool>);

impl WriteStop {
    pub(super) fn set(&self, stopped: bool) {
        self.0.store(stopped, Ordering::SeqCst);
    }

    fn check(&self) -> io::Result<()> {
        if self.0.load(Ordering::SeqCst) {
            return Err(io::Error::other("another program has written to the file"));
        }
        Ok(())
    }
}

pub(super) struct Guarded {
    file: FileBackend,
    stop: WriteStop,
}

impl Guarded {
    pub(super) fn new(file: File, stop: WriteStop) -> Result<Self, DatabaseError> {
        Ok(Self { file: FileBackend::new(file)?, stop })
    }
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guarded")
    }
}

impl StorageBackend for Guarded {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.stop.check()?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.stop.check()?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
}
