//! `cfctl audit`

use clap::Args;

use crate::value::{self, When};

pub(super) const AUDIT_HELP: &str = "\
Examples:
  cfctl audit -A --since 24h
  cfctl audit -n prod --who admin/alice --call edge-del
  cfctl audit -A --since 2026-02-01 --until 2026-02-02T12:00:00Z -o json
  cfctl audit -A --follow -o json >> /var/log/cframe-audit.jsonl";

#[derive(Args, Debug)]
pub struct AuditArgs {
    /// Also print new records until interrupted, and reconnect when a controller is lost. With -o json one
    /// object per line, with -o yaml one document each.
    #[arg(short, long)]
    pub follow: bool,
    /// Not before this: a time ago such as 30m or 7d, or a date or time such as 2026-02-01T12:00:00Z.
    #[arg(long, value_name = "WHEN", value_parser = value::when)]
    pub since: Option<When>,
    /// Before this; forms as for --since.
    #[arg(long, value_name = "WHEN", value_parser = value::when, conflicts_with = "follow")]
    pub until: Option<When>,
    /// By this caller: admin/alice, edge/prod/aws-hk, local/0, or a part such as admin or alice.
    #[arg(long, value_name = "WHO")]
    pub who: Option<String>,
    /// Only this call: edge-add, join, renewal, …
    #[arg(long, value_name = "CALL")]
    pub call: Option<String>,
    /// Number of records, the newest; 0 for all [default: 100, with --follow 10].
    #[arg(long, value_name = "NUMBER")]
    pub limit: Option<u32>,
    /// Records of all namespaces and of the mesh, also when the context has a namespace.
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
}
