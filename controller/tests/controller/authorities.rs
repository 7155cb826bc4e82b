//! `cframe-controller ca`: the program, its files and its exit codes.

use std::{os::unix::fs::PermissionsExt, process::Output};

use cframe_pki::issue::{CaCertificate, read_certificate};
use cframe_protocol::v1::Call;

use crate::program::{Site, call, program, stderr};

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_roots_key_need_not_come_to_the_controllers_host() {
    let site = Site::init();
    let path = |name: &str| site.file(name).display().to_string();
    let (safe, request, signed) = (path("safe"), path("req.pem"), path("ca.pem"));
    let root = stdout(&site.command(&["ca", "new-root", "--mesh", "m.test", "--out", &safe]));
    let again = site.command(&["ca", "new-root", "--mesh", "m.test", "--out", &safe]);
    assert!(!again.status.success(), "a key is never replaced");
    stdout(&site.command(&["ca", "request", "--out", &request]));
    let issuer =
        stdout(&site.command(&["ca", "sign", &request, "--root", &safe, "--out", &signed]));
    let renew = ["ca", "renew", "--certificate", &signed];
    assert_eq!(site.command(&renew).status.code(), Some(6), "no controller is running");

    let running = site.run();
    let early = site.command(&renew);
    assert_eq!(early.status.code(), Some(4), "{}", stderr(&early));
    assert!(stderr(&early).contains("rotate add"), "{}", stderr(&early));
    let certificate = read_certificate(&site.file("safe/root.pem")).unwrap();
    assert_eq!(CaCertificate::root(&certificate).unwrap().spki.to_string(), root);
    call(&site.admin(), Call::RootAdd { certificate: certificate.to_vec() }).await;
    assert_eq!(stdout(&site.command(&renew)), issuer);
    let list = stdout(&site.command(&["ca", "list"]));
    let rows: Vec<&str> = list.lines().skip(1).collect();
    assert!(rows.len() == 2 && rows[0].ends_with("  -") && rows[1].ends_with("  signs"), "{list}");
    assert!(rows[1].starts_with(&issuer) && rows[1].contains(&root), "{list}");
    let unknown = site.command(&["ca", "use", &root]);
    assert_eq!(unknown.status.code(), Some(4), "{}", stderr(&unknown));

    for key in [
        site.file("safe/root-key.pem"),
        site.data().join(format!("ca/issuers/{issuer}/issuing-key.pem")),
    ] {
        let mode = std::fs::metadata(&key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", key.display());
        let above = std::fs::metadata(key.parent().unwrap()).unwrap().permissions().mode();
        assert_eq!(above & 0o777, 0o700, "{}", key.display());
    }
    // A start finds it, and a backup has it.
    running.kill();
    let running = site.run();
    cframe_pki::files::write_secret(&site.file("passphrase"), b"correct horse\n").unwrap();
    let (backup, passphrase) = (path("backup"), path("passphrase"));
    let made = site.command(&["backup", "--out", &backup, "--passphrase-file", &passphrase]);
    stdout(&made);
    running.kill();
    let copy = site.file("copy");
    let restore = ["restore", "--in", &backup, "--passphrase-file", &passphrase];
    stdout(&program(&restore, &copy));
    let copied = stdout(&program(&["ca", "list"], &copy));
    let ends = |list: &str| {
        let rows = list.lines().map(|row| (row[..130].to_owned(), row.ends_with("signs")));
        rows.collect::<Vec<_>>()
    };
    assert_eq!(ends(&copied), ends(&list));
}
