//! The wire between edges: what becomes of each datagram.

use std::{ops::AddAssign, time::Duration};

use cframe_mesh::EcnCodepoint;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::desired::Edges;

/// Largest UDP payload of an underlay of 1500 bytes.
pub(crate) const FULL_MTU: usize = 1472;

/// How bad the wire is. A probability is of a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    pub(crate) loss: u32,
    pub(crate) duplication: u32,
    pub(crate) corruption: u32,
    /// Marked CE by a router on the way.
    pub(crate) marks: u32,
    /// Datagrams that are late, by up to [`Wire::LATE`].
    pub(crate) late: u32,
}

pub(crate) struct Wire {
    pub(crate) weather: Weather,
    /// By edge: the largest UDP payload that its own line carries.
    pub(crate) mtu: Vec<usize>,
    pub(crate) seen: Seen,
    /// By [`pair`].
    latency: Vec<Duration>,
    cuts: Vec<Cut>,
    rng: StdRng,
}

/// What happened to datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) carried: u64,
    pub(crate) lost: u64,
    pub(crate) cut: u64,
    pub(crate) too_large: u64,
    pub(crate) late: u64,
    pub(crate) duplicated: u64,
    pub(crate) corrupted: u64,
    pub(crate) marked: u64,
}

impl AddAssign for Seen {
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

/// Nothing gets from `from` to `to`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    pub(crate) number: u32,
    pub(crate) from: Edges,
    pub(crate) to: Edges,
}

/// Datagrams that arrive together: each of `stride` bytes, the last maybe shorter.
pub(crate) struct Arrival {
    pub(crate) after: Duration,
    pub(crate) bytes: Vec<u8>,
    pub(crate) stride: usize,
    pub(crate) ecn: Option<EcnCodepoint>,
}

impl Wire {
    const LATE: Duration = Duration::from_millis(60);

    pub(crate) fn new(edges: usize, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let far = [5_000, 40_000, 150_000][rng.random_range(0..3)];
        let pairs = edges * (edges + 1) / 2;
        let latency =
            (0..pairs).map(|_| Duration::from_micros(rng.random_range(100..far))).collect();
        Self {
            weather: Weather::default(),
            mtu: vec![FULL_MTU; edges],
            seen: Seen::default(),
            latency,
            cuts: Vec::new(),
            rng,
        }
    }

    pub(crate) fn cut(&mut self, cut: Cut) {
        self.cuts.push(cut);
    }

    pub(crate) fn heal(&mut self, number: u32) {
        self.cuts.retain(|cut| cut.number != number);
    }

    pub(crate) fn heal_all(&mut self) {
        self.cuts.clear();
        self.weather = Weather::default();
        self.mtu.fill(FULL_MTU);
    }

    /// What arrives of `batch`, datagrams of `size` each, and when.
    pub(crate) fn carry(
        &mut self,
        (from, to): (usize, usize),
        batch: &[u8],
        size: usize,
        ect: bool,
    ) -> Vec<Arrival> {
        let mut arrivals: Vec<Arrival> = Vec::new();
        for datagram in batch.chunks(size) {
            let Some(mut one) = self.survive(from, to, datagram, ect) else { continue };
            if self.chance(self.weather.duplication) {
                self.seen.duplicated += 1;
                let after = one.after + Self::LATE.mul_f64(self.rng.random());
                arrivals.insert(0, Arrival { after, bytes: one.bytes.clone(), ..one });
            }
            match arrivals.last_mut() {
                Some(last) if last.joins(&one) => last.bytes.append(&mut one.bytes),
                _ => arrivals.push(one),
            }
        }
        arrivals
    }

    fn survive(&mut self, from: usize, to: usize, datagram: &[u8], ect: bool) -> Option<Arrival> {
        self.seen.carried += 1;
        if self.cuts.iter().any(|cut| cut.from.has(from) && cut.to.has(to)) {
            self.seen.cut += 1;
            return None;
        }
        if datagram.len() > self.mtu[from].min(self.mtu[to]) {
            self.seen.too_large += 1;
            return None;
        }
        if self.chance(self.weather.loss) {
            self.seen.lost += 1;
            return None;
        }
        let mut bytes = datagram.to_vec();
        if self.chance(self.weather.corruption) {
            self.seen.corrupted += 1;
            let at = self.rng.random_range(0..bytes.len());
            bytes[at] ^= 1 << self.rng.random_range(0..8);
        }
        let mut ecn = ect.then_some(EcnCodepoint::Ect0);
        if ect && self.chance(self.weather.marks) {
            self.seen.marked += 1;
            ecn = Some(EcnCodepoint::Ce);
        }
        let mut after = self.latency[pair(from, to)];
        if self.chance(self.weather.late) {
            self.seen.late += 1;
            after += Self::LATE.mul_f64(self.rng.random());
        }
        Some(Arrival { after, stride: bytes.len(), bytes, ecn })
    }

    fn chance(&mut self, of_a_thousand: u32) -> bool {
        of_a_thousand > 0 && self.rng.random_ratio(of_a_thousand, 1000)
    }
}

/// A number for two edges, in any order.
fn pair(a: usize, b: usize) -> usize {
    let (low, high) = (a.min(b), a.max(b));
    high * (high + 1) / 2 + low
}

impl Arrival {
    /// Whether the kernel would hand over `next` in one piece with this (`UDP_GRO`).
    fn joins(&self, next: &Self) -> bool {
        self.after == next.after
            && self.ecn == next.ecn
            && self.bytes.len().is_multiple_of(self.stride)
            && next.bytes.len() <= self.stride
    }
}
