//! The next step of a rotation, as a sentence.

use cframe_pki::renewal::expires_soon;
use cframe_protocol::v1::{CaStatus, RootRow};

use crate::{
    decide::names::{list_lacking, list_names},
    model::{
        State,
        trust::{current_certs, roots, signing_issuers},
    },
};

/// A rotation moves to the newest root: all edges have it, controllers sign under it, certificates are renewed, and the
/// other roots are dropped.
pub(super) fn next_step(state: &State, status: &CaStatus, now: u64) -> String {
    let Some(newest) = status.roots.last() else {
        return "the trust bundle has no root that this controller can read".to_owned();
    };
    if status.roots.len() == 1 {
        return with_one_root(state, now);
    }
    if newest.have < newest.edges {
        let missing = newest.edges - newest.have;
        return format!(
            "wait until {missing} more edges have the root {}: {}; `cfctl ca status --wait`",
            short(newest),
            list_lacking(&newest.lacking)
        );
    }
    let behind: Vec<_> = signing_issuers(state)
        .filter(|ca| ca.not_after > now && ca.root != newest.fingerprint)
        .collect();
    if !behind.is_empty() || !newest.signs {
        let hosts = list_names(behind.iter().map(|ca| &ca.controller));
        return format!(
            "make controllers sign under the root {}: `cframe-controller ca renew --root DIR` on the host of {}",
            short(newest),
            if hosts.is_empty() { "each" } else { &hosts }
        );
    }
    let old = |kind: &str| {
        current_certs(state, now)
            .filter(|cert| cert.root != Some(newest.fingerprint))
            .map(|current| &current.cert.id.role)
            .filter(|role| role.kind() == kind)
            .map(|role| role.name().to_string())
            .collect::<Vec<_>>()
    };
    let (edges, admins) = (old("edge"), old("admin"));
    if !edges.is_empty() {
        return format!(
            "renew {} edges' certificates: `cfctl ca rotate renew` ({})",
            edges.len(),
            list_names(edges)
        );
    }
    if !admins.is_empty() {
        return format!(
            "these admins must run `cfctl ca rotate renew`, each with their own context: {}",
            list_names(admins)
        );
    }
    let others = status.roots.iter().filter(|root| root.fingerprint != newest.fingerprint);
    let drops: Vec<String> =
        others.map(|root| format!("`cfctl ca rotate drop {}`", root.fingerprint)).collect();
    format!("drop the roots that nobody depends on: {}", drops.join(", "))
}

fn with_one_root(state: &State, now: u64) -> String {
    if roots(state).iter().any(|root| expires_soon(root.not_before, root.not_after, now)) {
        return "the root expires soon: `cframe-controller ca new-root`, then `cfctl ca rotate add`"
            .to_owned();
    }
    let expiring = signing_issuers(state)
        .filter(|ca| ca.not_after > now && expires_soon(ca.not_before, ca.not_after, now));
    let expiring: Vec<String> = expiring.map(|ca| ca.controller.to_string()).collect();
    if !expiring.is_empty() {
        return format!(
            "issuing CAs expire soon: `cframe-controller ca renew --root DIR` on the host of {}",
            expiring.join(", ")
        );
    }
    "nothing to do: one root, and no CA expires soon".to_owned()
}

fn short(root: &RootRow) -> String {
    root.fingerprint.to_string().chars().take(16).collect()
}
