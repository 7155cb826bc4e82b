use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// cframe's own programs: in the directory of `CFRAME_BIN_DIR`, or of the same build as the running program.
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
            None => build_dir(&std::env::current_exe().context("finding this program's own path")?),
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

    /// A root shell's `PATH` with the programs' directory in front.
    pub(crate) fn search_path(&self) -> OsString {
        let mut path = self.dir.clone().into_os_string();
        path.push(":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        path
    }
}

const REMEDY: &str =
    "cargo build -p cframe-controller -p cframe-edge -p cfctl, or set CFRAME_BIN_DIR";

/// `<target>/<profile>` of a program or a test there: tests are in `deps` below.
fn build_dir(exe: &Path) -> PathBuf {
    let dir = exe.parent().unwrap_or(exe);
    if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_looked_for_in_the_build_of_the_test_or_tool() {
        for exe in ["/t/dist/testbed", "/t/dist/deps/e2e-1a"] {
            assert_eq!(build_dir(Path::new(exe)), Path::new("/t/dist"));
        }
    }
}
