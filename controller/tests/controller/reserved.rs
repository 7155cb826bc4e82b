//! Addresses of clouds' own services, and prefixes that hide a part of the internet: by each call that sets a prefix.

use cframe_protocol::v1::{Call, ErrorCode};
use ipnet::IpNet;

use crate::support::{admin::AdminCalls, calls::label, controller::TestController};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// Each call that gives an edge this prefix.
fn calls(prefix: &str) -> [Call; 3] {
    let prod = || label("prod");
    [
        Call::RouteAdd {
            namespace: prod(),
            name: label("services"),
            prefix: net(prefix),
            edge: label("a"),
        },
        Call::EdgeAdd {
            namespace: prod(),
            name: label("new"),
            cidrs: vec![net(prefix)],
            endpoints: Vec::new(),
            description: String::new(),
        },
        Call::EdgeSet {
            namespace: prod(),
            name: label("a"),
            cidrs: Some(vec![net(prefix)]),
            endpoints: None,
            description: None,
            no_link_to: None,
        },
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn services_of_clouds_are_refused_whichever_call_names_them() {
    let controller = TestController::with_edges(&["a"]).await;
    for (prefix, whose) in [
        // AWS: metadata, DNS, time; Azure; Google; Oracle; Tencent; Alibaba Cloud.
        ("169.254.169.254/32", "metadata"),
        ("169.254.169.123/32", "metadata"),
        ("169.254.0.23/32", "metadata"),
        ("169.254.128.0/17", "metadata"),
        ("fd00:ec2::254/128", "AWS"),
        ("fd00:ec2::/33", "AWS"),
        ("168.63.129.16/32", "Azure"),
        ("fd20:ce::254/128", "Google"),
        ("192.0.0.192/32", "Oracle"),
        ("fd00:c1::a9fe:a9fe/128", "Oracle"),
        ("183.60.83.19/32", "Tencent"),
        ("100.100.100.200/32", "Alibaba"),
        ("100.100.2.138/32", "Alibaba"),
        ("::ffff:100.100.100.200/128", "mapped"),
        ("fe80::a9fe:a9fe/128", "link-local"),
    ] {
        for call in calls(prefix) {
            let name = call.name();
            let error = controller.refusal(call).await;
            assert_eq!(error.code, ErrorCode::Invalid, "{name} {prefix}");
            assert!(error.message.contains(whose), "{name} {prefix}: {}", error.message);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_large_prefix_hides_is_said_by_each_call() {
    let controller = TestController::with_edges(&["a"]).await;
    for (prefix, hidden) in [
        ("100.100.0.0/16", "100.100.100.200/32"),
        ("168.63.129.16/31", "Azure"),
        ("fd00:ec0::/29", "AWS"),
        ("183.60.0.0/16", "Tencent"),
        ("192.0.0.0/24", "Oracle"),
        ("fd20:ce::/64", "Google"),
        ("2000::/3", "internet"),
        ("2000::/4", "internet"),
        ("3000::/4", "internet"),
        ("32.0.0.0/3", "internet"),
        ("64.0.0.0/3", "internet"),
    ] {
        for call in calls(prefix) {
            let name = call.name();
            let undo = match &call {
                Call::RouteAdd { namespace, name, .. } => {
                    Some(Call::RouteDel { namespace: namespace.clone(), name: name.clone() })
                }
                Call::EdgeAdd { namespace, name, .. } => {
                    Some(Call::EdgeDel { namespace: namespace.clone(), name: name.clone() })
                }
                _ => None,
            };
            let warnings = controller.change(call).await.warnings.join("; ");
            assert!(warnings.contains(hidden), "{name} {prefix}: {warnings}");
            match undo {
                Some(undo) => drop(controller.change(undo).await),
                None => drop(controller.change(calls("10.0.0.0/16")[2].clone()).await),
            }
        }
    }
    for half in ["0.0.0.0/1", "128.0.0.0/1"] {
        for call in calls(half) {
            assert_eq!(controller.refusal(call).await.code, ErrorCode::Invalid);
        }
    }
}
