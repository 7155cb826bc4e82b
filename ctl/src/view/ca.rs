//! The CAs, and how far a rotation is.

use cframe_protocol::v1::{CaStatus, CertCounts, IssuerRow, Lacking, RootRow};
use serde::Serialize;

use crate::{
    console::Answer,
    failure::printable,
    moment::Moment,
    pem,
    table::{Cell, Table, Tone},
};

/// The roots and the issuing CAs.
#[derive(Debug, Serialize)]
pub struct Authorities {
    /// The roots of the trust bundle, in the order of their adding.
    pub roots: Vec<Root>,
    /// The issuing CAs of controllers that have not expired.
    pub issuers: Vec<IssuingCa>,
    /// What to do next, a sentence.
    pub next: String,
    /// Whether the table has what hangs on each.
    #[serde(skip)]
    pub full: bool,
    /// The time, in Unix seconds.
    #[serde(skip)]
    pub now: u64,
}

/// A root CA.
#[derive(Debug, Serialize)]
pub struct Root {
    /// SHA-256 of its public key, 64 hex digits.
    pub fingerprint: String,
    /// Its common name.
    pub subject: String,
    /// When it expires.
    pub not_after: Moment,
    /// Whether a controller signs under it.
    pub signs: bool,
    /// The revision of the mesh that added it; 0 is from the beginning.
    pub revision: u64,
    /// How many of the edges have it.
    pub have: u32,
    /// How many edges have joined.
    pub edges: u32,
    /// Some of the edges that are not known to have it.
    pub lacking: Vec<LackingEdge>,
    /// Whose newest certificate is under it.
    pub certificates: Holders,
    /// The certificate, PEM.
    pub certificate: String,
}

/// An edge that is not known to have a root.
#[derive(Debug, Serialize)]
pub struct LackingEdge {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub edge: String,
    /// Whether it is connected.
    pub online: bool,
}

/// A controller's issuing CA.
#[derive(Debug, Serialize)]
pub struct IssuingCa {
    /// SHA-256 of its public key, 64 hex digits.
    pub fingerprint: String,
    /// Whose it is.
    pub controller: String,
    /// The fingerprint of the root it is under.
    pub root: String,
    /// When it expires.
    pub not_after: Moment,
    /// Whether its controller signs with it.
    pub signs: bool,
    /// Whether it was revoked.
    pub revoked: bool,
    /// Whose newest certificate is by it.
    pub certificates: Holders,
}

/// How many depend on a CA.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Holders {
    /// Edges whose newest certificate is under it.
    pub edges: u32,
    /// Controllers, the same.
    pub controllers: u32,
    /// Admins, the same.
    pub admins: u32,
    /// All certificates that are neither expired nor revoked, those too that a newer one has replaced.
    pub valid: u32,
}

impl Authorities {
    /// What a controller tells; `full` with what hangs on each.
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
            not_after: Moment(row.not_after),
            signs: row.signs,
            revision: row.revision,
            have: row.have,
            edges: row.edges,
            lacking: row.lacking.into_iter().map(LackingEdge::from).collect(),
            certificates: row.certs.into(),
            certificate: pem::certificate(&row.certificate),
        }
    }
}

impl From<Lacking> for LackingEdge {
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
            not_after: Moment(row.not_after),
            signs: row.signs,
            revoked: row.revoked,
            certificates: row.certs.into(),
        }
    }
}

impl From<CertCounts> for Holders {
    fn from(counts: CertCounts) -> Self {
        let CertCounts { edges, controllers, admins, valid } = counts;
        Self { edges, controllers, admins, valid }
    }
}

impl Answer for Authorities {
    fn table(&self, wide: bool, color: bool) -> String {
        let of = |columns: &[&'static str]| {
            let counts = ["EDGES", "CONTROLLERS", "ADMINS", "VALID"];
            let counts = counts.into_iter().filter(|_| self.full);
            Table::new(columns.iter().copied().chain(counts).collect::<Vec<_>>())
        };
        let mut roots = of(if self.full {
            &["ROOT", "EXPIRES", "SIGNS", "HAVE_IT"]
        } else {
            &["ROOT", "EXPIRES", "SIGNS", "SUBJECT"]
        });
        for root in &self.roots {
            let last = if self.full { have(root) } else { Cell::new(printable(&root.subject)) };
            let cells = [
                Cell::new(&root.fingerprint),
                Cell::new(root.not_after.left(self.now)),
                Cell::new(if root.signs { "yes" } else { "no" }),
                last,
            ];
            roots.push(self.with_counts(cells, root.certificates));
        }
        let mut issuers = of(&["ISSUING_CA", "EXPIRES", "STATE", "CONTROLLER", "ROOT"]);
        for ca in &self.issuers {
            let state = match (ca.revoked, ca.signs) {
                (true, _) => Cell::new("revoked").tone(Tone::Bad),
                (false, true) => Cell::new("signs").tone(Tone::Good),
                (false, false) => Cell::new("kept"),
            };
            let root = if wide { &ca.root } else { ca.root.get(..16).unwrap_or(&ca.root) };
            let cells = [
                Cell::new(&ca.fingerprint),
                Cell::new(ca.not_after.left(self.now)),
                state,
                Cell::new(&ca.controller),
                Cell::new(root),
            ];
            issuers.push(self.with_counts(cells, ca.certificates));
        }
        let mut text = format!("{}\n{}", roots.render(color), issuers.render(color));
        if self.full {
            for root in &self.roots {
                let short = root.fingerprint.get(..16).unwrap_or(&root.fingerprint);
                for edge in &root.lacking {
                    let offline = if edge.online { "" } else { ", which is offline" };
                    let name = format!("{}/{}", edge.namespace, edge.edge);
                    text.push_str(&format!(
                        "\nedge {name} is not known to have root {short}{offline}"
                    ));
                }
            }
            text.push_str(&format!("\nnext: {}\n", printable(&self.next)));
        }
        text
    }

    fn data(&self) -> impl Serialize {
        self
    }
}

impl Authorities {
    fn with_counts<const N: usize>(&self, cells: [Cell; N], holders: Holders) -> Vec<Cell> {
        let Holders { edges, controllers, admins, valid } = holders;
        let counts = [edges, controllers, admins, valid].into_iter().filter(|_| self.full);
        cells.into_iter().chain(counts.map(Cell::new)).collect()
    }
}

fn have(root: &Root) -> Cell {
    let tone = if root.have < root.edges { Tone::Bad } else { Tone::Good };
    Cell::new(format!("{}/{}", root.have, root.edges)).tone(tone)
}

/// Who has renewed.
#[derive(Debug, Default, Serialize)]
pub struct Renewed {
    /// Edges that were asked and have a new certificate.
    pub renewed: Vec<String>,
    /// Edges that were asked and have none yet.
    pub pending: Vec<String>,
    /// Edges without a session: they renew when they come back.
    pub offline: Vec<String>,
    /// Admins who have yet to renew: any command of theirs does it.
    pub admins: Vec<String>,
    /// Controllers that have yet to sign with another CA.
    pub controllers: Vec<String>,
    /// Nothing was asked of anybody.
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
