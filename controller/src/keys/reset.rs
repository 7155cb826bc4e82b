//! Stateless resets (RFC 9000 §10.3): a controller that was killed and is back tells the peers of its
//! former connections, with the first packet that it gets of each, that there is no such connection.
//!
//! For that the keys of reset tokens and of connection ids outlive the process. Each port has keys of its
//! own: with shared ones, whoever sees a connection id of one port would have the token for it made by the
//! other (§21.11).

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use aws_lc_rs::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use cframe_pki::files;
use quinn::EndpointConfig;
use quinn_proto::HashedConnectionIdGenerator;
use zeroize::Zeroizing;

/// The file in the data directory.
pub(crate) const FILE: &str = "reset-key";

/// Thousands of edges may ask within moments of a restart. A reset is smaller than what asks for it.
const INTERVAL: Duration = Duration::from_micros(50);

/// What the keys are derived from.
#[derive(Clone)]
pub struct ResetSecret(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for ResetSecret {
    /// Without the secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResetSecret")
    }
}

impl ResetSecret {
    /// A new one.
    ///
    /// # Errors
    /// If the system's random source fails.
    pub fn generate() -> Result<Self> {
        let mut secret = Zeroizing::new([0; 32]);
        let filled = SystemRandom::new().fill(&mut *secret);
        filled.map_err(|_| anyhow!("the system's random source failed"))?;
        Ok(Self(secret))
    }

    /// Reads it from a file, which is made (mode 0600) if it is not there. Where that is not possible, as on a
    /// full disk, it is one for this process only: edges then notice the next restart some seconds later.
    ///
    /// # Errors
    /// If others may read the file, or it is not such a file.
    pub fn load(path: &Path) -> Result<Self> {
        if !path.exists() {
            let new = Self::generate()?;
            if let Err(error) = files::write_secret(path, &*new.0) {
                tracing::warn!(%error, "the secret of stateless resets is not kept");
            }
            return Ok(new);
        }
        let bytes = files::read_secret(path)?;
        let secret: [u8; 32] = bytes
            .as_slice()
            .try_into()
            .map_err(|_| {
                anyhow!(
                    "it has {} bytes and not 32; remove it, and the next start makes another",
                    bytes.len()
                )
            })
            .with_context(|| format!("{} cannot be used", path.display()))?;
        Ok(Self(Zeroizing::new(secret)))
    }

    /// The configuration of the endpoint of a port.
    pub(crate) fn endpoint(&self, port: &str) -> EndpointConfig {
        let reset = hmac::Key::new(hmac::HMAC_SHA256, &self.derive("reset", port));
        let id = self.derive("connection id", port);
        let id = id.iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte));
        let mut config = EndpointConfig::new(Arc::new(reset));
        config
            .cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id)))
            .min_reset_interval(INTERVAL);
        config
    }

    fn derive(&self, purpose: &str, port: &str) -> Zeroizing<Vec<u8>> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &*self.0);
        let tag = hmac::sign(&key, format!("cframe {port} {purpose}").as_bytes());
        Zeroizing::new(tag.as_ref().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_made_once_private_and_kept() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(FILE);
        let first = ResetSecret::load(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(*ResetSecret::load(&path).unwrap().0, *first.0);
        assert_ne!(*ResetSecret::generate().unwrap().0, *first.0);
        assert!(ResetSecret::load(&directory.path().join("absent").join(FILE)).is_ok());
        std::fs::write(&path, "short").unwrap();
        let error = format!("{:#}", ResetSecret::load(&path).unwrap_err());
        assert!(error.contains("remove it"), "{error}");
    }

    #[test]
    fn every_port_and_purpose_has_its_own_key() {
        let secret = ResetSecret::generate().unwrap();
        let keys = [("reset", "control"), ("reset", "enrolment"), ("connection id", "control")]
            .map(|(purpose, port)| secret.derive(purpose, port).to_vec());
        assert!(keys[0] != keys[1] && keys[0] != keys[2] && keys[1] != keys[2]);
        assert_eq!(keys[0], *secret.derive("reset", "control"));
    }
}
