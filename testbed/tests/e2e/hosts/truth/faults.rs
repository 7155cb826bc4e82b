//! The faults of which each is made alone.

mod host;
mod links;
mod mesh;

use super::{Bed, side_by_side};

/// A fault with its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    pub(super) name: &'static str,
    /// One of these is reported.
    pub(super) codes: &'static [&'static str],
    pub(super) seen: Seen,
    /// The edge that the problem names.
    pub(super) edge: &'static str,
    /// Whether the cause is on the gateway, so that its `doctor` must find it.
    pub(super) at_gateway: bool,
    /// Whether its fix must be a command. A fix that is a command is pasted in any case.
    pub(super) has_command: bool,
    make: Make,
}

/// What a fault does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Packets are lost.
    Lost,
    /// It is an error, but packets between the sites that are tried pass.
    OnlyReported,
    /// The edge ends it by itself.
    Recovers,
}

/// How a fault is made and ended.
#[derive(Clone, Copy, Debug)]
enum Make {
    /// By scripts on the gateway.
    Script(&'static str, &'static str),
    Code(fn(&mut Bed), fn(&mut Bed)),
}

impl Fault {
    const fn script(
        name: &'static str,
        code: &'static [&'static str],
        apply: &'static str,
        undo: &'static str,
    ) -> Self {
        Self {
            name,
            codes: code,
            seen: Seen::Lost,
            edge: "aws-hk",
            at_gateway: true,
            has_command: true,
            make: Make::Script(apply, undo),
        }
    }

    const fn code(
        name: &'static str,
        code: &'static [&'static str],
        apply: fn(&mut Bed),
        undo: fn(&mut Bed),
    ) -> Self {
        let make = Make::Code(apply, undo);
        Self {
            name,
            codes: code,
            seen: Seen::Lost,
            edge: "aws-hk",
            at_gateway: false,
            has_command: false,
            make,
        }
    }

    /// Packets may be lost for some seconds, and then all is well while the fault lasts.
    const fn passes(self) -> Self {
        Self { seen: Seen::Recovers, codes: &[], ..self }
    }

    const fn recovers(name: &'static str, apply: &'static str) -> Self {
        Self { seen: Seen::Recovers, has_command: false, ..Self::script(name, &[], apply, "true") }
    }

    const fn without_command(self) -> Self {
        Self { has_command: false, ..self }
    }

    pub(super) fn unhealthy(&self) -> bool {
        self.seen != Seen::Recovers
    }

    pub(super) fn apply(&self, bed: &mut Bed) {
        match self.make {
            Make::Script(apply, _) => bed.run(apply),
            Make::Code(apply, _) => apply(bed),
        }
    }

    pub(super) fn undo(&self, bed: &mut Bed) {
        match self.make {
            // In a combination, some of it may be gone.
            Make::Script(_, undo) => bed.run(&format!("set +e\n{undo}\ntrue")),
            Make::Code(_, undo) => undo(bed),
        }
    }
}

/// All faults. Scripts end what they made and what a fix has added: fixes insert rules in front.
pub(super) fn all() -> Vec<&'static Fault> {
    [links::FAULTS, mesh::FAULTS, host::FAULTS].into_iter().flatten().collect()
}

impl Fault {
    /// Another edge than the gateway is named, and packets between the gateways pass.
    const fn about(self, edge: &'static str) -> Self {
        Self { edge, seen: Seen::OnlyReported, ..self }
    }

    const fn with(self, apply: fn(&mut Bed), undo: fn(&mut Bed)) -> Self {
        Self { make: Make::Code(apply, undo), ..self }
    }
}

/// Half of the faults each, in labs side by side.
#[test]
fn each_fault_is_named_within_ten_seconds_and_its_end_too() {
    // For trying out: the faults whose name contains this.
    let only = std::env::var("CFRAME_TEST_FAULT").unwrap_or_default();
    let faults: Vec<&Fault> =
        all().into_iter().filter(|fault| fault.name.contains(&only)).collect();
    side_by_side("faults", &faults, |bed, fault| bed.try_fault(fault));
}
