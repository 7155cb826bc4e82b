//! Gateways that cannot start, or cannot save: what they say.

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
    let nobody = "exec setpriv --reuid=65534 --regid=65534 --clear-groups --";
    let program = pair.lab.deployment.programs().edge();
    let mut command = pair.dialer.host().command("sh");
    command.args(["-c", &format!("{nobody} {} doctor", program.display())]);
    command.env("CFRAME_EDGE_DATA_DIR", pair.dialer.dir());
    let doctor = command.output().unwrap();
    let said = printed(&doctor);
    assert_eq!(doctor.status.code(), Some(7), "{said}");
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
