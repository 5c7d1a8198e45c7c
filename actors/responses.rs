//! The gateway's half about responses that are kept: stored, found again, run in the background, followed, cancelled.

use candlewick_protocol::{
    ErrorKind, Failure, GenerationRequest, LoggedEvent, ResponseRecord, StoredResponse,
};
use ractor::RpcReplyPort;
use tokio::sync::oneshot;

use crate::archive::Archive;
use crate::gateway::Gateway;
use crate::job_log::Follower;
use crate::jobs::JobsMsg;
use crate::outlet::lost;
use crate::tree::tell;

impl Gateway {
    /// Whether responses can be stored. Without, none of the methods about them finds or keeps anything.
    pub fn keeps_responses(&self) -> bool {
        self.archive.is_some()
    }

    /// Keeps a response that is over. It is on disk when this returns.
    pub async fn keep_response(&self, record: ResponseRecord, log: Vec<LoggedEvent>) -> Result<(), Failure> {
        self.archive()?.create(record, log).await
    }

    /// A response that was kept or is at work in the background, as far as it has come.
    pub async fn find_response(&self, id: &str) -> Result<Option<StoredResponse>, Failure> {
        match &self.archive {
            Some(archive) => archive.read(id.to_owned()).await,
            None => Ok(None),
        }
    }

    /// A response and all that it goes on from, oldest first; `Err` within names the first that is not there.
    pub async fn find_chain(&self, id: &str) -> Result<Result<Vec<StoredResponse>, String>, Failure> {
        match &self.archive {
            Some(archive) => archive.chain(id.to_owned()).await,
            None => Ok(Err(id.to_owned())),
        }
    }

    /// Forgets a response, and ends it if it is at work. Returns whether it was there.
    pub async fn forget_response(&self, id: &str) -> Result<bool, Failure> {
        let Some(archive) = &self.archive else { return Ok(false) };
        self.cancel_response(id).await;
        archive.delete(id.to_owned()).await
    }

    /// Runs a response in the background. It is admitted, or refused as by [`Gateway::submit`], and is on disk as queued
    /// when this returns.
    pub async fn run_response(
        &self,
        record: ResponseRecord,
        request: GenerationRequest,
    ) -> Result<(), Failure> {
        let archive = self.archive()?;
        // Admission first: a client that is told to come again leaves nothing on the disk.
        let events = self.submit(request).await?;
        let id = record.id.clone();
        archive.create(record, Vec::new()).await?;
        let run = |reply| JobsMsg::Run { id: id.clone(), events, reply };
        if self.ask_jobs(run).await.is_none() {
            archive.delete(id).await?;
            return Err(lost());
        }
        Ok(())
    }

    /// Ends a response that is at work in the background. When this returns its last word is on disk. Returns whether it
    /// was at work.
    pub async fn cancel_response(&self, id: &str) -> bool {
        let cancel = |reply| JobsMsg::Cancel { id: id.to_owned(), reply };
        self.ask_jobs(cancel).await.unwrap_or(false)
    }

    /// Follows a response that is at work in the background, from its beginning; `None` if it is not.
    pub async fn follow_response(&self, id: &str) -> Option<Follower> {
        let find = |reply| JobsMsg::Find { id: id.to_owned(), reply };
        Some(self.ask_jobs(find).await??.follow())
    }

    /// Ends when no response is at work in the background.
    pub(crate) async fn jobs_idle(&self) {
        let _ = self.ask_jobs(JobsMsg::WhenIdle).await;
    }

    fn archive(&self) -> Result<&Archive, Failure> {
        self.archive.as_ref().ok_or_else(|| {
            Failure::new(
                ErrorKind::Unsupported,
                "this server stores no responses; it was started without a store",
            )
        })
    }

    /// Asks the jobs of the moment; `None` if there are none, or if they crash over the answer.
    async fn ask_jobs<T: Send + 'static>(
        &self,
        message: impl FnOnce(RpcReplyPort<T>) -> JobsMsg,
    ) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        let jobs = self.jobs.borrow().clone()?;
        tell(&jobs, message(reply.into()));
        answer.await.ok()
    }
}
