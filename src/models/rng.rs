//! The random numbers of sampling: a function of who draws and of how many tokens came before, with no state.
//!
//! Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011). The key is
//! the request's seed and the counter is the choice with the number of its tokens so far, so that a sequence that is
//! resumed after a crash or a preemption draws the same token again, whatever it is batched with.

/// Uniform in [0, 1), with 53 bits.
pub(crate) fn uniform(seed: u64, choice: u32, num_generated: u32) -> f64 {
    let [first, second, ..] = philox([num_generated, choice, 0, 0], [seed as u32, (seed >> 32) as u32]);
    let bits = u64::from(first) << 32 | u64::from(second);
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// Ten rounds of Philox4x32.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        }
        let first = u64::from(counter[0]) * 0xD251_1F53;
        let second = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_known_answers_of_its_authors() {
        // Random123 1.14, tests/kat_vectors.
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn draws_fill_the_interval_evenly() {
        const DRAWS: u32 = 100_000;
        let mut counts = [0u32; 10];
        for n in 0..DRAWS {
            counts[(uniform(7, 0, n) * 10.0) as usize] += 1;
        }
        let expected = f64::from(DRAWS) / 10.0;
        let chi_squared: f64 = counts.iter().map(|&c| (f64::from(c) - expected).powi(2) / expected).sum();
        // The 99.9th percentile with nine degrees of freedom.
        assert!(chi_squared < 27.88, "{chi_squared}: {counts:?}");
    }

    #[test]
    fn every_input_matters() {
        let draw = uniform(1, 2, 3);
        assert_eq!(draw, uniform(1, 2, 3));
        assert_ne!(draw, uniform(2, 2, 3));
        assert_ne!(draw, uniform(1 << 40 | 1, 2, 3));
        assert_ne!(draw, uniform(1, 3, 3));
        assert_ne!(draw, uniform(1, 2, 4));
    }
}
