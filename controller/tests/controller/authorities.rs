//! `cframe-controller ca`: the program, its files and its exit codes.

use std::os::unix::fs::PermissionsExt;

use cframe_pki::issue::{CaCertificate, read_certificate};
use cframe_protocol::v1::Call;

use crate::support::{
    admin::AdminCalls,
    program::{ControllerProgram, failed, succeeded},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_roots_key_need_not_be_on_the_controllers_host() {
    let program = ControllerProgram::initialised();
    let (safe, request) = (program.shown("safe"), program.shown("req.pem"));
    let signed = program.shown("ca.pem");
    let root = succeeded(&program.command(&["ca", "new-root", "--mesh", "m.test", "--out", &safe]));
    let again = program.command(&["ca", "new-root", "--mesh", "m.test", "--out", &safe]);
    assert!(!again.status.success(), "a key is never replaced");
    succeeded(&program.command(&["ca", "request", "--out", &request]));
    let issuer =
        succeeded(&program.command(&["ca", "sign", &request, "--root", &safe, "--out", &signed]));
    let renew = ["ca", "renew", "--certificate", &signed];
    assert_eq!(program.command(&renew).status.code(), Some(6), "no controller is running");

    let running = program.run();
    let early = program.command(&renew);
    failed(&early, 4, "rotate add");
    let certificate = read_certificate(&program.file("safe/root.pem")).unwrap();
    assert_eq!(CaCertificate::root(&certificate).unwrap().spki.to_string(), root);
    program.admin().change(Call::RootAdd { certificate: certificate.to_vec() }).await;
    assert_eq!(succeeded(&program.command(&renew)), issuer);
    let list = succeeded(&program.command(&["ca", "list"]));
    let rows: Vec<&str> = list.lines().skip(1).collect();
    assert!(rows.len() == 2 && rows[0].ends_with("  -") && rows[1].ends_with("  signs"), "{list}");
    assert!(rows[1].starts_with(&issuer) && rows[1].contains(&root), "{list}");
    failed(&program.command(&["ca", "use", &root]), 4, "");

    for key in [
        program.file("safe/root-key.pem"),
        program.data().join(format!("ca/issuers/{issuer}/issuing-key.pem")),
    ] {
        let mode = std::fs::metadata(&key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", key.display());
        let above = std::fs::metadata(key.parent().unwrap()).unwrap().permissions().mode();
        assert_eq!(above & 0o777, 0o700, "{}", key.display());
    }
    // The controller finds it when it starts again, and a backup contains it.
    running.kill();
    let running = program.run();
    cframe_pki::files::write_secret(&program.file("passphrase"), b"correct horse\n").unwrap();
    let (backup, passphrase) = (program.shown("backup"), program.shown("passphrase"));
    let made = program.command(&["backup", "--out", &backup, "--passphrase-file", &passphrase]);
    succeeded(&made);
    running.kill();
    let copy = program.file("copy");
    let restore = ["restore", "--in", &backup, "--passphrase-file", &passphrase];
    succeeded(&program.command_in(&copy, &restore));
    let copied = succeeded(&program.command_in(&copy, &["ca", "list"]));
    let ends = |list: &str| {
        let rows = list.lines().map(|row| (row[..130].to_owned(), row.ends_with("signs")));
        rows.collect::<Vec<_>>()
    };
    assert_eq!(ends(&copied), ends(&list));
}
