//! One sample of every call: that each has its place in the table of calls and in its noun's function.

use std::time::Duration;

use cframe_controller::decide::call::{Access, Lane, describe};
use cframe_protocol::{
    session::{CallFailure, admin_call},
    v1::{Call, ErrorCode},
};

use crate::support::{admin::AdminCalls, controller::TestController};

#[path = "../../protocol/tests/messages/samples.rs"]
#[allow(dead_code, reason = "only the calls are used")]
mod samples;

/// Longer than any dry run takes, and shorter than the calls whose answers go on.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);

#[tokio::test]
async fn every_call_has_an_answer_and_none_falls_through_its_noun() {
    let controller = TestController::with_edges(&["a"]).await;
    for call in samples::calls() {
        let name = call.name();
        match admin_call(controller.client(), call, true, CALL_TIMEOUT).await {
            Err(CallFailure::Refused(error)) => {
                assert_ne!(error.code, ErrorCode::Internal, "{name}: {error}");
            }
            Ok(_) | Err(CallFailure::TimedOut(_)) => {}
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

#[test]
fn only_what_shows_no_secret_and_changes_nothing_is_open_to_a_read_only_admin() {
    let changes = |call: &Call| {
        let name = call.name();
        ["-add", "-set", "-del", "-create", "-revoke", "-enroll", "-renew", "-drop", "-accept"]
            .iter()
            .any(|verb| name.ends_with(verb))
            || name == "backup"
    };
    for call in samples::calls() {
        let described = describe(&call);
        let writes = matches!(
            described.access,
            Access::Write | Access::WriteOrSelf(_) | Access::WriteOrController
        );
        assert_eq!(writes, changes(&call), "{}", described.name);
        if let (true, Some(namespace)) = (writes, &described.namespace) {
            assert_eq!(described.lane, Lane::Namespace(namespace.clone()), "{}", described.name);
        }
    }
}
