//! The command line's side of the HTTP edge: requests with the token, errors in the server's own words, and event
//! streams that go on where they broke off.
//!
//! What must hold: every wait has a limit; no answer fills the memory; the token stands in a header and nowhere else.

mod events;
#[cfg(test)]
pub(crate) mod scripted;
#[cfg(test)]
mod tests;

use std::error::Error as _;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::HeaderValue;
use reqwest::{Method, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use wire::Diagnostic;
use wire::profile::TOKEN_HEADERS;

pub(crate) use self::events::Events;
use crate::state::ServerFile;
pub(crate) use peer::sse::Event;

const CONNECT: Duration = Duration::from_secs(5);
/// How long a plain request may take.
const ANSWER: Duration = Duration::from_secs(30);
/// How long the start of a run may take: the server may have to build first, and gives itself 100 s.
const START: Duration = Duration::from_secs(110);
/// The longest answer that is read, bytes.
const LONGEST_ANSWER: usize = 32 * 1024 * 1024;

/// A running server, as the command line talks to it.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    project: PathBuf,
    server: ServerFile,
}

/// Why there is no answer, or not the wanted one.
#[derive(Debug)]
pub(crate) enum ClientError {
    /// Nobody answered.
    Away {
        /// The server's address.
        url: String,
        /// What happened instead.
        why: String,
    },
    /// The server said no.
    Refused(Refusal),
    /// The answer makes no sense.
    Strange {
        /// The server's address.
        url: String,
        /// What is wrong with it.
        why: String,
    },
}

/// A "no" of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The HTTP status.
    pub(crate) status: u16,
    /// In the server's words.
    pub(crate) message: String,
    /// The places in the user's source that it names.
    pub(crate) diagnostics: Vec<Diagnostic>,
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away { url, why } => write!(f, "the server at {url} does not answer: {why}"),
            Self::Refused(refusal) => f.write_str(&refusal.message),
            Self::Strange { url, why } => {
                write!(f, "the answer of the server at {url} makes no sense: {why}")
            }
        }
    }
}

impl Client {
    /// A client for the server that is running for `project`; nothing when none is.
    pub(crate) fn of(project: &Path) -> Option<Result<Self, ClientError>> {
        let server = ServerFile::read(project)?;
        // The server is on this machine, whatever proxy the environment names.
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|error| ClientError::Away { url: server.url.clone(), why: innermost(&error) });
        Some(http.map(|http| Self { http, project: project.to_owned(), server }))
    }

    /// The server's base URL without a trailing slash.
    pub(crate) fn url(&self) -> &str {
        &self.server.url
    }

    /// `GET` of the path that these parts make.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, ClientError> {
        self.read(self.request(Method::GET, path)?.timeout(ANSWER)).await
    }

    /// `GET` with a query.
    pub(crate) async fn get_with<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<T, ClientError> {
        let mut url = self.address(path)?;
        url.query_pairs_mut().extend_pairs(query);
        self.read(self.authorised(Method::GET, url)?.timeout(ANSWER)).await
    }

    /// `POST` of `body`.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &(impl Serialize + Sync),
    ) -> Result<T, ClientError> {
        self.read(self.request(Method::POST, path)?.json(body).timeout(ANSWER)).await
    }

    /// `POST` of `body`, whose answer may take as long as `limit`.
    pub(crate) async fn post_within<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: &(impl Serialize + Sync),
        limit: Duration,
    ) -> Result<T, ClientError> {
        self.read(self.request(Method::POST, path)?.json(body).timeout(limit)).await
    }

    /// `DELETE` of the path that these parts make.
    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &[&str]) -> Result<T, ClientError> {
        self.read(self.request(Method::DELETE, path)?.timeout(ANSWER)).await
    }

    /// Starts a run: of `file`, an absolute path, or of the project's own entry.
    pub(crate) async fn start_run(&self, file: Option<&str>) -> Result<Value, ClientError> {
        let body = serde_json::json!({ "file": file });
        self.read(self.request(Method::POST, &["api", "runs"])?.json(&body).timeout(START)).await
    }

    /// The event stream at the path that these parts make, from its start.
    pub(crate) fn events(&self, path: &[&str]) -> Events {
        Events::new(self.clone(), path.iter().map(|part| (*part).to_owned()).collect())
    }

    /// Whether the server's process answers, whoever asks.
    pub(crate) async fn is_alive(&self) -> Result<(), ClientError> {
        let _: Value = self.get(&["healthz"]).await?;
        Ok(())
    }

    /// Looks whether another server took the place of this one.
    fn find_again(&mut self) {
        if let Some(server) = ServerFile::read(&self.project) {
            self.server = server;
        }
    }

    fn address(&self, path: &[&str]) -> Result<reqwest::Url, ClientError> {
        let none = |why: &str| ClientError::Strange { url: self.server.url.clone(), why: why.to_owned() };
        let mut url = reqwest::Url::parse(&self.server.url).map_err(|_| none("its address is no URL"))?;
        url.path_segments_mut().map_err(|()| none("its address has no path"))?.pop_if_empty().extend(path);
        Ok(url)
    }

    fn request(&self, method: Method, path: &[&str]) -> Result<RequestBuilder, ClientError> {
        self.authorised(method, self.address(path)?)
    }

    fn authorised(&self, method: Method, url: reqwest::Url) -> Result<RequestBuilder, ClientError> {
        let mut token = HeaderValue::from_str(&self.server.token).map_err(|_| ClientError::Strange {
            url: self.server.url.clone(),
            why: "its token cannot stand in a header".to_owned(),
        })?;
        token.set_sensitive(true);
        Ok(self.http.request(method, url).header(TOKEN_HEADERS[0], token))
    }

    async fn read<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let response = request.send().await.map_err(|error| self.away(&error))?;
        if !response.status().is_success() {
            return Err(self.refused(response).await);
        }
        let body = self.body(response).await?;
        serde_json::from_slice(&body).map_err(|error| self.strange(error.to_string()))
    }

    async fn body(&self, mut response: Response) -> Result<Vec<u8>, ClientError> {
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|error| self.away(&error))? {
            body.extend_from_slice(&part);
            if body.len() > LONGEST_ANSWER {
                return Err(self.strange(format!("it is longer than {LONGEST_ANSWER} bytes")));
            }
        }
        Ok(body)
    }

    async fn refused(&self, response: Response) -> ClientError {
        let status = response.status();
        let body = match self.body(response).await {
            Ok(body) => body,
            Err(error) => return error,
        };
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let message = match body["error"].as_str() {
            Some(message) => message.to_owned(),
            None => format!("the server at {} answered {status}", self.server.url),
        };
        let diagnostics = serde_json::from_value(body["diagnostics"].clone()).unwrap_or_default();
        ClientError::Refused(Refusal { status: status.as_u16(), message, diagnostics })
    }

    fn away(&self, error: &reqwest::Error) -> ClientError {
        let why = if error.is_timeout() { "no answer in time".to_owned() } else { innermost(error) };
        ClientError::Away { url: self.server.url.clone(), why }
    }

    fn strange(&self, why: String) -> ClientError {
        ClientError::Strange { url: self.server.url.clone(), why }
    }
}

/// The cause that says most in the fewest words.
pub(crate) fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    if error.source().is_none() {
        return error.to_string();
    }
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
