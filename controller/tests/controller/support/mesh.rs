//! A mesh on disk: the data directories of its controllers.

use cframe_controller::cli::{
    AdminContext, DataDir, Initial, Joined, Joining, Signer, initialise, initialise_in, join,
};
use cframe_pki::issue::RootCa;
use cframe_protocol::v1::Endpoint;
use cframe_store::Store;
use tempfile::TempDir;

use super::calls::label;

/// A mesh `m.test`, made as `cframe-controller init` does, with one controller.
pub(crate) struct TestMesh {
    /// The context of its first admin, `root`.
    pub(crate) context: AdminContext,
    first: String,
    directory: TempDir,
}

impl TestMesh {
    /// A mesh with the embedded store in the first controller's data directory.
    pub(crate) async fn init(controller: &str, address: Endpoint) -> Self {
        let directory = TempDir::new().unwrap();
        let data = DataDir::new(directory.path().join(controller));
        let context = initialise(&data, &initial(controller, address)).await.unwrap();
        Self { context, first: controller.to_owned(), directory }
    }

    /// A mesh in a store that was empty, with data directories in this directory.
    pub(crate) async fn init_in(
        store: &dyn Store,
        directory: TempDir,
        controller: &str,
        address: Endpoint,
    ) -> Self {
        let data = DataDir::new(directory.path().join(controller));
        let initial = initial(controller, address);
        let context = initialise_in(&data, &initial, store).await.unwrap();
        Self { context, first: controller.to_owned(), directory }
    }

    /// The data directory of a controller.
    pub(crate) fn data(&self, controller: &str) -> DataDir {
        DataDir::new(self.directory.path().join(controller))
    }

    /// The root's key, which the first controller has.
    pub(crate) fn root(&self) -> RootCa {
        RootCa::load(&self.data(&self.first).ca()).unwrap()
    }

    pub(crate) fn root_signer(&self) -> Signer {
        Signer::Root(Box::new(self.root()))
    }

    /// Adds a controller as `init --join` does, with its keys in the data directory.
    pub(crate) async fn join(
        &self,
        store: &dyn Store,
        controller: (&str, Endpoint),
        data: &DataDir,
        signer: Signer,
    ) -> Result<Joined, String> {
        let (name, address) = controller;
        let joining = Joining { name: label(name), addresses: vec![address] };
        join(store, data, &joining, signer).await.map_err(|error| error.to_string())
    }
}

fn initial(controller: &str, address: Endpoint) -> Initial {
    Initial {
        mesh: "m.test".parse().unwrap(),
        name: label(controller),
        admin: label("root"),
        addresses: vec![address],
    }
}
