//! Gateways that cannot start, or cannot save: what they say.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cframe_testbed::Process;
use serde_json::Value;

use crate::lab::{DeployedPair, MS, SECOND, TIMEOUT, none_lost, ping, shared, wait_for, within};

fn printed(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// A command for the dialer's gateway and data directory, run by a shell in a mount namespace of its own
/// after `setup`.
fn in_mounts(pair: &DeployedPair, setup: &str, args: &str) -> Command {
    let program = pair.lab.deployment.programs().edge();
    let mut command = pair.dialer.host().command("unshare");
    let script = format!("set -e; {setup}; exec {} {args}", program.display());
    command.args(["--mount", "sh", "-c", &script]);
    command.env("CFRAME_EDGE_DATA_DIR", pair.dialer.dir());
    command
}

#[test]
fn what_keeps_a_gateway_from_starting_is_said_once_with_its_fix() {
    let mut pair = DeployedPair::start("start", shared());
    pair.dialer.stop().unwrap();
    let no_tun = "mount -t tmpfs none /dev/net";
    for args in ["run", "doctor"] {
        let said = printed(&in_mounts(&pair, no_tun, args).output().unwrap());
        assert_eq!(said.matches("/dev/net/tun").count(), 1, "{args}: {said}");
        assert!(said.contains("modprobe tun") && !said.contains("os error 2) (os"), "{said}");
    }
    let (code, said) = doctor_as_nobody(&pair);
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains("sudo cframe-edge doctor"), "{said}");
    assert!(!said.contains("join first") && !said.contains("remove"), "{said}");

    let key = pair.dialer.dir().join("key.pem");
    let saved = std::fs::read(&key).unwrap();
    std::fs::write(&key, "damaged").unwrap();
    let said = printed(&in_mounts(&pair, "true", "doctor").output().unwrap());
    assert!(said.contains("certificate-invalid") && said.contains("key.pem"), "{said}");
    std::fs::write(&key, saved).unwrap();
    pair.dialer.start().unwrap();
    pair.dialer.wait_links(1).unwrap();
}

/// What doctor says of the dialer's gateway as another user.
fn doctor_as_nobody(pair: &DeployedPair) -> (Option<i32>, String) {
    let nobody = "exec setpriv --reuid=65534 --regid=65534 --clear-groups --";
    let program = pair.lab.deployment.programs().edge();
    let mut command = pair.dialer.host().command("sh");
    command.args(["-c", &format!("{nobody} {} doctor", program.display())]);
    command.env("CFRAME_EDGE_DATA_DIR", pair.dialer.dir());
    let output = command.output().unwrap();
    (output.status.code(), printed(&output))
}

/// A name, how the damage is done, and words that `doctor` says.
type Damage<'a> = (&'a str, &'a dyn Fn(), &'a [&'a str]);

#[test]
fn a_damaged_identity_is_named_once_with_what_to_do() {
    let mut pair = DeployedPair::start("startid", shared());
    // Another user, while the edge runs.
    let (code, said) = doctor_as_nobody(&pair);
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains("sudo cframe-edge doctor") && said.matches('✗').count() == 1, "{said}");
    pair.dialer.stop().unwrap();
    let (key, cert) = (pair.dialer.dir().join("key.pem"), pair.dialer.dir().join("cert.pem"));
    let files = [&key, &cert].map(|path| (path.clone(), std::fs::read(path).unwrap()));
    let whole = files[0].1.clone();
    let other = std::fs::read(pair.acceptor.dir().join("key.pem")).unwrap();
    let damages: [Damage<'_>; 8] = [
        ("empty key", &|| std::fs::write(&key, "").unwrap(), &["key.pem", "--rejoin"]),
        ("cut key", &|| std::fs::write(&key, &whole[..60]).unwrap(), &["key.pem", "--rejoin"]),
        ("no key", &|| std::fs::remove_file(&key).unwrap(), &["key.pem", "--rejoin"]),
        (
            "a directory",
            &|| {
                std::fs::remove_file(&key).unwrap();
                std::fs::create_dir(&key).unwrap();
            },
            &["key.pem is not a regular file"],
        ),
        (
            "another's key",
            &|| std::fs::write(&key, &other).unwrap(),
            &["belong to the certificate"],
        ),
        ("open to all", &|| set_mode(&key, 0o644), &["→ chmod 600"]),
        ("another owner", &|| chown(&key, Some(65534), None).unwrap(), &["→ chown 0"]),
        ("cut certificate", &|| std::fs::write(&cert, "-----BEGIN").unwrap(), &["cert.pem"]),
    ];
    for (what, damage, words) in damages {
        damage();
        let doctor = in_mounts(&pair, "true", "doctor").output().unwrap();
        let said = printed(&doctor);
        assert_eq!(doctor.status.code(), Some(7), "{what}: {said}");
        assert_eq!(said.matches("certificate-invalid").count(), 1, "{what}: {said}");
        for word in words {
            assert!(said.contains(word), "{what}: {word:?}: {said}");
        }
        for riddle in ["os error", "systemctl start", "panicked"] {
            assert!(!said.contains(riddle), "{what}: {said}");
        }
        let run = in_mounts(&pair, "true", "run").output().unwrap();
        assert!(!run.status.success() && !printed(&run).contains("panicked"), "{what}: {run:?}");
        for (path, content) in &files {
            let _ = std::fs::remove_dir(path);
            let _ = std::fs::remove_file(path);
            std::fs::write(path, content).unwrap();
            set_mode(path, 0o600);
        }
    }
    // A key that its own user may not read, while the rest can be seen.
    chown(pair.dialer.dir(), Some(65534), None).unwrap();
    let (code, said) = doctor_as_nobody(&pair);
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains("not-allowed") && said.contains("sudo cframe-edge doctor"), "{said}");
    assert!(!said.contains("certificate-invalid") && !said.contains("os error"), "{said}");
    chown(pair.dialer.dir(), Some(0), None).unwrap();

    // Without a copy, a new token brings it back.
    std::fs::write(&key, "damaged").unwrap();
    let token = ["--namespace", "prod", "--edge", "aliyun-sz", "--rejoin"];
    let token = pair.lab.deployment.token_with(&token).unwrap();
    pair.dialer.run(&["join", &token]).unwrap().success().unwrap();
    pair.dialer.start().unwrap();
    pair.dialer.wait_links(1).unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// The dialer's gateway, with its data directory on a small file system of its own.
struct SmallDisk {
    process: Process,
    dir: PathBuf,
}

impl SmallDisk {
    fn start(pair: &DeployedPair) -> Self {
        let dir = pair.dialer.dir();
        let copy = pair.lab.net.path("copy");
        let setup = format!(
            "cp -a {dir} {copy}; mount -t tmpfs -o size=512k,mode=0700 none {dir}; cp -a {copy}/. {dir}",
            dir = dir.display(),
            copy = copy.display()
        );
        let command = in_mounts(pair, &setup, "run");
        let process = pair.dialer.host().spawn("small-disk", command).unwrap();
        let dir = Path::new("/proc")
            .join(process.pid().to_string())
            .join("root")
            .join(dir.strip_prefix("/").unwrap());
        Self { process, dir }
    }

    fn fill(&self) {
        let zeros = vec![0; 4096];
        let mut file = std::fs::File::create(self.dir.join("filler")).unwrap();
        while std::io::Write::write_all(&mut file, &zeros).is_ok() {}
    }

    fn make_room(&self) {
        std::fs::remove_file(self.dir.join("filler")).unwrap();
    }

    /// Whether the state-not-saved problem is in the edge's status. The socket is below the small file system.
    fn is_reported(&self, pair: &DeployedPair) -> bool {
        let program = pair.lab.deployment.programs().edge();
        let mut command = pair.dialer.host().command(program);
        command.args(["status", "-o", "json"]).env("CFRAME_EDGE_DATA_DIR", &self.dir);
        let output = command.output().unwrap();
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        status["problems"].to_string().contains("state-not-saved")
    }
}

#[test]
fn a_full_disk_is_a_problem_while_traffic_goes_on() {
    let mut pair = DeployedPair::start("full", shared());
    pair.dialer.stop().unwrap();
    let mut disk = SmallDisk::start(&pair);
    pair.acceptor.wait_links(1).unwrap();
    let pinger = ping(&pair.dialer, &pair.acceptor, 10 * MS);
    disk.fill();
    let add = ["route", "add", "more", "-n", "prod", "--cidr", "10.99.0.0/16", "--edge", "aws-hk"];
    pair.lab.deployment.ctl_ok(&[&add[..], &["--wait"]].concat()).unwrap();
    let took = wait_for(TIMEOUT, || disk.is_reported(&pair)).unwrap_or_else(|error| {
        panic!("{error:#}\n{}", disk.process.log_tail(20));
    });
    within("disk full → problem", took, 10 * SECOND);
    disk.make_room();
    let took = wait_for(TIMEOUT, || !disk.is_reported(&pair)).unwrap();
    within("disk has room → no problem", took, 10 * SECOND);
    none_lost("pings lost while the disk was full", vec![pinger]);
    disk.process.terminate(TIMEOUT).unwrap();
}
