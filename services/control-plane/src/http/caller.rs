//! Who calls, and which project they mean.

use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::{FromRequest, HttpRequest, web};
use futures_util::future::LocalBoxFuture;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::read_query;
use crate::core::Core;
use crate::refusal::Refusal;
use crate::store::{Account, Org, Project};

/// The holder of a known token.
pub(super) struct Caller(pub(super) Account);

/// The caller's org that `?orgSlug=` names.
pub(super) struct CallersOrg(pub(super) Org);

/// The project of the caller's that `?orgSlug=&projectSlug=` names.
pub(super) struct Scope(pub(super) Project);

/// What is stored of a token.
pub(super) fn digest(token: &str) -> String {
    use std::fmt::Write as _;
    Sha256::digest(token.as_bytes()).iter().fold(String::with_capacity(64), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("writing to a String cannot fail");
        hex
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OrgQuery {
    org_slug: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProjectQuery {
    project_slug: String,
}

async fn caller(request: &HttpRequest) -> Result<(Arc<Core>, Account), Refusal> {
    let core = request.app_data::<web::Data<Arc<Core>>>().expect("the scope has it").get_ref().clone();
    let bearer = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    let Some(token) = bearer else {
        return Err(Refusal::Unauthorized(
            "send `Authorization: Bearer TOKEN`; POST /v1/auth/anonymous gives a token",
        ));
    };
    // Found by digest: a lookup's time tells nothing of a token that is not known.
    let account = core.store.account(&digest(token)).await?.ok_or(Refusal::Unauthorized(
        "this token is not known here; POST /v1/auth/anonymous gives a new one",
    ))?;
    Ok((core, account))
}

async fn callers_org(request: &HttpRequest) -> Result<(Arc<Core>, Org), Refusal> {
    let (core, account) = caller(request).await?;
    let OrgQuery { org_slug } = read_query(request)?;
    if account.org.slug != org_slug {
        return Err(Refusal::NotFound(format!("this token has no org {org_slug:?}")));
    }
    Ok((core, account.org))
}

async fn scope(request: &HttpRequest) -> Result<Project, Refusal> {
    let (core, org) = callers_org(request).await?;
    let ProjectQuery { project_slug } = read_query(request)?;
    core.store.project(&org.id, &project_slug).await?.ok_or_else(|| {
        Refusal::NotFound(format!(
            "the org {:?} has no project {project_slug:?}; POST /v1/projects makes one",
            org.slug
        ))
    })
}

impl FromRequest for Caller {
    type Error = actix_web::Error;
    type Future = LocalBoxFuture<'static, Result<Self, actix_web::Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move { Ok(Self(caller(&request).await?.1)) })
    }
}

impl FromRequest for CallersOrg {
    type Error = actix_web::Error;
    type Future = LocalBoxFuture<'static, Result<Self, actix_web::Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move { Ok(Self(callers_org(&request).await?.1)) })
    }
}

impl FromRequest for Scope {
    type Error = actix_web::Error;
    type Future = LocalBoxFuture<'static, Result<Self, actix_web::Error>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move { Ok(Self(scope(&request).await?)) })
    }
}
