//! The store's keys, and their JSON values.
//!
//! ```text
//! /cframe/v1/mesh
//! /cframe/v1/namespaces/<namespace>
//! /cframe/v1/edges/<namespace>/<edge>
//! /cframe/v1/routes/<namespace>/<route>
//! /cframe/v1/tokens/<id>
//! /cframe/v1/certs/<serial>
//! /cframe/v1/denied/<serial>
//! /cframe/v1/admins/<admin>
//! /cframe/v1/controllers/<controller>
//! /cframe/v1/alive/<controller>      # while it runs
//! /cframe/v1/issuers/<SHA-256 of the issuing CA's public key>
//! ```
//! The audit log, `/cframe/audit/…`, is not in memory ([`audit`](crate::audit)).
//!
//! Every value is an object with a `schema` field, readable with `etcdctl`. None has a private key or a token's secret.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use cframe_pki::{
    CertificateDer, Fingerprint, Serial,
    bundle::{DenyEntry, TrustBundle},
    identity::{Label, MeshName, PeerIdentity, SpiffeId},
};
use cframe_protocol::v1::{Endpoint, Settings};
use cframe_store::Revision;
use ipnet::IpNet;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use super::membership::Membership;

/// All keys start with this.
pub const ROOT: &str = "/cframe/v1/";

/// The keys of controllers that run.
pub const ALIVE: &str = "/cframe/v1/alive/";

/// The version of the values' layout. A later one is refused.
pub const SCHEMA: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    Mesh,
    Namespace(Label),
    /// Namespace and name.
    Edge(Label, Label),
    /// Namespace and name.
    Route(Label, Label),
    Token(TokenKey),
    Cert(Serial),
    Denied(Serial),
    Admin(Label),
    Controller(Label),
    Alive(Label),
    /// By the public key.
    Issuer(Fingerprint),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ROOT)?;
        match self {
            Self::Mesh => f.write_str("mesh"),
            Self::Namespace(name) => write!(f, "namespaces/{name}"),
            Self::Edge(namespace, name) => write!(f, "edges/{namespace}/{name}"),
            Self::Route(namespace, name) => write!(f, "routes/{namespace}/{name}"),
            Self::Token(id) => write!(f, "tokens/{id}"),
            Self::Cert(serial) => write!(f, "certs/{serial}"),
            Self::Denied(serial) => write!(f, "denied/{serial}"),
            Self::Admin(name) => write!(f, "admins/{name}"),
            Self::Controller(name) => write!(f, "controllers/{name}"),
            Self::Alive(name) => write!(f, "alive/{name}"),
            Self::Issuer(spki) => write!(f, "issuers/{spki}"),
        }
    }
}

impl FromStr for Key {
    type Err = RecordError;

    fn from_str(text: &str) -> Result<Self, RecordError> {
        let parts: Vec<&str> = text.strip_prefix(ROOT).unwrap_or_default().split('/').collect();
        let parsed = match parts.as_slice() {
            ["mesh"] => Some(Self::Mesh),
            ["namespaces", name] => name.parse().ok().map(Self::Namespace),
            ["edges", namespace, name] => pair(namespace, name).map(|(a, b)| Self::Edge(a, b)),
            ["routes", namespace, name] => pair(namespace, name).map(|(a, b)| Self::Route(a, b)),
            ["tokens", id] => id.parse().ok().map(Self::Token),
            ["certs", serial] => serial.parse().ok().map(Self::Cert),
            ["denied", serial] => serial.parse().ok().map(Self::Denied),
            ["admins", name] => name.parse().ok().map(Self::Admin),
            ["controllers", name] => name.parse().ok().map(Self::Controller),
            ["alive", name] => name.parse().ok().map(Self::Alive),
            ["issuers", spki] => spki.parse().ok().map(Self::Issuer),
            _ => None,
        };
        parsed.ok_or_else(|| RecordError::Key(text.to_owned()))
    }
}

fn pair(namespace: &str, name: &str) -> Option<(Label, Label)> {
    Some((namespace.parse().ok()?, name.parse().ok()?))
}

/// The id of a join token: 16 bytes, in text as hex. It is not secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenKey(pub [u8; 16]);

impl fmt::Display for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for TokenKey {
    type Err = RecordError;

    fn from_str(text: &str) -> Result<Self, RecordError> {
        // A serial has the same form: 32 lower-case hex digits.
        let bytes: Serial = text.parse().map_err(|_| RecordError::Key(text.to_owned()))?;
        Ok(Self(*bytes.as_bytes()))
    }
}

/// What concerns all namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshRecord {
    /// The trust domain.
    pub name: MeshName,
    /// Unix milliseconds of when the store was made; a restore sets a later one.
    pub epoch: u64,
    /// Counts the changes of this record and of denied controllers.
    pub revision: u64,
    pub trust: TrustBundle,
    /// The control ports of all controllers, from their registrations.
    pub controllers: BTreeSet<Endpoint>,
    /// For each root that was added later, the mesh's revision that added it: an edge that has applied that revision has the
    /// root.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub roots_since: BTreeMap<Fingerprint, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceRecord {
    pub description: String,
    pub settings: Settings,
    /// Counts the changes of the desired state.
    pub revision: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeRecord {
    pub description: String,
    /// The site's prefixes.
    pub cidrs: Vec<IpNet>,
    /// Where other edges reach it.
    pub endpoints: Vec<Endpoint>,
    /// Edges that it needs no link to, as the operator decided.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub no_link_to: BTreeSet<Label>,
    /// `None` in records of earlier versions, which did not store it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub membership: Option<Membership>,
}

/// A further prefix behind an edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRecord {
    pub prefix: IpNet,
    pub edge: Label,
}

/// A join token. After its use it stays until it expires, so that the error of a second use can say so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    pub namespace: Label,
    pub edge: Label,
    /// SHA-256 of the secret.
    pub secret_hash: Fingerprint,
    /// Unix seconds.
    pub created: u64,
    /// Unix seconds.
    pub expires: u64,
    /// It replaces the edge's certificates.
    pub rejoin: bool,
    pub created_by: String,
    /// Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
}

/// An issued certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertRecord {
    pub id: SpiffeId,
    pub spki: Fingerprint,
    /// Unix seconds.
    pub not_before: u64,
    /// Unix seconds.
    pub not_after: u64,
    /// The certificate of the session that requested this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renews: Option<Serial>,
    /// The issuing CA's public key. Records from before a mesh could have several lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<Fingerprint>,
    /// The mesh's revision of the trust bundle that the edge got when it joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<u64>,
}

impl From<&PeerIdentity> for CertRecord {
    fn from(peer: &PeerIdentity) -> Self {
        Self {
            id: peer.id.clone(),
            spki: peer.spki,
            not_before: peer.not_before,
            not_after: peer.not_after,
            renews: None,
            issuer: peer.issuer,
            bundle: None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeniedRecord {
    /// What edges get.
    pub entry: DenyEntry,
    /// Unix seconds.
    pub at: u64,
    pub reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminRecord {
    pub read_only: bool,
}

/// A registered controller, whether it runs or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerRecord {
    /// Control ports, in order of preference.
    pub addresses: Vec<Endpoint>,
    /// The issuing CA's certificate; in JSON the base64 of its DER.
    #[serde(with = "base64_der")]
    pub issuer: CertificateDer<'static>,
    /// Unix seconds.
    pub added: u64,
}

/// What a running controller advertises. Edges do not get it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliveRecord {
    /// Control ports.
    pub addresses: Vec<Endpoint>,
    /// The enrolment port on the same hosts.
    pub enroll_port: u16,
    pub software: String,
    /// Unix seconds.
    pub started: u64,
    /// A random number for each start, in hex.
    pub boot: String,
}

mod base64_der {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use cframe_pki::CertificateDer;
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(
        der: &CertificateDer<'static>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(der))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<CertificateDer<'static>, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map(CertificateDer::from).map_err(de::Error::custom)
    }
}

/// An issuing CA, as its controller recorded it. It is for counts and warnings; trust comes from the roots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerRecord {
    pub controller: Label,
    /// The public key of the root above it.
    pub root: Fingerprint,
    /// Unix seconds.
    pub not_before: u64,
    /// Unix seconds.
    pub not_after: u64,
    /// When it was recorded first, in Unix seconds.
    pub added: u64,
    /// Its controller signs with it now.
    pub signs: bool,
}

/// A record, and the revision that transactions compare.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<T> {
    pub record: T,
    pub modified: Revision,
}

/// A decoded value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    Mesh(MeshRecord),
    Namespace(Label, NamespaceRecord),
    Edge(Label, Label, EdgeRecord),
    Route(Label, Label, RouteRecord),
    Token(TokenKey, TokenRecord),
    Cert(Serial, CertRecord),
    Denied(Serial, DeniedRecord),
    Admin(Label, AdminRecord),
    Controller(Label, ControllerRecord),
    Alive(Label, AliveRecord),
    Issuer(Fingerprint, IssuerRecord),
}

impl Record {
    pub fn decode(key: Key, value: &[u8]) -> Result<Self, RecordError> {
        Ok(match key {
            Key::Mesh => Self::Mesh(decode(&key, value)?),
            Key::Namespace(ref name) => Self::Namespace(name.clone(), decode(&key, value)?),
            Key::Edge(ref space, ref name) => {
                Self::Edge(space.clone(), name.clone(), decode(&key, value)?)
            }
            Key::Route(ref space, ref name) => {
                Self::Route(space.clone(), name.clone(), decode(&key, value)?)
            }
            Key::Token(id) => Self::Token(id, decode(&key, value)?),
            Key::Cert(serial) => Self::Cert(serial, decode(&key, value)?),
            Key::Denied(serial) => Self::Denied(serial, decode(&key, value)?),
            Key::Admin(ref name) => Self::Admin(name.clone(), decode(&key, value)?),
            Key::Controller(ref name) => Self::Controller(name.clone(), decode(&key, value)?),
            Key::Alive(ref name) => Self::Alive(name.clone(), decode(&key, value)?),
            Key::Issuer(spki) => Self::Issuer(spki, decode(&key, value)?),
        })
    }
}

/// Encodes a record with its schema.
pub fn encode<T: Serialize>(body: &T) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "records have string keys and no failing serializers")]
    serde_json::to_vec(&Envelope { schema: SCHEMA, body }).expect("a record is JSON")
}

fn decode<T: DeserializeOwned>(key: &Key, value: &[u8]) -> Result<T, RecordError> {
    #[derive(Deserialize)]
    struct Schema {
        schema: u32,
    }
    let damaged = |error: serde_json::Error| RecordError::Value(key.to_string(), error.to_string());
    let Schema { schema } = serde_json::from_slice(value).map_err(damaged)?;
    if schema > SCHEMA {
        return Err(RecordError::Later(key.to_string(), schema));
    }
    serde_json::from_slice(value).map_err(damaged)
}

#[derive(Serialize)]
struct Envelope<'a, T> {
    schema: u32,
    #[serde(flatten)]
    body: &'a T,
}

#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum RecordError {
    #[error("{0:?} is not a key of this store")]
    Key(String),
    #[error("the value of {0} is damaged: {1}")]
    Value(String, String),
    #[error("{0} has schema {1}, and this program knows {SCHEMA}: run the version that wrote it")]
    Later(String, u32),
}
