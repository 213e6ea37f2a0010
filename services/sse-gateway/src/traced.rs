//! A request that asks for something to be done is a span, and what it causes stands below it.
//!
//! Who only looks leaves no trace: a page looks often.

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::HeaderMap;
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage as _, HttpRequest};
use telemetry::Service;
use wire::TraceContext;

/// The span of a request.
struct Own(TraceContext);

/// Around what needs the token.
pub(crate) async fn traced(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let route = request.match_pattern().filter(|_| telemetry::trace::is_on() && !request.method().is_safe());
    let Some(route) = route else { return Ok(next.call(request).await?.map_into_boxed_body()) };
    let method = request.method().as_str();
    let mut span = Service::SseGateway.request(method, &route, &sent(request.headers()));
    request.extensions_mut().insert(Own(span.context()));
    let answer = next.call(request).await;
    span.answered(match &answer {
        Ok(response) => response.status().as_u16(),
        Err(error) => error.as_response_error().status_code().as_u16(),
    });
    span.end();
    Ok(answer?.map_into_boxed_body())
}

/// The trace that what `request` causes belongs to.
pub(crate) fn trace(request: &HttpRequest) -> TraceContext {
    let own = request.extensions().get::<Own>().map(|own| own.0.clone());
    own.unwrap_or_else(|| sent(request.headers()))
}

/// The trace that a request says it belongs to, if what it says has the form of one: it goes on into logs and into the
/// runner's environment.
fn sent(headers: &HeaderMap) -> TraceContext {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let parent = header("traceparent").filter(|text| is_traceparent(text));
    let state = header("tracestate").filter(|text| parent.is_some() && text.len() <= LONGEST_STATE);
    TraceContext { traceparent: parent.map(str::to_owned), tracestate: state.map(str::to_owned) }
}

/// What every vendor must be able to carry, characters.
const LONGEST_STATE: usize = 512;

/// `00-TRACEID-SPANID-FLAGS`, lower-case hex.
fn is_traceparent(text: &str) -> bool {
    let lengths = text.split('-').map(str::len);
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f' | b'-');
    lengths.eq([2, 32, 16, 2]) && text.bytes().all(hex)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::test::TestRequest;

    #[test]
    fn only_what_has_the_form_of_a_trace_is_one() {
        let seen = |parent: &str| {
            let request = TestRequest::get().insert_header(("traceparent", parent));
            trace(&request.insert_header(("tracestate", "a=1")).to_http_request())
        };
        let fine = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let state = Some("a=1".to_owned());
        assert_eq!(seen(fine), TraceContext { traceparent: Some(fine.to_owned()), tracestate: state });
        for odd in ["", "x", &fine.to_uppercase(), &fine[1..], &format!("{fine}-00"), &fine.replace('a', "$")]
        {
            assert_eq!(seen(odd), TraceContext::default(), "{odd}");
        }
    }
}
