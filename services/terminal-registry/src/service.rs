//! The actor: takes requests for terminal sessions.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use actix::{Actor, Addr, AsyncContext as _, Context, Handler, WrapFuture as _};
use failpoint::Point;
use peer::{Envelope, Inbox};
use supervise::{Answering, Life, Part, Policy};
use tokio::sync::watch;
use tokio::time::timeout;
use wire::Trouble;
use wire::host::HostRequest;
use wire::message::Never;
use wire::run::LogPage;
use wire::terminal::{
    CloseTerminal, Commanded, GetTerminal, ListTerminals, OpenTerminal, ReadTerminal, ResizeTerminal,
    RunCommand, Terminal, TerminalRefusal, TypeInto,
};

use crate::registry::{Core, size};
use crate::settings::Settings;

/// Requests of each kind that may be under way.
const INBOX: usize = 256;
/// Log readers, and waits for commands, that may be under way.
const WAITING_INBOX: usize = 4096;

/// How to reach a registry.
pub struct Handle {
    /// Entrance for [`OpenTerminal`].
    pub open: Inbox<OpenTerminal>,
    /// Entrance for [`ListTerminals`].
    pub list: Inbox<ListTerminals>,
    /// Entrance for [`GetTerminal`].
    pub get: Inbox<GetTerminal>,
    /// Entrance for [`CloseTerminal`].
    pub close: Inbox<CloseTerminal>,
    /// Entrance for [`TypeInto`].
    pub type_into: Inbox<TypeInto>,
    /// Entrance for [`ResizeTerminal`].
    pub resize: Inbox<ResizeTerminal>,
    /// Entrance for [`RunCommand`].
    pub run: Inbox<RunCommand>,
    /// Entrance for [`ReadTerminal`].
    pub read: Inbox<ReadTerminal>,
    /// The one that lives, or the last one that did.
    registry: Rc<RefCell<Option<Addr<Registry>>>>,
    part: Part,
}

impl Handle {
    /// What is wrong with it; nothing while all is well.
    pub fn trouble(&self) -> watch::Receiver<Option<Trouble>> {
        self.part.trouble()
    }

    /// Opens no more sessions, ends those that are open, and waits for their end, at most `limit`. May be called again.
    pub async fn shutdown(&self, limit: Duration) {
        let registry = self.registry.borrow().clone();
        let ended = async {
            if let Some(registry) = registry {
                // One that is not there has no sessions to end: its hosts end them when they are alone.
                let _ = registry.send(Shutdown).await;
            }
        };
        if timeout(limit, ended).await.is_err() {
            tracing::warn!("some terminals have not ended yet; their hosts go on ending them");
        }
        self.part.retire(limit).await;
    }
}

/// Starts a registry on the current arbiter. When it fails, the next one takes up its sessions, as after a restart of the
/// server.
pub fn start(settings: Settings) -> Handle {
    let doors = Doors {
        open: Inbox::new(INBOX),
        list: Inbox::new(INBOX),
        get: Inbox::new(INBOX),
        close: Inbox::new(INBOX),
        type_into: Inbox::new(INBOX),
        resize: Inbox::new(INBOX),
        run: Inbox::new(WAITING_INBOX),
        read: Inbox::new(WAITING_INBOX),
    };
    let (inboxes, registry) = (doors.clone(), Rc::<RefCell<Option<Addr<Registry>>>>::default());
    let living = Rc::clone(&registry);
    let life = move |life: &Life| {
        let actor = life.start(Registry { core: Rc::new(Core::new(life.clone(), settings.clone())) });
        doors.lead_to(life, &actor);
        living.replace(Some(actor));
        Ok(())
    };
    let part = Part::start("terminal-registry", Policy::default(), life);
    let part = part.expect("its first life needs nothing");
    let Doors { open, list, get, close, type_into, resize, run, read } = inboxes;
    Handle { open, list, get, close, type_into, resize, run, read, registry, part }
}

#[derive(Clone)]
struct Doors {
    open: Inbox<OpenTerminal>,
    list: Inbox<ListTerminals>,
    get: Inbox<GetTerminal>,
    close: Inbox<CloseTerminal>,
    type_into: Inbox<TypeInto>,
    resize: Inbox<ResizeTerminal>,
    run: Inbox<RunCommand>,
    read: Inbox<ReadTerminal>,
}

impl Doors {
    fn lead_to(&self, life: &Life, actor: &Addr<Registry>) {
        life.answer(&self.open, actor);
        life.answer(&self.list, actor);
        life.answer(&self.get, actor);
        life.answer(&self.close, actor);
        life.answer(&self.type_into, actor);
        life.answer(&self.resize, actor);
        life.answer(&self.run, actor);
        life.answer(&self.read, actor);
    }
}

struct Registry {
    core: Rc<Core>,
}

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let core = Rc::clone(&self.core);
        ctx.spawn(async move { core.recover().await }.into_actor(self));
    }
}

/// Ends everything.
#[derive(actix::Message)]
#[rtype(result = "()")]
struct Shutdown;

impl Handler<Shutdown> for Registry {
    type Result = Answering<()>;

    fn handle(&mut self, _: Shutdown, _: &mut Context<Self>) -> Self::Result {
        self.core.life.answering(Rc::clone(&self.core).shutdown())
    }
}

impl Handler<Envelope<OpenTerminal>> for Registry {
    type Result = Answering<Result<Terminal, TerminalRefusal>>;

    fn handle(&mut self, envelope: Envelope<OpenTerminal>, _: &mut Context<Self>) -> Self::Result {
        let core = Rc::clone(&self.core);
        self.core.life.answering(async move {
            let (ask, _held) = envelope.open();
            failpoint::reach(Point::TerminalAsked);
            core.open(ask).await
        })
    }
}

impl Handler<Envelope<ListTerminals>> for Registry {
    type Result = Answering<Result<Vec<Terminal>, Never>>;

    fn handle(&mut self, envelope: Envelope<ListTerminals>, _: &mut Context<Self>) -> Self::Result {
        let core = Rc::clone(&self.core);
        self.core.life.answering(async move {
            let _held = envelope.open();
            core.know_all().await;
            Ok(core.views())
        })
    }
}

impl Handler<Envelope<GetTerminal>> for Registry {
    type Result = Answering<Result<Terminal, TerminalRefusal>>;

    fn handle(&mut self, envelope: Envelope<GetTerminal>, _: &mut Context<Self>) -> Self::Result {
        let core = Rc::clone(&self.core);
        self.core.life.answering(async move {
            let (ask, _held) = envelope.open();
            core.know_all().await;
            core.view(&ask.terminal)
        })
    }
}

impl Handler<Envelope<CloseTerminal>> for Registry {
    type Result = Answering<Result<Terminal, TerminalRefusal>>;

    fn handle(&mut self, envelope: Envelope<CloseTerminal>, _: &mut Context<Self>) -> Self::Result {
        let core = Rc::clone(&self.core);
        self.core.life.answering(async move {
            let (ask, _held) = envelope.open();
            core.know_all().await;
            core.close(&ask)
        })
    }
}

impl Handler<Envelope<TypeInto>> for Registry {
    type Result = Answering<Result<(), TerminalRefusal>>;

    fn handle(&mut self, envelope: Envelope<TypeInto>, _: &mut Context<Self>) -> Self::Result {
        let core = Rc::clone(&self.core);
        self.core.life.answering(async move {
            let (TypeInto { terminal, base64 }, _held) = envelope.open();
            core.ask(&terminal, |id| HostRequest::Type { id, base64 }).await
        })
    }
}

impl Handler<Envelope<ResizeTerminal>> for Registry {
    type Result = Answering<Result<(), TerminalRefusal>>;

    fn handle(&mut self, envelope: Envelope<ResizeTerminal>, _: &mut Context<Self>) -> Self::Result {
        let core = Rc::clone(&self.core);
        self.core.life.answering(async move {
            let (ResizeTerminal { terminal, rows, columns }, _held) = envelope.open();
            let (rows, columns) = size(rows, columns)?;
            core.ask(&terminal, |id| HostRequest::Resize { id, rows, columns }).await
        })
    }
}

impl Handler<Envelope<RunCommand>> for Registry {
    type Result = Answering<Result<Commanded, TerminalRefusal>>;

    fn handle(&mut self, envelope: Envelope<RunCommand>, _: &mut Context<Self>) -> Self::Result {
        let core = Rc::clone(&self.core);
        self.core.life.answering(async move {
            let (ask, _held) = envelope.open();
            core.run(ask).await
        })
    }
}

impl Handler<Envelope<ReadTerminal>> for Registry {
    type Result = Answering<Result<LogPage, TerminalRefusal>>;

    fn handle(&mut self, envelope: Envelope<ReadTerminal>, _: &mut Context<Self>) -> Self::Result {
        let core = Rc::clone(&self.core);
        self.core.life.answering(async move {
            let (ask, _held) = envelope.open();
            core.read(ask).await
        })
    }
}
