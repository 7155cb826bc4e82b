//! What is kept of an act.

use cframe_pki::identity::Label;
use cframe_protocol::v1::{CallError, ErrorCode};
use cframe_store::Op;
use serde::{Deserialize, Serialize};

use super::{Act, Change, ROOT, text::clean};
use crate::record;

/// A record of the audit log. The value in the store has a `schema` besides; fields that say nothing are left
/// out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Unix milliseconds, by the clock of the controller that was asked.
    pub time: u64,
    /// The controller that was asked.
    pub controller: String,
    /// [`Who`](super::Who) acted: `admin/alice`.
    pub who: String,
    /// By which certificate, its serial in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// From which address and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The call: `edge-add`, `join`, …
    pub call: String,
    /// In which namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Label>,
    /// About what.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// What it changed, or with `dry_run` would have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
    /// So many more changes than `changes` has.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more_changes: u64,
    /// It was only rehearsed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// `ok`, or the kind of error: `conflict`, `not_allowed`, …
    pub result: String,
    /// The error.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// This record stands for so many that were not written, for they were too many.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub left_out: u64,
}

impl Record {
    /// The record of an act that went well so far.
    pub fn of(act: &Act, controller: &Label, time: u64) -> Self {
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

    /// The same with what it changes.
    #[must_use]
    pub fn changing(self, (changes, more_changes): (Vec<Change>, u64)) -> Self {
        Self { changes, more_changes, ..self }
    }

    /// The same with how it failed.
    #[must_use]
    pub fn failing(self, error: &CallError) -> Self {
        let result = result(error.code).to_owned();
        Self { result, message: clean(&error.to_string()), ..self }
    }

    /// The effect that writes it. `number` tells apart what one controller did in one millisecond.
    pub fn write(&self, number: u32) -> Op {
        let id = format!("{:013}-{}-{number:010}", self.time, self.controller);
        Op::Put { key: format!("{ROOT}{id}"), value: record::encode(self) }
    }
}

/// A kind of error in a record, and in metrics.
pub(crate) fn result(code: ErrorCode) -> &'static str {
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
