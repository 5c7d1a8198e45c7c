//! Responses: the machine that makes a response and the events of its stream out of what happened.

mod head;
mod ids;
mod writer;

#[cfg(test)]
mod recorded;
#[cfg(test)]
mod tests;

pub use head::ResponseHead;
pub use ids::{ItemIds, owner_of};
pub use writer::ResponseWriter;
