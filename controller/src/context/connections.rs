//! Open connections to other controllers.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cframe_pki::{identity::Label, verifier::Trust};
use cframe_protocol::session::AdminConnection;

#[derive(Debug, Default)]
pub(crate) struct PeerConnections(Mutex<HashMap<Label, Arc<AdminConnection>>>);

impl PeerConnections {
    /// The connection to a controller, if it is open and the controller's certificate still accepted.
    pub(crate) fn usable(&self, name: &Label, trust: &Trust) -> Option<Arc<AdminConnection>> {
        let mut connections = self.lock();
        let usable = connections.get(name).is_some_and(|connection| {
            let accepted = |peer: &_| trust.denial(peer).is_ok();
            connection.is_open() && connection.peer().as_ref().is_some_and(accepted)
        });
        if !usable {
            connections.remove(name);
        }
        connections.get(name).cloned()
    }

    pub(crate) fn insert(&self, name: Label, connection: Arc<AdminConnection>) {
        self.lock().insert(name, connection);
    }

    pub(crate) fn remove(&self, name: &Label) {
        self.lock().remove(name);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Label, Arc<AdminConnection>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
