use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::agreement::{PrivateKey, X25519};

use super::{Contender, Gateways, MTU, Package, terminate_all};
use crate::bench::sites::Gateway;
use crate::process::Process;
use crate::wait::wait_until;

const PORT: u16 = 51820;
const INNER: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 91, 0, 1), Ipv4Addr::new(10, 91, 0, 2)];
const DEVICE: &str = "wg0";
/// Runs a program with a private `/run`: wireguard-go creates its control socket below `/var/run`, a
/// link to `/run`, which network namespaces share.
const WITH_PRIVATE_RUN: &str = "mount -t tmpfs tmpfs /run && exec \"$0\" \"$@\"";

/// wireguard-go, configured over its control socket (the cross-platform UAPI), without `wg`.
pub(super) struct WireguardGo {
    program: PathBuf,
    sides: [Side; 2],
}

struct Side {
    gateway: Gateway,
    name: &'static str,
    inner: Ipv4Addr,
    private: [u8; 32],
    process: Option<Process>,
}

impl WireguardGo {
    pub(super) fn set_up(package: Package, gateways: Gateways) -> Result<Self> {
        let side = |gateway, name, inner| Side {
            gateway,
            name,
            inner,
            private: rand::random(),
            process: None,
        };
        let [left, right] = INNER;
        let sides = [side(gateways.left, "left", left), side(gateways.right, "right", right)];
        Ok(Self { program: package.program, sides })
    }
}

impl Contender for WireguardGo {
    fn start(&mut self) -> Result<()> {
        for side in &mut self.sides {
            let mut command = side.gateway.host.command("unshare");
            command.args(["--mount", "sh", "-c", WITH_PRIVATE_RUN]).arg(&self.program);
            command.args(["--foreground", DEVICE]).env("LOG_LEVEL", "error");
            let log = format!("wireguard-go-{}", side.name);
            side.process = Some(side.gateway.host.spawn(&log, command)?);
        }
        let [left, right] = &mut self.sides;
        left.configure(right)?;
        right.configure(left)
    }

    fn stop(&mut self) -> Result<()> {
        terminate_all(self.sides.iter_mut().filter_map(|side| side.process.take()))
    }

    fn addresses(&self) -> (IpAddr, IpAddr) {
        (INNER[0].into(), INNER[1].into())
    }

    fn processes(&self) -> Vec<&Process> {
        self.sides.iter().filter_map(|side| side.process.as_ref()).collect()
    }
}

impl Side {
    fn socket(&self) -> Result<PathBuf> {
        let process = self.process.as_ref().context("wireguard-go was not started")?;
        Ok(PathBuf::from(format!("/proc/{}/root/run/wireguard/{DEVICE}.sock", process.pid())))
    }

    fn configure(&self, peer: &Self) -> Result<()> {
        let socket = self.socket()?;
        let mut stream = None;
        wait_until(Duration::from_secs(5), || {
            stream = UnixStream::connect(&socket).ok();
            stream.is_some()
        })
        .with_context(|| format!("wireguard-go doesn't listen on {}", socket.display()))?;
        let mut stream = stream.context("there is no connection")?;
        let settings = format!(
            "set=1\nprivate_key={}\nlisten_port={PORT}\nreplace_peers=true\npublic_key={}\n\
             endpoint={}:{PORT}\nallowed_ip={}/32\n\n",
            hex(&self.private),
            hex(&peer.public()?),
            peer.gateway.public,
            peer.inner,
        );
        stream.write_all(settings.as_bytes()).context("configuring wireguard-go")?;
        let mut answer = [0; 64];
        let read = stream.read(&mut answer).context("reading wireguard-go's answer")?;
        let answer = String::from_utf8_lossy(&answer[..read]);
        ensure!(answer.starts_with("errno=0"), "wireguard-go refused its settings: {answer}");
        self.gateway
            .host
            .ip(&format!("addr add {}/24 dev {DEVICE}\nlink set {DEVICE} mtu {MTU} up", self.inner))
    }

    fn public(&self) -> Result<Vec<u8>> {
        let key = PrivateKey::from_private_key(&X25519, &self.private).context("a private key")?;
        Ok(key.compute_public_key().context("a public key")?.as_ref().to_vec())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
