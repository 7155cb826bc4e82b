//! A route that comes and goes a hundred times a second, while others are added: how much of it edges see, and whether
//! anything is lost.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cframe_protocol::v1::Call;

use super::PATIENCE;
use crate::load::controller::Usage;
use crate::load::edges::Edges;
use crate::load::fleet::{edit, muster, undo};
use crate::load::report::Report;
use crate::load::world::{World, until};

const EVERY: Duration = Duration::from_millis(10);
/// Of so many edits one is of another route.
const OTHERS: u32 = 10;

pub(super) async fn run(world: &World, report: &mut Report) -> Result<()> {
    let space = &world.few()?[0];
    let members = muster(world, space, space.edges).await?;
    let edges = Edges::whole(members.clone());
    edges.until_online(edges.len(), PATIENCE).await?;
    let operator = world.operator().await?;
    operator.wait(&space.namespace, operator.version(&space.namespace).await?).await?;

    let updates = edges.updates();
    let usage = Usage::begin(world.controller())?;
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(EVERY);
    let (mut edits, mut others, mut there) = (0, Vec::new(), false);
    let mut version = operator.version(&space.namespace).await?;
    while begun.elapsed() < Duration::from_secs(world.size.seconds) {
        ticks.tick().await;
        let call = if edits % OTHERS == OTHERS - 1 {
            others.push(1 + edits);
            edit(space, 1 + edits)?
        } else {
            there = !there;
            if there { edit(space, 0)? } else { undo(space, 0)? }
        };
        version = operator.change(call).await?;
        edits += 1;
    }
    let took = begun.elapsed().as_secs_f64();
    let percent = usage.percent(world.controller())?;
    until("the last edit at every edge", PATIENCE, || edges.at(version) == edges.len()).await?;
    let each = edges.len() as f64 * took;
    report.tell("edges", edges.len() as f64, "");
    report.tell("edits in a second", f64::from(edits) / took, "");
    let seen = (edges.updates() - updates) as f64;
    report.bound("updates for an edge in a second", seen / each, "", 12.0);
    report.bound("controller, CPU", percent, "%", 20.0);

    // An edge that is new gets all of it at once: nobody may have anything else.
    let fresh = Edges::whole(vec![members[0].clone()]);
    until("a new edge's state", PATIENCE, || fresh.at(version) == 1).await?;
    let whole = fresh.states().remove(0);
    let differing = edges.states().into_iter().filter(|state| **state != *whole).count();
    report.bound("edges whose state is another in the end", differing as f64, "", 0.0);
    let lost = others.iter().filter(|number| !holds(&whole, space, **number)).count();
    report.bound("added routes that are lost", lost as f64, "", 0.0);
    fresh.stop().await;
    edges.stop().await;

    let mut undone: Vec<Call> =
        others.iter().map(|number| undo(space, *number)).collect::<Result<_>>()?;
    if there {
        undone.push(undo(space, 0)?);
    }
    let count = undone.len();
    ensure!(operator.bulk(undone).await?.len() == count, "not all routes were removed again");
    Ok(())
}

fn holds(
    state: &cframe_protocol::v1::Desired,
    space: &crate::load::world::Space,
    number: u32,
) -> bool {
    match edit(space, number) {
        Ok(Call::RouteAdd { prefix, edge, .. }) => state.prefixes.get(&prefix) == Some(&edge),
        Ok(_) | Err(_) => false,
    }
}
