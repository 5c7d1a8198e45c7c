//! The tree as it is at this moment, put together from the census and the board: nobody is asked, so that it can be seen
//! while every actor is busy.

use candlewick_protocol::{ActorNode, ActorRole, ActorState, LoadPosition, ModelStatus};

use crate::board::{Standing, display_id};
use crate::census::Person;
use crate::tree::Tree;

/// Every actor, the root above all. A model that was given up or could not be loaded is in it too, while that is remembered.
pub fn observe(tree: &Tree) -> ActorNode {
    let people = tree.census.people_alive();
    let mut root = nodes(tree, &people, ActorRole::Root, None).pop().unwrap_or_else(|| stopped(tree));
    root.children = [ActorRole::Settings, ActorRole::MemoryWatch, ActorRole::Models, ActorRole::Jobs]
        .into_iter()
        .flat_map(|role| nodes(tree, &people, role, None))
        .collect();
    for child in &mut root.children {
        match child.role {
            ActorRole::Models => {
                child.children = nodes(tree, &people, ActorRole::Model, None);
                child.children.iter_mut().for_each(|model| complete_model(tree, &people, model));
            }
            ActorRole::Jobs => child.children = nodes(tree, &people, ActorRole::Job, None),
            _ => {}
        }
    }
    root
}

/// A tree that was shut down.
fn stopped(tree: &Tree) -> ActorNode {
    ActorNode {
        role: ActorRole::Root,
        name: String::new(),
        state: ActorState::Failed,
        reason: Some("it was stopped".into()),
        age_s: 0.0,
        mailbox_depth: None,
        num_restarts: tree.census.crashes(ActorRole::Root, "").map_or(0, |crashes| crashes.count),
        last_failure: None,
        load: None,
        children: Vec::new(),
    }
}

/// Those of a role, by themselves; with a name, only those of that model.
fn nodes(tree: &Tree, people: &[Person], role: ActorRole, name: Option<&str>) -> Vec<ActorNode> {
    let wanted = |person: &&Person| person.role == role && name.is_none_or(|name| person.is_of(name));
    people.iter().filter(wanted).map(|person| node(tree, person)).collect()
}

fn node(tree: &Tree, person: &Person) -> ActorNode {
    let crashes = tree.census.crashes(person.role, &person.name);
    ActorNode {
        role: person.role,
        name: person.name.clone(),
        state: ActorState::Running,
        reason: None,
        age_s: person.since.elapsed().as_secs_f64(),
        mailbox_depth: person.mailbox_depth(),
        num_restarts: crashes.as_ref().map_or(0, |crashes| crashes.count),
        last_failure: crashes.map(|crashes| crashes.last),
        load: None,
        children: Vec::new(),
    }
}

/// Where every model stands that is in memory, on its way there, or given up; by the id that clients use.
pub fn model_states(tree: &Tree) -> Vec<(String, ActorState)> {
    let models = tree.board.read().into_iter();
    let states = models.map(|(id, standing)| (display_id(&standing.model), state(tree, &id, &standing)));
    states.filter(|(_, state)| *state != ActorState::Running).collect()
}

/// The state of a model that stands so.
fn state(tree: &Tree, id: &str, standing: &Standing) -> ActorState {
    let has_crashed = || tree.census.crashed_within(ActorRole::Batcher, id, tree.settings().restart_window);
    match (standing.status, &standing.failure) {
        (ModelStatus::Loading, _) => ActorState::Loading,
        (ModelStatus::Failed, _) | (_, Some(_)) => ActorState::Failed,
        (ModelStatus::Loaded, _) if standing.is_restarting => ActorState::Restarting,
        (ModelStatus::Loaded, _) if has_crashed() => ActorState::Degraded,
        (ModelStatus::Loaded, _) => ActorState::Ready,
        (ModelStatus::Available, _) => ActorState::Running,
    }
}

/// The state of a model, and those below its supervisor.
fn complete_model(tree: &Tree, people: &[Person], model: &mut ActorNode) {
    if let Some(standing) = tree.board.get(&model.name) {
        model.state = state(tree, &model.name, &standing);
        model.reason = standing.failure.map(|failure| failure.message);
        model.load = standing.load.map(|(stage, progress)| LoadPosition { stage, progress });
    }
    if matches!(model.state, ActorState::Restarting | ActorState::Degraded) {
        let crashes = tree.census.crashes(ActorRole::Batcher, &model.name);
        model.reason = crashes.map(|crashes| format!("the batcher crashed: {}", crashes.last));
    }
    let below = |role, name: &str| nodes(tree, people, role, Some(name));
    let mut children = below(ActorRole::Loader, &model.name);
    for mut batcher in below(ActorRole::Batcher, &model.name) {
        batcher.children = below(ActorRole::Stepper, &model.name);
        children.push(batcher);
    }
    children.extend(below(ActorRole::Request, &model.name));
    model.children = children;
}
