//! The engine without weights: the scheduler rule by rule and under random traffic, sampling parameters, the fake model.

mod drafting;
mod fake;
mod sampling;
mod scheduler_pace;
mod scheduler_prefixes;
mod scheduler_rules;
mod scheduler_shares;
mod scheduler_speculation;
mod scheduler_traffic;
mod support;
