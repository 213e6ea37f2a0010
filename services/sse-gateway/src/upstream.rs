//! Requests that go on to the control plane, as whom and for what scope the server acts.
//!
//! What must hold: the scope is the server's, whatever the client wrote; the server's credential goes to the
//! configured address and nowhere else, so redirects are not followed; of the answer's head only the kind of its
//! body is passed on, so no cookie and no CORS header gets through.

pub(crate) mod detail;
pub(crate) mod follow;

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_web::http::{StatusCode, header};
use actix_web::web::{Bytes, Data, Path, Payload, Query};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::{Stream, StreamExt as _, stream};
use reqwest::{Client, Method, Response, Url};
use serde_json::json;
use wire::profile::TOKEN_QUERIES;
use wire::{ControlPlane, TraceContext};

use crate::body;
use crate::dev_events::{LAST_EVENT_ID, event_stream};
use crate::edge::{Edge, Ticket};
use crate::failure::Failure;
use crate::metrics::Kind;
use crate::traced::trace;

const CONNECT: Duration = Duration::from_secs(5);
/// The longest answer that is looked into before it is passed on, bytes.
const LOOK_INTO: usize = 64 * 1024;

/// The clients for the control plane, made when first needed: one for this machine, one for elsewhere.
pub(crate) struct Upstream {
    silence: Duration,
    near: OnceLock<Client>,
    far: OnceLock<Client>,
}

/// What is asked of the control plane.
struct Ask<'a> {
    method: Method,
    /// Below the base URL, each to be encoded.
    path: &'a [&'a str],
    query: Vec<(String, String)>,
    last_event_id: Option<&'a str>,
    accept: Option<&'a str>,
    body: Option<Bytes>,
    trace: TraceContext,
}

impl Upstream {
    pub(crate) fn new(silence: Duration) -> Self {
        Self { silence, near: OnceLock::new(), far: OnceLock::new() }
    }

    fn client(&self, url: &Url) -> Result<&Client, Failure> {
        let near = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let kept = if near { &self.near } else { &self.far };
        if let Some(client) = kept.get() {
            return Ok(client);
        }
        let client = Client::builder().connect_timeout(CONNECT).redirect(reqwest::redirect::Policy::none());
        let client = if near { client.no_proxy() } else { client };
        let client = client
            .build()
            .map_err(|error| Failure::unavailable(format!("no connection can be made from here: {error}")))?;
        Ok(kept.get_or_init(|| client))
    }

    async fn send(&self, to: &ControlPlane, ask: Ask<'_>) -> Result<Response, Failure> {
        let mut url = Url::parse(&to.url).map_err(|error| {
            Failure::unavailable(format!("the control plane's URL {:?} is none: {error}", to.url))
        })?;
        url.path_segments_mut()
            .map_err(|()| Failure::unavailable(format!("the control plane's URL {:?} has no path", to.url)))?
            .pop_if_empty()
            .extend(ask.path);
        url.query_pairs_mut()
            .extend_pairs(ask.query)
            .append_pair("orgSlug", &to.org_slug)
            .append_pair("projectSlug", &to.project_slug);
        let mut request = self.client(&url)?.request(ask.method, url).bearer_auth(to.token.expose());
        let headers = [
            (LAST_EVENT_ID, ask.last_event_id),
            ("accept", ask.accept),
            ("traceparent", ask.trace.traceparent.as_deref()),
            ("tracestate", ask.trace.tracestate.as_deref()),
        ];
        for (name, value) in headers {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        if let Some(body) = ask.body {
            request = request.header("content-type", "application/json").body(body);
        }
        match tokio::time::timeout(self.silence, request.send()).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                let error = error.without_url();
                tracing::warn!(url = to.url, %error, "the control plane cannot be reached");
                Err(Failure::new(
                    StatusCode::BAD_GATEWAY,
                    format!("the control plane at {} cannot be reached: {}", to.url, root(&error)),
                ))
            }
            Err(_) => Err(Failure::new(
                StatusCode::GATEWAY_TIMEOUT,
                format!("the control plane at {} does not answer", to.url),
            )),
        }
    }
}

/// The innermost cause, which says most in the fewest words.
fn root(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

/// The client's own parameters, without those that are the server's to say.
fn own_query(request: &HttpRequest) -> Vec<(String, String)> {
    let ours: HashSet<_> = ["orgSlug", "projectSlug"].into_iter().chain(TOKEN_QUERIES).collect();
    let mut query = Query::<Vec<(String, String)>>::from_query(request.query_string())
        .map_or_else(|_| Vec::new(), Query::into_inner);
    query.retain(|(name, _)| !ours.contains(name.as_str()));
    query
}

/// The job that a path names. Its shape is the control plane's affair, as long as it is one step of a path.
fn job_id(text: &str) -> Result<&str, Failure> {
    let odd = |c: char| c.is_control() || matches!(c, '/' | '\\');
    if text.is_empty() || text.len() > 200 || matches!(text, "." | "..") || text.contains(odd) {
        return Err(Failure::new(StatusCode::NOT_FOUND, "there is no such job"));
    }
    Ok(text)
}

fn text_header<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    request.headers().get(name)?.to_str().ok()
}

/// `GET /api/jobs`.
pub(crate) async fn jobs(edge: Data<Edge>, request: HttpRequest) -> Result<HttpResponse, Failure> {
    let ask = Ask {
        method: Method::GET,
        path: &["v1", "jobs"],
        query: own_query(&request),
        last_event_id: None,
        accept: Some("application/json"),
        body: None,
        trace: trace(&request),
    };
    pass(edge, ask).await
}

/// `GET /api/jobs/ID/events`.
pub(crate) async fn job_events(
    edge: Data<Edge>,
    id: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Failure> {
    let ask = Ask {
        method: Method::GET,
        path: &["v1", "jobs", job_id(&id)?, "events", "stream"],
        query: own_query(&request),
        last_event_id: text_header(&request, LAST_EVENT_ID),
        accept: Some("text/event-stream"),
        body: None,
        trace: trace(&request),
    };
    pass(edge, ask).await
}

/// `POST /api/jobs/ID/cancel`.
pub(crate) async fn cancel(
    edge: Data<Edge>,
    id: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Failure> {
    let sent = body::read(payload, edge.limits.body).await?;
    let ask = Ask {
        method: Method::POST,
        path: &["v1", "jobs", job_id(&id)?, "cancel"],
        query: own_query(&request),
        last_event_id: None,
        accept: None,
        body: (!sent.is_empty()).then_some(sent),
        trace: trace(&request),
    };
    pass(edge, ask).await
}

/// `POST /api/inference/chat`.
pub(crate) async fn chat(
    edge: Data<Edge>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Failure> {
    let ask = Ask {
        method: Method::POST,
        path: &["v1", "inference", "chat"],
        query: own_query(&request),
        last_event_id: None,
        accept: text_header(&request, "accept"),
        body: Some(body::read(payload, edge.limits.body).await?),
        trace: trace(&request),
    };
    pass(edge, ask).await
}

/// `GET /api/credentials`: what is known here.
pub(crate) async fn credentials(edge: Data<Edge>) -> Result<HttpResponse, Failure> {
    let ControlPlane { url, org_slug, project_slug, token: _ } = edge.control_plane()?;
    Ok(HttpResponse::Ok().json(json!({ "baseUrl": url, "orgSlug": org_slug, "projectSlug": project_slug })))
}

/// `GET /api/me`: what the control plane says.
pub(crate) async fn me(edge: Data<Edge>, request: HttpRequest) -> Result<HttpResponse, Failure> {
    let to = edge.control_plane()?;
    let ask = Ask {
        method: Method::GET,
        path: &["v1", "me"],
        query: Vec::new(),
        last_event_id: None,
        accept: Some("application/json"),
        body: None,
        trace: trace(&request),
    };
    let answer = edge.upstream.send(&to, ask).await?;
    let (status, kind) = head(&answer, &to)?;
    let mut body = Vec::new();
    let mut rest = parts(answer, edge.limits.upstream_silence);
    while let Some(part) = rest.next().await {
        body.extend_from_slice(&part?);
        if body.len() > LOOK_INTO {
            return Err(strange(&to, "its answer is too long"));
        }
    }
    let secret = to.token.expose().as_bytes();
    if body.windows(secret.len()).any(|window| window == secret) {
        return Err(strange(&to, "its answer contains the credential"));
    }
    Ok(HttpResponse::build(status).content_type(kind).body(body))
}

fn strange(to: &ControlPlane, why: &str) -> Failure {
    Failure::new(
        StatusCode::BAD_GATEWAY,
        format!("the control plane at {} is not to be trusted: {why}", to.url),
    )
}

/// The answer's status and the kind of its body.
fn head(answer: &Response, to: &ControlPlane) -> Result<(StatusCode, String), Failure> {
    let status = answer.status().as_u16();
    if (300..400).contains(&status) {
        let place =
            answer.headers().get("location").and_then(|place| place.to_str().ok()).unwrap_or("elsewhere");
        return Err(Failure::new(
            StatusCode::BAD_GATEWAY,
            format!("the control plane at {} points to {place}: configure that address", to.url),
        ));
    }
    let status = StatusCode::from_u16(status).map_err(|_| strange(to, "its status is none"))?;
    let kind = answer.headers().get("content-type").and_then(|kind| kind.to_str().ok());
    Ok((status, kind.unwrap_or("application/json").to_owned()))
}

/// Sends `ask` on and the answer back, as it comes.
async fn pass(edge: Data<Edge>, ask: Ask<'_>) -> Result<HttpResponse, Failure> {
    let edge = edge.into_inner();
    let to = edge.control_plane()?;
    let ticket = edge.open_stream(Kind::Upstream)?;
    let answer = tokio::select! {
        answer = edge.upstream.send(&to, ask) => answer?,
        () = edge.lifecycle.closing() => return Err(Failure::stopping()),
    };
    let (status, kind) = head(&answer, &to)?;
    let events = kind.starts_with("text/event-stream");
    let mut response = if events { event_stream() } else { HttpResponse::Ok() };
    response.status(status).insert_header((header::CONTENT_TYPE, kind));
    if let Some(later) = answer.headers().get("retry-after").and_then(|later| later.to_str().ok()) {
        response.insert_header((header::RETRY_AFTER, later));
    }
    let parts = parts(answer, edge.limits.upstream_silence);
    Ok(response.streaming(counted(parts, ticket, Arc::clone(&edge))))
}

fn counted(
    parts: impl Stream<Item = Result<Bytes, Failure>> + 'static,
    ticket: Ticket,
    edge: Arc<Edge>,
) -> impl Stream<Item = Result<Bytes, Failure>> {
    parts.inspect(move |_| ticket.sent()).take_until(edge.lifecycle.closing())
}

/// The answer's body as it comes. A break shows as a break, so that nobody takes a part for the whole.
fn parts(
    answer: Response,
    silence: Duration,
) -> std::pin::Pin<Box<dyn Stream<Item = Result<Bytes, Failure>>>> {
    let broken = |why: String| {
        Failure::new(StatusCode::BAD_GATEWAY, format!("the control plane's answer broke off: {why}"))
    };
    let parts = stream::unfold(Some(Box::pin(answer.bytes_stream())), move |parts| async move {
        let mut parts = parts?;
        match tokio::time::timeout(silence, parts.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(part))) => Some((Ok(part), Some(parts))),
            Ok(Some(Err(error))) => Some((Err(broken(root(&error))), None)),
            Err(_) => Some((Err(broken("it has been silent for too long".to_owned())), None)),
        }
    });
    // An empty part would end the body.
    Box::pin(parts.filter(|part| std::future::ready(!matches!(part, Ok(part) if part.is_empty()))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    #[test]
    fn a_job_is_one_step_of_a_path() {
        for fine in ["job_1", "01JABC", "a b", "ü", "..."] {
            assert_eq!(job_id(fine).unwrap(), fine);
        }
        for odd in ["", ".", "..", "a/b", "../x", "a\\b", "a\nb", "a\0b"] {
            assert!(job_id(odd).is_err(), "{odd:?}");
        }
        assert!(job_id(&"x".repeat(201)).is_err());
    }

    #[test]
    fn scope_and_token_are_not_the_clients_to_say() {
        let uri = "/api/jobs?limit=5&orgSlug=evil&token=t&studioToken=t&projectSlug=evil&status=a%20b";
        let query = own_query(&TestRequest::with_uri(uri).to_http_request());
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(query, [pair("limit", "5"), pair("status", "a b")]);
    }
}
