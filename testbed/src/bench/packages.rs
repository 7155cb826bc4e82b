//! Programs of other tunnels: Debian packages and crates, most of them not installed in the system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};

/// Debian's newest suite.
const SUITE: &str = "sid";

/// A directory of packages, which later runs use again.
#[derive(Clone, Debug)]
pub(super) struct Packages {
    dir: PathBuf,
}

#[derive(Clone, Debug)]
pub(super) struct Package {
    pub(super) program: PathBuf,
    pub(super) version: String,
}

impl Packages {
    pub(super) fn in_dir(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Downloads and unpacks a package of Debian's newest suite if it isn't there.
    pub(super) fn unpack_debian(&self, package: &str, program: &str) -> Result<Package> {
        let root = self.dir.join("debian").join(package);
        let unpacked = || -> Result<Package> {
            let version = read(&root.join("version"))?;
            Ok(Package { program: root.join(program), version })
        };
        if let Ok(unpacked) = unpacked() {
            return Ok(unpacked);
        }
        eprintln!("Fetching {package} of Debian {SUITE}");
        let archive = self.apt().and_then(|apt| apt.download(package))?;
        let new = self.dir.join("unpacking");
        remove(&new)?;
        run(Command::new("dpkg").arg("-x").arg(&archive).arg(&new))?;
        let version = run(Command::new("dpkg-deb").arg("-f").arg(&archive).arg("Version"))?;
        fs::write(new.join("version"), version.trim()).context("writing the version")?;
        fs::create_dir_all(self.dir.join("debian")).context("creating a directory for packages")?;
        remove(&root)?;
        fs::rename(&new, &root).with_context(|| format!("renaming the directory of {package}"))?;
        fs::remove_file(&archive).context("removing the archive")?;
        unpacked()
    }

    /// Installs a package in the system if its program isn't there.
    pub(super) fn install(package: &str, program: &str) -> Result<Package> {
        let path = || {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path)
                .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
                .map(|dir| dir.join(program))
                .find(|path| path.is_file())
        };
        if path().is_none() {
            eprintln!("Installing {package}");
            let mut apt = Command::new("apt-get");
            apt.args(["install", "-qq", "--no-install-recommends", package]);
            run(apt.env("DEBIAN_FRONTEND", "noninteractive"))
                .with_context(|| format!("apt-get install {package}"))?;
        }
        let program = path().with_context(|| format!("{package} has no {program}"))?;
        let version = run(Command::new("dpkg-query").args(["-W", "-f", "${Version}", package]))?;
        Ok(Package { program, version: version.trim().to_owned() })
    }

    /// Builds a program of a crate if it isn't there. `version` is a version requirement of cargo.
    pub(super) fn build_crate(&self, name: &str, version: &str) -> Result<Package> {
        let root = self.dir.join("cargo");
        let program = root.join("bin").join(name);
        if !program.is_file() {
            eprintln!("Building {name}, which takes some minutes");
            let mut cargo = Command::new("cargo");
            cargo.args(["install", "--quiet", "--locked", name, "--version", version]);
            cargo.arg("--root").arg(&root).arg("--target-dir").arg(self.dir.join("build"));
            run(&mut cargo)?;
        }
        let installed =
            run(Command::new("cargo").args(["install", "--list", "--root"]).arg(&root))?;
        let version = installed
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(" v")?.strip_suffix(':'))
            .with_context(|| format!("cargo doesn't list {name}"))?;
        Ok(Package { program, version: version.to_owned() })
    }

    /// Sets up apt for the newest suite, with the system's mirror and separate directories.
    fn apt(&self) -> Result<Apt> {
        let dir = std::path::absolute(self.dir.join("apt")).context("resolving the directory")?;
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(part)).with_context(|| format!("creating {part}"))?;
        }
        let apt = Apt { dir };
        let sources = apt.dir.join("sources.list");
        if !sources.exists() {
            fs::write(&sources, format!("deb {} {SUITE} main\n", mirror()?))
                .context("writing sources.list")?;
        }
        Ok(apt)
    }
}

struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// Downloads a package and returns the path of its archive.
    fn download(&self, package: &str) -> Result<PathBuf> {
        run(self.apt_get().args(["-qq", "update"])).context("downloading the package lists")?;
        let archives = self.dir.join("archives");
        remove(&archives)?;
        fs::create_dir_all(&archives).context("creating a directory for archives")?;
        run(self.apt_get().args(["-qq", "download", package]).current_dir(&archives))?;
        let mut archives = fs::read_dir(&archives).context("reading the directory of archives")?;
        let archive = archives.next().with_context(|| format!("no archive of {package}"))?;
        Ok(archive.context("reading the directory of archives")?.path())
    }

    fn apt_get(&self) -> Command {
        let mut command = Command::new("apt-get");
        let dir = self.dir.display();
        for option in [
            format!("Dir::Etc::SourceList={dir}/sources.list"),
            "Dir::Etc::SourceParts=/nonexistent".to_owned(),
            format!("Dir::State::Lists={dir}/lists"),
            format!("Dir::Cache={dir}/cache"),
            // Root's apt-get otherwise downloads as a user who can't write to this directory.
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command
    }
}

/// The mirror of the system's own packages.
fn mirror() -> Result<String> {
    let mut targets = Command::new("apt-get");
    targets.args([
        "indextargets",
        "--format",
        "$(REPO_URI)",
        "Created-By: Packages",
        "Label: Debian",
    ]);
    let mirrors = run(&mut targets)?;
    let first = mirrors.lines().next();
    Ok(first.context("apt has no package lists of Debian: run apt-get update first")?.to_owned())
}

fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let Output { status, stdout, stderr } =
        command.output().with_context(|| format!("starting {program}"))?;
    let last = String::from_utf8_lossy(&stderr);
    let last = last.trim().lines().last().unwrap_or_default();
    ensure!(status.success(), "{program}: {status}: {last}");
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            bail!("removing {}: {error}", dir.display())
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
