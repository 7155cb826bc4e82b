//! What must never be in the audit log.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cframe_controller::audit;
use cframe_pki::{
    Fingerprint, Serial,
    token::{JoinToken, TokenHash},
};
use cframe_protocol::{
    frame::{Frame, Message, encode},
    v1::{AdminRequest, AuditQuery, Call, Congestion, Reply, TokenMade, Version},
};
use cframe_store::Store;

use crate::support::{
    admin::AdminCalls,
    calls::{edge_add, label, route_add},
    controller::TestController,
    credentials::new_csr,
    edge::join,
};

/// One of each call. It panics if a new call is missing here.
fn every_call(token: &str, serial: Serial) -> Vec<Call> {
    let (namespace, name) = (label("prod"), label("a"));
    let calls = vec![
        Call::Version,
        Call::Status,
        Call::NamespaceAdd {
            name: label("x"),
            settings: Default::default(),
            description: token.into(),
        },
        Call::NamespaceSet {
            name: label("x"),
            tun_mtu: Some(1300),
            congestion: Some(Congestion::Bbr),
        },
        Call::NamespaceDel { name: label("x"), cascade: true },
        Call::NamespaceList,
        Call::NamespaceShow { name: namespace.clone() },
        edge_add("prod", "z", "10.9.0.0/16"),
        Call::EdgeSet {
            namespace: namespace.clone(),
            name: label("z"),
            cidrs: None,
            endpoints: None,
            description: Some(format!("see {token}")),
            no_link_to: None,
        },
        Call::EdgeDel { namespace: namespace.clone(), name: label("z") },
        Call::EdgeList { namespace: None },
        Call::EdgeShow { namespace: namespace.clone(), name: name.clone() },
        route_add("r", "10.244.0.0/16", "a"),
        Call::RouteDel { namespace: namespace.clone(), name: label("r") },
        Call::RouteList { namespace: None },
        Call::RouteShow { namespace: namespace.clone(), name: label("r") },
        Call::TokenCreate {
            namespace: namespace.clone(),
            edge: name.clone(),
            ttl_secs: 60,
            rejoin: true,
        },
        Call::TokenList { namespace: None },
        Call::TokenRevoke { id: token.into() },
        Call::CertEnroll { namespace: namespace.clone(), edge: name.clone(), csr: new_csr() },
        Call::CertList { namespace: None },
        Call::CertShow { serial },
        Call::CertRenew { namespace: namespace.clone(), edge: name.clone() },
        Call::CertRevoke { serial, reason: format!("{token} was stolen") },
        Call::AdminAdd { name: label("alice"), csr: new_csr(), read_only: true },
        Call::AdminDel { name: label("alice") },
        Call::AdminList,
        Call::IssuerRevoke { fingerprint: Fingerprint::from_bytes([0xab; 32]) },
        Call::TrustShow,
        Call::Wait { namespace: namespace.clone(), version: Version::default(), timeout_secs: 1 },
        Call::Backup,
        Call::Audit(AuditQuery { who: Some(token.into()), ..AuditQuery::default() }),
        Call::ControllerList,
        Call::ControllerShow { name: label("b") },
        Call::ControllerDel { name: label("b"), revoke_issuer: true },
        Call::Sessions { namespace: None, edge: None, brief: true },
        Call::Behind { namespace: namespace.clone(), version: Version::default(), timeout_secs: 1 },
        Call::CaStatus,
        Call::CaHolders { fingerprint: Fingerprint::from_bytes([0xab; 32]) },
        Call::RootAdd { certificate: vec![0x30, 3, 2, 1, 0] },
        Call::RootDrop { fingerprint: Fingerprint::from_bytes([0xab; 32]), force: false },
        Call::StoreAccept,
        Call::Claim {
            namespace,
            edge: name,
            boot: [7; 16],
            address: "192.0.2.7:58423".parse().unwrap(),
        },
    ];
    let numbers: BTreeSet<u8> = calls.iter().map(variant).collect();
    let next = u8::try_from(numbers.len()).unwrap();
    let frame = Frame { kind: AdminRequest::TYPE, body: vec![next].into() };
    let error = frame.decode::<AdminRequest>().unwrap_err();
    assert!(error.reason.contains(&format!("0 <= i < {next}")), "one is missing: {error}");
    calls
}

/// The number of the call's variant, which is the first byte of its frame's body.
fn variant(call: &Call) -> u8 {
    let request = AdminRequest { call: call.clone(), dry_run: false };
    encode(&request).unwrap()[6]
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_of_any_call_is_in_a_record() {
    let mut controller = TestController::with_edges(&["a"]).await;
    let token = controller.token("a").await;
    let identity = join(&token).await.unwrap();
    let text = token.expose().to_string();
    let mut requests = vec![identity.key.csr().unwrap().to_vec()];
    let mut secrets = vec![text.clone()];
    for dry_run in [true, false] {
        for call in every_call(&text, identity.serial()) {
            if let Call::CertEnroll { csr, .. } | Call::AdminAdd { csr, .. } = &call {
                requests.push(csr.clone());
            }
            let result =
                if dry_run { controller.dry_run(call).await } else { controller.call(call).await };
            // Some are refused, and have records too.
            if let Ok(replies) = result {
                for reply in replies {
                    if let Reply::TokenMade(TokenMade { token, .. }) = reply {
                        secrets.push(token);
                    }
                }
            }
        }
    }
    controller.stop().await;
    let store = controller.data.open_store().await.unwrap();
    let records = store.list(audit::ROOT).await.unwrap().entries;
    store.close().await;
    assert!(records.len() > 30, "{}", records.len());
    let mut forbidden: Vec<String> = Vec::new();
    for secret in secrets {
        let token: JoinToken = secret.parse().unwrap();
        let secret = token.secret.as_bytes().to_vec();
        forbidden.push(token.expose()["cfj1.".len()..].to_owned());
        forbidden.extend(spellings(&secret));
        let hash = TokenHash::of(&token.secret);
        forbidden.extend(spellings(hash.as_bytes()));
    }
    for request in requests {
        // Any part of it: the key is in the middle, the signature at the end.
        for part in request.chunks_exact(24) {
            forbidden.extend(spellings(part));
        }
    }
    let private = identity.key.to_pem();
    forbidden.extend(private.lines().filter(|line| !line.starts_with('-')).map(str::to_owned));
    for record in records {
        let text = String::from_utf8(record.value).unwrap();
        for secret in &forbidden {
            assert!(!text.contains(secret.as_str()), "{secret} is in {text}");
        }
    }
}

/// The ways in which JSON may contain these bytes.
fn spellings(bytes: &[u8]) -> [String; 4] {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let list: Vec<String> = bytes.iter().map(ToString::to_string).collect();
    // In base64, only whole groups of 3 bytes are independent of the bytes after them.
    let base64 = STANDARD.encode(&bytes[..bytes.len() / 3 * 3]);
    let url = base64.replace('+', "-").replace('/', "_");
    [hex, list.join(","), base64, url]
}
