//! A small HTTP server for tests: answers as a script says and remembers what it was asked.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::Client;
use crate::state::ServerFile;

/// What one request is answered with.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// A status and a JSON body.
    Json(u16, String),
    /// An event stream that comes to its end after these parts.
    Events(Vec<String>),
    /// An event stream that breaks off after these parts.
    Broken(Vec<String>),
    /// An event stream that stays open after these parts.
    Open(Vec<String>),
    /// Nothing follows.
    NoContent,
}

/// A request as it came, without its body's meaning.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// `GET /api/runs`.
    pub(crate) line: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The server; it is gone when it is dropped.
pub(crate) struct Scripted {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scripted {
    /// Answers one request after another with `answers`; then it hangs up on everybody.
    pub(crate) async fn serve(answers: impl IntoIterator<Item = Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (mut answers, log) = (answers.into_iter().collect::<VecDeque<_>>(), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let Some(answer) = answers.pop_front() else { continue };
                let Some(request) = read(&mut stream).await else { continue };
                log.lock().unwrap().push(request);
                open.extend(write(stream, answer).await);
            }
        });
        Self { url, asked, task }
    }

    /// What was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Makes this the running server of `project`.
    pub(crate) fn is_server_of(&self, project: &Path, token: &str) {
        std::fs::create_dir_all(project.join(".midrun")).unwrap();
        let file = ServerFile {
            url: self.url.clone(),
            token: token.to_owned(),
            process: process::Identity::own().unwrap(),
            started_at: wire::now(),
        };
        file.write(project).unwrap();
    }

    /// A client of this server, as the one of `project`.
    pub(crate) fn client(&self, project: &Path) -> Client {
        self.is_server_of(project, "secret");
        Client::of(project).unwrap().unwrap()
    }
}

async fn read(stream: &mut TcpStream) -> Option<Asked> {
    let mut text = Vec::new();
    let end = loop {
        if let Some(end) = text.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        (stream.read_buf(&mut text).await.ok()? > 0).then_some(())?;
    };
    let head = String::from_utf8(text[..end].to_vec()).unwrap();
    let mut lines = head.split("\r\n");
    let line = lines.next()?.trim_end_matches(" HTTP/1.1").to_owned();
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.map_or(0, |(_, value)| value.parse().unwrap());
    let mut body = text.split_off(end + 4);
    while body.len() < length {
        (stream.read_buf(&mut body).await.ok()? > 0).then_some(())?;
    }
    Some(Asked { line, headers, body: String::from_utf8(body).unwrap() })
}

/// The stream, if it is to stay open.
async fn write(mut stream: TcpStream, answer: Answer) -> Option<TcpStream> {
    let events = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let (head, parts, end, stays) = match answer {
        Answer::Json(status, body) => {
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            (head, Vec::new(), "", false)
        }
        Answer::NoContent => {
            ("HTTP/1.1 204 X\r\nconnection: close\r\n\r\n".to_owned(), Vec::new(), "", false)
        }
        Answer::Events(parts) => (events.to_owned(), parts, "0\r\n\r\n", false),
        Answer::Broken(parts) => (events.to_owned(), parts, "", false),
        Answer::Open(parts) => (events.to_owned(), parts, "", true),
    };
    stream.write_all(head.as_bytes()).await.ok()?;
    for part in parts {
        stream.write_all(format!("{:x}\r\n{part}\r\n", part.len()).as_bytes()).await.ok()?;
    }
    stream.write_all(end.as_bytes()).await.ok()?;
    stays.then_some(stream)
}
