/// SplitMix64 (Steele, Lea and Flood, 2014). Our own, since a seed has to mean the same packets in
/// years, and `rand` promises that of no generator that is as simple.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

impl Random {
    /// One of the independent sequences of a seed.
    pub(super) fn new(seed: u64, sequence: u64) -> Self {
        Self(mix(seed ^ mix(sequence)))
    }

    /// Whether what happens in so many percent of all cases happens now. Draws once, whatever the
    /// percentage: so changing one condition leaves the others' sequences alone.
    pub(super) fn strikes(&mut self, percent: f64) -> bool {
        self.0 = self.0.wrapping_add(GAMMA);
        unit(mix(self.0)) * 100.0 < percent
    }

    /// The number at a place of the sequence, in 0..1.
    pub(super) fn at(&self, place: u64) -> f64 {
        unit(mix(self.0.wrapping_add(place.wrapping_mul(GAMMA))))
    }
}

/// The sequence that belongs to a name (FNV-1a).
pub(super) fn sequence(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn mix(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// The upper 53 bits, which an `f64` holds exactly.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}
