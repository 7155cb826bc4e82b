//! The CAs, and the steps of a rotation.

use std::cell::Cell;

use cframe_pki::{Fingerprint, identity::Label, issue::RootCa};
use cframe_protocol::v1::{CaStatus, CertCounts, HolderRow, IssuerRow, Lacking, RootRow};

use super::*;

fn print(byte: u8) -> Fingerprint {
    Fingerprint::from_bytes([byte; 32])
}

/// Two roots, of which the second signs. `edges` is how many edges have certificates under the first.
fn status(edges: u32) -> CaStatus {
    let root = |byte, signs, have| RootRow {
        fingerprint: print(byte),
        subject: "cframe root CA 0123456789abcdef".into(),
        not_after: NOW + 400 * 86_400,
        certificate: vec![0x30, 0],
        signs,
        revision: u64::from(byte) - 1,
        have,
        edges: 3,
        lacking: Vec::new(),
        certs: CertCounts::default(),
    };
    let lacking = Lacking { namespace: label("prod"), edge: label("idc"), online: false };
    let issuer = |byte, root, signs, edges| IssuerRow {
        fingerprint: print(byte),
        controller: label("ctl-1"),
        root: print(root),
        not_after: NOW + 100 * 86_400,
        signs,
        revoked: false,
        certs: CertCounts { edges, controllers: 0, admins: 0, valid: 4 },
    };
    CaStatus {
        roots: vec![root(1, false, 3), RootRow { lacking: vec![lacking], ..root(2, true, 2) }],
        issuers: vec![issuer(0x11, 1, false, edges), issuer(0x12, 2, true, 1)],
        next: "renew 2 edges' certificates".into(),
    }
}

fn holder(id: &str, online: bool) -> HolderRow {
    HolderRow { id: label(id), serial: label(HK_SERIAL), not_after: NOW + 86_400, online }
}

#[test]
fn the_status_of_a_rotation_shows_edges_without_a_root_and_the_next_step() {
    let answer = |call: &Call| match call {
        Call::CaStatus => Ok(vec![Reply::Ca(status(2))]),
        call => sample(call),
    };
    let outcome = run_with("cfctl ca status", None, &answer);
    assert_eq!(outcome.result, Ok(Exit::Done));
    assert_eq!(outcome.calls, [(Call::CaStatus, false)]);
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let lines: Vec<&str> = outcome.out.lines().collect();
    assert_eq!(words(lines[0])[..4], ["ROOT", "EXPIRES", "SIGNS", "TRUSTED_BY"]);
    assert_eq!(words(lines[2])[1..4], ["400d", "yes", "2/3"]);
    assert!(
        outcome
            .out
            .contains("edge prod/idc is not known to have root 0202020202020202, which is offline")
    );
    assert!(outcome.out.ends_with("next: renew 2 edges' certificates\n"), "{}", outcome.out);

    let outcome = run_with("cfctl ca show -o json", None, &answer);
    let json: serde_json::Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!(json["roots"][1]["trusted_by"], 2);
    assert_eq!(json["roots"][1]["missing_on"][0]["edge"], "idc");
    assert_eq!(json["issuers"][0]["certificates"]["edges"], 2);
    assert!(json["roots"][0]["certificate"].as_str().unwrap().starts_with("-----BEGIN CERT"));

    // After the timeout, edges still lack the root.
    let outcome = run_with("cfctl ca status --wait --timeout 1s", None, &answer);
    assert_eq!(outcome.result.unwrap_err().exit, Exit::Unhealthy);
    assert!(outcome.calls.len() > 1);
}

#[test]
fn a_root_is_added_from_its_file() {
    let home = tempfile::tempdir().unwrap();
    let root = RootCa::generate(&label("corp"), NOW).unwrap();
    root.save(&home.path().join("ca")).unwrap();
    let file = home.path().join("ca/root.pem");
    let outcome = run(&format!("cfctl ca rotate add {}", file.display()));
    let call = Call::RootAdd { certificate: root.certificate().to_vec() };
    assert_eq!(outcome.calls, [(call, false)]);
    assert_eq!(outcome.err, format!("root {} added\n", root.spki_sha256()));

    let key = home.path().join("ca/root-key.pem");
    let outcome = run(&format!("cfctl ca rotate add {}", key.display()));
    assert!(outcome.result.is_err() && outcome.calls.is_empty());
}

#[test]
fn renewed_offline_and_other_holders_are_listed_apart() {
    let asked = Cell::new(false);
    let answer = |call: &Call| {
        Ok(vec![match call {
            Call::CaStatus => Reply::Ca(status(2)),
            Call::CaHolders { fingerprint } => {
                assert_eq!(*fingerprint, print(0x11), "the CA that no longer signs");
                let hk = holder("spiffe://corp/ns/prod/edge/aws-hk", true);
                let mut rows = vec![
                    holder("spiffe://corp/ns/prod/edge/idc", false),
                    holder("spiffe://corp/admin/eve", false),
                ];
                rows.extend((!asked.get()).then_some(hk));
                Reply::Holders(rows)
            }
            Call::CertRenew { edge, .. } => {
                assert_eq!(*edge, label::<Label>("aws-hk"));
                asked.set(true);
                changed()
            }
            _ => return sample(call),
        }])
    };
    let outcome = run_with("cfctl ca rotate renew -o json", None, &answer);
    assert_eq!(outcome.result, Ok(Exit::Done));
    let json: serde_json::Value = serde_json::from_str(&outcome.out).unwrap();
    assert_eq!(json["renewed"], serde_json::json!(["prod/aws-hk"]));
    assert_eq!(json["offline"], serde_json::json!(["prod/idc"]));
    assert_eq!(json["admins"], serde_json::json!(["eve"]));
}

#[test]
fn a_root_that_nothing_depends_on_is_dropped_without_a_question() {
    let outcome = run(&format!("cfctl ca rotate drop {}", print(1)));
    let call = |force| Call::RootDrop { fingerprint: print(1), force };
    assert_eq!(outcome.calls, [(call(false), true), (call(false), false)]);
    assert_eq!(outcome.err, format!("root {} removed\n", print(1)));
}

#[test]
fn before_an_issuing_ca_is_revoked_the_controller_says_who_is_cut_off() {
    let answer = |call: &Call| match call {
        Call::IssuerRevoke { .. } => {
            let warnings = vec!["1 edge cut off: prod/aws-hk".to_owned()];
            Ok(vec![Reply::Changed(Changed { version: VERSION, warnings })])
        }
        call => sample(call),
    };
    let line = format!("cfctl trust revoke {}", print(0x11));
    let outcome = run_with(&line, Some("n\n"), &answer);
    let question = format!(
        "no certificate that issuing CA {} has signed works any more\n1 edge cut off: prod/aws-hk\n\
         Continue? [y/N] ",
        print(0x11)
    );
    assert!(outcome.err.starts_with(&question), "{}", outcome.err);
    let call = Call::IssuerRevoke { fingerprint: print(0x11) };
    assert_eq!(outcome.calls, [(call, true)], "and is not revoked");
}
