//! What came after the last few tokens when they came before: prompt lookup (Saxena, "Prompt Lookup Decoding", 2023).
//!
//! Places are found as deflate finds them (RFC 1951, section 4): the latest place for each run of `size_min` tokens, by a
//! hash, and from each place the one before it. So a lookup takes the same time whatever the length of the text.

/// Places that are looked at, the latest first.
const NUM_PLACES_MAX: usize = 16;
/// No place.
const NONE: u32 = u32::MAX;

/// A text and where its runs of tokens have come before.
#[derive(Debug)]
pub struct NgramIndex {
    size_min: usize,
    size_max: usize,
    tokens: Vec<u32>,
    /// By hash: the latest place that was entered. A power of two of them.
    heads: Vec<u32>,
    /// For each place: the one before it of the same hash.
    previous: Vec<u32>,
}

/// A place where the last tokens came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    /// What came next then.
    pub place: usize,
    /// How many of the last tokens are the same, at most `size_max`.
    pub num_same: usize,
}

impl NgramIndex {
    /// An empty text. Runs shorter than `size_min` are not looked for, and of runs of `size_max` the latest will do.
    pub fn new(size_min: usize, size_max: usize) -> Self {
        let size_min = size_min.max(1);
        Self {
            size_min,
            size_max: size_max.max(size_min),
            tokens: Vec::new(),
            heads: Vec::new(),
            previous: Vec::new(),
        }
    }

    /// Tokens of the text.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The text goes on.
    pub fn extend(&mut self, tokens: impl IntoIterator<Item = u32>) {
        let first_new = self.tokens.len();
        self.tokens.extend(tokens);
        if self.tokens.len() > self.heads.len() {
            self.heads = vec![NONE; (2 * self.tokens.len()).next_power_of_two()];
            self.previous.clear();
        }
        debug_assert!(self.previous.is_empty() || self.previous.len() == first_new);
        // A place is entered once it is known what comes there.
        for place in self.previous.len()..self.tokens.len() {
            let before = self.slot(place).map(|slot| std::mem::replace(&mut self.heads[slot], place as u32));
            self.previous.push(before.unwrap_or(NONE));
        }
    }

    /// Where the longest end of the text came before; of equals, the latest.
    pub fn find(&self) -> Option<Match> {
        let end = self.tokens.len();
        let mut place = self.heads[self.slot(end)?];
        let mut best: Option<Match> = None;
        for _ in 0..NUM_PLACES_MAX {
            if place == NONE {
                break;
            }
            let num_same = self.num_same(place as usize);
            if num_same >= self.size_min && best.is_none_or(|best| num_same > best.num_same) {
                best = Some(Match { place: place as usize, num_same });
                if num_same == self.size_max {
                    break;
                }
            }
            place = self.previous[place as usize];
        }
        best
    }

    /// What came at a place and after it. Where the text ends, it is taken to go on as it did from there: what has begun
    /// to repeat itself goes on repeating.
    pub fn tokens_from(&self, place: usize, num: usize) -> Vec<u32> {
        let period = self.tokens.len() - place;
        (0..num).map(|offset| self.tokens[place + offset % period]).collect()
    }

    fn num_same(&self, place: usize) -> usize {
        let (then, now) = (&self.tokens[..place], &self.tokens);
        then.iter()
            .rev()
            .zip(now.iter().rev())
            .take(self.size_max)
            .take_while(|(then, now)| then == now)
            .count()
    }

    /// Where the hash of the run before a place leads; `None` if there is no whole run.
    fn slot(&self, place: usize) -> Option<usize> {
        let run = &self.tokens[place.checked_sub(self.size_min)?..place];
        let hash = run.iter().fold(0u64, |hash, &token| {
            (hash.rotate_left(23) ^ u64::from(token)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        });
        Some((hash >> 32) as usize & (self.heads.len() - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &[u32], expected: Option<(&[u32], usize)>) {
        // In one go and token by token.
        let mut whole = NgramIndex::new(2, 4);
        whole.extend(text.iter().copied());
        let mut grown = NgramIndex::new(2, 4);
        text.iter().for_each(|&token| grown.extend([token]));
        for index in [whole, grown] {
            assert_eq!(index.len(), text.len());
            let found = index.find().map(|found| (index.tokens_from(found.place, 3), found.num_same));
            assert_eq!(found, expected.map(|(tokens, num_same)| (tokens.to_vec(), num_same)), "{text:?}");
        }
    }

    #[test]
    fn the_longest_end_that_came_before_is_gone_on_with() {
        check(&[1, 2, 3, 4, 5, 9, 9, 2, 3], Some((&[4, 5, 9], 2)));
        check(&[7, 2, 3, 4, 8, 2, 3, 5, 6, 7, 2, 3], Some((&[4, 8, 2], 3)));
        check(&[7, 2, 3, 4, 8, 2, 3, 5, 6, 1, 2, 3], Some((&[5, 6, 1], 2)));
    }

    #[test]
    fn what_never_came_before_has_no_guess() {
        check(&[1, 2, 3, 4], None);
        check(&[3, 1, 2, 3], None);
        check(&[1], None);
    }

    #[test]
    fn what_repeats_itself_goes_on_repeating() {
        check(&[5, 5, 5], Some((&[5, 5, 5], 2)));
        check(&[9, 1, 2, 1, 2], Some((&[1, 2, 1], 2)));
    }

    #[test]
    fn a_long_text_is_looked_up_as_a_search_from_its_end_would() {
        let mut seed = 1u32;
        let mut random = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed >> 16
        };
        let mut index = NgramIndex::new(2, 5);
        let mut text = Vec::new();
        for _ in 0..2000 {
            let token = random() % 40;
            text.push(token);
            index.extend([token]);
            let plain = (1..text.len())
                .rev()
                .filter(|&place| place >= 2 && text[place - 2..place] == text[text.len().saturating_sub(2)..])
                .take(NUM_PLACES_MAX)
                .map(|place| Match {
                    place,
                    num_same: (1..=5.min(place))
                        .take_while(|n| text[place - n] == text[text.len() - n])
                        .count(),
                })
                .fold(None, |best: Option<Match>, found| match best {
                    Some(best) if best.num_same >= found.num_same => Some(best),
                    _ => Some(found),
                });
            // Another run of the same hash may use up one of the places that are looked at.
            let found = index.find();
            assert_eq!(found.is_some(), plain.is_some());
            if let (Some(found), Some(plain)) = (found, plain) {
                assert!(found.num_same <= plain.num_same);
                assert!(text[..found.place].ends_with(&text[text.len() - found.num_same..]));
            }
        }
    }
}
