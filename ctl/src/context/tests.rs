use std::{fs, os::unix::fs::PermissionsExt as _};

use cframe_pki::certificate_pem;

use super::*;

fn sample() -> Contexts {
    let context = Context {
        mesh: "corp".parse().unwrap(),
        controllers: vec!["203.0.113.1:58422".parse().unwrap()],
        namespace: Some("prod".parse().unwrap()),
        certificate: certificate_pem(b"certificate"),
        key: "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n".to_owned(),
        trust: certificate_pem(b"root"),
        revoked_issuers: BTreeSet::from([Fingerprint::of_spki(b"stolen")]),
    };
    let bare = Context { namespace: None, revoked_issuers: BTreeSet::new(), ..context.clone() };
    let contexts = BTreeMap::from([("corp".to_owned(), context), ("lab".to_owned(), bare)]);
    Contexts { current: Some("corp".to_owned()), contexts }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_file_reads_back_as_it_was_and_is_private() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("below/cframe/config.toml");
    sample().save(&path).unwrap();
    assert_eq!(Contexts::load(&path).unwrap(), sample());
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    sample().save(&path).unwrap();
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn a_file_that_others_can_read_is_refused_with_the_fix() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    sample().save(&path).unwrap();
    for loose in [0o640, 0o604, 0o666] {
        fs::set_permissions(&path, fs::Permissions::from_mode(loose)).unwrap();
        let failure = Contexts::load(&path).unwrap_err();
        let fix = format!("chmod 600 {}", path.display());
        assert!(failure.message.contains(&fix), "{failure}");
        assert_eq!(failure.exit, Exit::Error);
    }
}

#[test]
fn a_new_file_never_replaces_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("alice.toml");
    sample().create(&path).unwrap();
    assert_eq!(mode(&path), 0o600);
    assert!(sample().create(&path).is_err());
}

#[test]
fn what_the_document_shows_is_read() {
    let contexts = Contexts::parse(
        br#"
            current = "corp"
            [contexts.corp]
            mesh = "corp"
            controllers = ["203.0.113.1:58422", "ctl.example.com:58422"]
            certificate = "a"
            key = "b"
            trust = "c"
        "#,
    )
    .unwrap();
    let (name, context) = contexts.select(None).unwrap();
    assert_eq!((name, context.controllers.len()), ("corp", 2));
    assert_eq!(context.namespace, None);
}

#[test]
fn a_damaged_file_is_reported_with_its_line_and_without_its_key() {
    let text = "[contexts.corp]\nmesh = \"corp\"\nkey = \"TOPSECRET\n";
    let shown = format!("{:#}", Contexts::parse(text.as_bytes()).unwrap_err());
    assert!(shown.contains("line 3"), "{shown}");
    assert!(!shown.contains("TOPSECRET"), "{shown}");
    let debug = format!("{:?}", sample());
    assert!(!debug.contains("PRIVATE KEY"), "{debug}");
}

#[test]
fn for_an_unknown_name_the_known_ones_are_listed() {
    let failure = sample().select(Some("crop")).unwrap_err();
    assert_eq!(failure.exit, Exit::NotFound);
    assert_eq!(failure.hint.unwrap(), "there are: corp, lab");
    let none = Contexts::default().select(None).unwrap_err();
    assert!(none.hint.unwrap().contains("cfctl context import FILE"));
}

#[test]
fn a_missing_file_says_where_one_comes_from() {
    let failure = Contexts::load(Path::new("/nonexistent/config.toml")).unwrap_err();
    assert!(failure.message.contains("/nonexistent/config.toml"));
    assert!(failure.hint.unwrap().contains("cframe-controller init"));
    assert!(Contexts::load_or_default(Path::new("/nonexistent/x")).unwrap().contexts.is_empty());
}
