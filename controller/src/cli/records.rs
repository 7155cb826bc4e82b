//! Store entries that commands write on their own, without a running controller.

use anyhow::Result;
use cframe_pki::{
    identity::{Label, SpiffeId},
    issue::{IssuingCa, LEAF_LIFETIME, VerifiedCsr},
    key::PrivateKey,
    tls::Credentials,
};
use cframe_store::Op;

use crate::{
    audit::{Act, Journal, Who},
    model::record::{self, CertRecord, Key},
};

/// Issues a certificate for a new key. Returns it with its record.
pub(super) fn new_leaf(ca: &IssuingCa, id: SpiffeId, now: u64) -> Result<(Credentials, Op)> {
    let key = PrivateKey::generate()?;
    let csr = VerifiedCsr::from_der(&key.csr()?)?;
    let issued = ca.issue(&csr, &id, LEAF_LIFETIME, now)?;
    let record = CertRecord {
        id,
        spki: issued.spki_sha256,
        not_before: issued.not_before,
        not_after: issued.not_after,
        renews: None,
        issuer: Some(ca.spki_sha256()),
        bundle: None,
    };
    let op = put(&Key::Cert(issued.serial), &record);
    let chain = vec![issued.der, ca.certificate().clone()];
    Ok((Credentials { chain, key }, op))
}

/// The audit log's record of a command on this host.
pub(super) fn local_record(name: &Label, call: &'static str, subject: String) -> Op {
    let uid = rustix::process::getuid().as_raw();
    let mut act = Act::new(Who::Local(uid), call);
    act.subject = subject;
    Journal::new(name.clone()).op_now(&act)
}

pub(super) fn put<T: serde::Serialize>(key: &Key, record: &T) -> Op {
    Op::Put { key: key.to_string(), value: record::encode(record) }
}
