//! What expires: roots, issuing CAs, and certificates that were not renewed. `status` lists them from two weeks before.

use cframe_pki::{
    identity::{Label, Role},
    renewal::{days_left, expires_soon},
};

use super::{
    State,
    trust::{CurrentCert, current_certs, roots, signing_issuers},
};

/// The kinds of what expires, which are also labels of metrics.
pub(crate) const KINDS: [&str; 5] = ["root", "issuer", "controller", "edge", "admin"];

/// Something that expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expiry {
    /// One of [`KINDS`].
    pub(crate) kind: &'static str,
    /// The holder, or a root's fingerprint.
    pub(crate) name: String,
    not_before: u64,
    pub(crate) not_after: u64,
}

impl Expiry {
    pub(crate) fn is_soon(&self, now: u64) -> bool {
        expires_soon(self.not_before, self.not_after, now)
    }

    /// A command that ends the problem, or shows more.
    pub(crate) fn fix(&self, now: u64) -> String {
        match (self.kind, self.name.split_once('/')) {
            ("root" | "issuer", _) => "cfctl ca status".to_owned(),
            ("edge", Some((namespace, name))) if self.not_after <= now => {
                format!("cfctl token create -n {namespace} --edge {name} --rejoin")
            }
            ("edge", _) => "run `cframe-edge doctor` on its host".to_owned(),
            ("admin", _) => "cfctl status, as that admin".to_owned(),
            _ => "see its log".to_owned(),
        }
    }

    /// What expires when, and what to do.
    pub(crate) fn sentence(&self, now: u64) -> String {
        let left = days_left(self.not_after, now);
        let when = match left {
            ..0 => format!("has expired {} days ago", -left),
            0 => "expires within a day".to_owned(),
            1 => "expires in 1 day".to_owned(),
            days => format!("expires in {days} days"),
        };
        let name = &self.name;
        match self.kind {
            "root" => format!("the root CA {name} {when}: see `cfctl ca status`"),
            "issuer" => format!("the issuing CA {name} {when}: see `cfctl ca status`"),
            "edge" if left < 0 => format!(
                "the certificate of edge {name} {when}: let it join again with `cfctl token create --rejoin`"
            ),
            "edge" => format!(
                "the certificate of edge {name} {when}, and was not renewed: is it connected?"
            ),
            "admin" => format!(
                "the certificate of admin {name} {when}: the admin's next cfctl command renews it"
            ),
            kind => {
                format!("the certificate of {kind} {name} {when}, and was not renewed: see its log")
            }
        }
    }
}

/// Everything that expires and is still in use.
pub(crate) fn all(state: &State, now: u64) -> Vec<Expiry> {
    let mut found: Vec<Expiry> = roots(state)
        .into_iter()
        .map(|root| Expiry {
            kind: "root",
            name: root.spki.to_string(),
            not_before: root.not_before,
            not_after: root.not_after,
        })
        .collect();
    found.extend(signing_issuers(state).map(|issuer| Expiry {
        kind: "issuer",
        name: format!("of controller {}", issuer.controller),
        not_before: issuer.not_before,
        not_after: issuer.not_after,
    }));
    for CurrentCert { cert, .. } in current_certs(state, now) {
        let name = match &cert.id.role {
            Role::Edge { namespace, name } => {
                if !is_edge(state, namespace, name) {
                    continue;
                }
                format!("{namespace}/{name}")
            }
            Role::Admin { name } if !state.admins.contains_key(name) => continue,
            Role::Controller { name } if !state.is_controller(name) => continue,
            Role::Controller { name } | Role::Admin { name } => name.to_string(),
        };
        found.push(Expiry {
            kind: cert.id.role.kind(),
            name,
            not_before: cert.not_before,
            not_after: cert.not_after,
        });
    }
    found.extend(expired_edges(state, now));
    found
}

/// Edges whose last certificate has expired: they were offline, and must join again.
fn expired_edges(state: &State, now: u64) -> impl Iterator<Item = Expiry> + '_ {
    state.certs_of.iter().filter_map(move |(id, serials)| {
        let Role::Edge { namespace, name } = &id.role else { return None };
        if !is_edge(state, namespace, name) || state.valid_certs(id, now).next().is_some() {
            return None;
        }
        let certs = serials.iter().filter(|serial| !state.denied.contains_key(serial));
        let last = certs.filter_map(|serial| state.certs.get(serial)).map(|cert| &cert.record);
        let last = last.max_by_key(|cert| cert.not_after)?;
        Some(Expiry {
            kind: "edge",
            name: format!("{namespace}/{name}"),
            not_before: last.not_before,
            not_after: last.not_after,
        })
    })
}

fn is_edge(state: &State, namespace: &Label, name: &Label) -> bool {
    state.namespaces.get(namespace).is_some_and(|space| space.edges.contains_key(name))
}

#[cfg(test)]
mod tests {
    use cframe_pki::{
        Fingerprint, Serial,
        bundle::TrustBundle,
        issue::{ROOT_LIFETIME, RootCa},
    };
    use cframe_store::{Entry, View};

    use super::*;
    use crate::model::record::{
        self, AdminRecord, CertRecord, EdgeRecord, IssuerRecord, Key, MeshRecord, NamespaceRecord,
    };

    const NOW: u64 = 1_800_000_000;
    const DAY: u64 = 86_400;

    fn entry(key: Key, record: &impl serde::Serialize) -> Entry {
        Entry { key: key.to_string(), value: record::encode(record), modified: 1 }
    }

    fn cert(id: &str, serial: u8) -> Entry {
        let cert = CertRecord {
            id: id.parse().unwrap(),
            spki: Fingerprint::from_bytes([serial; 32]),
            not_before: NOW,
            not_after: NOW + 30 * DAY,
            renews: None,
            issuer: Some(Fingerprint::from_bytes([7; 32])),
            bundle: None,
        };
        entry(Key::Cert(Serial::from_bytes([serial; 16])), &cert)
    }

    /// A mesh of today with one edge, and a controller whose issuing CA lives for three years.
    fn state() -> State {
        let name = || "m.test".parse().unwrap();
        let root = RootCa::generate(&name(), NOW).unwrap();
        let mesh = MeshRecord {
            name: name(),
            epoch: 1,
            revision: 1,
            trust: TrustBundle {
                roots: vec![root.certificate().clone()],
                ..TrustBundle::default()
            },
            controllers: [].into(),
            roots_since: [].into(),
        };
        let namespace = NamespaceRecord {
            description: String::new(),
            settings: Default::default(),
            revision: 1,
        };
        let edge = EdgeRecord::default();
        let issuer = IssuerRecord {
            controller: "c1".parse().unwrap(),
            root: root.spki_sha256(),
            not_before: NOW,
            not_after: NOW + 3 * 365 * DAY,
            added: NOW,
            signs: true,
        };
        let label = |text: &str| text.parse().unwrap();
        let entries = vec![
            entry(Key::Mesh, &mesh),
            entry(Key::Namespace(label("prod")), &namespace),
            entry(Key::Edge(label("prod"), label("a")), &edge),
            entry(Key::Admin(label("eve")), &AdminRecord { read_only: false }),
            entry(Key::Issuer(Fingerprint::from_bytes([7; 32])), &issuer),
            cert("spiffe://m.test/ns/prod/edge/a", 1),
            cert("spiffe://m.test/ns/prod/edge/gone", 2),
            cert("spiffe://m.test/admin/eve", 3),
            cert("spiffe://m.test/controller/c1", 4),
        ];
        State::load(&View { revision: 1, entries }).unwrap()
    }

    fn reported(days: u64) -> Vec<String> {
        let (state, now) = (state(), NOW + days * DAY);
        let soon = all(&state, now).into_iter().filter(|expiry| expiry.is_soon(now));
        soon.map(|expiry| expiry.sentence(now)).collect()
    }

    #[test]
    fn what_was_not_renewed_is_reported_from_fourteen_days_before_its_end() {
        assert_eq!(reported(0), [""; 0]);
        assert_eq!(reported(15), [""; 0]);
        let reported = reported(20);
        assert_eq!(reported.len(), 3, "{reported:?}");
        assert!(reported.iter().all(|line| line.contains("expires in 10 days")), "{reported:?}");
        assert!(
            !reported.iter().any(|line| line.contains("gone")),
            "an edge that was removed: {reported:?}"
        );
    }

    #[test]
    fn an_edge_that_let_its_certificate_expire_is_reported_to_join_again() {
        let reported = reported(33);
        let edge = "the certificate of edge prod/a has expired 3 days ago: let it join again with `cfctl \
                    token create --rejoin`";
        assert_eq!(reported, [edge]);
    }

    #[test]
    fn cas_are_reported_too() {
        let issuer = reported(3 * 365 - 10);
        assert!(
            issuer
                .iter()
                .any(|line| line.starts_with("the issuing CA of controller c1 expires in 10"))
        );
        let root = reported(ROOT_LIFETIME.as_secs() / DAY - 1);
        assert!(root.iter().any(|line| line.starts_with("the root CA ")), "{root:?}");
    }
}
