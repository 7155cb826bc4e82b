//! `cfctl audit`

use std::{collections::BTreeSet, ops::ControlFlow, time::Duration};

use cframe_protocol::v1::{AuditQuery, AuditRow, Call, Reply};

use crate::{
    args::AuditArgs,
    console::{Console, count},
    controller::{Controller, kind, rows},
    failure::{Exit, Failure},
    session::Session,
    view::{Audit, AuditLines},
};

const LIMIT: u32 = 100;
const LIMIT_FOLLOWED: u32 = 10;
/// Between two attempts to find a controller again: twice the last, from the first to the longest.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// By so many milliseconds the clocks of two controllers may differ: so far back it is looked for records that
/// another one made meanwhile.
const SKEW: u64 = 60_000;

pub(super) async fn run<C: Controller>(
    session: &mut Session<'_, '_, C>,
    args: AuditArgs,
) -> Result<Exit, Failure> {
    let usual = if args.follow { LIMIT_FOLLOWED } else { LIMIT };
    let now = session.terms.now;
    let query = AuditQuery {
        since: args.since.map(|when| when.millis(now)),
        until: args.until.map(|when| when.millis(now)),
        who: args.who,
        namespace: session.scope(args.all_namespaces),
        call: args.call,
        limit: args.limit.unwrap_or(usual),
        follow: args.follow,
    };
    if args.follow {
        return follow(session, query).await;
    }
    let limit = query.limit;
    let rows = rows(session.ask(Call::Audit(query)).await?, kind!(Audit))?;
    let records: Vec<Audit> =
        rows.iter().filter_map(|row| understood(session.console, row)).collect();
    if limit > 0 && rows.len() >= limit as usize {
        let newest = count(rows.len(), "record");
        session.console.note(&format!("the newest {newest}; --limit 0 shows all"));
    }
    session.list(&records)
}

fn understood(console: &mut Console<'_>, row: &AuditRow) -> Option<Audit> {
    Audit::read(row)
        .map_err(|error| console.warn(&format!("the record {} cannot be read: {error}", row.id)))
        .ok()
}

/// Ends when nobody reads any more, or no controller lets the asker.
async fn follow<C: Controller>(
    session: &mut Session<'_, '_, C>,
    first: AuditQuery,
) -> Result<Exit, Failure> {
    let mut shown = Shown::default();
    let mut lines = AuditLines::default();
    let mut pause = PAUSE;
    let mut found = false;
    loop {
        let Session { console, controller, .. } = session;
        let mut end = Ok(());
        let call = Call::Audit(shown.query(&first));
        let outcome = controller
            .follow(call, &mut |reply| {
                if pause != PAUSE {
                    console.note("a controller answers again");
                }
                (found, pause) = (true, PAUSE);
                let Reply::Audit(rows) = reply else { return ControlFlow::Continue(()) };
                let new: Vec<AuditRow> = rows.into_iter().filter(|row| shown.adds(row)).collect();
                let records: Vec<Audit> =
                    new.iter().filter_map(|row| understood(console, row)).collect();
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
            Err(failure) if !found || failure.exit != Exit::Unreachable => return Err(failure),
            Err(failure) if pause == PAUSE => {
                session.console.note(&format!("{failure}; trying again"));
            }
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}

/// What has been printed, as far as it may come again.
#[derive(Default)]
struct Shown {
    /// Nothing before this one is asked for.
    first: Option<String>,
    recent: BTreeSet<String>,
}

impl Shown {
    /// Whether a record is new; it counts as shown then.
    fn adds(&mut self, row: &AuditRow) -> bool {
        let first = self.first.get_or_insert_with(|| row.id.clone());
        if row.id < *first || !self.recent.insert(row.id.clone()) {
            return false;
        }
        let keep = format!("{:013}", self.newest().saturating_sub(2 * SKEW));
        self.recent = self.recent.split_off(&keep);
        true
    }

    /// What to ask next.
    fn query(&self, first: &AuditQuery) -> AuditQuery {
        if self.recent.is_empty() {
            return first.clone();
        }
        let back = self.newest().saturating_sub(SKEW);
        AuditQuery { since: Some(back.max(first.since.unwrap_or(0))), limit: 0, ..first.clone() }
    }

    /// Unix milliseconds.
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
    fn what_comes_again_is_not_shown_again_and_what_is_late_is() {
        let mut shown = Shown::default();
        let first = AuditQuery { limit: 10, follow: true, ..AuditQuery::default() };
        assert_eq!(shown.query(&first), first);
        assert!(shown.adds(&row("1769947200000-c1-1")));
        assert!(shown.adds(&row("1769947300000-c1-2")));
        let again = shown.query(&first);
        assert_eq!((again.since, again.limit), (Some(1_769_947_240_000), 0));
        assert!(!shown.adds(&row("1769947300000-c1-2")));
        assert!(shown.adds(&row("1769947299990-c2-7")), "of a clock that is behind");
        assert!(!shown.adds(&row("1769947199999-c2-3")), "from before all that was asked for");
        assert!(shown.adds(&row("1769949999999-c1-3")));
        assert_eq!(shown.recent.len(), 1, "{:?}", shown.recent);
    }
}
