//! How much room the programs take.

use cframe_testbed::Programs;

use crate::world::{World, figure, shared};

#[test]
fn idle_programs_take_at_most_25_mib_each() {
    let mut world = World::start("idle", shared());
    world.mesh.deployment.wait_in_sync("prod", 3).unwrap();
    let controller = world.mesh.deployment.controller().rss_kib().unwrap();
    let edges = world.edges().map(|edge| edge.process().rss_kib().unwrap());
    let shown: Vec<_> = edges.iter().map(|kib| format!("{:.1}", *kib as f64 / 1024.0)).collect();
    figure(
        "idle RSS",
        format_args!(
            "controller {:.1} MiB, edges {} MiB (bound 25 each)",
            controller as f64 / 1024.0,
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
        figure(
            &format!("size of {name}, stripped"),
            format_args!("{:.1} MiB", bytes as f64 / 1048576.0),
        );
    }
    assert!(controller <= 25 << 10, "controller: {controller} KiB");
    assert!(edges.iter().all(|kib| *kib <= 25 << 10), "edges: {edges:?} KiB");
}
