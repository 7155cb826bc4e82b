//! A controller that is killed at random moments under writes, and started again: nothing that it acknowledged is
//! lost, and nothing is torn.
//!
//! The program is the real one, on the loopback. Writers change routes, edges and namespaces, make tokens, use
//! them up and revoke certificates, several at once, until the kill. After each start three things are compared: what
//! the writers were told, the audit log, and what the controller lists. A change and its record are one
//! transaction, so that
//!
//! - every acknowledged change has its record, and every record is of a change that was asked for;
//! - the records' changes, each beginning where the one before it ended, lead from what was listed before to what is
//!   listed now, revisions of namespaces included. A change of which a part is missing breaks that.

mod ledger;
mod site;
mod writers;

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc;

use ledger::Ledger;
use site::Site;
use writers::{Note, Tally};

/// What a started controller may take until it answers.
pub const SERVING: Duration = Duration::from_secs(1);

/// The longest that writers are let write before a kill.
const LONGEST: u32 = 120;
/// One kill in so many hits a controller that is just starting.
const STARTING: u32 = 6;
/// How far into its start.
const START: u32 = 40;

/// How often to kill, and what.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Kills
    #[arg(long, default_value_t = 300)]
    pub kills: u32,
    /// Seed of the moments; another by default at each run
    #[arg(long)]
    pub seed: Option<u64>,
    /// Flags for `init` and `run` of the controller, such as those of its store
    #[arg(last = true, value_name = "FLAGS")]
    pub flags: Vec<String>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    seed: u64,
    kills: u32,
    starting: u32,
    tally: Tally,
    starts: Vec<Duration>,
    took: Duration,
}

/// Kills and starts a controller as often as it says, in a directory of its own.
///
/// # Errors
/// At the first change that is lost or torn, or the first start that takes too long, with the seed.
pub fn run(options: &Options) -> Result<Report> {
    let seed = options.seed.unwrap_or_else(rand::random);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(kill_and_look(options, seed)).with_context(|| {
        format!("again with: testbed crash --kills {} --seed {seed}", options.kills)
    })
}

async fn kill_and_look(options: &Options, seed: u64) -> Result<Report> {
    let begun = Instant::now();
    let mut random = StdRng::seed_from_u64(seed);
    let mut site = Site::init(&options.flags)?;
    let mut report = Report {
        seed,
        kills: 0,
        starting: 0,
        tally: Tally::default(),
        starts: Vec::new(),
        took: Duration::ZERO,
    };
    let (mut admin, _) = site.start().await?;
    writers::prepare(&admin).await?;
    let mut ledger = Ledger::open(&admin).await?;
    while report.kills < options.kills {
        let (notes, mut noted) = mpsc::unbounded_channel();
        let round = writers::start(admin, report.kills, &notes);
        drop(notes);
        tokio::time::sleep(moment(&mut random, LONGEST)).await;
        site.kill()?;
        report.kills += 1;
        // What the controller had sent may still be in the socket.
        tokio::time::sleep(Duration::from_millis(3)).await;
        round.abort();
        let notes = drain(&mut noted).await;
        while report.kills < options.kills && random.random_ratio(1, STARTING) {
            site.begin()?;
            tokio::time::sleep(moment(&mut random, START)).await;
            site.kill()?;
            report.kills += 1;
            report.starting += 1;
        }
        let took;
        (admin, took) = site.start().await?;
        let kill = report.kills;
        ensure!(took < SERVING, "after kill {kill} the controller answered only after {took:?}");
        report.starts.push(took);
        let looked = ledger.look(&admin, &notes, &mut report.tally).await;
        looked.with_context(|| format!("after kill {kill}\n{}", site.log()))?;
    }
    report.took = begun.elapsed();
    Ok(report)
}

/// Within so many milliseconds.
fn moment(random: &mut StdRng, most: u32) -> Duration {
    Duration::from_micros(u64::from(random.random_range(0..most * 1000)))
}

async fn drain(noted: &mut mpsc::UnboundedReceiver<Note>) -> Vec<Note> {
    let mut notes = Vec::new();
    while let Some(note) = noted.recv().await {
        notes.push(note);
    }
    notes
}

impl Report {
    /// The time from the start of the program to its first answer: half, 95 of 100, and all take no longer.
    pub fn starts(&self) -> [Duration; 3] {
        let mut sorted = self.starts.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        [last / 2, (sorted.len() * 95).div_ceil(100).saturating_sub(1), last]
            .map(|rank| sorted.get(rank).copied().unwrap_or_default())
    }

    /// Changes that were acknowledged, all of which are there.
    pub fn acknowledged(&self) -> usize {
        self.tally.acknowledged
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tally { acknowledged, unanswered, joins, revocations } = self.tally;
        let [half, most, all] = self.starts().map(|start| start.as_millis());
        writeln!(
            f,
            "{} kills, {} of them during a start, in {} s; seed {}",
            self.kills,
            self.starting,
            self.took.as_secs(),
            self.seed
        )?;
        writeln!(f, "changes    {acknowledged} acknowledged, 0 of them lost, 0 torn")?;
        writeln!(f, "           {unanswered} not answered and there, whole")?;
        writeln!(f, "           among them {joins} tokens used up, {revocations} revocations")?;
        write!(f, "serving    {half} ms p50, {most} ms p95, {all} ms at most after a start")
    }
}
