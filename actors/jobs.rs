//! Background work: responses that go on without their clients.
//!
//! The gateway sends it a response that is on disk as queued and the events that will become it. A job writes each event
//! to the archive and then to its log; it is read there by followers, of whom the job knows nothing. A job ends with the
//! last word of its request, whatever that is, or by being cancelled. When this actor starts, in a new process or after
//! a crash, no job can be at work: what the archive has unfinished is then ended with a failure that says so.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use candlewick_protocol::{ActorRole, ErrorKind, Event, Failure, LoggedEvent};
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::EventStream;
use crate::archive::{Archive, now};
use crate::census::Presence;
use crate::job_log::{JobLog, JobLogWriter};
use crate::tree::{Tree, tell, tell_after};

/// Between two sweeps of what has expired.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// Most events that are written together.
const BATCH_MAX: usize = 64;

/// Runs background responses.
pub struct Jobs;

/// What it is told.
pub enum JobsMsg {
    /// Run a response that is on disk, as queued.
    Run {
        /// Its id.
        id: String,
        /// What will become it.
        events: EventStream,
        /// Told that it runs.
        reply: RpcReplyPort<()>,
    },
    /// The log of a job, if it is at work.
    Find {
        /// Its response.
        id: String,
        /// Told.
        reply: RpcReplyPort<Option<JobLog>>,
    },
    /// End a job now.
    Cancel {
        /// Its response.
        id: String,
        /// Told once its last word is on disk; whether it was at work.
        reply: RpcReplyPort<bool>,
    },
    /// A job has ended.
    Ended(String),
    /// Tell when no job is at work.
    WhenIdle(RpcReplyPort<()>),
    /// Delete what has expired.
    Sweep,
}

/// A job at work.
struct Job {
    log: JobLog,
    cancel: CancellationToken,
    /// Told when it has ended.
    cancelled_by: Vec<RpcReplyPort<bool>>,
    _work: AbortOnDropHandle<()>,
}

/// The jobs at work.
pub struct JobsState {
    tree: Arc<Tree>,
    archive: Archive,
    jobs: HashMap<String, Job>,
    idle_watchers: Vec<RpcReplyPort<()>>,
    _sweep: AbortOnDropHandle<()>,
    presence: Presence,
}

impl Actor for Jobs {
    type Msg = JobsMsg;
    type State = JobsState;
    type Arguments = (Arc<Tree>, Archive);

    async fn pre_start(
        &self,
        myself: ActorRef<JobsMsg>,
        (tree, archive): (Arc<Tree>, Archive),
    ) -> Result<JobsState, ActorProcessingErr> {
        let failure = Failure::new(
            ErrorKind::Internal,
            "the server ended while this response was at work; what it had said until then is kept, send the request \
             again for the whole answer",
        );
        match archive.end_unfinished(failure).await {
            Ok(0) => {}
            Ok(num_ended) => tracing::warn!(num_ended, "background responses of an earlier life were ended"),
            // Said in the log by the archive. They stay in progress until the next start.
            Err(_) => {}
        }
        Ok(JobsState {
            jobs: HashMap::new(),
            idle_watchers: Vec::new(),
            _sweep: tell_after(std::future::ready(()), &myself, JobsMsg::Sweep),
            presence: tree.census.join(ActorRole::Jobs, "", myself.get_id()),
            tree,
            archive,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<JobsMsg>,
        message: JobsMsg,
        state: &mut JobsState,
    ) -> Result<(), ActorProcessingErr> {
        state.presence.took_message();
        match message {
            JobsMsg::Run { id, events, reply } => {
                state.run(&myself, id, events);
                let _ = reply.send(());
            }
            JobsMsg::Find { id, reply } => {
                let _ = reply.send(state.jobs.get(&id).map(|job| job.log.clone()));
            }
            JobsMsg::Cancel { id, reply } => state.cancel(&id, reply),
            JobsMsg::Ended(id) => state.ended(&id),
            JobsMsg::WhenIdle(reply) => {
                state.idle_watchers.push(reply);
                state.tell_if_idle();
            }
            JobsMsg::Sweep => state.sweep(&myself),
        }
        Ok(())
    }
}

impl JobsState {
    fn run(&mut self, myself: &ActorRef<JobsMsg>, id: String, events: EventStream) {
        let (writer, cancel) = (JobLogWriter::default(), CancellationToken::new());
        let log = writer.reader();
        let work = Work { id: id.clone(), events, writer, archive: self.archive.clone() };
        let (jobs, presence, name, cancelled) =
            (myself.clone(), self.tree.census.join_thread(ActorRole::Job, &id), id.clone(), cancel.clone());
        // The word of its end is sent by whatever door it leaves.
        let end = EndWord { jobs, id: name };
        let work = tokio::spawn(async move {
            let _presence = presence;
            let _end = end;
            work.run(cancelled).await;
        });
        let job = Job { log, cancel, cancelled_by: Vec::new(), _work: AbortOnDropHandle::new(work) };
        self.jobs.insert(id, job);
    }

    fn cancel(&mut self, id: &str, reply: RpcReplyPort<bool>) {
        match self.jobs.get_mut(id) {
            Some(job) => {
                job.cancel.cancel();
                job.cancelled_by.push(reply);
            }
            None => _ = reply.send(false),
        }
    }

    fn ended(&mut self, id: &str) {
        let Some(job) = self.jobs.remove(id) else { return };
        for reply in job.cancelled_by {
            let _ = reply.send(true);
        }
        self.tell_if_idle();
    }

    fn tell_if_idle(&mut self) {
        if self.jobs.is_empty() {
            for reply in self.idle_watchers.drain(..) {
                let _ = reply.send(());
            }
        }
    }

    fn sweep(&mut self, myself: &ActorRef<JobsMsg>) {
        let archive = self.archive.clone();
        let work = async move {
            if let Ok(num_swept @ 1..) = archive.sweep().await {
                tracing::info!(num_swept, "stored responses have expired");
            }
            tokio::time::sleep(SWEEP_EVERY).await;
        };
        self._sweep = tell_after(work, myself, JobsMsg::Sweep);
    }
}

/// Sends word of a job's end when it is dropped.
struct EndWord {
    jobs: ActorRef<JobsMsg>,
    id: String,
}

impl Drop for EndWord {
    fn drop(&mut self) {
        tell(&self.jobs, JobsMsg::Ended(std::mem::take(&mut self.id)));
    }
}

/// What a job does.
struct Work {
    id: String,
    events: EventStream,
    writer: JobLogWriter,
    archive: Archive,
}

impl Work {
    async fn run(mut self, cancel: CancellationToken) {
        let mut batch = Vec::new();
        loop {
            let num_heard = tokio::select! {
                biased;
                () = cancel.cancelled() => {
                    // First the request ends, then that is told.
                    self.events.events.close();
                    return self.end(Failure::new(ErrorKind::Cancelled, "the response was cancelled")).await;
                }
                num_heard = self.events.events.recv_many(&mut batch, BATCH_MAX) => num_heard,
            };
            if num_heard == 0 {
                return self.end(crate::outlet::lost()).await;
            }
            let entries =
                batch.drain(..).filter_map(|event| LoggedEvent::of(now(), &event)).collect::<Vec<_>>();
            let is_over = entries.last().is_some_and(LoggedEvent::is_last);
            if !entries.is_empty()
                && let Err(failure) = self.keep(entries).await
            {
                return self.end(failure).await;
            }
            if is_over {
                return;
            }
        }
    }

    async fn end(&self, failure: Failure) {
        let last = LoggedEvent { at: now(), event: Event::Failed(failure) };
        // Said in the log by the archive, and found unfinished at the next start.
        let _ = self.keep(vec![last]).await;
    }

    async fn keep(&self, entries: Vec<LoggedEvent>) -> Result<(), Failure> {
        self.archive.append(self.id.clone(), self.writer.num_entries(), entries.clone()).await?;
        self.writer.publish(entries);
        Ok(())
    }
}
