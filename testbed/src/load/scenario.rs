//! What is measured.

mod comeback;
mod edit;
mod flap;
mod gateway;
mod kernel;
mod problems;
mod revocation;
mod snapshot;

use std::time::Duration;

use anyhow::Result;

use super::lab::LoadLab;
use super::report::Report;

/// For any single step of a scenario.
const TIMEOUT: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scenario {
    /// Edits of one route, to all edges of a namespace.
    Edit,
    /// Edits of one route in a namespace with many routes.
    EditRoutes,
    /// A route that is added and removed a hundred times a second.
    Flap,
    /// Revocations of certificates, then a restart of everything.
    Revocation,
    /// An edge's first state with many routes, until it is in the edge's tables.
    Snapshot,
    /// The real edge's first state with many routes, until it is in the kernel.
    Kernel,
    /// Edges with a problem each, which comes and goes.
    Problems,
    /// The real edge with links to real edges and many routes, when nothing happens.
    Gateway,
    /// A restart of the controller under the edges of one namespace.
    ReturnMany,
    /// A restart of the controller under the edges of all small namespaces.
    ReturnAll,
}

impl Scenario {
    pub(super) const ALL: [Self; 10] = [
        Self::Edit,
        Self::EditRoutes,
        Self::Flap,
        Self::Revocation,
        Self::Snapshot,
        Self::Kernel,
        Self::Problems,
        Self::Gateway,
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
            Self::Problems => "problems",
            Self::Gateway => "gateway",
            Self::ReturnMany => "return-many",
            Self::ReturnAll => "return-all",
        }
    }

    pub(super) async fn run(self, lab: &mut LoadLab, report: &mut Report) -> Result<()> {
        match self {
            Self::Edit => edit::run(lab, &lab.large_namespace()?, report).await,
            Self::EditRoutes => edit::run(lab, &lab.routes_namespace()?, report).await,
            Self::Flap => flap::run(lab, report).await,
            Self::Revocation => revocation::run(lab, report).await,
            Self::Snapshot => snapshot::run(lab, report).await,
            Self::Kernel => kernel::run(lab, report).await,
            Self::Problems => problems::run(lab, report).await,
            Self::Gateway => gateway::run(lab, report).await,
            Self::ReturnMany => {
                let namespace = lab.large_namespace()?;
                comeback::run(lab, &[namespace], &comeback::MANY, report).await
            }
            Self::ReturnAll => {
                let namespaces = lab.small_namespaces()?;
                comeback::run(lab, &namespaces, &comeback::ALL, report).await
            }
        }
    }
}
