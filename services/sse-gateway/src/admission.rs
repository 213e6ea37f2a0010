//! What every request goes through, in this order: host and origin, then, below `/api`, the token and the length
//! of the body. What every answer gets: the headers that keep browsers from guessing, embedding and storing.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::http::{ConnectionType, Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::web::{Data, Query};
use actix_web::{Error, ResponseError as _};
use guard::Unwelcome;
use process::ExactTimers;

use crate::body;
use crate::edge::Edge;
use crate::failure::Failure;
use crate::token;

const ALWAYS: [(HeaderName, &str); 3] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
];

/// Around everything.
pub(crate) async fn admit(
    edge: Data<Edge>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let _inside = edge.lifecycle.enter();
    // Requests have time limits of their clients; the streams that some of them open have not.
    let _exact = ExactTimers::hold();
    let mut response = match edge.guard.admit(request.uri(), request.headers()) {
        Ok(()) if edge.lifecycle.is_closing() => {
            let mut response = answer(request, &Failure::stopping());
            response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
            response
        }
        Ok(()) => next.call(request).await?.map_into_boxed_body(),
        Err(unwelcome) => {
            edge.metrics.turned_away.inc();
            let advice = match unwelcome {
                Unwelcome::Host(_) => "; name it in gateway.allowedHosts if it should be",
                Unwelcome::NoHost | Unwelcome::Origin(_) => "",
            };
            answer(request, &Failure::new(StatusCode::FORBIDDEN, format!("{unwelcome}{advice}")))
        }
    };
    let headers = response.headers_mut();
    for (name, value) in ALWAYS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    let route = response.request().match_pattern();
    edge.metrics.request(route.as_deref(), response.status().as_u16());
    Ok(response)
}

/// Around `/api`. It belongs to the scope and not to a path that starts with some text, so that no way of writing
/// a path leads around it.
pub(crate) async fn authorize(
    edge: Data<Edge>,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    if !has_token(&edge, &request) {
        let failure = Failure::new(
            StatusCode::UNAUTHORIZED,
            "the token is missing or not this server's: reload the page, or send the token in the header \
             X-Midrun-Token; it stands in the project's .midrun/server.json, which its owner alone can read, and in the \
             first line of `midrun dev --json`",
        );
        return Ok(answer(request, &failure));
    }
    let length = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > body::LIMIT as u64) {
        return Ok(answer(request, &body::too_large()));
    }
    Ok(next.call(request).await?.map_into_boxed_body())
}

fn has_token(edge: &Edge, request: &ServiceRequest) -> bool {
    let secret = edge.token.expose();
    if token::header_carries(secret, request.headers()) {
        return true;
    }
    // Addresses end up in histories and logs, so a token is taken from one only where a browser has no other way:
    // an `EventSource` cannot send headers.
    let event_stream =
        request.method() == Method::GET && request.match_info().unprocessed().ends_with("/events");
    event_stream
        && Query::<Vec<(String, String)>>::from_query(request.query_string())
            .is_ok_and(|query| token::query_carries(secret, &query))
}

fn answer(request: ServiceRequest, failure: &Failure) -> ServiceResponse<BoxBody> {
    request.into_response(failure.error_response())
}

/// For paths that lead nowhere.
pub(crate) async fn nowhere() -> Result<actix_web::HttpResponse, Failure> {
    Err(Failure::new(StatusCode::NOT_FOUND, "there is nothing here"))
}

/// For methods that a path does not know.
pub(crate) async fn not_so() -> Result<actix_web::HttpResponse, Failure> {
    Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not know this method"))
}
