//! scratch
use std::{collections::BTreeMap, path::Path, time::Duration};
use cframe_pki::{identity::*, issue::*, key::PrivateKey, bundle::TrustBundle, unix_now, tls::Credentials};
use cframe_protocol::v1::*;
use cframe_edge::{state, snapshot};
fn main() {
    // scratch DIR MTU name=endpoint[,endpoint]=prefix[,prefix] ...
    let args: Vec<String> = std::env::args().skip(1).collect();
    let dir = Path::new(&args[0]);
    let mtu: u16 = args[1].parse().unwrap();
    let mesh: MeshName = "m.example".parse().unwrap();
    let ns: Label = "prod".parse().unwrap();
    let now = unix_now();
    let root = RootCa::generate(&mesh, now).unwrap();
    let ca = root.issuing_ca(now).unwrap();
    let trust = TrustBundle { roots: vec![root.certificate().clone()], ..Default::default() };
    let mut desired = Desired { version: Version { epoch: 1, mesh: 1, namespace: 1 }, settings: Settings { tun_mtu: mtu, ..Default::default() }, trust: trust.clone(), ..Default::default() };
    let mut edges = BTreeMap::new();
    for spec in &args[2..] {
        let parts: Vec<&str> = spec.split('=').collect();
        let name: Label = parts[0].parse().unwrap();
        let endpoints = parts[1].split(',').filter(|s| !s.is_empty()).map(|s| s.parse().unwrap()).collect();
        desired.edges.insert(name.clone(), EdgeState { endpoints });
        for net in parts[2].split(',').filter(|s| !s.is_empty()) { desired.prefixes.insert(net.parse().unwrap(), name.clone()); }
        edges.insert(name, ());
    }
    for (name, ()) in edges {
        let key = PrivateKey::generate().unwrap();
        let id = SpiffeId::edge(mesh.clone(), ns.clone(), name.clone());
        let csr = VerifiedCsr::from_der(&key.csr().unwrap()).unwrap();
        let cert = ca.issue(&csr, &id, Duration::from_secs(30*86400), now).unwrap();
        let d = dir.join(name.as_str());
        let creds = Credentials { chain: vec![cert.der.clone(), ca_cert(&ca)], key: key.clone() };
        let enrolled = Enrolled { mesh: mesh.clone(), namespace: ns.clone(), edge: name.clone(), chain: creds.chain.iter().map(|c| c.to_vec()).collect(), trust: trust.clone(), controllers: vec!["127.0.0.1:58422".parse().unwrap()], settings: desired.settings, listen_port: 58423, site_prefixes: vec![] };
        state::adopt(&d, key, &enrolled).unwrap();
        snapshot::save(&d.join(snapshot::FILE), &snapshot::Snapshot { id, saved: now, desired: desired.clone() }).unwrap();
    }
}
fn ca_cert(ca: &IssuingCa) -> cframe_pki::CertificateDer<'static> { ca.certificate().clone() }
