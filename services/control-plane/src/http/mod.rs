//! `/v1` over HTTP: what is asked, of which project, as whom. Every answer that is no success is `{"error"}`.

mod accounts;
mod caller;
mod inference;
mod jobs;
mod series;
mod stream;

use std::sync::Arc;

use actix_web::error::{JsonPayloadError, PathError, QueryPayloadError};
use actix_web::{HttpRequest, HttpResponse, ResponseError as _, web};
use serde::de::DeserializeOwned;

use crate::core::Core;
use crate::refusal::Refusal;

/// Room for a config that carries its dataset.
const BODY_BYTES: usize = 4 * 1024 * 1024;

/// What handlers see of the control plane.
type Shared = web::Data<Arc<Core>>;

pub(crate) fn configure(core: Arc<Core>, app: &mut web::ServiceConfig) {
    let route = |path: &str| web::resource(path.to_owned()).default_service(web::to(no_method));
    app.service(
        web::scope("/v1")
            .app_data(web::Data::new(core))
            .app_data(
                web::JsonConfig::default().limit(BODY_BYTES).content_type_required(false).error_handler(json),
            )
            .app_data(web::QueryConfig::default().error_handler(query))
            .app_data(web::PathConfig::default().error_handler(path))
            .service(route("/auth/anonymous").route(web::post().to(accounts::create)))
            .service(route("/me").route(web::get().to(accounts::me)))
            .service(
                route("/projects")
                    .route(web::get().to(accounts::projects))
                    .route(web::post().to(accounts::create_project)),
            )
            .service(route("/jobs").route(web::get().to(jobs::list)).route(web::post().to(jobs::create)))
            .service(route("/jobs/cancel").route(web::post().to(jobs::cancel_run)))
            .service(route("/jobs/brief").route(web::get().to(series::briefs)))
            .service(route("/jobs/changes").route(web::get().to(series::changes)))
            .service(route("/jobs/{id}").route(web::get().to(jobs::show)))
            .service(route("/jobs/{id}/cancel").route(web::post().to(jobs::cancel)))
            .service(route("/jobs/{id}/series").route(web::get().to(series::series)))
            .service(route("/jobs/{id}/points").route(web::get().to(series::points)))
            .service(route("/jobs/{id}/events/stream").route(web::get().to(stream::events)))
            .service(route("/inference/chat").route(web::post().to(inference::chat)))
            .default_service(web::to(no_route)),
    );
}

async fn no_route(request: HttpRequest) -> HttpResponse {
    Refusal::NotFound(format!("there is nothing at {}", request.path())).error_response()
}

async fn no_method(request: HttpRequest) -> HttpResponse {
    Refusal::MethodNotAllowed { method: request.method().to_string() }.error_response()
}

fn json(error: JsonPayloadError, _: &HttpRequest) -> actix_web::Error {
    match error {
        JsonPayloadError::Overflow { .. } | JsonPayloadError::OverflowKnownLength { .. } => {
            Refusal::TooLarge { limit: BODY_BYTES }.into()
        }
        JsonPayloadError::Deserialize(error) => {
            Refusal::bad(format!("the body does not fit: {error}")).into()
        }
        error => Refusal::bad(format!("the body cannot be read: {error}")).into(),
    }
}

fn query(error: QueryPayloadError, _: &HttpRequest) -> actix_web::Error {
    Refusal::bad(format!("the query does not fit: {error}")).into()
}

fn path(error: PathError, _: &HttpRequest) -> actix_web::Error {
    Refusal::bad(format!("the address does not fit: {error}")).into()
}

/// The query of `request` as `T`.
fn read_query<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, Refusal> {
    web::Query::from_query(request.query_string())
        .map(web::Query::into_inner)
        .map_err(|error| Refusal::bad(format!("the query does not fit: {error}")))
}
