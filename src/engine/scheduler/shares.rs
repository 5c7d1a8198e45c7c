//! Whose turn it is among those who share a model: who has had least of it, for their weight.
//!
//! Everybody has a count of the tokens that were computed for them, divided by their weight; who waits with the lowest count is
//! given the next place. Counting tokens as they are computed, rather than requests as they come, is the virtual token counter
//! of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024): how long an answer becomes is known to nobody
//! before. Who comes begins at the count of whoever was last given a place, the virtual time of Goyal, Vin and Cheng, "Start-time
//! Fair Queuing" (SIGCOMM 1996): time in which somebody asked for nothing is neither saved nor owed.
//!
//! So one who comes into the queue of another, however long, is next; and over any time in which both wait, both are
//! served by their weights, give or take what one place holds.

use std::collections::HashMap;

use candlewick_protocol::Share;

/// A holder, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holder(usize);

/// Counts of all who have sequences here.
#[derive(Debug, Default)]
pub(super) struct Shares {
    accounts: Vec<Account>,
    numbers: HashMap<String, usize>,
    /// The count of whoever was last given a place.
    virtual_time: f64,
    /// Sequences that are here.
    num_here: usize,
}

#[derive(Debug)]
struct Account {
    weight: f64,
    /// Tokens that were computed, by weight.
    served: f64,
}

impl Shares {
    /// A sequence has come.
    pub fn enter(&mut self, share: &Share) -> Holder {
        if self.num_here == 0 {
            // Nobody waits for anybody: all begin anew, and who has left is forgotten.
            *self = Self::default();
        }
        self.num_here += 1;
        let number = match self.numbers.get(&share.holder) {
            Some(&number) => number,
            None => {
                self.accounts.push(Account { weight: 1.0, served: 0.0 });
                self.numbers.insert(share.holder.clone(), self.accounts.len() - 1);
                self.accounts.len() - 1
            }
        };
        let account = &mut self.accounts[number];
        account.weight = f64::from(share.weight.max(1));
        account.served = account.served.max(self.virtual_time);
        Holder(number)
    }

    /// A sequence has gone.
    pub fn leave(&mut self) {
        self.num_here -= 1;
    }

    /// How many there ever were since somebody was alone.
    pub fn num_holders(&self) -> usize {
        self.accounts.len()
    }

    /// A sequence of this holder is given a place.
    pub fn give_place(&mut self, holder: Holder) {
        self.virtual_time = self.virtual_time.max(self.accounts[holder.0].served);
    }

    /// Tokens are computed.
    pub fn charge(&mut self, holder: Holder, num_tokens: usize) {
        let account = &mut self.accounts[holder.0];
        account.served += num_tokens as f64 / account.weight;
    }

    /// They are not, after all.
    pub fn refund(&mut self, holder: Holder, num_tokens: usize) {
        let account = &mut self.accounts[holder.0];
        account.served -= num_tokens as f64 / account.weight;
    }

    /// What a holder has had, by weight.
    pub fn served(&self, holder: Holder) -> f64 {
        self.accounts[holder.0].served
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(holder: &str, weight: u32) -> Share {
        Share { holder: holder.into(), weight }
    }

    #[test]
    fn tokens_count_by_weight() {
        let mut shares = Shares::default();
        let (light, heavy) = (shares.enter(&share("light", 1)), shares.enter(&share("heavy", 4)));
        shares.charge(light, 10);
        shares.charge(heavy, 40);
        assert_eq!(shares.served(light), shares.served(heavy));
        shares.refund(heavy, 20);
        assert!(shares.served(heavy) < shares.served(light));
    }

    #[test]
    fn who_was_away_has_saved_nothing_and_owes_what_it_owed() {
        let mut shares = Shares::default();
        let (early, other) = (shares.enter(&share("early", 1)), shares.enter(&share("other", 1)));
        shares.charge(early, 50);
        shares.charge(other, 20);
        shares.leave();
        shares.give_place(other);
        let late = shares.enter(&share("late", 1));
        assert_eq!(shares.served(late), 20.0, "not from zero");
        let again = shares.enter(&share("early", 1));
        assert_eq!((again, shares.served(again)), (early, 50.0));
    }

    #[test]
    fn with_the_last_to_leave_all_is_forgotten() {
        let mut shares = Shares::default();
        let busy = shares.enter(&share("busy", 1));
        shares.charge(busy, 1000);
        shares.give_place(busy);
        shares.leave();
        let next = shares.enter(&share("next", 1));
        assert_eq!((shares.served(next), shares.num_holders()), (0.0, 1));
    }
}
