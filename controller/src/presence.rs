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
/// How often it is looked whether the key is there, and for how many looks it may not be.
const LOOK: Duration = Duration::from_secs(1);
const MISSED: u32 = 3;
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
                let lost = async {
                    tokio::select! {
                        () = kept.lost() => {}
                        () = replaced(&context, &boot) => {}
                    }
                };
                if stop.run_until_cancelled(lost).await.is_none() {
                    // Others hear of it at once: it is dropped here.
                    return;
                }
                tracing::warn!(
                    "the store has this controller as gone, or as another process; telling it again"
                );
            }
            Err(error) => tracing::warn!(%error, "the store is not told that this controller runs"),
        }
        if stop.run_until_cancelled(tokio::time::sleep(AGAIN)).await.is_none() {
            return;
        }
    }
}

/// Waits until the key has not been this process's for a while, for all that its lease says: it was deleted
/// by hand or by a restore, or another process has the same name.
async fn replaced(context: &Context, boot: &str) {
    let name = context.name();
    let mut missed = 0;
    while missed < MISSED {
        tokio::time::sleep(LOOK).await;
        let found =
            context.mesh.read(|state| state.alive.get(&name).map(|own| own.record.boot.clone()));
        match found {
            Some(found) if found == boot => missed = 0,
            Some(_) => {
                missed += 1;
                tracing::error!(controller = %name, "another process runs as this controller: stop one of them");
            }
            None => missed += 1,
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
