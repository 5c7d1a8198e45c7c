//! What is told of the actors: what the census knows at the moment of the question.

use candlewick_protocol::ActorRole;
use prometheus::{CounterVec, Gauge, GaugeVec};

use super::maker::Maker;
use crate::census::{Census, Person};

/// The series of the actors, by kind.
pub struct PeopleSeries {
    num_actors: Gauge,
    mailbox_depth: GaugeVec,
    crashes: CounterVec,
}

impl PeopleSeries {
    pub fn new(make: &Maker<'_>) -> Self {
        let roles = || ActorRole::ALL.map(ActorRole::as_str);
        Self {
            num_actors: make.gauge("candlewick_actors", "Actors and stepper threads that live."),
            mailbox_depth: make.gauges(
                "candlewick_mailbox_depth",
                "Messages that wait for actors of one kind, together.",
                "role",
                roles(),
            ),
            crashes: make.counters(
                "candlewick_actor_crashes_total",
                "Actors of one kind that crashed.",
                "role",
                roles(),
            ),
        }
    }

    /// Takes over what the census knows.
    pub fn take(&self, census: &Census) {
        self.num_actors.set(census.count() as f64);
        let (people, crashes) = (census.people_alive(), census.crashes_by_role());
        for role in ActorRole::ALL {
            let depths = people.iter().filter(|person| person.role == role).filter_map(Person::mailbox_depth);
            self.mailbox_depth.with_label_values(&[role.as_str()]).set(depths.sum::<u64>() as f64);
            let told = self.crashes.with_label_values(&[role.as_str()]);
            let crashes = crashes.get(&role).copied().unwrap_or_default() as f64;
            told.inc_by((crashes - told.get()).max(0.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn crashes_and_mailboxes_are_told_by_kind() {
        let (metrics, census) = (Metrics::new(), Census::new());
        census.crashed(ActorRole::Batcher, "org/m", "a test says so");
        census.crashed(ActorRole::Batcher, "org/n", "a test says so");
        for _ in 0..2 {
            let text = metrics.text(&census, &[]);
            assert!(text.contains("candlewick_actor_crashes_total{role=\"batcher\"} 2\n"), "{text}");
            assert!(text.contains("candlewick_mailbox_depth{role=\"request\"} 0\n"), "{text}");
        }
    }
}
