//! The next step of a rotation, in words.

use cframe_pki::renewal::expires_soon;
use cframe_protocol::v1::{CaStatus, RootRow};

use super::{holdings, names, roots, signing, some};
use crate::model::State;

/// Towards the newest root: everybody has it, the controllers sign under it, certificates are renewed, and
/// the others go.
pub(super) fn step(state: &State, status: &CaStatus, now: u64) -> String {
    let Some(newest) = status.roots.last() else {
        return "the trust bundle has no root of this mesh's form".to_owned();
    };
    if status.roots.len() == 1 {
        return alone(state, now);
    }
    if newest.have < newest.edges {
        let missing = newest.edges - newest.have;
        return format!(
            "wait until {missing} more edges have the root {}: {}; `cfctl ca status --wait`",
            short(newest),
            names(&newest.lacking)
        );
    }
    let behind: Vec<_> =
        signing(state).filter(|ca| ca.not_after > now && ca.root != newest.fingerprint).collect();
    if !behind.is_empty() || !newest.signs {
        let hosts = some(behind.iter().map(|ca| ca.controller.to_string()));
        return format!(
            "have controllers sign under the root {}: `cframe-controller ca renew --root DIR` on the host of {}",
            short(newest),
            if hosts.is_empty() { "each" } else { &hosts }
        );
    }
    let old = |kind: &str| {
        let below = holdings(state, now)
            .filter(|of| of.root != Some(newest.fingerprint) && of.cert.id.role.kind() == kind);
        below.map(|of| of.cert.id.role.name().to_string()).collect::<Vec<_>>()
    };
    let (edges, admins) = (old("edge"), old("admin"));
    if !edges.is_empty() {
        return format!(
            "renew {} edges' certificates: `cfctl ca rotate renew` ({})",
            edges.len(),
            some(edges.into_iter())
        );
    }
    if !admins.is_empty() {
        return format!(
            "have these admins run `cfctl ca rotate renew`, each with a context of their own: {}",
            some(admins.into_iter())
        );
    }
    let others = status.roots.iter().filter(|root| root.fingerprint != newest.fingerprint);
    let drops: Vec<String> =
        others.map(|root| format!("`cfctl ca rotate drop {}`", root.fingerprint)).collect();
    format!("drop what nobody depends on: {}", drops.join(", "))
}

fn alone(state: &State, now: u64) -> String {
    if roots(state).iter().any(|root| expires_soon(root.not_before, root.not_after, now)) {
        return "the root ends soon: `cframe-controller ca new-root`, then `cfctl ca rotate add`"
            .to_owned();
    }
    let ending = signing(state)
        .filter(|ca| ca.not_after > now && expires_soon(ca.not_before, ca.not_after, now));
    let ending: Vec<String> = ending.map(|ca| ca.controller.to_string()).collect();
    if !ending.is_empty() {
        return format!(
            "issuing CAs end soon: `cframe-controller ca renew --root DIR` on the host of {}",
            ending.join(", ")
        );
    }
    "nothing to do: one root, and no CA ends soon".to_owned()
}

fn short(root: &RootRow) -> String {
    root.fingerprint.to_string().chars().take(16).collect()
}
