//! The CAs, and the progress of a rotation.

use cframe_pki::certificate_pem;
use cframe_protocol::{
    text::printable,
    v1::{CaStatus, CertCounts, IssuerRow, Lacking, RootRow},
};
use serde::Serialize;

use crate::{
    console::Answer,
    table::{Cell, Table, Tone},
    timestamp::Timestamp,
};

#[derive(Debug, Serialize)]
pub struct Authorities {
    /// The roots of the trust bundle, in the order in which they were added.
    pub roots: Vec<Root>,
    /// The controllers' issuing CAs that have not expired.
    pub issuers: Vec<IssuingCa>,
    /// The next step of a rotation, one sentence.
    pub next: String,
    /// Whether the table counts certificates, for `ca status`.
    #[serde(skip)]
    pub full: bool,
    /// The time now, in Unix seconds.
    #[serde(skip)]
    pub now: u64,
}

#[derive(Debug, Serialize)]
pub struct Root {
    /// SHA-256 of the public key, 64 hex digits.
    pub fingerprint: String,
    /// The common name.
    pub subject: String,
    pub not_after: Timestamp,
    /// Whether a controller signs with an issuing CA under it.
    pub signs: bool,
    /// The revision of the mesh that added it; 0 for the first root.
    pub revision: u64,
    /// Number of edges that have it.
    pub trusted_by: u32,
    /// Number of edges that have joined.
    pub edges: u32,
    /// Some of the edges that are not known to have it.
    pub missing_on: Vec<EdgeWithoutRoot>,
    /// Certificates under it.
    pub certificates: CertificateCounts,
    /// PEM.
    pub certificate: String,
}

#[derive(Debug, Serialize)]
pub struct EdgeWithoutRoot {
    pub namespace: String,
    pub edge: String,
    pub online: bool,
}

/// A controller's issuing CA.
#[derive(Debug, Serialize)]
pub struct IssuingCa {
    /// SHA-256 of the public key, 64 hex digits.
    pub fingerprint: String,
    pub controller: String,
    /// The root's fingerprint.
    pub root: String,
    pub not_after: Timestamp,
    /// Whether its controller signs with it.
    pub signs: bool,
    pub revoked: bool,
    /// Certificates that it has signed.
    pub certificates: CertificateCounts,
}

/// The first three count the holders whose newest certificate is under the CA.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct CertificateCounts {
    pub edges: u32,
    pub controllers: u32,
    pub admins: u32,
    /// All certificates that are neither expired nor revoked, including those with a newer one.
    pub valid: u32,
}

impl Authorities {
    pub fn new(status: CaStatus, full: bool, now: u64) -> Self {
        Self {
            roots: status.roots.into_iter().map(Root::from).collect(),
            issuers: status.issuers.into_iter().map(IssuingCa::from).collect(),
            next: status.next,
            full,
            now,
        }
    }
}

impl From<RootRow> for Root {
    fn from(row: RootRow) -> Self {
        Self {
            fingerprint: row.fingerprint.to_string(),
            subject: row.subject,
            not_after: Timestamp(row.not_after),
            signs: row.signs,
            revision: row.revision,
            trusted_by: row.have,
            edges: row.edges,
            missing_on: row.lacking.into_iter().map(EdgeWithoutRoot::from).collect(),
            certificates: row.certs.into(),
            certificate: certificate_pem(&row.certificate),
        }
    }
}

impl From<Lacking> for EdgeWithoutRoot {
    fn from(row: Lacking) -> Self {
        Self {
            namespace: row.namespace.to_string(),
            edge: row.edge.to_string(),
            online: row.online,
        }
    }
}

impl From<IssuerRow> for IssuingCa {
    fn from(row: IssuerRow) -> Self {
        Self {
            fingerprint: row.fingerprint.to_string(),
            controller: row.controller.to_string(),
            root: row.root.to_string(),
            not_after: Timestamp(row.not_after),
            signs: row.signs,
            revoked: row.revoked,
            certificates: row.certs.into(),
        }
    }
}

impl From<CertCounts> for CertificateCounts {
    fn from(counts: CertCounts) -> Self {
        let CertCounts { edges, controllers, admins, valid } = counts;
        Self { edges, controllers, admins, valid }
    }
}

impl Answer for Authorities {
    fn table(&self, wide: bool, color: bool) -> String {
        let mut text = format!("{}\n{}", self.roots(color), self.issuers(wide, color));
        if !self.full {
            return text;
        }
        for root in &self.roots {
            let root_name = short(&root.fingerprint);
            for EdgeWithoutRoot { namespace, edge, online } in &root.missing_on {
                let offline = if *online { "" } else { ", which is offline" };
                text.push_str(&format!(
                    "\nedge {namespace}/{edge} is not known to have root {root_name}{offline}"
                ));
            }
        }
        text + &format!("\nnext: {}\n", printable(&self.next))
    }

    fn data(&self) -> impl Serialize {
        self
    }
}

impl Authorities {
    fn roots(&self, color: bool) -> String {
        let last = if self.full { "TRUSTED_BY" } else { "SUBJECT" };
        let mut table = self.counting_table(&["ROOT", "EXPIRES", "SIGNS", last]);
        for root in &self.roots {
            let last =
                if self.full { trusted_by(root) } else { Cell::new(printable(&root.subject)) };
            let cells = [
                Cell::new(&root.fingerprint),
                Cell::new(root.not_after.left(self.now)),
                Cell::new(if root.signs { "yes" } else { "no" }),
                last,
            ];
            table.push(self.with_counts(cells, root.certificates));
        }
        table.render(color)
    }

    fn issuers(&self, wide: bool, color: bool) -> String {
        let columns = ["ISSUING_CA", "EXPIRES", "STATE", "CONTROLLER", "ROOT"];
        let mut table = self.counting_table(&columns);
        for ca in &self.issuers {
            let state = match (ca.revoked, ca.signs) {
                (true, _) => Cell::new("revoked").tone(Tone::Bad),
                (false, true) => Cell::new("signs").tone(Tone::Good),
                (false, false) => Cell::new("retired"),
            };
            let cells = [
                Cell::new(&ca.fingerprint),
                Cell::new(ca.not_after.left(self.now)),
                state,
                Cell::new(&ca.controller),
                Cell::new(if wide { &ca.root } else { short(&ca.root) }),
            ];
            table.push(self.with_counts(cells, ca.certificates));
        }
        table.render(color)
    }

    fn counting_table(&self, columns: &[&'static str]) -> Table {
        let counts = ["EDGES", "CONTROLLERS", "ADMINS", "VALID"].into_iter().filter(|_| self.full);
        Table::new(columns.iter().copied().chain(counts).collect::<Vec<_>>())
    }

    fn with_counts<const N: usize>(
        &self,
        cells: [Cell; N],
        counts: CertificateCounts,
    ) -> Vec<Cell> {
        let CertificateCounts { edges, controllers, admins, valid } = counts;
        let counts = [edges, controllers, admins, valid].into_iter().filter(|_| self.full);
        cells.into_iter().chain(counts.map(Cell::new)).collect()
    }
}

fn short(fingerprint: &str) -> &str {
    fingerprint.get(..16).unwrap_or(fingerprint)
}

fn trusted_by(root: &Root) -> Cell {
    let tone = if root.trusted_by < root.edges { Tone::Bad } else { Tone::Good };
    Cell::new(format!("{}/{}", root.trusted_by, root.edges)).tone(tone)
}

/// The outcome of `ca rotate renew`.
#[derive(Debug, Default, Serialize)]
pub struct Renewed {
    /// Edges that were asked and have a new certificate.
    pub renewed: Vec<String>,
    /// Edges that were asked and have no new certificate yet; in a dry run, edges that would be asked.
    pub pending: Vec<String>,
    /// Edges without a session; they renew when they reconnect.
    pub offline: Vec<String>,
    /// Admins with an old certificate; any command of theirs renews it.
    pub admins: Vec<String>,
    /// Controllers with an old certificate.
    pub controllers: Vec<String>,
    pub dry_run: bool,
}

impl Answer for Renewed {
    fn table(&self, _wide: bool, _color: bool) -> String {
        let mut table = Table::new(["STATE", "COUNT", "WHO"]);
        for (state, who) in [
            ("renewed", &self.renewed),
            ("pending", &self.pending),
            ("offline", &self.offline),
            ("admins", &self.admins),
            ("controllers", &self.controllers),
        ] {
            table.push(vec![Cell::new(state), Cell::new(who.len()), Cell::list(who)]);
        }
        table.render(false)
    }

    fn data(&self) -> impl Serialize {
        self
    }
}
