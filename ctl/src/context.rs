//! Contexts: a mesh, its controllers, and an admin's certificate.
//!
//! They are in one TOML file, `~/.config/cframe/config.toml`. It holds private keys and has mode 0600:
//!
//! ```toml
//! current = "corp"
//!
//! [contexts.corp]
//! mesh = "corp"
//! controllers = ["203.0.113.1:58422"]
//! namespace = "prod"                      # for commands without -n; optional
//! certificate = "-----BEGIN CERTIFICATE-----…"   # the chain, leaf first
//! key = "-----BEGIN PRIVATE KEY-----…"
//! trust = "-----BEGIN CERTIFICATE-----…"         # the root CAs
//! revoked_issuers = ["9f86d081…"]                # issuing CAs that are not trusted; optional
//! ```
//!
//! `cframe-controller init --admin-context` and `cfctl admin add` write such a file with one context.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fmt,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use cframe_console::exit::Exit;
use cframe_pki::{
    Fingerprint,
    bundle::{DenyList, TrustBundle},
    files::{self, FileError},
    identity::{Label, MeshName, PeerIdentity},
    key::PrivateKey,
    tls::Credentials,
    verifier::Trust,
};
use cframe_protocol::v1::Endpoint;
use serde::{Deserialize, Serialize};

use crate::{failure::Failure, pem};

/// The file of contexts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    /// Name of the context for commands without `--context`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    #[serde(default)]
    pub contexts: BTreeMap<String, Context>,
}

/// A mesh, and one admin of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    pub mesh: MeshName,
    /// Control ports of its controllers.
    pub controllers: Vec<Endpoint>,
    /// Namespace for commands without `-n`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Label>,
    /// The admin's certificate and its issuing CA's, PEM.
    pub certificate: String,
    /// The admin's private key, PEM.
    pub key: String,
    /// The mesh's root CAs, PEM.
    pub trust: String,
    /// Issuing CAs that are not trusted.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub revoked_issuers: BTreeSet<Fingerprint>,
}

impl fmt::Debug for Context {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("mesh", &self.mesh)
            .field("controllers", &self.controllers)
            .finish_non_exhaustive()
    }
}

impl Contexts {
    /// The file for commands without `--config`: below `XDG_CONFIG_HOME`, or `~/.config`.
    pub fn default_path() -> Result<PathBuf, Failure> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        set("XDG_CONFIG_HOME")
            .or_else(|| set("HOME").map(|home| home.join(".config")))
            .map(|directory| directory.join("cframe/config.toml"))
            .ok_or_else(|| {
                Failure::new(Exit::Error, "neither HOME nor XDG_CONFIG_HOME is set")
                    .hint("name the file of contexts with --config FILE")
            })
    }

    pub fn load(path: &Path) -> Result<Self, Failure> {
        let bytes = files::read_secret(path).map_err(|error| unreadable(path, error))?;
        Ok(Self::parse(&bytes).with_context(|| format!("{}", path.display()))?)
    }

    /// Reads the file. Without a file there are no contexts.
    pub fn load_or_default(path: &Path) -> Result<Self, Failure> {
        if path.exists() { Self::load(path) } else { Ok(Self::default()) }
    }

    /// Reads contexts from standard input.
    pub fn from_stdin(input: impl Read) -> Result<Self, Failure> {
        let mut bytes = Vec::new();
        input.take(1 << 20).read_to_end(&mut bytes).context("standard input")?;
        Ok(Self::parse(&bytes).context("standard input")?)
    }

    fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let text = std::str::from_utf8(bytes).context("not UTF-8")?;
        // Without toml's own text: it quotes the line, which may hold a key.
        toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
            anyhow::anyhow!("not a file of contexts, line {line}: {}", error.message())
        })
    }

    /// Writes or replaces the file, with mode 0600.
    pub fn save(&self, path: &Path) -> Result<(), Failure> {
        if let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty())
            && !directory.exists()
        {
            files::ensure_private_dir(directory).map_err(anyhow::Error::from)?;
        }
        let text = self.to_toml()?;
        Ok(files::replace_secret(path, text.as_bytes()).map_err(anyhow::Error::from)?)
    }

    /// Writes a file that must not exist, with mode 0600.
    pub fn create(&self, path: &Path) -> Result<(), Failure> {
        let text = self.to_toml()?;
        Ok(files::write_secret(path, text.as_bytes()).map_err(anyhow::Error::from)?)
    }

    fn to_toml(&self) -> Result<String, Failure> {
        Ok(toml::to_string_pretty(self).context("the contexts can't be written as TOML")?)
    }

    /// The context of this name, or the current one, and its name.
    pub fn select(&self, name: Option<&str>) -> Result<(&str, &Context), Failure> {
        let Some(name) = name.or(self.current.as_deref()) else {
            let message = "there is no current context";
            return Err(Failure::new(Exit::Error, message)
                .hint(format!("cfctl context use NAME, or --context NAME; {}", self.known())));
        };
        let found = self.contexts.get_key_value(name);
        found.map(|(name, context)| (name.as_str(), context)).ok_or_else(|| self.unknown(name))
    }

    pub fn unknown(&self, name: &str) -> Failure {
        Failure::new(Exit::NotFound, format!("there is no context {name:?}")).hint(self.known())
    }

    fn known(&self) -> String {
        let names: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
        match names.as_slice() {
            [] => "there are none: cfctl context import FILE".to_owned(),
            names => format!("there are: {}", names.join(", ")),
        }
    }
}

fn unreadable(path: &Path, error: FileError) -> Failure {
    if matches!(&error, FileError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound) {
        let message = format!("there is no file of contexts {}", path.display());
        return Failure::new(Exit::Error, message).hint(
            "cfctl context import FILE, with the file that `cframe-controller init \
             --admin-context` or `cfctl admin add` wrote",
        );
    }
    anyhow::Error::from(error).into()
}

impl Context {
    pub fn credentials(&self) -> anyhow::Result<Credentials> {
        let chain = pem::certificates(&self.certificate).context("certificate")?;
        let key = PrivateKey::from_pem(&self.key).context("key")?;
        let credentials = Credentials { chain, key };
        credentials.identity()?;
        Ok(credentials)
    }

    /// The identity and validity in the certificate.
    pub fn identity(&self) -> anyhow::Result<PeerIdentity> {
        let chain = pem::certificates(&self.certificate).context("certificate")?;
        Ok(PeerIdentity::from_chain(&chain)?)
    }

    pub fn trust(&self) -> anyhow::Result<Trust> {
        let roots = pem::certificates(&self.trust).context("trust")?;
        let bundle = TrustBundle { roots, revoked_issuers: self.revoked_issuers.clone() };
        Ok(Trust::new(self.mesh.clone(), bundle, DenyList::default())?)
    }
}
