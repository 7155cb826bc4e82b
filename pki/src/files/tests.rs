//! Modes and owners of files, and atomic writes.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt as _, chown, symlink},
        net::UnixListener,
    },
};

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_secret_is_written_once_and_for_its_owner() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("key");
    write_secret(&path, b"one").unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(*read_secret(&path).unwrap(), b"one");

    let error = write_secret(&path, b"two").unwrap_err();
    assert!(
        matches!(&error, FileError::Io { source, .. } if source.kind() == io::ErrorKind::AlreadyExists)
    );
    assert_eq!(*read_secret(&path).unwrap(), b"one");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn a_secret_is_not_written_through_a_link() {
    let home = tempfile::tempdir().unwrap();
    let (target, path) = (home.path().join("target"), home.path().join("key"));
    symlink(&target, &path).unwrap();
    assert!(write_secret(&path, b"secret").is_err());
    assert!(!target.exists());
}

#[test]
fn replacing_gives_a_whole_private_file_for_any_existing_one() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("key");
    fs::write(&path, "older and longer").unwrap();
    set_mode(&path, 0o644);
    replace_secret(&path, b"new").unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(*read_secret(&path).unwrap(), b"new");
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "nothing else is left");
}

#[test]
fn a_public_file_is_readable_by_all() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("cert");
    for text in [b"one", b"two"] {
        write_public(&path, text).unwrap();
        assert_eq!(mode(&path), 0o644);
        assert_eq!(read_public(&path).unwrap(), text);
    }
}

#[test]
fn a_secret_that_others_may_use_is_refused_with_its_fix() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("key");
    write_secret(&path, b"one").unwrap();
    for loose in [0o644, 0o640, 0o604, 0o610, 0o602, 0o700, 0o4600] {
        set_mode(&path, loose);
        let error = read_secret(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("{loose:04o}")), "{error}");
        assert!(error.contains(&format!("chmod 600 {}", path.display())), "{error}");
    }
    set_mode(&path, 0o400);
    read_secret(&path).unwrap();
}

#[test]
fn a_secret_of_another_user_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let (file, directory) = (home.path().join("key"), home.path().join("private"));
    let (file, directory) = if rustix::process::geteuid().is_root() {
        write_secret(&file, b"one").unwrap();
        ensure_private_dir(&directory).unwrap();
        chown(&file, Some(12345), None).unwrap();
        chown(&directory, Some(12345), None).unwrap();
        (file, directory)
    } else {
        // Only root can change a file's owner; these files are root's.
        (PathBuf::from("/etc/passwd"), PathBuf::from("/etc"))
    };
    let error = read_secret(&file).unwrap_err();
    assert!(matches!(error, FileError::Owner { .. }), "{error}");
    assert!(error.to_string().contains("chown"), "{error}");
    let error = ensure_private_dir(&directory).unwrap_err();
    assert!(matches!(error, FileError::Owner { .. }), "{error}");
}

#[test]
fn root_reads_a_secret_of_the_user_who_has_its_directory_and_of_no_other() {
    assert_eq!(expected_by_root(0, Some(0)), 0);
    assert_eq!(expected_by_root(0, Some(998)), 0);
    assert_eq!(expected_by_root(998, Some(998)), 998);
    assert_eq!(expected_by_root(998, Some(0)), 0, "another user's in root's directory");
    assert_eq!(expected_by_root(998, Some(997)), 0);
    assert_eq!(expected_by_root(998, None), 0);
    if !rustix::process::geteuid().is_root() {
        return; // Only root can change a file's owner.
    }
    let home = tempfile::tempdir().unwrap();
    let (directory, path) = (home.path().join("service"), home.path().join("service/key"));
    ensure_private_dir(&directory).unwrap();
    write_secret(&path, b"one").unwrap();
    chown(&path, Some(12345), None).unwrap();
    chown(&directory, Some(12345), None).unwrap();
    assert_eq!(*read_secret(&path).unwrap(), b"one");
    set_mode(&path, 0o640);
    assert!(matches!(read_secret(&path), Err(FileError::Loose { .. })));
    let error = ensure_private_dir(&directory).unwrap_err();
    assert!(matches!(error, FileError::Owner { .. }), "root makes nothing in it: {error}");
}

#[test]
fn only_regular_files_are_secrets() {
    let home = tempfile::tempdir().unwrap();
    assert!(matches!(read_secret(home.path()), Err(FileError::Kind { .. })));
    assert!(read_secret(&home.path().join("absent")).is_err());
    let socket = home.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    assert!(read_secret(&socket).is_err());
    let large = home.path().join("large");
    File::create(&large).unwrap().set_len(MAX_LEN + 1).unwrap();
    set_mode(&large, 0o600);
    assert!(matches!(read_secret(&large), Err(FileError::Large { .. })));
}

#[test]
fn a_directory_is_made_private_and_a_loose_one_refused() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("a/b");
    ensure_private_dir(&path).unwrap();
    assert_eq!((mode(&path), mode(&home.path().join("a"))), (0o700, 0o700));
    ensure_private_dir(&path).unwrap();

    set_mode(&path, 0o755);
    let error = ensure_private_dir(&path).unwrap_err().to_string();
    assert!(error.contains("0755") && error.contains("chmod 700"), "{error}");

    let file = home.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(ensure_private_dir(&file).is_err());
}

#[test]
fn an_error_names_the_path_and_its_source() {
    let error = read_secret(Path::new("/absent/key")).unwrap_err();
    assert_eq!(error.to_string(), "cannot read /absent/key");
    assert!(std::error::Error::source(&error).is_some());
}
