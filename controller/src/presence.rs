//! Which controllers run: each keeps a key in the store while it does, and the store takes it away within
//! [`TTL`] when it does not.

use std::{sync::Arc, time::Duration};

use cframe_pki::identity::Label;
use tokio_util::sync::CancellationToken;

use crate::{
    model::State,
    record::{self, Key},
    server::Context,
};

/// How long a controller that was killed is taken for one that runs.
pub const TTL: Duration = Duration::from_secs(5);
/// The pause before the key is written again.
const AGAIN: Duration = Duration::from_millis(500);

/// Says that this controller runs, until stopped.
pub(crate) async fn keep(context: Arc<Context>, stop: CancellationToken) {
    let key = Key::Alive(context.name()).to_string();
    let boot = format!("{:032x}", rand::random::<u128>());
    loop {
        let alive = record::Alive {
            addresses: own_addresses(&context),
            enroll_port: context.enroll_port,
            software: env!("CARGO_PKG_VERSION").to_owned(),
            started: context.began,
            boot: boot.clone(),
        };
        let value = record::encode(&alive);
        let advertising = context.mesh.store().advertise(key.clone(), value, TTL);
        let Some(advertised) = stop.run_until_cancelled(advertising).await else { return };
        match advertised {
            Ok(mut kept) => {
                if stop.run_until_cancelled(kept.lost()).await.is_none() {
                    // Others hear of it at once: it is dropped here.
                    return;
                }
                tracing::warn!(
                    "the store holds this controller for one that is gone; telling it again"
                );
            }
            Err(error) => tracing::warn!(%error, "the store is not told that this controller runs"),
        }
        if stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await.is_none() {
            return;
        }
    }
}

/// The other controllers that run, as the store has it.
pub(crate) fn others(context: &Context) -> Vec<Label> {
    let own = context.name();
    context.mesh.read(|state| running(state).filter(|name| **name != own).cloned().collect())
}

/// The controllers that run: a registration, and a sign of life.
pub(crate) fn running(state: &State) -> impl Iterator<Item = &Label> {
    state.alive.keys().filter(|name| state.controllers.contains_key(*name))
}

fn own_addresses(context: &Context) -> Vec<cframe_protocol::v1::Endpoint> {
    let name = context.name();
    let own = |state: &State| state.controllers.get(&name).map(|own| own.record.addresses.clone());
    context.mesh.read(own).unwrap_or_default()
}
