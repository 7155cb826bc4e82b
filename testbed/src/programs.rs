use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// cframe's own programs: in the directory of `CFRAME_BIN_DIR`, or the release build beside the
/// running program.
#[derive(Clone, Debug)]
pub struct Programs {
    dir: PathBuf,
}

const NAMES: [&str; 3] = ["cframe-controller", "cframe-edge", "cfctl"];

impl Programs {
    /// Finds the directory and checks that it has all three programs.
    pub fn locate() -> Result<Self> {
        let dir = match std::env::var_os("CFRAME_BIN_DIR") {
            Some(dir) => PathBuf::from(dir),
            None => {
                let exe = std::env::current_exe().context("finding this program's own path")?;
                release_beside(&exe).with_context(|| {
                    format!("no release build beside {}: {REMEDY}", exe.display())
                })?
            }
        };
        let missing: Vec<_> = NAMES.into_iter().filter(|name| !dir.join(name).is_file()).collect();
        ensure!(missing.is_empty(), "{} not in {}: {REMEDY}", missing.join(", "), dir.display());
        Ok(Self { dir })
    }

    pub fn controller(&self) -> PathBuf {
        self.dir.join("cframe-controller")
    }

    pub fn edge(&self) -> PathBuf {
        self.dir.join("cframe-edge")
    }

    pub fn ctl(&self) -> PathBuf {
        self.dir.join("cfctl")
    }
}

const REMEDY: &str =
    "cargo build --release -p cframe-controller -p cframe-edge -p cfctl, or set CFRAME_BIN_DIR";

/// `<target>/release` for a program anywhere below `<target>/<profile>`.
fn release_beside(exe: &Path) -> Option<PathBuf> {
    exe.ancestors().skip(1).map(|dir| dir.join("release")).find(|dir| dir.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_build_is_found_from_a_test_of_any_profile() {
        let target = tempfile::tempdir().unwrap();
        let release = target.path().join("release");
        std::fs::create_dir_all(&release).unwrap();
        for exe in ["debug/deps/lab-1a", "release/testbed"] {
            assert_eq!(release_beside(&target.path().join(exe)), Some(release.clone()));
        }
    }
}
