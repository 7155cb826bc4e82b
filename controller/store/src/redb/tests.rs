use std::{
    fmt, io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use redb::{StorageBackend, backends::FileBackend};
use tempfile::TempDir;

use super::*;
use crate::{Compare, conformance};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_conforms() {
    let directory = TempDir::new().unwrap();
    let mut count = 0;
    conformance::all(|| {
        count += 1;
        let path = directory.path().join(format!("{count}.redb"));
        async move { Arc::new(Redb::open(&path).unwrap()) as Arc<dyn Store> }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_handles_to_an_embedded_store_conform() {
    let directory = TempDir::new().unwrap();
    let mut count = 0;
    conformance::shared(|| {
        count += 1;
        let path = directory.path().join(format!("{count}.redb"));
        async move {
            let store = Redb::open(&path).unwrap();
            (Arc::new(store.clone()) as Arc<dyn Store>, Arc::new(store) as Arc<dyn Store>)
        }
    })
    .await;
}

#[tokio::test]
async fn what_a_dead_process_advertised_is_deleted_when_the_file_is_opened_again() {
    let directory = TempDir::new().unwrap();
    let (path, copy) = (directory.path().join("store.redb"), directory.path().join("copy.redb"));
    let store = Redb::open(&path).unwrap();
    store.commit(put("a", "1")).await.unwrap();
    let ttl = Duration::from_secs(5);
    let _held = store.advertise("alive/one".to_owned(), b"x".to_vec(), ttl).await.unwrap();
    let before = store.list("").await.unwrap();
    assert_eq!(before.entries.len(), 2);
    // The file as a killed process leaves it.
    std::fs::copy(&path, &copy).unwrap();

    let store = Redb::open(&copy).unwrap();
    let view = store.list("").await.unwrap();
    assert_eq!(view.entries.len(), 1);
    assert!(view.revision > before.revision, "it is a change like any other");
    store.close().await;
    assert_eq!(Redb::open(&copy).unwrap().list("").await.unwrap().revision, view.revision);
}

#[tokio::test]
async fn a_caller_that_does_not_wait_for_its_advertisement_leaves_no_key() {
    let directory = TempDir::new().unwrap();
    let store = Redb::open(&directory.path().join("store.redb")).unwrap();
    for round in 0..50 {
        let ttl = Duration::from_secs(5);
        let advertising = store.advertise("alive/one".to_owned(), b"x".to_vec(), ttl);
        let _ = tokio::time::timeout(Duration::from_micros(round * 100), advertising).await;
        store.commit(put("a", "1")).await.unwrap();
        assert_eq!(store.list("alive/").await.unwrap().entries, []);
    }
}

#[tokio::test]
async fn what_was_written_is_there_after_opening_again() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.redb");
    let store = Redb::open(&path).unwrap();
    let first = store.commit(put("a", "1")).await.unwrap();
    let second = store.commit(put("b", "2")).await.unwrap();
    store.close().await;

    let store = Redb::open(&path).unwrap();
    let view = store.list("").await.unwrap();
    assert_eq!(view.revision, second);
    let entries: Vec<_> =
        view.entries.iter().map(|entry| (entry.key.as_str(), entry.modified)).collect();
    assert_eq!(entries, [("a", first), ("b", second)]);
    assert!(store.commit(put("c", "3")).await.unwrap() > second);
    let compacted = store.watch("", 0).await.unwrap().next().await;
    assert_eq!(compacted, Err(WatchError::Compacted(0)));
}

#[tokio::test]
async fn a_second_process_gets_an_error_that_names_the_cause() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.redb");
    let _open = Redb::open(&path).unwrap();
    let error = Redb::open(&path).err().unwrap();
    assert!(error.to_string().contains("another process has it open"), "{error}");
}

#[tokio::test]
async fn the_file_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.redb");
    let _store = Redb::open(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn a_damaged_page_is_named_and_never_served() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.redb");
    let store = Redb::open(&path).unwrap();
    for index in 0..200 {
        store.commit(put(&format!("key-{index:03}"), &"value".repeat(100))).await.unwrap();
    }
    store.close().await;
    let bytes = std::fs::read(&path).unwrap();
    let mut damaged = 0;
    let places: Vec<usize> =
        bytes.windows(7).enumerate().filter(|(_, at)| at == b"key-150").map(|(at, _)| at).collect();
    for place in places {
        let copy = directory.path().join("damaged.redb");
        let mut bytes = bytes.clone();
        bytes[place + 4] = b'9';
        std::fs::write(&copy, &bytes).unwrap();
        match Redb::open(&copy) {
            Err(ReadError::Corrupt(_)) => damaged += 1,
            Err(other) => panic!("{other}"),
            // No tree refers to that page any more.
            Ok(store) => {
                let view = store.list("").await.unwrap();
                assert_eq!(view.entries.len(), 200);
                assert!(view.entries.iter().any(|entry| entry.key == "key-150"));
            }
        }
    }
    assert!(damaged > 0, "no damaged page was noticed");
}

#[tokio::test]
async fn a_file_that_is_no_store_is_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.redb");
    std::fs::write(&path, "not a store".repeat(1000)).unwrap();
    assert!(matches!(Redb::open(&path), Err(ReadError::Corrupt(_))));
}

#[tokio::test]
async fn an_empty_file_is_refused_and_not_taken_for_a_new_store() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.redb");
    std::fs::write(&path, "").unwrap();
    let Err(ReadError::Corrupt(text)) = Redb::open(&path) else { panic!("opened") };
    assert!(text.contains("it is empty") && text.contains("restore --in FILE"), "{text}");
}

#[tokio::test]
async fn what_another_program_writes_into_the_file_is_never_mixed_with_what_was_there() {
    let directory = TempDir::new().unwrap();
    let (path, old) = (directory.path().join("store.redb"), directory.path().join("old"));
    let store = Redb::open(&path).unwrap();
    for index in 0..20 {
        store.commit(put(&format!("key-{index}"), &"value".repeat(100))).await.unwrap();
    }
    std::fs::copy(&path, &old).unwrap();
    store.commit(put("later", "1")).await.unwrap();
    let newest = directory.path().join("newest");
    std::fs::copy(&path, &newest).unwrap();
    let copied = std::fs::read(&old).unwrap();
    let cut = copied[..copied.len() / 3].to_vec();
    for (content, reason) in [
        (Vec::new(), "it is empty"),
        (b"garbage".repeat(9_000), "it is damaged"),
        (cut, "it is damaged"),
        (copied, "an older copy was put into the file"),
    ] {
        std::fs::write(&path, &content).unwrap();
        let error = store.commit(put("lost", "2")).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{reason}: {error}");
        assert!(store.list("").await.is_err(), "{reason}: what is read is not the store's");
        // As it was, it is good again.
        std::fs::copy(&newest, &path).unwrap();
        let revision = store.commit(put("found", reason)).await.unwrap();
        assert_eq!(store.list("").await.unwrap().entries.len(), 22, "{reason}");
        std::fs::copy(&path, &newest).unwrap();
        assert_eq!(store.list("").await.unwrap().revision, revision);
    }
    // Closing writes too, and must not into this.
    std::fs::copy(&old, &path).unwrap();
    store.close().await;
    assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&old).unwrap());
    assert_eq!(Redb::open(&path).unwrap().list("").await.unwrap().entries.len(), 20);
}

#[tokio::test]
async fn a_store_that_was_deleted_or_replaced_takes_no_writes() {
    let directory = TempDir::new().unwrap();
    let (path, away) = (directory.path().join("store.redb"), directory.path().join("away"));
    let store = Redb::open(&path).unwrap();
    store.commit(put("before", "1")).await.unwrap();
    std::fs::rename(&path, &away).unwrap();
    let CommitError::Unavailable(text) = store.commit(put("lost", "2")).await.unwrap_err() else {
        panic!("another error")
    };
    assert!(text.contains("was deleted"), "{text}");
    assert_eq!(store.list("").await.unwrap().entries.len(), 1, "it can still be read");
    std::fs::copy(&away, &path).unwrap();
    let error = store.commit(put("lost", "2")).await.unwrap_err().to_string();
    assert!(error.contains("another file"), "{error}");
    // Moved back, it is the same file.
    std::fs::rename(&away, &path).unwrap();
    store.commit(put("after", "3")).await.unwrap();
    assert_eq!(store.list("").await.unwrap().entries.len(), 2);
}

#[tokio::test]
async fn a_full_disk_fails_writes_only_until_there_is_room_again() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("store.redb");
    let disk = Arc::new(Disk::default());
    let opener = {
        let (path, disk) = (path.clone(), Arc::clone(&disk));
        move || {
            let file = std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .unwrap();
            let backend = FileBackend::new(file)?;
            builder().create_with_backend(Quota { backend, disk: Arc::clone(&disk) })
        }
    };
    let store = Redb::start("store", Box::new(opener)).unwrap();
    store.commit(put("before", "1")).await.unwrap();
    let mut watch = store.watch("", 1).await.unwrap();

    disk.full.store(true, Ordering::SeqCst);
    let error = store.commit(put("during", &"x".repeat(100_000))).await.unwrap_err();
    assert!(matches!(error, CommitError::Full(_)), "{error:?}");
    let view = store.list("").await;
    assert!(view.is_ok_and(|view| view.entries.len() == 1), "reads still work");

    disk.full.store(false, Ordering::SeqCst);
    let revision = store.commit(put("after", "2")).await.unwrap();
    let batch = watch.next().await.unwrap();
    assert_eq!((batch.revision, batch.changes[0].0.as_str()), (revision, "after"));
    let keys: Vec<_> =
        store.list("").await.unwrap().entries.into_iter().map(|entry| entry.key).collect();
    assert_eq!(keys, ["after", "before"]);
}

/// A disk that, once it is full, takes writes only where it took some before.
struct Quota {
    backend: FileBackend,
    disk: Arc<Disk>,
}

#[derive(Default)]
struct Disk {
    full: AtomicBool,
    allocated: AtomicU64,
}

impl fmt::Debug for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Quota")
    }
}

impl StorageBackend for Quota {
    fn len(&self) -> Result<u64, io::Error> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.backend.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.backend.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.backend.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        let end = offset + data.len() as u64;
        let allocated = self.disk.allocated.load(Ordering::SeqCst);
        if self.disk.full.load(Ordering::SeqCst) && end > allocated {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.disk.allocated.fetch_max(end, Ordering::SeqCst);
        self.backend.write(offset, data)
    }

    fn close(&self) -> Result<(), io::Error> {
        self.backend.close()
    }
}

fn put(key: &str, value: &str) -> Txn {
    let op = Op::Put { key: key.to_owned(), value: value.as_bytes().to_vec() };
    Txn { compares: Vec::<Compare>::new(), ops: vec![op] }
}
