//! Random numbers from counters: Philox 4x32 with ten rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2,
//! 3", 2011).
//!
//! A number is a function of (seed, stream, position). There is no state to share, to lock or to save: any thread can
//! draw the numbers of any sample, in any order, and a resumed run draws the same.

const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
const KEY_STEPS: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];

/// One block of the cipher: four random words for a counter and a key.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let [a, b] = [0, 1].map(|i| u64::from(MULTIPLIERS[i]) * u64::from(counter[2 * i]));
        counter = [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32];
        key = [0, 1].map(|i| key[i].wrapping_add(KEY_STEPS[i]));
    }
    counter
}

/// A seed of its own for `index`, from one for all: the output of splitmix64 (Steele, Lea & Flood 2014) at that place.
pub(crate) fn split(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The numbers of one stream, one after the other.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    counter: [u32; 4],
    block: [u32; 4],
    used: usize,
}

impl Stream {
    /// The numbers of `purpose` for sample `index`; different arguments give unrelated numbers.
    pub fn new(seed: u64, index: u64, purpose: u32) -> Self {
        let counter = [0, purpose, index as u32, (index >> 32) as u32];
        Self { key: [seed as u32, (seed >> 32) as u32], counter, block: [0; 4], used: 4 }
    }

    /// 32 random bits.
    pub fn bits(&mut self) -> u32 {
        if self.used == 4 {
            self.block = philox(self.counter, self.key);
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }

    /// Uniform in 0..1, 1 excluded.
    pub fn uniform(&mut self) -> f32 {
        (self.bits() >> 8) as f32 / (1u32 << 24) as f32
    }

    /// Uniform in `low..high`.
    pub fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.uniform()
    }

    /// Uniform in `0..count`; 0 if there is nothing to choose from.
    pub fn below(&mut self, count: usize) -> usize {
        // The high half of a 96-bit product: biased by less than count / 2^64.
        let bits = u64::from(self.bits()) << 32 | u64::from(self.bits());
        ((u128::from(bits) * count as u128) >> 64) as usize
    }

    /// True with this probability.
    pub fn happens(&mut self, probability: f32) -> bool {
        self.uniform() < probability
    }

    /// Normal with mean 0 and variance 1 (Box and Muller).
    pub fn normal(&mut self) -> f32 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f32::consts::TAU * self.uniform()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // From the tests of the authors' library Random123.
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = [u32::MAX; 4];
        assert_eq!(philox(ones, [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        assert_eq!(philox(pi, [0xa409_3822, 0x299f_31d0]), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn streams_repeat_and_differ() {
        let draw = |seed, index, purpose| {
            let mut stream = Stream::new(seed, index, purpose);
            (0..9).map(|_| stream.bits()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1, 2, 3), draw(1, 2, 3));
        let others = [draw(2, 2, 3), draw(1, 3, 3), draw(1, 2, 4), draw(1 << 32, 2, 3), draw(1, 2 | 1 << 32, 3)];
        for (i, other) in others.iter().enumerate() {
            assert!(*other != draw(1, 2, 3) && others[..i].iter().all(|earlier| earlier != other));
        }
    }

    #[test]
    fn distributions() {
        let mut stream = Stream::new(7, 0, 0);
        let count = 40_000;
        let moments = |draw: &mut dyn FnMut() -> f32| {
            let values: Vec<f64> = (0..count).map(|_| f64::from(draw())).collect();
            let mean = values.iter().sum::<f64>() / f64::from(count);
            (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / f64::from(count))
        };
        // Ten standard errors: fails once in more than a lifetime if the distribution is right, and the seed is fixed.
        let near = |got: f64, want: f64| assert!((got - want).abs() < 0.05, "{got} for {want}");
        let (mean, variance) = moments(&mut || stream.uniform());
        near(mean, 0.5);
        near(variance, 1.0 / 12.0);
        let (mean, variance) = moments(&mut || stream.normal());
        near(mean, 0.0);
        near(variance, 1.0);
        let (mean, _) = moments(&mut || f32::from(u8::from(stream.happens(0.25))));
        near(mean, 0.25);
        let mut counts = [0; 7];
        (0..7000).for_each(|_| counts[stream.below(7)] += 1);
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
        assert_eq!(stream.below(0), 0);
        assert!((0..1000).map(|_| stream.between(-3.0, -2.0)).all(|v| (-3.0..-2.0).contains(&v)));
    }
}
