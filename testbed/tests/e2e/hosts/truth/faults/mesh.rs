//! Faults of edges and controllers: what is there and what is not.

use super::Fault;
use crate::hosts::truth::Bed;
use crate::lab::{HK, IDC, SECOND, SZ, TIMEOUT};

pub(super) const FAULTS: &[Fault] = &[
    Fault::code(
        "A6 an edge has not joined",
        &["not-joined"],
        |bed| {
            ctl(bed, "edge add late -n prod --cidr 10.99.0.0/24 --endpoint 203.0.113.99:58423");
        },
        |bed| {
            ctl(bed, "edge del late -n prod --yes");
        },
    )
    .about("late"),
    Fault::code(
        "B12 the edge does not run",
        &["edge-offline", "link-down"],
        |bed| bed.hk.kill9().unwrap(),
        |bed| bed.hk.start().unwrap(),
    ),
    Fault::code(
        "A2 two edges without endpoints",
        &["no-endpoint"],
        |bed| {
            ctl(bed, "edge set aws-hk -n prod --no-endpoint");
            ctl(bed, "edge set idc -n prod --no-endpoint");
            // Else a link that is up stays up, and is made again where the peer was last.
            for edge in [&mut bed.hk, &mut bed.idc] {
                edge.wait_synced().unwrap();
                edge.stop().unwrap();
                std::fs::remove_file(edge.dir().join("last-seen.json")).unwrap();
            }
            bed.hk.start().unwrap();
            bed.idc.start().unwrap();
        },
        |bed| {
            ctl(bed, &format!("edge set aws-hk -n prod --endpoint {HK}"));
            ctl(bed, &format!("edge set idc -n prod --endpoint {IDC}"));
        },
    ),
    Fault::code(
        "A2 two edges without endpoints that know where they were",
        &[],
        |bed| {
            ctl(bed, "edge set aws-hk -n prod --no-endpoint");
            ctl(bed, "edge set idc -n prod --no-endpoint");
            bed.hk.restart().unwrap();
        },
        |bed| {
            ctl(bed, &format!("edge set aws-hk -n prod --endpoint {HK}"));
            ctl(bed, &format!("edge set idc -n prod --endpoint {IDC}"));
        },
    )
    .passes(),
    Fault::code(
        "A2 an edge without an endpoint that can dial",
        &[],
        |bed| {
            ctl(bed, "edge set aws-hk -n prod --no-endpoint");
            bed.hk.restart().unwrap();
        },
        |bed| {
            ctl(bed, &format!("edge set aws-hk -n prod --endpoint {HK}"));
        },
    )
    .passes(),
    Fault::code(
        "A5 a wrong endpoint, and the edge can dial",
        &[],
        |bed| {
            ctl(bed, "edge set aws-hk -n prod --endpoint 203.0.113.99:58423");
        },
        |bed| {
            ctl(bed, &format!("edge set aws-hk -n prod --endpoint {HK}"));
        },
    )
    .passes(),
    Fault::code(
        "A5 wrong endpoints at both ends",
        &["link-down"],
        |bed| {
            ctl(bed, "edge set aws-hk -n prod --endpoint 203.0.113.99:58423");
            ctl(bed, "edge set aliyun-sz -n prod --endpoint 192.0.2.99:58423 --wait");
            // While one of them runs, it dials the other where that was.
            let mut both = [&mut bed.hk, &mut bed.sz];
            both.iter_mut().for_each(|edge| edge.stop().unwrap());
            both.iter_mut().for_each(|edge| edge.start().unwrap());
            both.iter_mut().for_each(|edge| edge.wait_serving().unwrap());
        },
        |bed| {
            ctl(bed, &format!("edge set aws-hk -n prod --endpoint {HK}"));
            ctl(bed, &format!("edge set aliyun-sz -n prod --endpoint {SZ}"));
        },
    ),
    Fault::code(
        "A3 the store was replaced by an older copy",
        &["store-older"],
        |bed| {
            let copy = bed.lab.deployment.copy_store().unwrap();
            bed.lab.deployment.controller_mut().wait_ready().unwrap();
            bed.lab.deployment.wait_in_sync("prod", 3).unwrap();
            ctl(bed, "route add lost -n prod --cidr 10.98.0.0/24 --edge aws-hk --wait");
            bed.lab.deployment.roll_back_store(&copy).unwrap();
            bed.lab.deployment.controller_mut().wait_ready().unwrap();
        },
        |bed| {
            ctl(bed, "store accept --yes --wait");
        },
    )
    .about("aws-hk"),
    Fault::code(
        "A13 the store was deleted",
        &["store-problem"],
        |bed| {
            let store = bed.lab.deployment.controller_dir().join("store.redb");
            std::fs::rename(&store, store.with_extension("away")).unwrap();
        },
        |bed| {
            let store = bed.lab.deployment.controller_dir().join("store.redb");
            std::fs::rename(store.with_extension("away"), &store).unwrap();
        },
    )
    .about("controller"),
    Fault::code(
        "A10 an edge is revoked",
        &["edge-revoked"],
        |bed| {
            ctl(bed, "cert revoke --edge aws-hk -n prod --yes");
        },
        |bed| {
            let token = ["--namespace", "prod", "--edge", "aws-hk", "--rejoin"];
            join_again(bed, &token);
        },
    ),
    Fault::code(
        "the controller stops and starts",
        &[],
        |bed| {
            let controller = bed.lab.deployment.controller_mut();
            controller.process_mut().terminate(TIMEOUT).unwrap();
            // Longer than edges wait before they dial again.
            std::thread::sleep(3 * SECOND);
            controller.start().unwrap();
        },
        |_| {},
    )
    .passes(),
    Fault::code(
        "an edge is removed, added again and joins again",
        &[],
        |bed| {
            let what = "before an edge is removed";
            bed.clear.check(what);
            ctl(bed, "edge del aws-hk -n prod --yes");
            let add = "edge add aws-hk -n prod --cidr 172.30.0.0/16 --cidr fd00:30::/64";
            ctl(bed, &format!("{add} --endpoint {HK} --wait"));
            // Its prefixes were nobody's for a moment.
            bed.clear.skip(what);
            join_again(bed, &["--namespace", "prod", "--edge", "aws-hk"]);
        },
        |_| {},
    )
    .passes(),
];

fn ctl(bed: &Bed, line: &str) {
    bed.lab.deployment.ctl_ok(&line.split(' ').collect::<Vec<_>>()).unwrap();
}

/// Lets the gateway join again, with a token made with these arguments.
fn join_again(bed: &mut Bed, token: &[&str]) {
    let token = bed.lab.deployment.token_with(token).unwrap();
    bed.hk.stop().unwrap();
    bed.hk.run(&["join", &token]).unwrap().success().unwrap();
    bed.hk.start().unwrap();
}
