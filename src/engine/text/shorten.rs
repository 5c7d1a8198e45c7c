//! A conversation that does not fit its context, without its oldest part.
//!
//! What is left must still be a conversation: whole turns go, oldest first, so that it begins with a user as templates
//! want it; system messages in front stay. Within the last turn, calls go with their outputs, oldest first; its user's
//! words and its last step stay. As few messages go as will do.

use candlewick_protocol::{ChatPrompt, Failure, Message, Prompt};

use super::{PreparedPrompt, TextProcessor};

impl TextProcessor {
    /// [`TextProcessor::prepare`], with the oldest messages left out where the prompt has more tokens than `num_tokens_max`.
    /// One that cannot be made short enough comes as short as it gets. Blocks.
    pub fn prepare_to_fit(
        &self,
        chat: &ChatPrompt,
        num_tokens_max: usize,
    ) -> Result<PreparedPrompt, Failure> {
        let cuts = cuts(&chat.messages);
        let prepare = |cut: &Cut| {
            let messages = cut.apply(&chat.messages);
            self.prepare(&Prompt::Chat(ChatPrompt { messages, ..chat.clone() }))
        };
        let fits = |prompt: &PreparedPrompt| prompt.token_ids.len() <= num_tokens_max;
        let Some((whole, shorter)) = cuts.split_first() else {
            return self.prepare(&Prompt::Chat(chat.clone()));
        };
        let mut best = prepare(whole)?;
        // Further cuts make shorter prompts: halve the cuts that are still in question.
        let (mut low, mut high) = (0, shorter.len());
        while low < high && !(low == 0 && high == shorter.len() && fits(&best)) {
            let middle = low + (high - low) / 2;
            let prompt = prepare(&shorter[middle])?;
            if fits(&prompt) {
                high = middle;
            } else {
                low = middle + 1;
            }
            if fits(&prompt) || !fits(&best) {
                best = prompt;
            }
        }
        Ok(best)
    }
}

/// What is left: the messages in front, one user message, and everything from `start` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    num_front: usize,
    user: Option<usize>,
    start: usize,
}

impl Cut {
    fn apply(&self, messages: &[Message]) -> Vec<Message> {
        let front = &messages[..self.num_front];
        let user = self.user.map(|index| &messages[index]);
        front.iter().chain(user).chain(&messages[self.start..]).cloned().collect()
    }
}

/// All cuts, from the one that leaves nothing out to the shortest.
fn cuts(messages: &[Message]) -> Vec<Cut> {
    let num_front =
        messages.iter().take_while(|message| matches!(message.role.as_str(), "system" | "developer")).count();
    let whole = Cut { num_front, user: None, start: num_front };
    let users = (num_front..messages.len()).filter(|&index| messages[index].role == "user");
    let users: Vec<usize> = users.collect();
    let mut cuts = vec![whole];
    cuts.extend(users.iter().filter(|&&start| start > num_front).map(|&start| Cut { start, ..whole }));
    // Steps of the last turn: each begins where the assistant speaks.
    let last_turn = users.last().map_or(num_front, |&user| user + 1);
    let steps = (last_turn..messages.len()).filter(|&index| messages[index].role == "assistant").skip(1);
    cuts.extend(steps.map(|start| Cut { user: users.last().copied(), start, ..whole }));
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(roles: &str) -> Vec<Message> {
        let role = |letter| match letter {
            's' => "system",
            'u' => "user",
            'a' => "assistant",
            't' => "tool",
            _ => panic!("no role begins with {letter}"),
        };
        roles.chars().map(|letter| Message { role: role(letter).into(), ..Message::default() }).collect()
    }

    #[track_caller]
    fn check(roles: &str, left: &[&str]) {
        let all = messages(roles);
        let found: Vec<String> = cuts(&all)
            .iter()
            .map(|cut| cut.apply(&all).iter().map(|message| &message.role[..1]).collect())
            .collect();
        assert_eq!(found, left);
    }

    #[test]
    fn whole_turns_go_oldest_first_and_the_system_stays() {
        check("suauau", &["suauau", "suau", "su"]);
        check("uatau", &["uatau", "u"]);
        check("u", &["u"]);
        check("s", &["s"]);
        check("aua", &["aua", "ua"]);
    }

    #[test]
    fn in_the_last_turn_calls_go_with_their_outputs() {
        check("suatatta", &["suatatta", "suatta", "sua"]);
        check("uauatat", &["uauatat", "uatat", "uat"]);
    }
}
