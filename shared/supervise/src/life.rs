//! One life of a part: everything that was started in it ends with it.

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use actix::dev::{MessageResponse, OneshotSender, ToEnvelope};
use actix::{Actor, Addr, Context, Handler, Message};
use futures_util::FutureExt as _;
use peer::{Envelope, Inbox};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use wire::Wire;

use crate::Failure;

/// One life of a part; clones are the same one. Everything in it runs on the thread where it was made.
#[derive(Clone)]
pub struct Life {
    inner: Rc<Inner>,
}

struct Inner {
    state: RefCell<State>,
    failures: mpsc::Sender<Failure>,
    first_failure: RefCell<Option<mpsc::Receiver<Failure>>>,
    /// What must come to its end before this life does its work.
    beginnings: watch::Sender<usize>,
}

/// Something that must come to its end before a life does its work.
#[derive(Debug)]
pub struct Beginning {
    beginnings: watch::Sender<usize>,
}

impl Drop for Beginning {
    fn drop(&mut self) {
        self.beginnings.send_modify(|count| *count -= 1);
    }
}

#[derive(Default)]
struct State {
    is_over: bool,
    tasks: JoinSet<()>,
    /// Each makes one inbox refuse.
    doors: Vec<Box<dyn Fn(&'static str)>>,
    farewells: Vec<Pin<Box<dyn Future<Output = ()>>>>,
}

/// Tells of a failure from another thread.
#[derive(Debug, Clone)]
pub struct Alarm {
    failures: mpsc::Sender<Failure>,
}

impl Alarm {
    /// Runs `task`, and ends the life if it panics.
    pub fn guard(&self, task: impl FnOnce()) {
        if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(task)) {
            // Only the first failure counts.
            let _ = self.failures.try_send(Failure::of_panic(panic.as_ref()));
        }
    }
}

/// An answer that is being worked out. Unlike that of a [`ResponseFuture`](actix::ResponseFuture), which runs beside the
/// actor and does not end with it, the work belongs to a life.
pub struct Answering<T> {
    life: Life,
    answer: Pin<Box<dyn Future<Output = T>>>,
}

impl<A, M> MessageResponse<A, M> for Answering<M::Result>
where
    A: Actor,
    M: Message,
    M::Result: 'static,
{
    fn handle(self, _: &mut A::Context, asker: Option<OneshotSender<M::Result>>) {
        self.life.spawn(async move {
            let answer = self.answer.await;
            if let Some(asker) = asker {
                // It may have stopped waiting.
                let _ = asker.send(answer);
            }
        });
    }
}

const RESTARTING: &str = "it failed and is being restarted";
const DOWN: &str = "it failed too often and stays down; stop midrun and start it again";
const ENDING: &str = "it is ending";

impl Life {
    pub(crate) fn new() -> Self {
        let (failures, first) = mpsc::channel(1);
        let first_failure = RefCell::new(Some(first));
        let (state, beginnings) = (RefCell::default(), watch::Sender::new(0));
        Self { inner: Rc::new(Inner { state, failures, first_failure, beginnings }) }
    }

    /// This life does its work only once the answer is dropped.
    #[must_use]
    pub fn begins_later(&self) -> Beginning {
        self.inner.beginnings.send_modify(|count| *count += 1);
        Beginning { beginnings: self.inner.beginnings.clone() }
    }

    /// Comes true when it does its work.
    pub(crate) fn begun(&self) -> impl Future<Output = ()> + use<> {
        let mut beginnings = self.inner.beginnings.subscribe();
        async move { drop(beginnings.wait_for(|count| *count == 0).await) }
    }

    /// Runs `task` for as long as this life lasts. The life fails if it panics. Must be called on the thread, and inside
    /// the actix system, that the life was made in.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let guarded = self.guarded(task);
        let mut state = self.inner.state.borrow_mut();
        while state.tasks.try_join_next().is_some() {}
        if !state.is_over {
            state.tasks.spawn_local(guarded);
        }
    }

    /// Runs `task` to its own end, which a farewell brings about. The life fails if it panics.
    pub fn spawn_apart(&self, task: impl Future<Output = ()> + 'static) {
        actix::spawn(self.guarded(task));
    }

    fn guarded(&self, task: impl Future<Output = ()> + 'static) -> impl Future<Output = ()> + 'static {
        let life = Rc::downgrade(&self.inner);
        async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await
                && let Some(inner) = life.upgrade()
            {
                Self { inner }.failed(Failure::of_panic(panic.as_ref()));
            }
        }
    }

    /// Starts `actor`. The life fails if it panics.
    pub fn start<A: Actor<Context = Context<A>>>(&self, actor: A) -> Addr<A> {
        let running = Context::new().into_future(actor);
        let address = running.address();
        self.spawn(running);
        address
    }

    /// `actor` handles what comes to `inbox` for as long as this life lasts.
    pub fn answer<M, A>(&self, inbox: &Inbox<M>, actor: &Addr<A>)
    where
        M: Wire,
        A: Actor + Handler<Envelope<M>>,
        A::Context: ToEnvelope<A, Envelope<M>>,
    {
        let mut state = self.inner.state.borrow_mut();
        if state.is_over {
            return;
        }
        inbox.point_at(actor.clone().recipient());
        let inbox = inbox.clone();
        state.doors.push(Box::new(move |why| inbox.point_at_nobody(why)));
    }

    /// What a handler answers when it needs time: `answer` is worked out in this life. If that ends first, the asker learns
    /// that nobody knows what became of its message.
    pub fn answering<T: 'static>(&self, answer: impl Future<Output = T> + 'static) -> Answering<T> {
        Answering { life: self.clone(), answer: Box::pin(answer) }
    }

    /// Ends this life: it cannot do its work because of `why`, and is tried again.
    pub fn fail(&self, why: impl Into<String>) {
        self.failed(Failure::Error(why.into()));
    }

    /// For other threads that belong to this life.
    pub fn alarm(&self) -> Alarm {
        Alarm { failures: self.inner.failures.clone() }
    }

    /// When this life ends, `farewell` is waited for, but not for long: it lets go of what the next one needs.
    pub fn at_end(&self, farewell: impl Future<Output = ()> + 'static) {
        self.inner.state.borrow_mut().farewells.push(Box::pin(farewell));
    }

    /// From here on nothing of this life does anything more.
    fn failed(&self, failure: Failure) {
        self.shut(RESTARTING);
        let mut state = self.inner.state.borrow_mut();
        state.is_over = true;
        state.tasks.abort_all();
        drop(state);
        // Only the first failure counts.
        let _ = self.inner.failures.try_send(failure);
    }

    fn shut(&self, why: &'static str) {
        self.inner.state.borrow().doors.iter().for_each(|door| door(why));
    }

    /// The first failure. To be waited for once.
    pub(crate) fn failure(&self) -> impl Future<Output = Failure> + use<> {
        let failures = self.inner.first_failure.borrow_mut().take();
        async move {
            match failures {
                Some(mut failures) => match failures.recv().await {
                    Some(failure) => failure,
                    // Nobody is left who could fail.
                    None => std::future::pending().await,
                },
                None => std::future::pending().await,
            }
        }
    }

    /// Ends what is left after a failure. The farewells come last, when nothing is under way any more.
    pub(crate) async fn end(&self, limit: Duration) {
        self.shut(RESTARTING);
        self.abort().await;
        self.say_farewell(limit).await;
    }

    /// Ends in an orderly way: what is under way may come to its end while the farewells are said. False: the time was
    /// not enough.
    pub(crate) async fn retire(&self, limit: Duration) -> bool {
        self.shut(ENDING);
        let in_time = self.say_farewell(limit).await;
        self.abort().await;
        in_time
    }

    /// It will not live again.
    pub(crate) fn stay_down(&self) {
        self.shut(DOWN);
    }

    async fn abort(&self) {
        let mut tasks = {
            let mut state = self.inner.state.borrow_mut();
            state.is_over = true;
            std::mem::take(&mut state.tasks)
        };
        tasks.shutdown().await;
    }

    async fn say_farewell(&self, limit: Duration) -> bool {
        let farewells = std::mem::take(&mut self.inner.state.borrow_mut().farewells);
        let all = async {
            for farewell in farewells {
                // One that panics keeps nobody from the next.
                drop(AssertUnwindSafe(farewell).catch_unwind().await);
            }
        };
        tokio::time::timeout(limit, all).await.is_ok()
    }
}
