//! That a controller has cut this edge off, on disk: a restart must not forget it.

use std::path::Path;

use cframe_pki::{Serial, files, unix_now};
use serde::{Deserialize, Serialize};
use tracing::warn;

/// The name in the data directory.
const FILE: &str = "cut.json";

/// Why and when a controller has cut us off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cut {
    /// As a clause: "its certificate was revoked".
    pub reason: String,
    /// When we were told, in Unix seconds.
    pub at: u64,
    /// Of the certificate that we had. With another one this means nothing.
    pub serial: Serial,
    /// Whether links and routes are down for it. After a restart they aren't: peers refuse us by
    /// themselves.
    #[serde(skip)]
    pub in_force: bool,
}

impl Cut {
    /// What was just told.
    pub fn new(reason: &str, serial: Serial, in_force: bool) -> Self {
        Self { reason: reason.to_owned(), at: unix_now(), serial, in_force }
    }

    /// What an earlier process was told of the certificate with this serial.
    pub fn load(dir: &Path, serial: Serial) -> Option<Self> {
        let text = files::read_public(&dir.join(FILE)).ok()?;
        let cut: Self = serde_json::from_slice(&text).ok()?;
        (cut.serial == serial).then_some(cut)
    }

    /// Keeps it for the next process. A failure is logged: nothing depends on it.
    pub fn save(&self, dir: &Path) {
        let text = serde_json::to_vec(self).unwrap_or_default();
        if let Err(error) = files::write_public(&dir.join(FILE), &text) {
            warn!("that we are cut off was not saved: {:#}", anyhow::Error::new(error));
        }
    }

    /// It is over.
    pub fn forget(dir: &Path) {
        // One that stays is that of another certificate soon.
        let _ = std::fs::remove_file(dir.join(FILE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_is_remembered_for_its_certificate_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (ours, another) = (Serial::from_bytes([10; 16]), Serial::from_bytes([11; 16]));
        Cut::new("its certificate was revoked", ours, true).save(dir.path());
        let kept = Cut::load(dir.path(), ours).unwrap();
        assert_eq!(kept.reason, "its certificate was revoked");
        assert!(!kept.in_force, "peers decide after a restart");
        assert_eq!(Cut::load(dir.path(), another), None);
        Cut::forget(dir.path());
        assert_eq!(Cut::load(dir.path(), ours), None);
    }
}
