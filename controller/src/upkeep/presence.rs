//! Which controllers run: each advertises a key in the store while it does, and the store deletes the key within
//! [`TTL`] after the controller ended.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    context::Context,
    model::{
        State,
        record::{self, AliveRecord, Key},
    },
};

/// How long a controller that was killed is still taken for a running one.
pub const TTL: Duration = Duration::from_secs(5);
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Checks in a row in which the key may be missing.
const MAX_MISSED: u32 = 3;
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Advertises that this controller runs, until stopped.
pub(crate) async fn advertise(context: Arc<Context>, stop: CancellationToken) {
    let key = Key::Alive(context.name()).to_string();
    let boot = format!("{:032x}", rand::random::<u128>());
    loop {
        let alive = AliveRecord {
            addresses: own_addresses(&context),
            enroll_port: context.enroll_port,
            software: env!("CARGO_PKG_VERSION").to_owned(),
            started: context.started_at,
            boot: boot.clone(),
        };
        let value = record::encode(&alive);
        let advertising = context.replica.store().advertise(key.clone(), value, TTL);
        let Some(advertised) = stop.run_until_cancelled(advertising).await else { return };
        match advertised {
            Ok(mut advertisement) => {
                let lost = async {
                    tokio::select! {
                        () = advertisement.lost() => {}
                        () = replaced(&context, &boot) => {}
                    }
                };
                if stop.run_until_cancelled(lost).await.is_none() {
                    // Dropping the advertisement deletes the key at once.
                    return;
                }
                tracing::warn!("the store has no key of this process; advertising again");
            }
            Err(error) => tracing::warn!(%error, "cannot advertise that this controller runs"),
        }
        if stop.run_until_cancelled(tokio::time::sleep(RETRY_DELAY)).await.is_none() {
            return;
        }
    }
}

/// Waits until the key has not been this process's for a while, although its lease is alive: it was deleted by hand
/// or by a restore, or another process has the same name.
async fn replaced(context: &Context, boot: &str) {
    let name = context.name();
    let mut missed = 0;
    while missed < MAX_MISSED {
        tokio::time::sleep(CHECK_INTERVAL).await;
        let found =
            context.replica.read(|state| state.alive.get(&name).map(|own| own.record.boot.clone()));
        match found {
            Some(found) if found == boot => missed = 0,
            Some(_) => {
                missed += 1;
                tracing::error!(controller = %name, "another process runs as this controller; stop one of them");
            }
            None => missed += 1,
        }
    }
}

fn own_addresses(context: &Context) -> Vec<cframe_protocol::v1::Endpoint> {
    let name = context.name();
    let own = |state: &State| state.controllers.get(&name).map(|own| own.record.addresses.clone());
    context.replica.read(own).unwrap_or_default()
}
