//! The executor's only source of chance: a seeded generator whose stream never changes.
//!
//! A checkpoint stores no generator state. Everything random is a function of the job's seed and of a place (the
//! weights, the split, an epoch), so that a resumed run draws exactly what the uninterrupted one would have drawn,
//! also after an update of any library.

/// SplitMix64.
pub(crate) struct Random(u64);

/// What a stream of random numbers is for. Streams of one seed are independent.
#[derive(Clone, Copy)]
pub(crate) enum Stream {
    /// The weights before the first step.
    Weights,
    /// Which examples are held out.
    Split,
    /// The order of the examples in one epoch.
    Epoch(u64),
    /// The characters of an answer.
    Sample,
}

impl Random {
    /// The stream of `seed` for `stream`.
    pub(crate) fn new(seed: u64, stream: Stream) -> Self {
        let tag = match stream {
            Stream::Weights => 1,
            Stream::Split => 2,
            Stream::Sample => 3,
            Stream::Epoch(epoch) => 16 + epoch,
        };
        let mut random = Self(seed ^ Self(tag).next());
        random.next();
        random
    }

    /// 64 uniform bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..1`.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Normal with mean 0 and deviation 1.
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// The numbers `0..count` in random order.
    pub(crate) fn order(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            let other = (self.unit() * (last + 1) as f64) as usize;
            order.swap(last, other);
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_the_published_one_and_never_changes() {
        // SplitMix64 from state 0, as its authors print it.
        let mut random = Random(0);
        assert_eq!(random.next(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(random.next(), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn an_order_holds_every_number_once_and_depends_on_seed_and_epoch() {
        let order = |seed, epoch| Random::new(seed, Stream::Epoch(epoch)).order(100);
        let mut sorted = order(7, 0);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
        assert_eq!(order(7, 0), order(7, 0));
        assert_ne!(order(7, 0), order(7, 1));
        assert_ne!(order(7, 0), order(8, 0));
    }

    #[test]
    fn normal_numbers_have_mean_zero_and_deviation_one() {
        let mut random = Random::new(3, Stream::Weights);
        let values: Vec<f64> = (0..20_000).map(|_| random.normal()).collect();
        let mean = values.iter().sum::<f64>() / 20_000.0;
        let square = values.iter().map(|x| x * x).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.03, "{mean}");
        assert!((square - 1.0).abs() < 0.05, "{square}");
    }
}
