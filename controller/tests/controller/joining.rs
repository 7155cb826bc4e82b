//! One more controller for a mesh: what `init --join` does, on a store that nobody else has open.

use cframe_controller::{
    cli::{DataDir, Initial, Joined, Joining, Signer, initialise, join},
    model::{State, record::ROOT},
};
use cframe_pki::{
    issue::{IssuingCa, RootCa, VerifiedCsr},
    key::PrivateKey,
    unix_now,
};
use cframe_store::{Store, redb::Redb};
use tempfile::TempDir;

use crate::world::label;

struct Site {
    directory: TempDir,
    store: Redb,
}

impl Site {
    async fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let first = DataDir::new(directory.path().join("a"));
        let initial = Initial {
            mesh: "m.test".parse().unwrap(),
            name: label("a"),
            admin: label("root"),
            addresses: vec!["192.0.2.1:58422".parse().unwrap()],
        };
        initialise(&first, &initial).await.unwrap();
        let store = first.open_store().await.unwrap();
        Self { directory, store }
    }

    fn data(&self, name: &str) -> DataDir {
        DataDir::new(self.directory.path().join(name))
    }

    fn root(&self) -> RootCa {
        RootCa::load(&self.data("a").ca()).unwrap()
    }

    fn by_root(&self) -> Signer {
        Signer::Root(Box::new(self.root()))
    }

    async fn join(&self, name: &str, signer: Signer) -> Result<Joined, String> {
        let joining =
            Joining { name: label(name), addresses: vec!["192.0.2.2:58422".parse().unwrap()] };
        join(&self.store, &self.data("b"), &joining, signer)
            .await
            .map_err(|error| error.to_string())
    }

    async fn state(&self) -> State {
        State::load(&self.store.list(ROOT).await.unwrap()).unwrap()
    }
}

fn member() -> Joined {
    Joined::Member("m.test".parse().unwrap())
}

#[tokio::test]
async fn a_controller_joins_once_however_often_it_is_told_to() {
    let site = Site::new().await;
    assert_eq!(site.join("b", site.by_root()).await.unwrap(), member());
    let state = site.state().await;
    assert_eq!(state.mesh.record.revision, 2);
    let addresses: Vec<&str> = state.mesh.record.controllers.iter().map(|e| e.as_str()).collect();
    assert_eq!(addresses, ["192.0.2.1:58422", "192.0.2.2:58422"]);
    let data = site.data("b");
    let (issuer, own) = (data.issuer().unwrap(), data.credentials().unwrap());
    assert_eq!(&issuer.root().der, site.root().certificate());
    assert_eq!(state.controllers["b"].record.issuer, *issuer.ca().certificate());
    assert!(state.certs.contains_key(&own.identity().serial));

    assert_eq!(site.join("b", site.by_root()).await.unwrap(), member());
    assert_eq!(site.join("b", Signer::Later).await.unwrap(), member(), "it needs no root again");
    assert_eq!(site.state().await.revision, state.revision, "nothing was written");
    // As after a crash before its own certificate was kept.
    std::fs::remove_dir_all(data.identity()).unwrap();
    assert_eq!(site.join("b", Signer::Later).await.unwrap(), member());
    assert_eq!(data.issuer().unwrap().ca().certificate(), issuer.ca().certificate());
    assert_ne!(data.credentials().unwrap().identity().serial, own.identity().serial);
}

#[tokio::test]
async fn joining_again_changes_the_address() {
    let site = Site::new().await;
    site.join("b", site.by_root()).await.unwrap();
    let joining = Joining { name: label("b"), addresses: vec!["192.0.2.3:58422".parse().unwrap()] };
    join(&site.store, &site.data("b"), &joining, Signer::Later).await.unwrap();
    let mesh = site.state().await.mesh.record;
    let addresses: Vec<&str> = mesh.controllers.iter().map(|e| e.as_str()).collect();
    assert_eq!((mesh.revision, addresses), (3, vec!["192.0.2.1:58422", "192.0.2.3:58422"]));
}

#[tokio::test]
async fn no_private_key_is_in_the_store() {
    let site = Site::new().await;
    site.join("b", site.by_root()).await.unwrap();
    let view = site.store.list("").await.unwrap();
    assert!(view.entries.iter().all(|entry| {
        let text = String::from_utf8_lossy(&entry.value);
        !text.contains("PRIVATE") && !text.contains("key")
    }));
}

#[tokio::test]
async fn a_request_is_carried_to_the_root_and_its_certificate_back() {
    let site = Site::new().await;
    let Joined::Requested(path) = site.join("b", Signer::Later).await.unwrap() else {
        panic!("there is no root here")
    };
    let request = std::fs::read(&path).unwrap();
    assert_eq!(site.join("b", Signer::Later).await.unwrap(), Joined::Requested(path.clone()));
    let again = VerifiedCsr::from_pem(std::fs::read(&path).unwrap()).unwrap();
    let csr = VerifiedCsr::from_pem(request).unwrap();
    assert_eq!(csr.spki_sha256(), again.spki_sha256(), "the key stays");
    assert_eq!(site.state().await.controllers.len(), 1);

    let signed = site.root().sign_issuing(&csr, unix_now()).unwrap();
    assert_eq!(site.join("b", Signer::Signed(signed)).await.unwrap(), member());
    assert_eq!(site.state().await.controllers.len(), 2);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_certificate_that_is_not_of_this_mesh_s_root_for_this_key_is_refused() {
    let site = Site::new().await;
    site.join("b", Signer::Later).await.unwrap();
    let key =
        PrivateKey::from_pem(std::fs::read(site.data("b").ca().join(IssuingCa::KEY_FILE)).unwrap())
            .unwrap();
    let own = VerifiedCsr::from_der(&key.csr().unwrap()).unwrap();
    let other_key = PrivateKey::generate().unwrap();
    let other = VerifiedCsr::from_der(&other_key.csr().unwrap()).unwrap();
    let (now, mesh) = (unix_now(), "m.test".parse().unwrap());
    let impostor = RootCa::generate(&mesh, now).unwrap();
    let foreign = RootCa::generate(&"other.test".parse().unwrap(), now).unwrap();
    let leaf = {
        let issuer = site.data("a").issuer().unwrap();
        let id = cframe_pki::identity::SpiffeId::controller(mesh, label("b"));
        let lifetime = cframe_pki::issue::LEAF_LIFETIME;
        issuer.ca().issue(&own, &id, lifetime, now).unwrap().der
    };
    for (what, certificate, part) in [
        ("another key", site.root().sign_issuing(&other, now).unwrap(), "not for the key"),
        ("another root", impostor.sign_issuing(&own, now).unwrap(), "mesh's root"),
        ("another mesh", foreign.sign_issuing(&own, now).unwrap(), "other.test"),
        ("no CA", leaf, "path length 0"),
        ("a root", site.root().certificate().clone(), "path length 0"),
    ] {
        let error = site.join("b", Signer::Signed(certificate)).await.unwrap_err();
        assert!(error.contains(part), "{what}: {error}");
        assert!(!site.data("b").ca().join(IssuingCa::CERTIFICATE_FILE).exists(), "{what}");
    }
    let error = site.join("b", Signer::Root(Box::new(impostor))).await.unwrap_err();
    assert!(error.contains("none of mesh"), "{error}");
    assert_eq!(site.state().await.controllers.len(), 1);
    // None of that was in the way.
    assert_eq!(site.join("b", site.by_root()).await.unwrap(), member());
}

#[tokio::test]
async fn a_name_that_is_taken_is_refused() {
    let site = Site::new().await;
    let error = site.join("a", site.by_root()).await.unwrap_err();
    assert!(error.contains("controller a exists already"), "{error}");
    assert_eq!(site.join("b", site.by_root()).await.unwrap(), member());
}
