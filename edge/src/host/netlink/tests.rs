//! Against the kernel, each test in its own network namespace: as root, or where user namespaces are
//! allowed.

use std::process::Command;

use super::*;
use crate::host::reconcile::{Target, metric};

const TABLE: u32 = 0xcf_0001;
const INSIDE: &str = "CFRAME_TEST_INSIDE";

/// Runs the test of this name again in a new namespace. Returns whether this process is already there.
fn inside(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let this = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "--"]).arg(this).args(["--exact"]);
    command.arg(format!("host::netlink::tests::{name}")).env(INSIDE, "1");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
    print!("{text}");
    false
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn unreachable(net: String) -> Route {
    let key = RouteKey { net: net.parse().unwrap(), metric: metric::UNREACHABLE };
    Route { key, target: Target::Unreachable }
}

fn many() -> Vec<Route> {
    (0..1000).map(|i| unreachable(format!("10.{}.{}.0/24", i / 256, i % 256))).collect()
}

#[test]
fn a_refusal_in_a_batch_is_named_and_does_not_affect_the_rest() {
    if !inside("a_refusal_in_a_batch_is_named_and_does_not_affect_the_rest") {
        return;
    }
    runtime().block_on(async {
        let kernel = Kernel::open().unwrap();
        let mut routes = many();
        let key = RouteKey { net: "10.200.7.0/24".parse().unwrap(), metric: metric::DEVICE };
        routes.insert(500, Route { key, target: Target::Device { index: 999, source: None } });
        let error = kernel.put(TABLE, &routes).await.unwrap_err();
        assert!(error.to_string().contains("10.200.7.0/24"), "{error}");
        assert_eq!(kernel.table(TABLE).await.unwrap().len(), 1000);
    });
}

#[test]
fn deleting_routes_that_are_already_gone_is_no_error() {
    if !inside("deleting_routes_that_are_already_gone_is_no_error") {
        return;
    }
    runtime().block_on(async {
        let kernel = Kernel::open().unwrap();
        kernel.put(TABLE, &many()[..700]).await.unwrap();
        let keys = many().iter().map(|route| route.key).collect();
        kernel.delete_keys(TABLE, &keys).await.unwrap();
        assert!(kernel.table(TABLE).await.unwrap().is_empty());
    });
}

#[test]
fn a_kernel_without_ipv6_has_no_route_which_is_no_error() {
    for errno in [Errno::OPNOTSUPP, Errno::AFNOSUPPORT, Errno::NETUNREACH] {
        assert!(means_no_route(errno), "{errno:?}");
    }
    assert!(!means_no_route(Errno::PERM));
}
