//! One call that is being answered, and the ways to carry out a decision.

use std::sync::Arc;

use cframe_pki::identity::Role;
use cframe_protocol::v1::{CallError, Changed, ErrorCode, Reply};
use cframe_store::Revision;

use super::{Caller, Replies, authorise, not_allowed};
use crate::{
    audit::Act,
    context::Context,
    decide::{call::Descriptor, draft::Draft, steps},
    model::State,
};

pub(super) struct Request<'a> {
    pub(super) context: &'a Arc<Context>,
    pub(super) caller: &'a Caller,
    pub(super) act: &'a Act,
    pub(super) call: &'a Descriptor,
    pub(super) dry_run: bool,
    /// Unix seconds.
    pub(super) now: u64,
    pub(super) replies: &'a Replies,
}

impl Request<'_> {
    /// A write whose answer is the new version.
    pub(super) async fn change(
        &self,
        decide: impl Fn(&State) -> Result<Draft, CallError>,
    ) -> Result<Reply, CallError> {
        self.write(|state| Ok((decide(state)?, ())), |changed, ()| Reply::Changed(changed)).await
    }

    /// A write whose answer is what it created.
    pub(super) async fn create<T>(
        &self,
        decide: impl Fn(&State) -> Result<(Draft, T), CallError>,
        reply: impl Fn(T) -> Reply,
    ) -> Result<Reply, CallError> {
        self.write(decide, |_, created| reply(created)).await
    }

    async fn write<T>(
        &self,
        decide: impl Fn(&State) -> Result<(Draft, T), CallError>,
        reply: impl Fn(Changed, T) -> Reply,
    ) -> Result<Reply, CallError> {
        let replica = &self.context.replica;
        if self.dry_run {
            return replica.dry_run(self.act, decide).map(Reply::Changed);
        }
        let (changed, created) = replica.write(&self.call.lane, self.act, decide).await?;
        Ok(reply(changed, created))
    }

    /// A write that may be too large for one transaction: `step` is repeated, each with a record of its own, until the
    /// rest fits.
    pub(super) async fn change_in_steps(
        &self,
        decide: impl Fn(&State) -> Result<Draft, CallError>,
        step: impl Fn(&State, usize) -> Result<Draft, CallError>,
    ) -> Result<Reply, CallError> {
        let replica = &self.context.replica;
        let room = replica.store().max_ops().saturating_sub(steps::SPARE);
        while !self.dry_run && replica.read(&decide)?.size() > room {
            let act = self.act.step();
            let written = replica.write(&self.call.lane, &act, |state| {
                let draft = step(state, room)?;
                let done = draft.is_empty();
                Ok((draft, done))
            });
            if written.await?.1 {
                break;
            }
        }
        self.change(decide).await
    }

    pub(super) fn by_controller(&self) -> bool {
        matches!(self.caller.peer.id.role, Role::Controller { .. })
    }

    /// Whether the caller may make this call, now.
    pub(super) fn authorise(&self) -> Result<(), CallError> {
        authorise(self.context, self.caller, self.call)
    }

    /// For a decision: whether the caller is still an admin, and the revision of its record.
    pub(super) fn admin_revision(&self, state: &State) -> Result<Revision, CallError> {
        let name = &self.caller.name;
        if state.denied.contains_key(&self.caller.peer.serial) {
            return Err(not_allowed(format!("the certificate of admin {name} was revoked")));
        }
        let own = state.admins.get(name).map(|admin| admin.modified);
        own.ok_or_else(|| not_allowed(format!("{name} is not an admin of this mesh any more")))
    }

    /// The call's noun has no function for it: a bug.
    pub(super) fn unknown(&self) -> CallError {
        let message = format!("the controller has no answer to {}", self.call.name);
        CallError::new(ErrorCode::Internal, message)
    }
}
