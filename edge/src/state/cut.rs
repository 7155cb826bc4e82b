//! On disk: that a controller has cut this edge off. A restart must not forget it.

use std::path::Path;

use cframe_pki::{Serial, files, unix_now};
use serde::{Deserialize, Serialize};
use tracing::warn;

const FILE: &str = "cut.json";

/// A controller has cut this edge off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// As a clause: "its certificate was revoked".
    pub reason: String,
    /// In Unix seconds.
    pub at: u64,
    /// The certificate of that time. With another one, the edge is not cut off.
    pub serial: Serial,
    /// Links and routes are down for it. After a restart they are not: peers refuse the certificate
    /// anyway.
    #[serde(skip)]
    pub in_force: bool,
}

impl Cut {
    pub fn new(reason: &str, serial: Serial, in_force: bool) -> Self {
        Self { reason: reason.to_owned(), at: unix_now(), serial, in_force }
    }

    /// What an earlier process has saved, if it was about the certificate with this serial.
    pub fn load(dir: &Path, serial: Serial) -> Option<Self> {
        let text = files::read_public(&dir.join(FILE)).ok()?;
        let cut: Self = serde_json::from_slice(&text).ok()?;
        (cut.serial == serial).then_some(cut)
    }

    /// Saves it for the next process. A failure is logged: nothing depends on it.
    pub fn save(&self, dir: &Path) {
        let text = serde_json::to_vec(self).unwrap_or_default();
        if let Err(error) = files::write_public(&dir.join(FILE), &text) {
            warn!("cut.json was not saved: {:#}", anyhow::Error::new(error));
        }
    }

    /// Removes what was saved.
    pub fn forget(dir: &Path) {
        // A file that stays means nothing once the edge has another certificate.
        let _ = std::fs::remove_file(dir.join(FILE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_remembered_for_its_own_certificate_only() {
        let dir = tempfile::tempdir().unwrap();
        let (own, another) = (Serial::from_bytes([10; 16]), Serial::from_bytes([11; 16]));
        Cut::new("its certificate was revoked", own, true).save(dir.path());
        let saved = Cut::load(dir.path(), own).unwrap();
        assert_eq!(saved.reason, "its certificate was revoked");
        assert!(!saved.in_force, "peers decide after a restart");
        assert_eq!(Cut::load(dir.path(), another), None);
        Cut::forget(dir.path());
        assert_eq!(Cut::load(dir.path(), own), None);
    }
}
