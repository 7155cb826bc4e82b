//! What is measured.

mod comeback;
mod edit;
mod flap;
mod kernel;
mod revocation;
mod snapshot;

use std::time::Duration;

use anyhow::Result;

use super::report::Report;
use super::world::World;

/// How long anything may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(300);

/// One thing that a controller has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scenario {
    /// One route's edit, to all edges of a namespace.
    Edit,
    /// The same where there are many routes.
    EditRoutes,
    /// A route that comes and goes a hundred times a second.
    Flap,
    /// A certificate is revoked, and everything is started again.
    Revocation,
    /// An edge's first state with many routes, in its tables.
    Snapshot,
    /// The same by the real program, in the kernel.
    Kernel,
    /// The controller is started again under the edges of one namespace.
    ReturnMany,
    /// The controller is started again under all edges.
    ReturnAll,
}

impl Scenario {
    pub(super) const ALL: [Self; 8] = [
        Self::Edit,
        Self::EditRoutes,
        Self::Flap,
        Self::Revocation,
        Self::Snapshot,
        Self::Kernel,
        Self::ReturnMany,
        Self::ReturnAll,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Edit => "edit",
            Self::EditRoutes => "edit-routes",
            Self::Flap => "flap",
            Self::Revocation => "revocation",
            Self::Snapshot => "snapshot",
            Self::Kernel => "kernel",
            Self::ReturnMany => "return-many",
            Self::ReturnAll => "return-all",
        }
    }

    pub(super) async fn run(self, world: &mut World, report: &mut Report) -> Result<()> {
        match self {
            Self::Edit => edit::run(world, &world.many()?, report).await,
            Self::EditRoutes => edit::run(world, &world.routes()?, report).await,
            Self::Flap => flap::run(world, report).await,
            Self::Revocation => revocation::run(world, report).await,
            Self::Snapshot => snapshot::run(world, report).await,
            Self::Kernel => kernel::run(world, report).await,
            Self::ReturnMany => {
                let space = world.many()?;
                comeback::run(world, &[space], &comeback::MANY, report).await
            }
            Self::ReturnAll => {
                let spaces = world.few()?;
                comeback::run(world, &spaces, &comeback::ALL, report).await
            }
        }
    }
}
