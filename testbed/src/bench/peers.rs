//! Where other people's programs come from: packages, unpacked or built beside the system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};

/// Debian's newest suite.
const SUITE: &str = "sid";

/// A directory of peers' programs, which stays from run to run.
#[derive(Clone, Debug)]
pub(super) struct Peers {
    dir: PathBuf,
}

/// A program and the version of its package.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) program: PathBuf,
    pub(super) version: String,
}

impl Peers {
    pub(super) fn in_dir(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// A program of a package of Debian's newest suite, which is fetched if it isn't there.
    pub(super) fn newest(&self, package: &str, program: &str) -> Result<Peer> {
        let root = self.dir.join("debian").join(package);
        let peer = || -> Result<Peer> {
            let version = read(&root.join("version"))?;
            Ok(Peer { program: root.join(program), version })
        };
        if let Ok(peer) = peer() {
            return Ok(peer);
        }
        eprintln!("Fetching {package} of Debian {SUITE}");
        let archive = self.apt().and_then(|apt| apt.download(package))?;
        let new = self.dir.join("unpacking");
        remove(&new)?;
        run(Command::new("dpkg").arg("-x").arg(&archive).arg(&new))?;
        let version = run(Command::new("dpkg-deb").arg("-f").arg(&archive).arg("Version"))?;
        fs::write(new.join("version"), version.trim()).context("noting the version")?;
        fs::create_dir_all(self.dir.join("debian")).context("making a directory for peers")?;
        remove(&root)?;
        fs::rename(&new, &root).with_context(|| format!("moving {package} to its place"))?;
        fs::remove_file(&archive).context("removing the archive")?;
        peer()
    }

    /// A program of a package of this system, which is installed if it isn't there.
    pub(super) fn installed(package: &str, program: &str) -> Result<Peer> {
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
        Ok(Peer { program, version: version.trim().to_owned() })
    }

    /// A program of a crate, which is built if it isn't there. `version` is a requirement of cargo's.
    pub(super) fn built(&self, name: &str, version: &str) -> Result<Peer> {
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
        Ok(Peer { program, version: version.to_owned() })
    }

    /// The newest suite beside the system's own, from the same mirror.
    fn apt(&self) -> Result<Apt> {
        let dir = std::path::absolute(self.dir.join("apt")).context("finding the peers")?;
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(part)).with_context(|| format!("making {part}"))?;
        }
        let apt = Apt { dir };
        let sources = apt.dir.join("sources.list");
        if !sources.exists() {
            fs::write(&sources, format!("deb {} {SUITE} main\n", mirror()?))
                .context("naming a source")?;
        }
        Ok(apt)
    }
}

struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// The package's archive.
    fn download(&self, package: &str) -> Result<PathBuf> {
        run(self.get().args(["-qq", "update"])).context("reading the suite's list of packages")?;
        let archives = self.dir.join("archives");
        remove(&archives)?;
        fs::create_dir_all(&archives).context("making a directory for archives")?;
        run(self.get().args(["-qq", "download", package]).current_dir(&archives))?;
        let found = fs::read_dir(&archives).context("looking for the archive")?.next();
        Ok(found.with_context(|| format!("no archive of {package}"))?.context("an archive")?.path())
    }

    fn get(&self) -> Command {
        let mut command = Command::new("apt-get");
        let dir = self.dir.display();
        for option in [
            format!("Dir::Etc::SourceList={dir}/sources.list"),
            "Dir::Etc::SourceParts=/nonexistent".to_owned(),
            format!("Dir::State::Lists={dir}/lists"),
            format!("Dir::Cache={dir}/cache"),
            // As root it would fetch as a user who can't write here.
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command
    }
}

/// Where the system's own packages come from.
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
    Ok(first.context("no source of Debian's packages: apt-get update first")?.to_owned())
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
