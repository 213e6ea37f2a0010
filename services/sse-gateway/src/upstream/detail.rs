//! More of what the control plane tells of jobs, passed on as it is: one job, its series, its points, the short list.

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use reqwest::Method;

use super::{Ask, job_id, own_query, pass};
use crate::edge::Edge;
use crate::failure::Failure;
use crate::traced::trace;

async fn get(edge: Data<Edge>, request: &HttpRequest, path: &[&str]) -> Result<HttpResponse, Failure> {
    let ask = Ask {
        method: Method::GET,
        path,
        query: own_query(request),
        last_event_id: None,
        accept: None,
        body: None,
        trace: trace(request),
    };
    pass(edge, ask).await
}

/// `GET /api/jobs/brief`.
pub(crate) async fn brief(edge: Data<Edge>, request: HttpRequest) -> Result<HttpResponse, Failure> {
    get(edge, &request, &["v1", "jobs", "brief"]).await
}

/// `GET /api/jobs/ID`.
pub(crate) async fn job(
    edge: Data<Edge>,
    id: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Failure> {
    get(edge, &request, &["v1", "jobs", job_id(&id)?]).await
}

/// `GET /api/jobs/ID/series`.
pub(crate) async fn series(
    edge: Data<Edge>,
    id: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Failure> {
    get(edge, &request, &["v1", "jobs", job_id(&id)?, "series"]).await
}

/// `GET /api/jobs/ID/points`.
pub(crate) async fn points(
    edge: Data<Edge>,
    id: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Failure> {
    get(edge, &request, &["v1", "jobs", job_id(&id)?, "points"]).await
}
