//! Kills a controller at random moments under writes and starts it again: no acknowledged change may be lost, and no
//! change may be torn.
//!
//! The controller is the real program, on the loopback. Several writers change routes, edges and namespaces, create and
//! use tokens, and revoke certificates, in parallel, until the kill. After each start three things are compared: the
//! replies that the writers got, the audit log, and what the controller lists. A change and its audit record are one
//! transaction, so
//!
//! - every acknowledged change has a record, and every record belongs to a request;
//! - the changes in the records, each starting at the result of the one before, lead from the previous lists to the
//!   current ones, revisions of namespaces included. A partly applied change breaks that chain.

mod controller;
mod ledger;
mod writers;

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::mpsc;

use controller::LoopbackController;
use ledger::Ledger;
use writers::{Counts, Note};

/// The most time from the start of a controller to its first answer.
pub const START_BOUND: Duration = Duration::from_secs(1);

/// Milliseconds that writers may write before a kill.
const MAX_WRITING: u32 = 120;
/// One in this many restarted controllers is killed while it starts.
const KILL_DURING_START: u32 = 6;
/// Milliseconds that such a controller may run.
const MAX_STARTING: u32 = 40;

#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Number of kills
    #[arg(long, default_value_t = 300)]
    pub kills: u32,
    /// Seed of the random moments; by default a new one for each run
    #[arg(long)]
    pub seed: Option<u64>,
    /// Flags for `init` and `run` of the controller, such as those of its store
    #[arg(last = true, value_name = "FLAGS")]
    pub flags: Vec<String>,
}

#[derive(Clone, Debug)]
pub struct Report {
    seed: u64,
    kills: u32,
    kills_during_start: u32,
    counts: Counts,
    /// Times from the start of the program to its first answer.
    starts: Vec<Duration>,
    took: Duration,
}

/// Kills and restarts a controller in a temporary directory.
///
/// # Errors
/// At the first change that is lost or torn, or start that takes longer than [`START_BOUND`]; the message has the seed.
pub fn run(options: &Options) -> Result<Report> {
    let seed = options.seed.unwrap_or_else(rand::random);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(kill_and_verify(options, seed)).with_context(|| {
        format!("repeat with: testbed crash --kills {} --seed {seed}", options.kills)
    })
}

async fn kill_and_verify(options: &Options, seed: u64) -> Result<Report> {
    let start = Instant::now();
    let mut random = StdRng::seed_from_u64(seed);
    let mut controller = LoopbackController::init(&options.flags)?;
    let mut report = Report {
        seed,
        kills: 0,
        kills_during_start: 0,
        counts: Counts::default(),
        starts: Vec::new(),
        took: Duration::ZERO,
    };
    let (mut admin, _) = controller.start().await?;
    writers::create_namespaces(&admin).await?;
    let mut ledger = Ledger::open(&admin).await?;
    while report.kills < options.kills {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let mut writers = writers::start(admin, report.kills, &sender);
        drop(sender);
        tokio::time::sleep(random_millis(&mut random, MAX_WRITING)).await;
        controller.kill()?;
        report.kills += 1;
        // The socket may still hold what the controller has sent.
        tokio::time::sleep(Duration::from_millis(3)).await;
        writers.abort_all();
        let notes = drain(&mut receiver).await;
        while report.kills < options.kills && random.random_ratio(1, KILL_DURING_START) {
            controller.spawn()?;
            tokio::time::sleep(random_millis(&mut random, MAX_STARTING)).await;
            controller.kill()?;
            report.kills += 1;
            report.kills_during_start += 1;
        }
        let took;
        (admin, took) = controller.start().await?;
        let kill = report.kills;
        ensure!(took < START_BOUND, "after kill {kill} the first answer came after {took:?}");
        report.starts.push(took);
        let verified = ledger.verify(&admin, &notes, &mut report.counts).await;
        verified.with_context(|| format!("after kill {kill}\n{}", controller.log()))?;
    }
    report.took = start.elapsed();
    Ok(report)
}

/// A time of up to `max` milliseconds.
fn random_millis(random: &mut StdRng, max: u32) -> Duration {
    Duration::from_micros(u64::from(random.random_range(0..max * 1000)))
}

async fn drain(receiver: &mut mpsc::UnboundedReceiver<Note>) -> Vec<Note> {
    let mut notes = Vec::new();
    while let Some(note) = receiver.recv().await {
        notes.push(note);
    }
    notes
}

impl Report {
    /// The median, 95th percentile and maximum of the times from the start of the program to its first answer.
    pub fn starts(&self) -> [Duration; 3] {
        let mut sorted = self.starts.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        [last / 2, (sorted.len() * 95).div_ceil(100).saturating_sub(1), last]
            .map(|rank| sorted.get(rank).copied().unwrap_or_default())
    }

    /// Number of changes that were acknowledged; none of them is lost.
    pub fn acknowledged(&self) -> usize {
        self.counts.acknowledged
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { acknowledged, unanswered, joins, revocations } = self.counts;
        let [median, p95, slowest] = self.starts().map(|start| start.as_millis());
        writeln!(
            f,
            "{} kills, {} of them during a start, in {} s; seed {}",
            self.kills,
            self.kills_during_start,
            self.took.as_secs(),
            self.seed
        )?;
        writeln!(f, "changes    {acknowledged} acknowledged: 0 lost, 0 torn")?;
        writeln!(f, "           {unanswered} made but not acknowledged: 0 torn")?;
        writeln!(f, "           including {joins} joins and {revocations} revocations")?;
        write!(
            f,
            "start      {median} ms p50, {p95} ms p95, {slowest} ms slowest, to the first answer"
        )
    }
}
