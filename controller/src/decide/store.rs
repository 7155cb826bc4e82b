//! The store as a whole.

use super::draft::Draft;
use crate::model::{State, record::MeshRecord};

/// A new epoch: every edge replaces its state by the store's, whatever revision it has. `now` is in Unix seconds.
pub(crate) fn accept(state: &State, now: u64) -> Draft {
    let mesh = &state.mesh.record;
    // Edges never go back to an earlier epoch, whatever the clock says.
    let epoch = now.saturating_mul(1000).max(mesh.epoch.saturating_add(1));
    let mut draft = Draft::default();
    draft.bump_mesh(&state.mesh, MeshRecord { epoch, ..mesh.clone() });
    draft.warnings.push(
        "what was changed or revoked after this copy of the store was made is not in it: make those changes and \
         revocations again"
            .to_owned(),
    );
    if !state.tokens.is_empty() {
        draft.warnings.push(format!(
            "{} join tokens of the store may have been used since: revoke those that you do not need (cfctl token list)",
            state.tokens.len()
        ));
    }
    draft
}
