//! The sending end of a request.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Serialize, de::DeserializeOwned};
use wire::{TraceContext, Wire};

use crate::inbox::{Envelope, Inbox};
use crate::remote::Remote;

/// How long a request may take when nobody says otherwise.
const DEFAULT_BUDGET: Duration = Duration::from_secs(10);

/// Why there is no reply. Each variant says what became of the message.
#[derive(Debug, thiserror::Error)]
pub enum AskError<R> {
    /// It was handled, and the answer is "no".
    #[error("{0}")]
    Refused(R),
    /// It was not handled and never will be: it may be sent again.
    #[error("{peer} did not get the request: {why}")]
    NotDelivered {
        /// The message's name.
        peer: &'static str,
        /// What stood in the way.
        why: Cow<'static, str>,
    },
    /// Nobody knows whether it was or will be handled: it may be sent again only if it is repeatable.
    #[error("{peer} did not answer: {why}")]
    Unknown {
        /// The message's name.
        peer: &'static str,
        /// What was seen.
        why: Cow<'static, str>,
    },
}

impl<R> AskError<R> {
    /// The refusal, if that is what it is.
    pub fn refusal(self) -> Option<R> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::NotDelivered { .. } | Self::Unknown { .. } => None,
        }
    }
}

type Answer<M> = Result<<M as Wire>::Reply, <M as Wire>::Refusal>;
type FakeHandler<M> = dyn Fn(M) -> Answer<M> + Send + Sync;

/// The one client type for `M`, wherever its handler is.
pub struct Peer<M: Wire> {
    way: Way<M>,
}

enum Way<M: Wire> {
    Local(Inbox<M>),
    Loopback(Inbox<M>),
    Remote(Remote),
    Fake(Arc<FakeHandler<M>>),
}

impl<M: Wire> Clone for Peer<M> {
    fn clone(&self) -> Self {
        let way = match &self.way {
            Way::Local(inbox) => Way::Local(inbox.clone()),
            Way::Loopback(inbox) => Way::Loopback(inbox.clone()),
            Way::Remote(remote) => Way::Remote(remote.clone()),
            Way::Fake(handler) => Way::Fake(Arc::clone(handler)),
        };
        Self { way }
    }
}

impl<M: Wire> Peer<M> {
    /// The handler is in this process.
    pub fn local(inbox: Inbox<M>) -> Self {
        Self { way: Way::Local(inbox) }
    }

    /// The handler is in this process, but message and answer go through JSON: for tests.
    pub fn loopback(inbox: Inbox<M>) -> Self {
        Self { way: Way::Loopback(inbox) }
    }

    /// The handler is in another process.
    pub fn remote(remote: Remote) -> Self {
        Self { way: Way::Remote(remote) }
    }

    /// `handler` answers: for tests of the asker.
    pub fn fake(handler: impl Fn(M) -> Answer<M> + Send + Sync + 'static) -> Self {
        Self { way: Way::Fake(Arc::new(handler)) }
    }

    /// Sends `message` with the default budget and no trace.
    ///
    /// # Errors
    /// The handler's refusal, or the message's fate.
    pub async fn ask(&self, message: M) -> Result<M::Reply, AskError<M::Refusal>> {
        self.ask_within(message, TraceContext::default(), DEFAULT_BUDGET).await
    }

    /// Sends `message` as part of `trace`; waits at most `budget` for the answer.
    ///
    /// # Errors
    /// The handler's refusal, or the message's fate.
    pub async fn ask_within(
        &self,
        message: M,
        trace: TraceContext,
        budget: Duration,
    ) -> Result<M::Reply, AskError<M::Refusal>> {
        match &self.way {
            Way::Local(inbox) => deliver(inbox, message, trace, budget).await,
            Way::Loopback(inbox) => {
                let answer = deliver(inbox, through_json(&message), trace, budget).await;
                match answer {
                    Ok(reply) => Ok(through_json(&reply)),
                    Err(AskError::Refused(refusal)) => Err(AskError::Refused(through_json(&refusal))),
                    Err(fate) => Err(fate),
                }
            }
            Way::Remote(remote) => remote.ask(&message, &trace, budget).await,
            Way::Fake(handler) => handler(message).map_err(AskError::Refused),
        }
    }
}

async fn deliver<M: Wire>(
    inbox: &Inbox<M>,
    message: M,
    trace: TraceContext,
    budget: Duration,
) -> Result<M::Reply, AskError<M::Refusal>> {
    let not_delivered = |why: &'static str| AskError::NotDelivered { peer: M::NAME, why: why.into() };
    let target = inbox.target();
    let recipient = target.recipient().map_err(not_delivered)?;
    let place = inbox.place().ok_or_else(|| not_delivered("its inbox is full"))?;
    let deadline = Instant::now() + budget;
    let envelope = Envelope::new(message, trace, deadline, place);
    match tokio::time::timeout(budget, recipient.send(envelope)).await {
        Ok(Ok(answer)) => answer.map_err(AskError::Refused),
        Ok(Err(actix::MailboxError::Closed)) => {
            Err(AskError::Unknown { peer: M::NAME, why: "it stopped before it answered".into() })
        }
        Ok(Err(actix::MailboxError::Timeout)) | Err(_) => {
            Err(AskError::Unknown { peer: M::NAME, why: "the time allowed is spent".into() })
        }
    }
}

fn through_json<T: Serialize + DeserializeOwned>(value: &T) -> T {
    let text = serde_json::to_vec(value).expect("a wire type is always JSON");
    serde_json::from_slice(&text).expect("a wire type reads back what it wrote")
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix::{Actor, Context, Handler, ResponseFuture};
    use serde::Deserialize;
    use tokio::sync::Semaphore;
    use wire::message::Never;

    #[derive(Debug, Serialize, Deserialize)]
    struct Double(u32);

    impl Wire for Double {
        const NAME: &'static str = "double";
        const REPEATABLE: bool = true;
        type Reply = u32;
        type Refusal = Never;
    }

    /// Says that it began, and answers only when told to go on.
    #[derive(Clone)]
    struct Doubler {
        began: Arc<Semaphore>,
        go: Arc<Semaphore>,
    }

    impl Actor for Doubler {
        type Context = Context<Self>;
    }

    impl Handler<Envelope<Double>> for Doubler {
        type Result = ResponseFuture<Result<u32, Never>>;

        fn handle(&mut self, envelope: Envelope<Double>, _: &mut Context<Self>) -> Self::Result {
            self.began.add_permits(1);
            let go = Arc::clone(&self.go);
            Box::pin(async move {
                go.acquire().await.expect("never closed").forget();
                Ok(envelope.message().0 * 2)
            })
        }
    }

    fn start(capacity: usize, go: usize) -> (Inbox<Double>, Doubler) {
        let doubler = Doubler { began: Arc::new(Semaphore::new(0)), go: Arc::new(Semaphore::new(go)) };
        let inbox = Inbox::new(capacity);
        inbox.point_at(doubler.clone().start().recipient());
        (inbox, doubler)
    }

    #[actix_rt::test]
    async fn every_way_gives_the_same_answer() {
        let (inbox, _doubler) = start(4, 100);
        for peer in [inbox.peer(), Peer::loopback(inbox.clone()), Peer::fake(|Double(n)| Ok(n * 2))] {
            assert_eq!(peer.ask(Double(21)).await.expect("answered"), 42);
        }
        assert_eq!(inbox.depth(), 0);
    }

    #[actix_rt::test]
    async fn a_full_inbox_promises_not_delivered_and_recovers() {
        let (inbox, doubler) = start(2, 0);
        let peer = inbox.peer();
        let waiting: Vec<_> = (0..2)
            .map(|n| {
                let peer = peer.clone();
                actix_rt::spawn(async move { peer.ask(Double(n)).await })
            })
            .collect();
        doubler.began.acquire_many(2).await.expect("never closed").forget();
        assert_eq!(inbox.depth(), 2);
        let full = peer.ask(Double(9)).await;
        assert!(
            matches!(&full, Err(AskError::NotDelivered { why, .. }) if why == "its inbox is full"),
            "{full:?}"
        );
        doubler.go.add_permits(3);
        for task in waiting {
            task.await.expect("not cancelled").expect("answered");
        }
        assert_eq!(inbox.peer().ask(Double(9)).await.expect("answered"), 18);
    }

    #[actix_rt::test]
    async fn a_spent_budget_is_an_unknown_fate() {
        let (inbox, _doubler) = start(2, 0);
        let answer =
            inbox.peer().ask_within(Double(1), TraceContext::default(), Duration::from_millis(5)).await;
        assert!(matches!(answer, Err(AskError::Unknown { .. })), "{answer:?}");
    }

    #[actix_rt::test]
    async fn nobody_home_is_not_delivered() {
        let inbox = Inbox::<Double>::new(1);
        let answer = inbox.peer().ask(Double(1)).await;
        assert!(matches!(answer, Err(AskError::NotDelivered { .. })), "{answer:?}");
    }
}
