use std::path::PathBuf;

use cframe_pki::{bundle::TrustBundle, certificate_pem, identity::Role};
use cframe_protocol::v1::{AdminRow, CertRow, CertState, Enrolled, TokenMade, TokenRow};
use serde::Serialize;

use super::Row;
use crate::{
    console::Answer,
    table::{Cell, Tone},
    timestamp::Timestamp,
};

/// A join token that can still be used, without its secret.
#[derive(Debug, Serialize)]
pub struct Token {
    pub namespace: String,
    pub edge: String,
    /// For `token revoke`.
    pub id: String,
    pub created: Timestamp,
    pub expires: Timestamp,
    /// For an edge that has joined before.
    pub rejoin: bool,
    /// Name of an admin.
    pub created_by: String,
}

impl From<TokenRow> for Token {
    fn from(row: TokenRow) -> Self {
        Self {
            namespace: row.namespace.to_string(),
            edge: row.edge.to_string(),
            id: row.id,
            created: Timestamp(row.created),
            expires: Timestamp(row.expires),
            rejoin: row.rejoin,
            created_by: row.created_by,
        }
    }
}

impl Row for Token {
    const COLUMNS: &'static [&'static str] =
        &["NAMESPACE", "EDGE", "ID", "EXPIRES", "REJOIN", "CREATED", "CREATED_BY"];
    const TABLE_COLUMNS: usize = 5;

    fn cells(&self, now: u64) -> Vec<Cell> {
        vec![
            Cell::new(&self.namespace),
            Cell::new(&self.edge),
            Cell::new(&self.id),
            Cell::new(self.expires.left(now)),
            Cell::new(if self.rejoin { "yes" } else { "no" }),
            Cell::new(self.created.age(now)),
            Cell::new(&self.created_by),
        ]
    }
}

/// A new join token. No other answer has the secret.
#[derive(Serialize)]
pub struct NewToken {
    pub namespace: String,
    pub edge: String,
    /// For `token revoke`.
    pub id: String,
    pub expires: Timestamp,
    /// `cfj1.…`
    pub token: String,
    /// The command to run on the gateway.
    pub command: String,
}

impl NewToken {
    pub fn new(namespace: String, edge: String, made: TokenMade) -> Self {
        let command = format!("cframe-edge join {}", made.token);
        Self {
            namespace,
            edge,
            id: made.id,
            expires: Timestamp(made.expires),
            token: made.token,
            command,
        }
    }
}

impl Answer for NewToken {
    fn table(&self, _wide: bool, _color: bool) -> String {
        format!("{}\n", self.command)
    }

    fn data(&self) -> impl Serialize {
        self
    }
}

#[derive(Debug, Serialize)]
pub struct Cert {
    /// 32 hex digits.
    pub serial: String,
    /// Kind of the holder: `edge`, `controller` or `admin`.
    pub kind: &'static str,
    /// The holder's namespace; only edges have one.
    pub namespace: Option<String>,
    /// The holder's name.
    pub name: String,
    /// The holder's SPIFFE ID.
    pub id: String,
    pub state: CertStateName,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    /// SHA-256 of the public key, 64 hex digits.
    pub spki: String,
    pub revoked_at: Option<Timestamp>,
    /// Reason of the revocation; may be empty.
    pub reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CertStateName {
    Valid,
    Expired,
    Revoked,
}

impl From<CertRow> for Cert {
    fn from(row: CertRow) -> Self {
        let (state, revoked_at, reason) = match row.state {
            CertState::Valid => (CertStateName::Valid, None, None),
            CertState::Expired => (CertStateName::Expired, None, None),
            CertState::Revoked { at, reason } => {
                (CertStateName::Revoked, Some(Timestamp(at)), Some(reason))
            }
        };
        let role: &Role = &row.id.role;
        Self {
            serial: row.serial.to_string(),
            kind: role.kind(),
            namespace: role.namespace().map(ToString::to_string),
            name: role.name().to_string(),
            id: row.id.to_string(),
            state,
            not_before: Timestamp(row.not_before),
            not_after: Timestamp(row.not_after),
            spki: row.spki.to_string(),
            revoked_at,
            reason,
        }
    }
}

impl Row for Cert {
    const COLUMNS: &'static [&'static str] = &[
        "SERIAL",
        "KIND",
        "NAMESPACE",
        "NAME",
        "STATE",
        "EXPIRES",
        "ISSUED",
        "SPKI",
        "REVOKED",
        "REASON",
    ];
    const TABLE_COLUMNS: usize = 6;

    fn cells(&self, now: u64) -> Vec<Cell> {
        let (state, tone) = match self.state {
            CertStateName::Valid => ("valid", Tone::Good),
            CertStateName::Expired => ("expired", Tone::Warning),
            CertStateName::Revoked => ("revoked", Tone::Bad),
        };
        vec![
            Cell::new(&self.serial),
            Cell::new(self.kind),
            Cell::option(self.namespace.as_ref()),
            Cell::new(&self.name),
            Cell::new(state).tone(tone),
            Cell::new(self.not_after.left(now)),
            Cell::new(self.not_before.age(now)),
            Cell::new(&self.spki),
            Cell::option(self.revoked_at.map(|at| at.age(now))),
            Cell::option(self.reason.as_ref()),
        ]
    }
}

/// A certificate issued for a signing request. `cframe-edge import` reads this object.
#[derive(Debug, Serialize)]
pub struct NewCert {
    /// The controller's answer: `mesh`, `namespace`, `edge`, `chain` (DER, lists of bytes), `trust`,
    /// `controllers`, `settings`, `listen_port` and `site_prefixes`.
    #[serde(flatten)]
    pub enrolled: Enrolled,
    /// 32 hex digits.
    pub serial: String,
    pub not_after: Timestamp,
    /// The files that were written, for the gateway.
    pub files: Vec<PathBuf>,
}

impl Row for NewCert {
    const COLUMNS: &'static [&'static str] = &["NAMESPACE", "EDGE", "SERIAL", "EXPIRES", "FILES"];
    const TABLE_COLUMNS: usize = 5;

    fn cells(&self, now: u64) -> Vec<Cell> {
        vec![
            Cell::new(&self.enrolled.namespace),
            Cell::new(&self.enrolled.edge),
            Cell::new(&self.serial),
            Cell::new(self.not_after.left(now)),
            Cell::list(self.files.iter().map(|file| file.display())),
        ]
    }
}

#[derive(Debug, Serialize)]
pub struct Admin {
    pub name: String,
    /// Can't change anything.
    pub read_only: bool,
    /// When the certificate expires.
    pub not_after: Timestamp,
}

impl From<AdminRow> for Admin {
    fn from(row: AdminRow) -> Self {
        let not_after = Timestamp(row.not_after);
        Self { name: row.name.to_string(), read_only: row.read_only, not_after }
    }
}

impl Row for Admin {
    const COLUMNS: &'static [&'static str] = &["NAME", "ACCESS", "EXPIRES"];
    const TABLE_COLUMNS: usize = 3;

    fn cells(&self, now: u64) -> Vec<Cell> {
        vec![
            Cell::new(&self.name),
            Cell::new(if self.read_only { "read-only" } else { "full" }),
            Cell::new(self.not_after.left(now)),
        ]
    }
}

#[derive(Debug, Serialize)]
pub struct NewAdmin {
    #[serde(flatten)]
    pub admin: Admin,
    /// The file with the context and its key.
    pub file: PathBuf,
}

impl Row for NewAdmin {
    const COLUMNS: &'static [&'static str] = &["NAME", "ACCESS", "EXPIRES", "FILE"];
    const TABLE_COLUMNS: usize = 4;

    fn cells(&self, now: u64) -> Vec<Cell> {
        let mut cells = self.admin.cells(now);
        cells.push(Cell::new(self.file.display()));
        cells
    }
}

/// The trust bundle.
#[derive(Debug, Serialize)]
pub struct Trust {
    /// The root CAs, each a PEM block.
    pub roots: Vec<String>,
    /// SHA-256 of the public keys of revoked issuing CAs, 64 hex digits each.
    pub revoked_issuers: Vec<String>,
}

impl From<TrustBundle> for Trust {
    fn from(bundle: TrustBundle) -> Self {
        Self {
            roots: bundle.roots.iter().map(|root| certificate_pem(root)).collect(),
            revoked_issuers: bundle.revoked_issuers.iter().map(ToString::to_string).collect(),
        }
    }
}

impl Answer for Trust {
    fn table(&self, _wide: bool, _color: bool) -> String {
        let revoked =
            self.revoked_issuers.iter().map(|issuer| format!("revoked_issuer  {issuer}\n"));
        self.roots.iter().cloned().chain(revoked).collect()
    }

    fn data(&self) -> impl Serialize {
        self
    }
}
