use std::{collections::BTreeSet, ops::ControlFlow, time::Duration};

use cframe_console::exit::Exit;
use cframe_protocol::v1::{AuditQuery, AuditRow, Call, Reply};

use crate::{
    args::AuditArgs,
    console::{Console, count},
    controller::{Controller, kind},
    failure::Failure,
    session::Session,
    view::{Audit, AuditLines},
};

const DEFAULT_LIMIT: u32 = 100;
const DEFAULT_LIMIT_FOLLOW: u32 = 10;
/// Between two attempts to connect again; doubles up to the maximum.
const MIN_BACKOFF: Duration = Duration::from_millis(250);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// How much the clocks of two controllers may differ, in milliseconds. A query reaches back so far for
/// records that another controller made meanwhile.
const CLOCK_SKEW: u64 = 60_000;

pub(super) async fn run<C: Controller>(
    session: &mut Session<'_, '_, C>,
    args: AuditArgs,
) -> Result<Exit, Failure> {
    let default_limit = if args.follow { DEFAULT_LIMIT_FOLLOW } else { DEFAULT_LIMIT };
    let now = session.options.now;
    let query = AuditQuery {
        since: args.since.map(|when| when.millis(now)),
        until: args.until.map(|when| when.millis(now)),
        who: args.who,
        namespace: session.scope(args.all_namespaces),
        call: args.call,
        limit: args.limit.unwrap_or(default_limit),
        follow: args.follow,
    };
    if args.follow {
        return follow(session, query).await;
    }
    let limit = query.limit;
    let rows = session.query(Call::Audit(query), kind!(Audit)).await?;
    let records: Vec<Audit> =
        rows.iter().filter_map(|row| read_record(session.console, row)).collect();
    if limit > 0 && rows.len() >= limit as usize {
        let newest = count(rows.len(), "record");
        session.console.info(&format!("the newest {newest}; --limit 0 shows all"));
    }
    session.list::<Audit>(records)
}

fn read_record(console: &mut Console<'_>, row: &AuditRow) -> Option<Audit> {
    Audit::read(row)
        .map_err(|error| console.warn(&format!("record {} can't be read: {error}", row.id)))
        .ok()
}

/// Returns when the reader has gone away, or a controller refuses.
async fn follow<C: Controller>(
    session: &mut Session<'_, '_, C>,
    first: AuditQuery,
) -> Result<Exit, Failure> {
    let mut shown = Shown::default();
    let mut lines = AuditLines::default();
    let mut backoff = MIN_BACKOFF;
    let mut connected = false;
    loop {
        let Session { console, controller, .. } = session;
        let mut end = Ok(());
        let call = Call::Audit(shown.query(&first));
        let outcome = controller
            .follow(call, &mut |reply| {
                if backoff != MIN_BACKOFF {
                    console.info("a controller answers again");
                }
                (connected, backoff) = (true, MIN_BACKOFF);
                let Reply::Audit(rows) = reply else { return ControlFlow::Continue(()) };
                let new: Vec<AuditRow> = rows.into_iter().filter(|row| shown.insert(row)).collect();
                let records: Vec<Audit> =
                    new.iter().filter_map(|row| read_record(console, row)).collect();
                match lines.print(console, &records) {
                    Ok(true) => ControlFlow::Continue(()),
                    Ok(false) => ControlFlow::Break(()),
                    Err(failure) => {
                        end = Err(failure);
                        ControlFlow::Break(())
                    }
                }
            })
            .await;
        end?;
        match outcome {
            Ok(ControlFlow::Break(())) => return Ok(Exit::Done),
            Ok(ControlFlow::Continue(())) => {}
            Err(failure) if !connected || failure.exit != Exit::Unreachable => return Err(failure),
            Err(failure) if backoff == MIN_BACKOFF => {
                session.console.info(&format!("{failure}; trying again"));
            }
            Err(_) => {}
        }
        tokio::time::sleep(backoff).await;
        backoff = (2 * backoff).min(MAX_BACKOFF);
    }
}

/// Ids of printed records that may arrive again.
#[derive(Default)]
struct Shown {
    /// The first printed record; older ones are not printed.
    first: Option<String>,
    recent: BTreeSet<String>,
}

impl Shown {
    /// Returns whether a record is new, and remembers it.
    fn insert(&mut self, row: &AuditRow) -> bool {
        let first = self.first.get_or_insert_with(|| row.id.clone());
        if row.id < *first || !self.recent.insert(row.id.clone()) {
            return false;
        }
        let keep = format!("{:013}", self.newest().saturating_sub(2 * CLOCK_SKEW));
        self.recent = self.recent.split_off(&keep);
        true
    }

    /// The next query.
    fn query(&self, first: &AuditQuery) -> AuditQuery {
        if self.recent.is_empty() {
            return first.clone();
        }
        let back = self.newest().saturating_sub(CLOCK_SKEW);
        AuditQuery { since: Some(back.max(first.since.unwrap_or(0))), limit: 0, ..first.clone() }
    }

    /// Time of the newest record, in Unix milliseconds.
    fn newest(&self) -> u64 {
        let id = self.recent.last().map_or("", String::as_str);
        id.split('-').next().and_then(|millis| millis.parse().ok()).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str) -> AuditRow {
        AuditRow { id: id.to_owned(), record: String::new() }
    }

    #[test]
    fn repeated_records_are_not_printed_again_and_late_ones_are() {
        let mut shown = Shown::default();
        let first = AuditQuery { limit: 10, follow: true, ..AuditQuery::default() };
        assert_eq!(shown.query(&first), first);
        assert!(shown.insert(&row("1769947200000-c1-1")));
        assert!(shown.insert(&row("1769947300000-c1-2")));
        let again = shown.query(&first);
        assert_eq!((again.since, again.limit), (Some(1_769_947_240_000), 0));
        assert!(!shown.insert(&row("1769947300000-c1-2")));
        assert!(shown.insert(&row("1769947299990-c2-7")), "from a clock that is behind");
        assert!(!shown.insert(&row("1769947199999-c2-3")), "older than the first query");
        assert!(shown.insert(&row("1769949999999-c1-3")));
        assert_eq!(shown.recent.len(), 1, "{:?}", shown.recent);
    }
}
