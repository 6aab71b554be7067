//! Chance, for moments and orders, which can be had again.

/// xorshift64: enough to choose moments.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Another one each time, or that of `CAPSTAN_SEED`. It says which, so that it can be had again.
    pub fn new() -> Self {
        let seed = match std::env::var("CAPSTAN_SEED") {
            Ok(text) => text.parse().expect("CAPSTAN_SEED is a number"),
            Err(_) => {
                let now = std::time::SystemTime::now();
                let now = now.duration_since(std::time::UNIX_EPOCH).expect("it is after 1970");
                u64::from(now.subsec_nanos())
            }
        };
        eprintln!("CAPSTAN_SEED={seed}");
        Self(seed | 1)
    }

    /// The one of a seed, for what is one of several at once.
    pub fn of(seed: u64) -> Self {
        // splitmix64's last step: seeds that follow each other give nothing alike.
        let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((mixed ^ (mixed >> 31)) | 1)
    }

    /// A number below `limit`, or 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }

    /// Puts things in any order.
    pub fn shuffle<T>(&mut self, things: &mut [T]) {
        for end in (1..things.len()).rev() {
            let other = self.below(end as u64 + 1);
            things.swap(end, usize::try_from(other).expect("it is below a usize"));
        }
    }
}

impl Default for Random {
    fn default() -> Self {
        Self::new()
    }
}
