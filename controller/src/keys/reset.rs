//! Stateless resets (RFC 9000 section 10.3): a controller that was killed and restarted ends its old connections, when it
//! gets the first packet of each.
//!
//! For that, the keys of reset tokens and of connection ids are saved. Each port has its own keys: otherwise somebody who
//! sees a connection id of one port could get the reset token for it from the other (section 21.11).

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

/// Between two resets. Thousands of edges may need one right after a restart. A reset is smaller than the packet that causes
/// it.
const MIN_RESET_INTERVAL: Duration = Duration::from_micros(50);

/// The secret that the keys are derived from.
#[derive(Clone)]
pub struct ResetSecret(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for ResetSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ResetSecret")
    }
}

impl ResetSecret {
    pub fn generate() -> Result<Self> {
        let mut secret = Zeroizing::new([0; 32]);
        let filled = SystemRandom::new().fill(&mut *secret);
        filled.map_err(|_| anyhow!("the system's random source failed"))?;
        Ok(Self(secret))
    }

    /// Reads the secret from a file, or creates it (mode 0600). If it cannot be saved, as on a full disk, it is for this
    /// process only: edges then notice the next restart some seconds later.
    pub fn load(path: &Path) -> Result<Self> {
        if !path.exists() {
            let new = Self::generate()?;
            if let Err(error) = files::write_secret(path, &*new.0) {
                tracing::warn!(%error, "the secret of stateless resets cannot be saved");
            }
            return Ok(new);
        }
        let bytes = files::read_secret(path)?;
        let secret: [u8; 32] = bytes
            .as_slice()
            .try_into()
            .map_err(|_| {
                anyhow!(
                    "it has {} bytes instead of 32; remove it, and the next start makes another",
                    bytes.len()
                )
            })
            .with_context(|| format!("{} cannot be used", path.display()))?;
        Ok(Self(Zeroizing::new(secret)))
    }

    /// The QUIC endpoint's configuration for one port.
    pub(crate) fn endpoint(&self, port: &str) -> EndpointConfig {
        let reset = hmac::Key::new(hmac::HMAC_SHA256, &self.derive("reset", port));
        let id = self.derive("connection id", port);
        let id = id.iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte));
        let mut config = EndpointConfig::new(Arc::new(reset));
        config
            .cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(id)))
            .min_reset_interval(MIN_RESET_INTERVAL);
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
    fn the_secret_is_made_once_private_and_saved() {
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
