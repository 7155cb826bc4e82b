//! What the log says of a change: who made it, of what, and by which certificate somebody is let in.

use cframe_protocol::v1::{Call, Reply};

use crate::issuing;

/// What a call changes; `None` if it only looks. No secrets, no requests.
pub(super) fn subject(call: &Call) -> Option<String> {
    Some(match call {
        Call::NamespaceAdd { name, .. }
        | Call::NamespaceSet { name, .. }
        | Call::NamespaceDel { name, .. }
        | Call::AdminAdd { name, .. }
        | Call::AdminDel { name } => name.to_string(),
        Call::EdgeAdd { namespace, name, .. }
        | Call::EdgeSet { namespace, name, .. }
        | Call::EdgeDel { namespace, name }
        | Call::RouteAdd { namespace, name, .. }
        | Call::RouteDel { namespace, name } => format!("{namespace}/{name}"),
        Call::TokenCreate { namespace, edge, .. }
        | Call::CertEnroll { namespace, edge, .. }
        | Call::CertRenew { namespace, edge } => format!("{namespace}/{edge}"),
        Call::TokenRevoke { id } => id.clone(),
        Call::CertRevoke { serial, .. } => serial.to_string(),
        Call::IssuerRevoke { fingerprint } | Call::RootDrop { fingerprint, .. } => {
            fingerprint.to_string()
        }
        Call::RootAdd { certificate } => {
            let root = cframe_pki::issue::CaCertificate::root(&certificate.as_slice().into());
            root.map(|root| root.spki.to_string()).unwrap_or_default()
        }
        Call::Backup => "store".to_owned(),
        Call::Version
        | Call::Status
        | Call::NamespaceList
        | Call::NamespaceShow { .. }
        | Call::EdgeList { .. }
        | Call::EdgeShow { .. }
        | Call::RouteList { .. }
        | Call::RouteShow { .. }
        | Call::TokenList { .. }
        | Call::CertList { .. }
        | Call::CertShow { .. }
        | Call::AdminList
        | Call::TrustShow
        | Call::CaStatus
        | Call::CaHolders { .. }
        | Call::Wait { .. } => return None,
    })
}

/// The serial of the certificate, or the id of the token, that was made.
pub(super) fn made(reply: Option<&Reply>) -> String {
    match reply {
        Some(Reply::Enrolled(enrolled)) => issuing::serial(&enrolled.chain),
        Some(Reply::AdminEnrolled(enrolled)) => issuing::serial(&enrolled.chain),
        Some(Reply::TokenMade(made)) => made.id.clone(),
        _ => String::new(),
    }
}
