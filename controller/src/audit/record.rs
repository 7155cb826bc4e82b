//! What the audit log stores of an act.

use cframe_pki::identity::Label;
use cframe_protocol::v1::{CallError, ErrorCode};
use cframe_store::Op;
use serde::{Deserialize, Serialize};

use super::{Act, Change, ROOT, text::clean};
use crate::model::record;

/// A record of the audit log. The value in the store also has a `schema`; empty fields are left out.
// fields: one JSON object, whose layout is documented
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Unix milliseconds, by the clock of the controller that got the call.
    pub time: u64,
    pub controller: String,
    /// [`Who`](super::Who): `admin/alice`.
    pub who: String,
    /// The serial of the actor's certificate, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Address and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The call: `edge-add`, `join`, …
    pub call: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Label>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// What it changed; with `dry_run`, what it would have changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// Changes that `changes` has no room for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_changes: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// `ok`, or the kind of error: `conflict`, `not_allowed`, …
    pub result: String,
    /// The error's text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// How many records were omitted because they were too many; this record stands for them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
}

impl AuditRecord {
    /// The record of an act that did not fail so far. `time` is in Unix milliseconds.
    pub fn new(act: &Act, controller: &Label, time: u64) -> Self {
        Self {
            time,
            controller: controller.to_string(),
            who: act.who.to_string(),
            serial: act.serial.map(|serial| serial.to_string()),
            from: act.from.map(|from| from.to_string()),
            call: act.call.to_owned(),
            namespace: act.namespace.clone(),
            subject: clean(&act.subject),
            dry_run: act.dry_run,
            result: "ok".to_owned(),
            ..Self::default()
        }
    }

    #[must_use]
    pub fn with_changes(self, (changes, more_changes): (Vec<Change>, u64)) -> Self {
        Self { changes, more_changes, ..self }
    }

    #[must_use]
    pub fn with_error(self, error: &CallError) -> Self {
        let result = result_label(error.code).to_owned();
        Self { result, message: clean(&error.to_string()), ..self }
    }

    /// The effect that writes it. `number` makes the key unique among those of one controller in one millisecond.
    pub fn op(&self, number: u32) -> Op {
        let id = format!("{:013}-{}-{number:010}", self.time, self.controller);
        Op::Put { key: format!("{ROOT}{id}"), value: record::encode(self) }
    }
}

/// An error code as in records and in metrics.
pub(crate) fn result_label(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::Invalid => "invalid",
        ErrorCode::NotFound => "not_found",
        ErrorCode::Conflict => "conflict",
        ErrorCode::NotAllowed => "not_allowed",
        ErrorCode::Unavailable => "unavailable",
        ErrorCode::StoreFull => "store_full",
        ErrorCode::Internal => "internal",
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}
