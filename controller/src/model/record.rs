//! What the store holds: keys, and the JSON below them.
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
//! /cframe/v1/alive/<controller>      # there while it runs
//! /cframe/v1/issuers/<SHA-256 of the issuing CA's public key>
//! ```
//! and besides, not in memory, `/cframe/audit/…` ([`audit`](crate::audit)).
//!
//! Every value is an object with a `schema` field, readable with `etcdctl`. No private key and no secret of a
//! token is in any of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use cframe_pki::{
    CertificateDer, Fingerprint, Serial,
    bundle::{DenyEntry, TrustBundle},
    identity::{Label, MeshName, SpiffeId},
};
use cframe_protocol::v1::{Endpoint, Settings};
use cframe_store::Revision;
use ipnet::IpNet;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

/// All keys begin with this.
pub const ROOT: &str = "/cframe/v1/";

/// The keys of controllers that run.
pub const ALIVE: &str = "/cframe/v1/alive/";

/// The layout of the values. A later one is refused, not guessed at.
pub const SCHEMA: u32 = 1;

/// A key of the store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// What concerns all namespaces.
    Mesh,
    /// A namespace.
    Namespace(Label),
    /// An edge: namespace and name.
    Edge(Label, Label),
    /// A route: namespace and name.
    Route(Label, Label),
    /// A join token.
    Token(TokenKey),
    /// An issued certificate.
    Cert(Serial),
    /// A denied certificate.
    Denied(Serial),
    /// An admin.
    Admin(Label),
    /// A controller, whether it runs or not.
    Controller(Label),
    /// A controller that runs.
    Alive(Label),
    /// An issuing CA, by its public key.
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

/// The public id of a join token: 16 bytes, in text as hex. It names the token and proves nothing.
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
        // A serial is spelt the same way: 32 lower-case hex digits.
        let bytes: Serial = text.parse().map_err(|_| RecordError::Key(text.to_owned()))?;
        Ok(Self(*bytes.as_bytes()))
    }
}

/// What concerns all namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshRecord {
    /// The trust domain.
    pub name: MeshName,
    /// Unix milliseconds of the store's making; a restore has a later one.
    pub epoch: u64,
    /// Counts the changes of what is in here and of denied controllers.
    pub revision: u64,
    /// The roots, and the issuing CAs that are cut off.
    pub trust: TrustBundle,
    /// Where the controllers are reached, control port: what is in all their registrations.
    pub controllers: BTreeSet<Endpoint>,
    /// For the roots that were added later, the mesh's revision that did: whoever has applied that has them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub roots_since: BTreeMap<Fingerprint, u64>,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceRecord {
    /// For people.
    pub description: String,
    /// What all its edges share.
    pub settings: Settings,
    /// Counts the changes of the namespace's desired state.
    pub revision: u64,
}

/// A gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeRecord {
    /// For people.
    pub description: String,
    /// Its own site prefixes.
    pub cidrs: Vec<IpNet>,
    /// Where it is reached from outside.
    pub endpoints: Vec<Endpoint>,
}

/// One more prefix behind an edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteRecord {
    /// The prefix.
    pub prefix: IpNet,
    /// The edge that it is behind.
    pub edge: Label,
}

/// A join token; it stays, as used, until it expires, so that a second use is named as such.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// The namespace that it lets into.
    pub namespace: Label,
    /// The edge that it makes.
    pub edge: Label,
    /// SHA-256 of the secret.
    pub secret_hash: Fingerprint,
    /// Unix seconds.
    pub created: u64,
    /// Unix seconds.
    pub expires: u64,
    /// Whether it replaces the edge's certificates.
    pub rejoin: bool,
    /// The admin who made it.
    pub created_by: String,
    /// When it was used, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
}

/// An issued certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertRecord {
    /// Whose it is.
    pub id: SpiffeId,
    /// Its public key.
    pub spki: Fingerprint,
    /// Unix seconds.
    pub not_before: u64,
    /// Unix seconds.
    pub not_after: u64,
    /// The certificate that asked for this one over its session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renews: Option<Serial>,
    /// The issuing CA, by its public key. Records from before there could be a second one lack it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<Fingerprint>,
    /// The mesh's revision whose trust bundle its holder was given along with it, by joining.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<u64>,
}

/// A certificate that is not accepted any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeniedRecord {
    /// What the edges are told.
    pub entry: DenyEntry,
    /// Since when, in Unix seconds.
    pub at: u64,
    /// Why, for people.
    pub reason: String,
}

/// A person or program that may make admin calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminRecord {
    /// May look, not change.
    pub read_only: bool,
}

/// A controller of the mesh, whether it runs or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerRecord {
    /// Where it is reached, control port, in order of preference.
    pub addresses: Vec<Endpoint>,
    /// Its issuing CA's certificate; in JSON the base64 of its DER.
    #[serde(with = "base64_der")]
    pub issuer: CertificateDer<'static>,
    /// Since when, in Unix seconds.
    pub added: u64,
}

/// What a controller says of itself while it runs. No edge is told of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliveRecord {
    /// Where it is reached, control port.
    pub addresses: Vec<Endpoint>,
    /// The port of enrolment on the same hosts.
    pub enroll_port: u16,
    /// Version of its software.
    pub software: String,
    /// Since when it runs, in Unix seconds.
    pub started: u64,
    /// Random, new at every start, in hex.
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

/// An issuing CA, as its controller has told. For counting and for warnings: whom to trust is the roots' to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerRecord {
    /// Whose it is.
    pub controller: Label,
    /// The root above it, by its public key.
    pub root: Fingerprint,
    /// Unix seconds.
    pub not_before: u64,
    /// Unix seconds.
    pub not_after: u64,
    /// When it was first used, in Unix seconds.
    pub added: u64,
    /// Its controller signs with it, and not with another.
    pub signs: bool,
}

/// A record with the revision that wrote it, which a transaction compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<T> {
    /// The record.
    pub record: T,
    /// The revision of its last write.
    pub modified: Revision,
}

/// A decoded value.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the record of its name")]
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
    /// Decodes the value under a key.
    ///
    /// # Errors
    /// If the value is not what belongs under that key, or of a later schema.
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

/// Encodes a record's body with its schema.
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

/// Why something in the store cannot be understood.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum RecordError {
    /// A key that this program does not write.
    #[error("{0:?} is not a key of this store")]
    Key(String),
    /// A value that does not belong under its key.
    #[error("the value of {0} is damaged: {1}")]
    Value(String, String),
    /// A value that a later version wrote.
    #[error("{0} has schema {1}, and this program knows {SCHEMA}: run the version that wrote it")]
    Later(String, u32),
}
