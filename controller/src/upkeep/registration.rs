//! Keeping this controller's registration, and the records of its issuing CAs, complete.

use std::{sync::Arc, time::Duration};

use cframe_protocol::v1::CallError;
use tokio_util::sync::CancellationToken;

use super::rotation;
use crate::{
    audit::{Act, Who},
    context::Context,
    decide::{call::Lane, draft::Draft, registration},
    model::{State, record::ControllerRecord},
};

const RETRY_DELAY: Duration = Duration::from_secs(60);

/// Writes what is missing, and retries until the store takes it.
pub(crate) async fn register(context: Arc<Context>, stop: CancellationToken) {
    let register = async || {
        register_first(&context).await?;
        rotation::record_all_issuers(&context).await
    };
    while let Err(error) = register().await {
        tracing::warn!(%error, "this controller's registration or its CAs were not written");
        if stop.run_until_cancelled(tokio::time::sleep(RETRY_DELAY)).await.is_none() {
            return;
        }
    }
}

/// A store from before there were registrations has none. This controller then registers with all addresses that
/// the mesh has. Where others are registered it does nothing: a controller that was removed does not come back by
/// itself.
async fn register_first(context: &Context) -> Result<(), CallError> {
    let name = context.name();
    let current = context.issuer.current();
    let decide = |state: &State| {
        let mut draft = Draft::default();
        if !state.controllers.is_empty() {
            return Ok((draft, ()));
        }
        let addresses = state.mesh.record.controllers.iter().cloned().collect();
        let issuer = current.ca().certificate().clone();
        let record = ControllerRecord { addresses, issuer, added: context.replica.now() };
        registration::register(&mut draft, state, &name, &record)?;
        Ok((draft, ()))
    };
    let mut act = Act::new(Who::Controller(name.clone()), "register");
    act.subject = name.to_string();
    context.replica.write(&Lane::Mesh, &act, decide).await.map(drop)
}
