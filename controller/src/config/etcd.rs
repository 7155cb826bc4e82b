//! The files that the section `[etcd]` names.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use cframe_pki::files;
use cframe_store::etcd;
use zeroize::Zeroizing;

use crate::config::EtcdFile;

impl EtcdFile {
    /// Reads the files. Secret ones must be private.
    pub fn load(&self) -> Result<etcd::Config> {
        let public = |path: &Option<PathBuf>| path.as_deref().map(files::read_public).transpose();
        let ca = public(&self.ca).context("--etcd-ca")?;
        let cert = public(&self.cert).context("--etcd-cert")?;
        let key = self.key.as_deref().map(files::read_secret).transpose().context("--etcd-key")?;
        let password = self
            .password_file
            .as_deref()
            .map(password)
            .transpose()
            .context("--etcd-password-file")?;
        Ok(etcd::Config {
            endpoints: self.endpoints.clone(),
            ca,
            identity: cert.zip(key),
            user: self.username.clone().zip(password),
        })
    }
}

fn password(path: &Path) -> Result<Zeroizing<String>> {
    let content = files::read_secret(path)?;
    let text = std::str::from_utf8(&content).context("the password is not text")?;
    let line = text.lines().next().unwrap_or_default();
    ensure!(!line.is_empty(), "{} has no password on its first line", path.display());
    Ok(Zeroizing::new(line.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_that_others_may_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        std::fs::write(&path, "s3cret\nsecond line\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let etcd = EtcdFile {
            endpoints: vec!["http://a:1".to_owned()],
            username: Some("cframe".to_owned()),
            password_file: Some(path.clone()),
            ..EtcdFile::default()
        };
        assert!(format!("{:#}", etcd.load().unwrap_err()).contains("--etcd-password-file"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(etcd.load().unwrap().user.unwrap().1.as_str(), "s3cret");
    }
}
