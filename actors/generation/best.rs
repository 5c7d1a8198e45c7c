//! The best of several continuations, once all have ended.

use candlewick_protocol::Event;

use super::choice::Choice;

/// What the choices of the best mean log-probability said, the best as the first choice; of equals the earlier is better.
pub(super) fn best_choices(untold: Vec<Event>, choices: &[Choice], num_told: u32) -> Vec<Event> {
    let mut ranked: Vec<u32> = (0..choices.len() as u32).collect();
    ranked
        .sort_by(|&a, &b| choices[b as usize].mean_logprob().total_cmp(&choices[a as usize].mean_logprob()));
    let place = |choice: u32| {
        let place = ranked.iter().position(|&ranked| ranked == choice)? as u32;
        (place < num_told).then_some(place)
    };
    let mut told: Vec<Event> = untold
        .into_iter()
        .filter_map(|event| match event {
            Event::Piece(mut piece) => {
                piece.choice = place(piece.choice)?;
                Some(Event::Piece(piece))
            }
            Event::Ended { choice, reason, stop } => {
                Some(Event::Ended { choice: place(choice)?, reason, stop })
            }
            other => Some(other),
        })
        .collect();
    // Each in one go: nobody reads them as they come.
    told.sort_by_key(|event| match event {
        Event::Piece(piece) => Some(piece.choice),
        Event::Ended { choice, .. } => Some(*choice),
        _ => None,
    });
    told
}
