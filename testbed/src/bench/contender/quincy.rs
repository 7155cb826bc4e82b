use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Contender, Gateways, MTU, Package};
use crate::bench::identity::Identity;
use crate::process::Process;

const PORT: u16 = 55555;

/// quincy with its defaults (TLS, hybrid key exchange): the server on the right, the client on the left.
pub(super) struct Quincy {
    server: Daemon,
    client: Daemon,
    gateways: Gateways,
}

struct Daemon {
    program: PathBuf,
    config: PathBuf,
    process: Option<Process>,
}

impl Quincy {
    pub(super) fn set_up(
        client: &Package,
        server: &Package,
        dir: &Path,
        gateways: Gateways,
    ) -> Result<Self> {
        let public = gateways.right.public.to_string();
        let (left, right) = (Identity::new("left")?, Identity::new(&public)?);
        let left_files = left.write(dir, "left")?;
        let right_files = right.write(dir, "right")?;
        let users = format!(
            "[users.left]\nauthorized_keys = []\nauthorized_certs = [\"sha256:{}\"]\n",
            left.sha256()
        );
        write(&dir.join("users.toml"), &users)?;
        let server_config = format!(
            "name = \"bench\"\nbind_address = \"0.0.0.0\"\nbind_port = {PORT}\n\
             tunnel_network = \"10.93.0.1/24\"\nusers_file = \"{}/users.toml\"\n\
             [protocol]\nmode = \"tls\"\ncertificate_file = \"{}\"\ncertificate_key_file = \"{}\"\n\
             [connection]\nmtu = {MTU}\n[log]\nlevel = \"info\"\n",
            dir.display(),
            right_files.certificate.display(),
            right_files.key.display(),
        );
        let client_config = format!(
            "connection_string = \"{public}:{PORT}\"\n\
             [protocol]\nmode = \"tls\"\ntrusted_certificate_paths = [\"{}\"]\n\
             client_certificate_file = \"{}\"\nclient_certificate_key_file = \"{}\"\n\
             [connection]\nmtu = {MTU}\n[log]\nlevel = \"info\"\n",
            right_files.certificate.display(),
            left_files.certificate.display(),
            left_files.key.display(),
        );
        let daemon = |package: &Package, name: &str, config: &str| -> Result<Daemon> {
            let path = dir.join(name);
            write(&path, config)?;
            Ok(Daemon { program: package.program.clone(), config: path, process: None })
        };
        Ok(Self {
            server: daemon(server, "server.toml", &server_config)?,
            client: daemon(client, "client.toml", &client_config)?,
            gateways,
        })
    }
}

impl Contender for Quincy {
    fn start(&mut self) -> Result<()> {
        let right = &self.gateways.right.host;
        let server = self.server.start(right, "quincy-server")?;
        // Its client doesn't retry.
        server.wait_for_log("Starting connection handler", Duration::from_secs(5))?;
        self.client.start(&self.gateways.left.host, "quincy-client")?;
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        // It has no clean shutdown to wait for.
        drop(self.client.process.take());
        drop(self.server.process.take());
        Ok(())
    }

    fn addresses(&self) -> (IpAddr, IpAddr) {
        ([10, 93, 0, 2].into(), [10, 93, 0, 1].into())
    }

    fn processes(&self) -> Vec<&Process> {
        self.client.process.iter().chain(&self.server.process).collect()
    }
}

impl Daemon {
    fn start(&mut self, host: &crate::Host, log: &str) -> Result<&mut Process> {
        let mut command = host.command(&self.program);
        command.arg("--config-path").arg(&self.config);
        Ok(self.process.insert(host.spawn(log, command)?))
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
