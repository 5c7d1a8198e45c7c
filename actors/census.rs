//! Who is alive: actors and threads, each with its role, what waits in its mailbox, and how often its like has crashed.
//!
//! "No actor is left" is then a number that tests and shutdown can wait for, and `/admin/actors` and the metrics are read
//! from here without asking anybody. ractor does not tell how many messages wait, so they are counted: [`tell`](crate::tree::tell)
//! counts one more, and each actor says that it has taken one.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use candlewick_protocol::ActorRole;
use ractor::ActorId;
use tokio::sync::watch;

/// Everybody of one tree.
pub struct Census {
    count: watch::Sender<usize>,
    people: Mutex<People>,
}

#[derive(Default)]
struct People {
    alive: BTreeMap<u64, Person>,
    crashes: BTreeMap<(ActorRole, String), Crashes>,
    next_key: u64,
}

/// One who is alive.
#[derive(Debug, Clone)]
pub struct Person {
    /// What it does.
    pub role: ActorRole,
    /// Of which model; for a request, model and key; empty where there is but one.
    pub name: String,
    /// Since when.
    pub since: Instant,
    mailbox: Option<Arc<AtomicU64>>,
}

impl Person {
    /// Whether it works for this model.
    pub fn is_of(&self, model: &str) -> bool {
        self.name.strip_prefix(model).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    }

    /// Messages that wait; threads have no mailbox.
    pub fn mailbox_depth(&self) -> Option<u64> {
        self.mailbox.as_ref().map(|mailbox| mailbox.load(Ordering::Relaxed))
    }
}

/// The crashes of those with one role and name, which outlive them.
#[derive(Debug, Clone)]
pub struct Crashes {
    /// How many.
    pub count: u64,
    /// What the last one said.
    pub last: String,
    /// When that was.
    pub last_at: Instant,
}

/// The mailboxes of all actors of this process: who sends knows no more of an actor than its id.
static MAILBOXES: LazyLock<RwLock<HashMap<ActorId, Arc<AtomicU64>>>> = LazyLock::new(RwLock::default);

/// A message is on its way to this actor.
pub fn count_sent(actor: ActorId) {
    if let Some(mailbox) = MAILBOXES.read().unwrap_or_else(PoisonError::into_inner).get(&actor) {
        mailbox.fetch_add(1, Ordering::Relaxed);
    }
}

impl Census {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { count: watch::Sender::new(0), people: Mutex::default() })
    }

    /// Counts an actor for as long as it keeps the answer.
    pub fn join(self: &Arc<Self>, role: ActorRole, name: &str, actor: ActorId) -> Presence {
        let mailbox = Arc::<AtomicU64>::default();
        MAILBOXES.write().unwrap_or_else(PoisonError::into_inner).insert(actor, mailbox.clone());
        self.enter(role, name, Some((actor, mailbox)))
    }

    /// Counts a thread or a task, which has no mailbox.
    pub fn join_thread(self: &Arc<Self>, role: ActorRole, name: &str) -> Presence {
        self.enter(role, name, None)
    }

    fn enter(
        self: &Arc<Self>,
        role: ActorRole,
        name: &str,
        mailbox: Option<(ActorId, Arc<AtomicU64>)>,
    ) -> Presence {
        let (actor, mailbox) = mailbox.unzip();
        let person = Person { role, name: name.into(), since: Instant::now(), mailbox: mailbox.clone() };
        let mut people = self.people();
        let key = people.next_key;
        people.next_key += 1;
        people.alive.insert(key, person);
        drop(people);
        self.count.send_modify(|count| *count += 1);
        Presence { census: self.clone(), key, actor, mailbox }
    }

    /// One with this role and name has crashed.
    pub fn crashed(&self, role: ActorRole, name: &str, why: &str) {
        let mut people = self.people();
        let crashes = people.crashes.entry((role, name.into())).or_insert_with(|| Crashes {
            count: 0,
            last: String::new(),
            last_at: Instant::now(),
        });
        *crashes = Crashes { count: crashes.count + 1, last: why.into(), last_at: Instant::now() };
    }

    /// The crashes of those with this role and name.
    pub fn crashes(&self, role: ActorRole, name: &str) -> Option<Crashes> {
        self.people().crashes.get(&(role, name.to_owned())).cloned()
    }

    /// Whether one with this role and name has crashed within so long.
    pub fn crashed_within(&self, role: ActorRole, name: &str, window: Duration) -> bool {
        self.crashes(role, name).is_some_and(|crashes| crashes.last_at.elapsed() < window)
    }

    /// Crashes by role.
    pub fn crashes_by_role(&self) -> BTreeMap<ActorRole, u64> {
        let mut counts = BTreeMap::new();
        for ((role, _), crashes) in &self.people().crashes {
            *counts.entry(*role).or_default() += crashes.count;
        }
        counts
    }

    /// Everybody, in the order in which they came.
    pub fn people_alive(&self) -> Vec<Person> {
        self.people().alive.values().cloned().collect()
    }

    pub fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// Ends when nobody is left.
    pub async fn empty(&self) {
        // An error would mean that the sender is gone, and it is `self`.
        let _ = self.count.subscribe().wait_for(|count| *count == 0).await;
    }

    fn people(&self) -> MutexGuard<'_, People> {
        self.people.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who is alive. Part of an actor's state, so that it leaves by whatever door the state does: stop, kill or panic.
pub struct Presence {
    census: Arc<Census>,
    key: u64,
    actor: Option<ActorId>,
    mailbox: Option<Arc<AtomicU64>>,
}

impl Presence {
    /// A message was taken out of the mailbox. What came by another way than `tell` was never counted.
    pub fn took_message(&self) {
        if let Some(mailbox) = &self.mailbox {
            let less = |depth: u64| depth.checked_sub(1);
            let _ = mailbox.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if let Some(actor) = self.actor {
            MAILBOXES.write().unwrap_or_else(PoisonError::into_inner).remove(&actor);
        }
        self.census.people().alive.remove(&self.key);
        self.census.count.send_modify(|count| *count -= 1);
    }
}
