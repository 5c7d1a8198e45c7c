//! The actor tree from outside, with a fake model: what a client sees when things go well, and when they do not.

mod admission;
mod cancel;
mod crash;
mod deadline;
mod drafting;
mod encode;
mod hang;
mod held;
mod jobs;
mod load;
mod memory;
mod metrics;
mod recorded;
mod search;
mod shape;
mod shutdown;
mod sources;
mod speculation;
mod stream;
mod support;
mod unload;
