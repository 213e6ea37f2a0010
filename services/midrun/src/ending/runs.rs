//! What becomes of the runs when the server is asked to end.
//!
//! What must hold: a registry that does not answer is one of which nothing is known, not one without runs, so it is asked
//! again within a limit; one that was started anew is told once more that all runs are to stop.

use std::time::Duration;

use peer::{AskError, Feed, Peer, Start};
use tokio::sync::watch;
use tokio::time::Instant;
use train_registry::Handle;
use wire::message::Never;
use wire::run::{ListRuns, StopAll};
use wire::{DevEvent, Run, StopMode, TraceContext};

use super::Ends;
use crate::console::Console;

/// How long the registry may take to say which runs are live: longer than it looks for those of an earlier server.
const ASK_LIMIT: Duration = Duration::from_secs(15);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long runs that are killed may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Stops every run at its next checkpoint, or at once when asked again, and waits until they have ended.
pub(crate) async fn end_runs(registry: &Handle, console: &Console, asked: &mut Ends) {
    let mut runs = Runs {
        stop_all: registry.stop_all.peer(),
        list: registry.list_runs.peer(),
        events: registry.events.clone(),
        lives: registry.lives(),
    };
    runs.end(console, asked.next()).await;
}

/// The runs, as the registry knows them.
struct Runs {
    stop_all: Peer<StopAll>,
    list: Peer<ListRuns>,
    events: Feed<DevEvent>,
    /// Another value with each life of the registry; one that was not seen is a life that was not told to stop runs.
    lives: watch::Receiver<Option<String>>,
}

impl Runs {
    /// `asked` comes true when the user asks again.
    async fn end(&mut self, console: &Console, asked: impl Future<Output = ()>) {
        let outcome = tokio::select! {
            outcome = self.end_at_checkpoints(console) => outcome,
            () = asked => self.end_at_once(console).await,
        };
        if let Err(error) = outcome {
            console.warn(&format!(
                "whether runs go on is not known: {error}; `midrun doctor` shows those that do"
            ));
        }
    }

    async fn end_at_checkpoints(&mut self, console: &Console) -> Result<(), AskError<Never>> {
        let live = self.stop(StopMode::Checkpoint, console).await?;
        if live.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = live.iter().map(|run| run.id.as_str()).collect();
        let names = names.join(", ");
        console.note(&format!("stopping {names} at the next checkpoint; Ctrl-C again stops at once"));
        self.none_is_live(StopMode::Checkpoint, console).await
    }

    async fn end_at_once(&mut self, console: &Console) -> Result<(), AskError<Never>> {
        console.note("stopping at once");
        self.stop(StopMode::Now, console).await?;
        let ended = self.none_is_live(StopMode::Now, console);
        tokio::time::timeout(KILL_LIMIT, ended).await.unwrap_or_else(|_| {
            console.note("some runs have not ended; `midrun doctor` shows them");
            Ok(())
        })
    }

    /// Tells the registry to stop all runs, until it answers or [`ASK_LIMIT`] is over: it may be between two lives.
    /// Answers with the live ones.
    async fn stop(&mut self, mode: StopMode, console: &Console) -> Result<Vec<Run>, AskError<Never>> {
        let give_up = Instant::now() + ASK_LIMIT;
        let mut pause = FIRST_PAUSE;
        loop {
            self.lives.mark_unchanged();
            let left = give_up.saturating_duration_since(Instant::now());
            match self.stop_all.ask_within(StopAll { mode }, TraceContext::default(), left).await {
                Ok(live) => return Ok(live),
                Err(error) if Instant::now() + pause >= give_up => return Err(error),
                Err(error) if pause == FIRST_PAUSE => {
                    let seconds = ASK_LIMIT.as_secs();
                    console
                        .warn(&format!("runs cannot be told to stop: {error}; trying again for {seconds} s"));
                }
                Err(_) => {}
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Waits until no run is live.
    async fn none_is_live(&mut self, mode: StopMode, console: &Console) -> Result<(), AskError<Never>> {
        let mut events = self.events.read(Start::Snapshot);
        loop {
            let listed = self.list.ask(ListRuns {}).await;
            let runs = match listed {
                Ok(runs) if matches!(self.lives.has_changed(), Ok(false)) => runs,
                // A new life knows neither that all runs are to stop nor, at first, which there are; its answer to this
                // comes when it has found them.
                Ok(_) | Err(_) => self.stop(mode, console).await?,
            };
            if !runs.iter().any(|run| run.status.is_live()) {
                return Ok(());
            }
            tokio::select! {
                event = events.next() => if event.is_none() { return Ok(()) },
                life = self.lives.changed() => match life {
                    Ok(()) => self.lives.mark_changed(),
                    // The registry was ended in good order, and not by us.
                    Err(_) => return Ok(()),
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use actix::{Actor, Context, Handler};
    use peer::{Envelope, FeedWriter, Inbox};
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;
    use wire::event::RunFrame;
    use wire::{ContentHash, RunId, RunStatus};

    use super::*;
    use crate::console::Style;

    /// Longer than the pause between two lives of a part, and shorter than all limits here.
    const AWAY: Duration = Duration::from_secs(6);

    /// What a registry knows and was asked; its lives share it.
    #[derive(Clone, Default)]
    struct Book(Arc<Mutex<(Vec<Run>, Vec<StopMode>)>>);

    impl Book {
        fn asked(&self) -> Vec<StopMode> {
            self.0.lock().unwrap().1.clone()
        }
    }

    /// A life of a registry. It lists no run before it has found them.
    struct Desk {
        book: Book,
        found: bool,
    }

    impl Actor for Desk {
        type Context = Context<Self>;
    }

    impl Handler<Envelope<StopAll>> for Desk {
        type Result = Result<Vec<Run>, Never>;

        fn handle(&mut self, envelope: Envelope<StopAll>, _: &mut Context<Self>) -> Self::Result {
            self.found = true;
            let mut book = self.book.0.lock().unwrap();
            book.1.push(envelope.message().mode);
            Ok(book.0.clone())
        }
    }

    impl Handler<Envelope<ListRuns>> for Desk {
        type Result = Result<Vec<Run>, Never>;

        fn handle(&mut self, _: Envelope<ListRuns>, _: &mut Context<Self>) -> Self::Result {
            Ok(if self.found { self.book.0.lock().unwrap().0.clone() } else { Vec::new() })
        }
    }

    /// A registry with one live run.
    struct Registry {
        book: Book,
        stop_all: Inbox<StopAll>,
        list: Inbox<ListRuns>,
        events: FeedWriter<DevEvent>,
        lives: watch::Sender<Option<String>>,
    }

    impl Registry {
        /// One that is away. From now on time is virtual: what waits for the clock alone goes on at once.
        fn away() -> Self {
            tokio::time::pause();
            let book = Book::default();
            book.0.lock().unwrap().0.push(live_run());
            let (stop_all, list) = (Inbox::new(4), Inbox::new(4));
            Self { book, stop_all, list, events: FeedWriter::new(4), lives: watch::Sender::new(None) }
        }

        fn go_away(&self) {
            self.stop_all.point_at_nobody("it is not running");
            self.list.point_at_nobody("it is not running");
        }

        /// Its next life begins.
        fn come_up(&self) {
            let desk = Desk { book: self.book.clone(), found: false }.start();
            self.stop_all.point_at(desk.clone().recipient());
            self.list.point_at(desk.recipient());
            self.lives.send_modify(|life| *life = Some(format!("{life:?}+")));
        }

        fn say_something(&self) {
            let Run { id: run, status, .. } = live_run();
            self.events.publish(DevEvent::Run(RunFrame {
                run,
                pid: None,
                status,
                job_id: None,
                replaces: None,
                replaced_by: None,
                exit_code: None,
                reason: None,
                resume: None,
                from_scratch: None,
                config: Vec::new(),
            }));
        }

        fn end_of_all_runs(&self) {
            self.book.0.lock().unwrap().0.clear();
            self.say_something();
        }

        /// The server is asked to end; and what asks it again.
        fn end(&self) -> (JoinHandle<()>, oneshot::Sender<()>) {
            let mut runs = Runs {
                stop_all: self.stop_all.peer(),
                list: self.list.peer(),
                events: self.events.feed(),
                lives: self.lives.subscribe(),
            };
            let (again, asked) = oneshot::channel();
            let end = actix::spawn(async move {
                runs.end(&Console::new(Style::Json), async { asked.await.expect("kept until it is used") })
                    .await;
            });
            (end, again)
        }
    }

    fn live_run() -> Run {
        Run {
            id: RunId::from("r1"),
            pid: Some(1),
            status: RunStatus::Running,
            entry: "src/midrun/index.ts".to_owned(),
            trainer: None,
            content_hash: ContentHash::of(b"bundle"),
            config_hash: None,
            job_id: None,
            started_at: wire::now(),
            ended_at: None,
            exit_code: None,
            ended_by: None,
            replaces: None,
            replaced_by: None,
            reason: None,
            last_checkpoint: None,
            resume: None,
            from_scratch: None,
            config: Vec::new(),
        }
    }

    /// Lets everything happen that happens within `time`.
    async fn pass(time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Less than any pause.
    const MOMENT: Duration = Duration::from_millis(1);

    #[actix_web::test]
    async fn a_registry_that_is_away_is_asked_until_it_is_there() {
        let registry = Registry::away();
        let (end, _again) = registry.end();
        pass(AWAY).await;
        assert!(!end.is_finished(), "nobody knows whether runs are live");
        registry.come_up();
        pass(LONGEST_PAUSE).await;
        assert_eq!(registry.book.asked(), [StopMode::Checkpoint]);
        assert!(!end.is_finished(), "a run is live");
        registry.end_of_all_runs();
        pass(MOMENT).await;
        assert!(end.is_finished());
    }

    #[actix_web::test]
    async fn a_registry_that_goes_away_while_runs_end_is_waited_for_and_told_again() {
        let registry = Registry::away();
        registry.come_up();
        let (end, _again) = registry.end();
        pass(MOMENT).await;
        registry.go_away();
        registry.say_something();
        pass(AWAY).await;
        assert!(!end.is_finished(), "nobody knows whether runs are live");
        registry.come_up();
        pass(LONGEST_PAUSE).await;
        assert_eq!(registry.book.asked(), [StopMode::Checkpoint; 2]);
        assert!(!end.is_finished(), "a run is live");
        registry.end_of_all_runs();
        pass(MOMENT).await;
        assert!(end.is_finished());
    }

    #[actix_web::test]
    async fn a_life_that_has_not_found_its_runs_is_not_one_without_runs() {
        let registry = Registry::away();
        registry.come_up();
        let (end, _again) = registry.end();
        pass(MOMENT).await;
        registry.come_up();
        registry.say_something();
        pass(MOMENT).await;
        assert!(!end.is_finished(), "a run is live");
        assert_eq!(registry.book.asked(), [StopMode::Checkpoint; 2]);
        // Also when nothing happens that one could hear of.
        registry.come_up();
        pass(MOMENT).await;
        assert_eq!(registry.book.asked(), [StopMode::Checkpoint; 3]);
        registry.end_of_all_runs();
        pass(MOMENT).await;
        assert!(end.is_finished());
    }

    #[actix_web::test]
    async fn who_asks_again_has_runs_stopped_at_once_by_a_registry_that_was_away() {
        let registry = Registry::away();
        let (end, again) = registry.end();
        pass(MOMENT).await;
        again.send(()).unwrap();
        pass(AWAY).await;
        assert!(!end.is_finished());
        registry.come_up();
        pass(LONGEST_PAUSE).await;
        assert_eq!(registry.book.asked(), [StopMode::Now]);
        registry.end_of_all_runs();
        pass(MOMENT).await;
        assert!(end.is_finished());
    }

    #[actix_web::test]
    async fn a_registry_that_stays_away_does_not_keep_the_server_from_its_end() {
        let registry = Registry::away();
        let (end, _again) = registry.end();
        pass(ASK_LIMIT).await;
        assert!(end.is_finished());
    }
}
