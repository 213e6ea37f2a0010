//! Parts with real actors that fail.

#![allow(clippy::unwrap_used, reason = "a test that fails says where")]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use actix::{Actor, Context, Handler};
use peer::{AskError, Envelope, FeedSeat, FeedWriter, Inbox, Start};
use serde::{Deserialize, Serialize};
use supervise::{Answering, Life, Part, Policy};
use tokio::sync::Notify;
use wire::Wire;
use wire::message::{FeedEvent, Never};

const LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, Serialize, Deserialize)]
enum Order {
    Count,
    Fail,
    FailLater,
    FailInTask,
}

impl Wire for Order {
    const NAME: &'static str = "order";
    const REPEATABLE: bool = true;
    type Reply = u32;
    type Refusal = Never;
}

#[derive(Debug, Serialize, Deserialize)]
struct Counted(u32);

impl FeedEvent for Counted {
    const NAME: &'static str = "counted";

    fn snapshot_key(&self) -> Option<String> {
        None
    }
}

/// Counts in each of its lives from 1 on.
struct Counter {
    life: Life,
    count: u32,
    writer: FeedWriter<Counted>,
}

impl Actor for Counter {
    type Context = Context<Self>;
}

impl Handler<Envelope<Order>> for Counter {
    type Result = Answering<Result<u32, Never>>;

    fn handle(&mut self, envelope: Envelope<Order>, _: &mut Context<Self>) -> Self::Result {
        let (order, held) = envelope.open();
        match order {
            Order::Count => {
                self.count += 1;
                self.writer.publish(Counted(self.count));
                let count = self.count;
                self.life.answering(async move { Ok(count) })
            }
            Order::Fail => panic!("at once"),
            Order::FailLater => self.life.answering(async move {
                let _held = held;
                tokio::task::yield_now().await;
                panic!("later")
            }),
            Order::FailInTask => {
                self.life.spawn(async { panic!("in a task") });
                self.life.answering(async move {
                    let _held = held;
                    std::future::pending().await
                })
            }
        }
    }
}

struct Setup {
    part: Part,
    inbox: Inbox<Order>,
    seat: FeedSeat<Counted>,
    lives: Rc<Cell<u32>>,
}

fn policy(first_pause: Duration) -> Policy {
    Policy { first_pause, ..Policy::default() }
}

/// A counter that is started again after `pause`; `more` does something in each life.
fn start(pause: Duration, more: impl Fn(&Life) -> Result<(), String> + 'static) -> Setup {
    let (inbox, seat, lives) = (Inbox::new(8), FeedSeat::new(8), Rc::<Cell<u32>>::default());
    let (to, from, count) = (inbox.clone(), seat.clone(), Rc::clone(&lives));
    let life = move |life: &Life| {
        count.set(count.get() + 1);
        let actor = life.start(Counter { life: life.clone(), count: 0, writer: from.writer() });
        life.answer(&to, &actor);
        more(life)
    };
    let part = Part::start("train-registry", policy(pause), life).unwrap();
    Setup { part, inbox, seat, lives }
}

/// Waits until the next life after the one that `lives` showed.
async fn next_life(part: &Part, seen: &Option<String>) {
    let mut lives = part.lives();
    tokio::time::timeout(LIMIT, lives.wait_for(|life| life != seen)).await.unwrap().unwrap();
}

#[actix_rt::test]
async fn whatever_fails_is_followed_by_a_life_behind_the_same_peers_and_feeds() {
    let Setup { part, inbox, seat, .. } = start(Duration::from_millis(1), |_| Ok(()));
    let peer = inbox.peer();
    let mut reader = seat.feed().read(Start::Snapshot);
    for failing in [Order::Fail, Order::FailLater, Order::FailInTask] {
        let seen = part.lives().borrow().clone();
        for expected in 1..=2 {
            assert_eq!(
                peer.ask(Order::Count).await.unwrap(),
                expected,
                "a new life knows nothing of the old one"
            );
            assert_eq!(reader.next().await.unwrap().event.0, expected, "its readers follow");
        }
        let answer = peer.ask(failing).await;
        assert!(matches!(answer, Err(AskError::Unknown { .. })), "{answer:?}");
        next_life(&part, &seen).await;
        assert!(part.trouble().borrow().is_none(), "it is well again");
    }
    assert_eq!(inbox.depth(), 0, "no place is lost with those who held it");
    assert!(part.retire(LIMIT).await);
}

#[actix_rt::test]
async fn while_there_is_no_life_messages_are_refused_at_once_as_not_delivered() {
    let Setup { part, inbox, lives, .. } = start(Duration::from_secs(3_600), |_| Ok(()));
    let peer = inbox.peer();
    let (failing, behind) = tokio::join!(peer.ask(Order::Fail), peer.ask(Order::Count));
    assert!(matches!(failing, Err(AskError::Unknown { .. })), "{failing:?}");
    // It was queued when the actor failed, or came right after.
    assert!(behind.is_err(), "{behind:?}");
    let refused = peer.ask(Order::Count).await;
    let Err(AskError::NotDelivered { why, .. }) = &refused else { panic!("{refused:?}") };
    assert!(why.contains("being restarted") || why.contains("not running"), "{why}");
    let mut trouble = part.trouble();
    let seen = trouble.wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert!(seen.service == "train-registry" && seen.why.contains("at once"), "{seen}");
    assert!(part.retire(LIMIT).await, "also one that is down ends");
    assert_eq!(lives.get(), 1);
}

#[actix_rt::test]
async fn nothing_of_a_life_that_failed_goes_on_and_its_farewell_comes_before_the_next_one() {
    let order = Rc::<RefCell<Vec<String>>>::default();
    let (told, number, go) = (Rc::clone(&order), Cell::new(0), Rc::new(Notify::new()));
    let going = Rc::clone(&go);
    let setup = start(Duration::from_millis(1), move |life| {
        number.set(number.get() + 1);
        let (n, going, saying) = (number.get(), Rc::clone(&going), Rc::clone(&told));
        told.borrow_mut().push(format!("begin {n}"));
        life.spawn(async move {
            going.notified().await;
            saying.borrow_mut().push(format!("works {n}"));
        });
        let saying = Rc::clone(&told);
        life.at_end(async move { saying.borrow_mut().push(format!("farewell {n}")) });
        Ok(())
    });
    let seen = setup.part.lives().borrow().clone();
    setup.inbox.peer().ask(Order::Fail).await.unwrap_err();
    // Whoever still waited in the old life would take this.
    go.notify_waiters();
    next_life(&setup.part, &seen).await;
    assert_eq!(setup.inbox.peer().ask(Order::Count).await.unwrap(), 1);
    assert!(setup.part.retire(LIMIT).await);
    assert_eq!(*order.borrow(), ["begin 1", "farewell 1", "begin 2", "farewell 2"]);
}

#[actix_rt::test]
async fn who_fails_too_often_stays_down_and_the_rest_goes_on() {
    let setup = start(Duration::from_millis(1), |_| Ok(()));
    let peer = setup.inbox.peer();
    for life in 1..=5 {
        let seen = setup.part.lives().borrow().clone();
        peer.ask(Order::Fail).await.unwrap_err();
        if life < 5 {
            next_life(&setup.part, &seen).await;
        }
    }
    let mut trouble = setup.part.trouble();
    let down =
        |trouble: &Option<wire::Trouble>| trouble.as_ref().is_some_and(|one| one.why.contains("stays down"));
    tokio::time::timeout(LIMIT, trouble.wait_for(down)).await.unwrap().unwrap();
    assert_eq!(setup.lives.get(), 5);
    let refused = peer.ask(Order::Count).await;
    assert!(matches!(refused, Err(AskError::NotDelivered { .. })), "{refused:?}");
}

#[actix_rt::test]
async fn a_life_that_cannot_begin_is_tried_until_it_can_and_a_first_one_is_an_error() {
    let tries = Rc::<Cell<u32>>::default();
    let tried = Rc::clone(&tries);
    let setup = start(Duration::from_millis(1), move |_| {
        tried.set(tried.get() + 1);
        // More often than a part may panic.
        if (2..10).contains(&tried.get()) { Err("the disk is full".to_owned()) } else { Ok(()) }
    });
    let seen = setup.part.lives().borrow().clone();
    setup.inbox.peer().ask(Order::Fail).await.unwrap_err();
    next_life(&setup.part, &seen).await;
    assert_eq!(tries.get(), 10);
    let never = Part::start("train-registry", Policy::default(), |_| Err("no folder".to_owned()));
    assert_eq!(never.err().unwrap(), "no folder");
}

#[actix_rt::test]
async fn a_thread_that_panics_ends_its_life() {
    let fails = Rc::new(Cell::new(true));
    let setup = start(Duration::from_millis(1), move |life| {
        let (alarm, fails) = (life.alarm(), fails.replace(false));
        std::thread::spawn(move || alarm.guard(|| assert!(!fails, "on a thread")));
        Ok(())
    });
    next_life(&setup.part, &Some("1".to_owned())).await;
    assert_eq!(setup.inbox.peer().ask(Order::Count).await.unwrap(), 1);
    assert_eq!(setup.lives.get(), 2);
}
