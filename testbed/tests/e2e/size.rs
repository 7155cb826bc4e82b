//! The programs' memory and size.

use cframe_testbed::Programs;

use crate::lab::{DeployedEdges, figure, mib, shared};

#[test]
fn idle_programs_take_at_most_25_mib_each() {
    let mut edges = DeployedEdges::start("idle", shared());
    edges.lab.deployment.wait_in_sync("prod", 3).unwrap();
    let controller = edges.lab.deployment.controller().process().rss_kib().unwrap();
    let edges = edges.all().map(|edge| edge.process().rss_kib().unwrap());
    let shown = edges.map(|kib| format!("{:.1}", mib(kib)));
    figure(
        "idle RSS",
        format_args!(
            "controller {:.1} MiB, edges {} MiB (bound 25 each)",
            mib(controller),
            shown.join(", ")
        ),
    );
    let programs = Programs::locate().unwrap();
    for (name, path) in [
        ("cframe-controller", programs.controller()),
        ("cframe-edge", programs.edge()),
        ("cfctl", programs.ctl()),
    ] {
        let bytes = std::fs::metadata(path).unwrap().len();
        figure(&format!("size of {name}, stripped"), format_args!("{:.1} MiB", mib(bytes >> 10)));
    }
    assert!(controller <= 25 << 10, "controller: {controller} KiB");
    assert!(edges.iter().all(|kib| *kib <= 25 << 10), "edges: {edges:?} KiB");
}
