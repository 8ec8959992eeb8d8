//! Randomness with a seed: the same seed, the same load.

/// SplitMix64, after Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The numbers that belong to one of many, under a seed.
    pub(super) const fn of(seed: u64, one: u64) -> Self {
        let mut random = Self(seed);
        Self(random.next() ^ one.wrapping_mul(0xd1b5_4a32_d192_ed03))
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0, below 1.
    pub fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn chance(&mut self, share: f64) -> bool {
        self.fraction() < share
    }

    /// Between two events of a Poisson process.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.fraction()).ln()
    }

    /// With this mean and squared coefficient of variation.
    pub fn lognormal(&mut self, mean: f64, scv: f64) -> f64 {
        let variance = (1.0 + scv).ln();
        let normal =
            (-2.0 * (1.0 - self.fraction()).ln()).sqrt() * (std::f64::consts::TAU * self.fraction()).cos();
        mean * (variance.sqrt() * normal - variance / 2.0).exp()
    }
}
