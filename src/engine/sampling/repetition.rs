//! Whether an output goes round in circles: its end is one pattern of tokens, over and over.

use candlewick_protocol::RepetitionDetection;

/// Whether the output ends with a pattern as often in a row as is too often. The shortest pattern counts, so this is asked
/// after each token and answered in time that only the pattern sizes bound.
pub(crate) fn goes_in_circles(output: &[u32], detection: RepetitionDetection) -> bool {
    let RepetitionDetection { max_pattern_size, min_pattern_size, min_count } = detection;
    (min_pattern_size.max(1) as usize..=max_pattern_size as usize)
        .take_while(|size| size.saturating_mul(min_count as usize) <= output.len())
        .any(|size| {
            // Each token of the repeated end equals the one a pattern later.
            let end = &output[output.len() - size * min_count as usize..];
            end[..end.len() - size] == end[size..]
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(output: &[u32], (min, max, count): (u32, u32, u32), expected: bool) {
        let detection =
            RepetitionDetection { max_pattern_size: max, min_pattern_size: min, min_count: count };
        assert_eq!(goes_in_circles(output, detection), expected, "{output:?}");
    }

    #[test]
    fn a_pattern_counts_if_it_comes_often_enough_at_the_end() {
        check(&[9, 1, 2, 1, 2, 1, 2], (1, 4, 3), true);
        check(&[9, 2, 1, 2, 1, 2], (1, 4, 3), false);
        check(&[1, 2, 1, 2, 1, 2, 9], (1, 4, 3), false);
        check(&[7, 7], (1, 1, 2), true);
        check(&[], (1, 4, 2), false);
    }

    #[test]
    fn patterns_outside_the_sizes_do_not_count() {
        check(&[1, 1, 1, 1], (2, 2, 3), false);
        check(&[1, 1, 1, 1, 1, 1], (2, 2, 3), true);
        check(&[1, 2, 3, 1, 2, 3], (1, 2, 2), false);
        check(&[1, 2, 3, 1, 2, 3], (1, 3, 2), true);
        check(&[1, 2], (1, u32::MAX, u32::MAX), false);
    }
}
