//! Adding a controller to a mesh: what `init --join` does, on a store that nobody else has open.

use cframe_controller::{
    cli::{DataDir, Joined, Signer},
    model::State,
    model::record::ROOT,
};
use cframe_pki::{
    identity::SpiffeId,
    issue::{IssuingCa, LEAF_LIFETIME, RootCa, VerifiedCsr},
    key::PrivateKey,
    unix_now,
};
use cframe_store::{Store, redb::Redb};

use crate::support::{calls::label, mesh::TestMesh};

/// A mesh with controller `a`, which does not run, and the data directory of a controller `b` that joins it.
struct Joining {
    mesh: TestMesh,
    store: Redb,
    b: DataDir,
}

impl Joining {
    async fn new() -> Self {
        let mesh = TestMesh::init("a", "192.0.2.1:58422".parse().unwrap()).await;
        let store = mesh.data("a").open_store().await.unwrap();
        let b = mesh.data("b");
        Self { mesh, store, b }
    }

    async fn join(&self, name: &str, signer: Signer) -> Result<Joined, String> {
        self.join_at("192.0.2.2:58422", name, signer).await
    }

    async fn join_at(&self, address: &str, name: &str, signer: Signer) -> Result<Joined, String> {
        self.mesh.join(&self.store, (name, address.parse().unwrap()), &self.b, signer).await
    }

    async fn state(&self) -> State {
        State::load(&self.store.list(ROOT).await.unwrap()).unwrap()
    }
}

fn member() -> Joined {
    Joined::Member("m.test".parse().unwrap())
}

#[tokio::test]
async fn a_controller_joins_once_even_if_the_command_is_repeated() {
    let joining = Joining::new().await;
    assert_eq!(joining.join("b", joining.mesh.root_signer()).await.unwrap(), member());
    let state = joining.state().await;
    assert_eq!(state.mesh.record.revision, 2);
    let addresses: Vec<&str> = state.mesh.record.controllers.iter().map(|e| e.as_str()).collect();
    assert_eq!(addresses, ["192.0.2.1:58422", "192.0.2.2:58422"]);
    let data = &joining.b;
    let (issuer, own) = (data.issuer().unwrap(), data.credentials().unwrap());
    assert_eq!(&issuer.root().der, joining.mesh.root().certificate());
    assert_eq!(state.controllers["b"].record.issuer, *issuer.ca().certificate());
    assert!(state.certs.contains_key(&own.identity().serial));

    assert_eq!(joining.join("b", joining.mesh.root_signer()).await.unwrap(), member());
    assert_eq!(joining.join("b", Signer::Later).await.unwrap(), member(), "it needs no root again");
    assert_eq!(joining.state().await.revision, state.revision, "nothing was written");
    // As after a crash before its own certificate was saved.
    std::fs::remove_dir_all(data.identity()).unwrap();
    assert_eq!(joining.join("b", Signer::Later).await.unwrap(), member());
    assert_eq!(data.issuer().unwrap().ca().certificate(), issuer.ca().certificate());
    assert_ne!(data.credentials().unwrap().identity().serial, own.identity().serial);
}

#[tokio::test]
async fn joining_again_changes_the_address() {
    let joining = Joining::new().await;
    joining.join("b", joining.mesh.root_signer()).await.unwrap();
    joining.join_at("192.0.2.3:58422", "b", Signer::Later).await.unwrap();
    let mesh = joining.state().await.mesh.record;
    let addresses: Vec<&str> = mesh.controllers.iter().map(|e| e.as_str()).collect();
    assert_eq!((mesh.revision, addresses), (3, vec!["192.0.2.1:58422", "192.0.2.3:58422"]));
}

#[tokio::test]
async fn no_private_key_is_in_the_store() {
    let joining = Joining::new().await;
    joining.join("b", joining.mesh.root_signer()).await.unwrap();
    let view = joining.store.list("").await.unwrap();
    assert!(view.entries.iter().all(|entry| {
        let text = String::from_utf8_lossy(&entry.value);
        !text.contains("PRIVATE") && !text.contains("key")
    }));
}

#[tokio::test]
async fn a_request_is_carried_to_the_root_and_its_certificate_back() {
    let joining = Joining::new().await;
    let Joined::Requested(path) = joining.join("b", Signer::Later).await.unwrap() else {
        panic!("it has no root to sign with")
    };
    let request = std::fs::read(&path).unwrap();
    assert_eq!(joining.join("b", Signer::Later).await.unwrap(), Joined::Requested(path.clone()));
    let again = VerifiedCsr::from_pem(std::fs::read(&path).unwrap()).unwrap();
    let csr = VerifiedCsr::from_pem(request).unwrap();
    assert_eq!(csr.spki_sha256(), again.spki_sha256(), "the key stays");
    assert_eq!(joining.state().await.controllers.len(), 1);

    let signed = joining.mesh.root().sign_issuing(&csr, unix_now()).unwrap();
    assert_eq!(joining.join("b", Signer::Signed(signed)).await.unwrap(), member());
    assert_eq!(joining.state().await.controllers.len(), 2);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_certificate_for_another_key_or_from_another_root_is_refused() {
    let joining = Joining::new().await;
    joining.join("b", Signer::Later).await.unwrap();
    let key =
        PrivateKey::from_pem(std::fs::read(joining.b.ca().join(IssuingCa::KEY_FILE)).unwrap())
            .unwrap();
    let own = VerifiedCsr::from_der(&key.csr().unwrap()).unwrap();
    let other_key = PrivateKey::generate().unwrap();
    let other = VerifiedCsr::from_der(&other_key.csr().unwrap()).unwrap();
    let (now, mesh) = (unix_now(), "m.test".parse().unwrap());
    let impostor = RootCa::generate(&mesh, now).unwrap();
    let foreign = RootCa::generate(&"other.test".parse().unwrap(), now).unwrap();
    let leaf = {
        let issuer = joining.mesh.data("a").issuer().unwrap();
        let id = SpiffeId::controller(mesh, label("b"));
        issuer.ca().issue(&own, &id, LEAF_LIFETIME, now).unwrap().der
    };
    for (what, certificate, part) in [
        ("another key", joining.mesh.root().sign_issuing(&other, now).unwrap(), "not for the key"),
        ("another root", impostor.sign_issuing(&own, now).unwrap(), "mesh's root"),
        ("another mesh", foreign.sign_issuing(&own, now).unwrap(), "other.test"),
        ("no CA", leaf, "path length 0"),
        ("a root", joining.mesh.root().certificate().clone(), "path length 0"),
    ] {
        let error = joining.join("b", Signer::Signed(certificate)).await.unwrap_err();
        assert!(error.contains(part), "{what}: {error}");
        assert!(!joining.b.ca().join(IssuingCa::CERTIFICATE_FILE).exists(), "{what}");
    }
    let error = joining.join("b", Signer::Root(Box::new(impostor))).await.unwrap_err();
    assert!(error.contains("none of mesh"), "{error}");
    assert_eq!(joining.state().await.controllers.len(), 1);
    // None of these attempts prevents a valid one.
    assert_eq!(joining.join("b", joining.mesh.root_signer()).await.unwrap(), member());
}

#[tokio::test]
async fn a_name_that_is_taken_is_refused() {
    let joining = Joining::new().await;
    let error = joining.join("a", joining.mesh.root_signer()).await.unwrap_err();
    assert!(error.contains("controller a exists already"), "{error}");
    assert_eq!(joining.join("b", joining.mesh.root_signer()).await.unwrap(), member());
}
