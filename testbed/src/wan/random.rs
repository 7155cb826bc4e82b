/// SplitMix64 (Steele, Lea and Flood, 2014). A seed has to select the same packets in future
/// versions, and `rand` guarantees that for none of its simple generators.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

impl Random {
    /// One of the independent streams of a seed.
    pub(super) fn new(seed: u64, stream: u64) -> Self {
        Self(mix(seed ^ mix(stream)))
    }

    /// Returns true with this probability. Always advances the stream by one number.
    pub(super) fn draw(&mut self, percent: f64) -> bool {
        self.0 = self.0.wrapping_add(GAMMA);
        unit(mix(self.0)) * 100.0 < percent
    }

    /// The number in 0..1 at a position of the stream, which is not advanced.
    pub(super) fn at(&self, position: u64) -> f64 {
        unit(mix(self.0.wrapping_add(position.wrapping_mul(GAMMA))))
    }
}

/// The number of the stream with this name (FNV-1a).
pub(super) fn stream_number(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn mix(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// Maps the upper 53 bits, which an `f64` holds exactly, to 0..1.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit")]
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}
