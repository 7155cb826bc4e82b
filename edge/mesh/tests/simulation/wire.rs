//! The wire between edges: loss, delay and changes of each datagram.

use std::{ops::AddAssign, time::Duration};

use cframe_mesh::EcnCodepoint;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::desired::Edges;

const MAX_DELAY: Duration = Duration::from_millis(60);
/// Largest UDP payload in bytes of an underlay with an MTU of 1500.
pub(crate) const FULL_MTU: usize = 1472;

/// Probabilities of faults, in thousandths.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FaultRates {
    pub(crate) loss: u32,
    pub(crate) duplication: u32,
    pub(crate) corruption: u32,
    /// CE marks by a router on the path.
    pub(crate) marks: u32,
    /// Delays by up to [`MAX_DELAY`].
    pub(crate) late: u32,
}

pub(crate) struct Wire {
    pub(crate) rates: FaultRates,
    /// Whether the datagrams between two edges arrive in order.
    pub(crate) keeps_order: bool,
    /// By edge: the largest UDP payload in bytes that its access line carries.
    pub(crate) mtu: Vec<usize>,
    pub(crate) counters: WireCounters,
    /// By [`pair_number`].
    latency: Vec<Duration>,
    cuts: Vec<Cut>,
    rng: StdRng,
}

/// Numbers of datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WireCounters {
    pub(crate) carried: u64,
    pub(crate) lost: u64,
    pub(crate) cut: u64,
    pub(crate) too_large: u64,
    pub(crate) late: u64,
    pub(crate) duplicated: u64,
    pub(crate) corrupted: u64,
    pub(crate) marked: u64,
}

impl AddAssign for WireCounters {
    fn add_assign(&mut self, other: Self) {
        self.carried += other.carried;
        self.lost += other.lost;
        self.cut += other.cut;
        self.too_large += other.too_large;
        self.late += other.late;
        self.duplicated += other.duplicated;
        self.corrupted += other.corrupted;
        self.marked += other.marked;
    }
}

/// All datagrams from edges in `from` to edges in `to` are lost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    pub(crate) number: u32,
    pub(crate) from: Edges,
    pub(crate) to: Edges,
}

/// Datagrams that arrive together: each has `stride` bytes, the last may be shorter.
pub(crate) struct Arrival {
    pub(crate) after: Duration,
    pub(crate) bytes: Vec<u8>,
    pub(crate) stride: usize,
    pub(crate) ecn: Option<EcnCodepoint>,
}

impl Wire {
    pub(crate) fn new(edges: usize, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let far = [5_000, 40_000, 150_000][rng.random_range(0..3)];
        let pairs = edges * (edges + 1) / 2;
        let latency =
            (0..pairs).map(|_| Duration::from_micros(rng.random_range(100..far))).collect();
        Self {
            rates: FaultRates::default(),
            keeps_order: false,
            mtu: vec![FULL_MTU; edges],
            counters: WireCounters::default(),
            latency,
            cuts: Vec::new(),
            rng,
        }
    }

    pub(crate) fn add_cut(&mut self, cut: Cut) {
        self.cuts.push(cut);
    }

    pub(crate) fn repair_cut(&mut self, number: u32) {
        self.cuts.retain(|cut| cut.number != number);
    }

    pub(crate) fn repair_all(&mut self) {
        self.cuts.clear();
        self.rates = FaultRates::default();
        self.mtu.fill(FULL_MTU);
    }

    /// Sends `batch`, datagrams of `size` bytes each; returns those that arrive.
    pub(crate) fn carry(
        &mut self,
        (from, to): (usize, usize),
        batch: &[u8],
        size: usize,
        ect: bool,
    ) -> Vec<Arrival> {
        let mut arrivals: Vec<Arrival> = Vec::new();
        for datagram in batch.chunks(size) {
            let Some(mut one) = self.carry_one(from, to, datagram, ect) else { continue };
            if self.chance(self.rates.duplication) {
                self.counters.duplicated += 1;
                let after = one.after + MAX_DELAY.mul_f64(self.rng.random());
                arrivals.insert(0, Arrival { after, bytes: one.bytes.clone(), ..one });
            }
            match arrivals.last_mut() {
                Some(last) if last.can_join(&one) => last.bytes.append(&mut one.bytes),
                _ => arrivals.push(one),
            }
        }
        arrivals
    }

    fn carry_one(&mut self, from: usize, to: usize, datagram: &[u8], ect: bool) -> Option<Arrival> {
        self.counters.carried += 1;
        if self.cuts.iter().any(|cut| cut.from.contains(from) && cut.to.contains(to)) {
            self.counters.cut += 1;
            return None;
        }
        if datagram.len() > self.mtu[from].min(self.mtu[to]) {
            self.counters.too_large += 1;
            return None;
        }
        if self.chance(self.rates.loss) {
            self.counters.lost += 1;
            return None;
        }
        let mut bytes = datagram.to_vec();
        if self.chance(self.rates.corruption) {
            self.counters.corrupted += 1;
            let at = self.rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << self.rng.random_range(0..8);
        }
        let mut ecn = ect.then_some(EcnCodepoint::Ect0);
        if ect && self.chance(self.rates.marks) {
            self.counters.marked += 1;
            ecn = Some(EcnCodepoint::Ce);
        }
        let mut after = self.latency[pair_number(from, to)];
        if self.chance(self.rates.late) {
            self.counters.late += 1;
            after += MAX_DELAY.mul_f64(self.rng.random());
        }
        Some(Arrival { after, stride: bytes.len(), bytes, ecn })
    }

    fn chance(&mut self, thousandths: u32) -> bool {
        thousandths > 0 && self.rng.random_ratio(thousandths, 1000)
    }
}

/// A number for two edges, in any order.
fn pair_number(a: usize, b: usize) -> usize {
    let (low, high) = (a.min(b), a.max(b));
    high * (high + 1) / 2 + low
}

impl Arrival {
    /// Whether the kernel would return `next` together with this one (`UDP_GRO`).
    fn can_join(&self, next: &Self) -> bool {
        self.after == next.after
            && self.ecn == next.ecn
            && self.bytes.len().is_multiple_of(self.stride)
            && next.bytes.len() <= self.stride
    }
}
