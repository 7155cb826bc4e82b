//! Faults of edges and controllers: what is there and what is not.

use super::Fault;

pub(super) const FAULTS: &[Fault] = &[
    Fault::code(
        "A6 an edge has not joined",
        &["not-joined"],
        |bed| {
            let add = "edge add late -n prod --cidr 10.99.0.0/24 --endpoint 203.0.113.99:58423";
            bed.lab.deployment.ctl_ok(&add.split(' ').collect::<Vec<_>>()).unwrap();
        },
        |bed| {
            bed.lab.deployment.ctl_ok(&["edge", "del", "late", "-n", "prod", "--yes"]).unwrap();
        },
    )
    .about("late"),
    Fault::code(
        "B12 the edge does not run",
        &["edge-offline", "link-down"],
        |bed| bed.hk.kill9().unwrap(),
        |bed| bed.hk.start().unwrap(),
    ),
];
