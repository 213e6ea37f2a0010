//! Accounts, who one is, and projects.

use actix_web::{HttpResponse, web};
use rand::Rng as _;
use rand::distr::Alphanumeric;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Shared;
use super::caller::{Caller, CallersOrg, digest};
use crate::refusal::Refusal;
use crate::store::{Account, Org, Project};

/// About 238 bits.
const TOKEN_CHARACTERS: usize = 40;
const NAME_CHARACTERS: usize = 200;
const SLUG_CHARACTERS: usize = 64;

#[derive(Deserialize)]
pub(super) struct NewAccount {
    #[serde(default)]
    kind: Option<String>,
}

/// `POST /v1/auth/anonymous`: the one address that needs no token.
pub(super) async fn create(core: Shared, body: web::Json<NewAccount>) -> Result<HttpResponse, Refusal> {
    let kind = body.into_inner().kind.unwrap_or_else(|| "cli".to_owned());
    if !matches!(kind.as_str(), "cli" | "web") {
        return Err(Refusal::bad(format!("kind {kind:?} is neither \"cli\" nor \"web\"")));
    }
    let id = uuid::Uuid::now_v7().to_string();
    let slug: String = (0..10).map(|_| char::from(rand::rng().random_range(b'a'..=b'z'))).collect();
    let token: String =
        rand::rng().sample_iter(Alphanumeric).take(TOKEN_CHARACTERS).map(char::from).collect();
    let token = format!("mr_{token}");
    let org = Org {
        id: uuid::Uuid::now_v7().to_string(),
        slug: format!("anon-{slug}"),
        name: "Personal".to_owned(),
    };
    let account = Account { id, kind, created_at: wire::now(), org };
    core.store.create_account(&account, &digest(&token)).await?;
    Ok(HttpResponse::Created().json(json!({
        "token": token,
        "anonymousId": account.id,
        "kind": account.kind,
        "personalOrg": account.org,
    })))
}

/// `GET /v1/me`.
pub(super) async fn me(Caller(account): Caller) -> web::Json<Value> {
    web::Json(json!({
        "user": { "id": account.id, "kind": account.kind, "anonymous": true, "createdAt": account.created_at },
        "anonymousId": account.id,
        "kind": account.kind,
        "personalOrg": account.org,
        "orgs": [account.org],
    }))
}

/// `GET /v1/projects`.
pub(super) async fn projects(core: Shared, CallersOrg(org): CallersOrg) -> Result<web::Json<Value>, Refusal> {
    let projects = core.store.projects(&org.id).await?;
    Ok(web::Json(json!({ "org": org, "projects": projects })))
}

#[derive(Deserialize)]
pub(super) struct NewProject {
    slug: String,
    #[serde(default)]
    name: Option<String>,
}

/// `POST /v1/projects`.
pub(super) async fn create_project(
    core: Shared,
    CallersOrg(org): CallersOrg,
    body: web::Json<NewProject>,
) -> Result<HttpResponse, Refusal> {
    let NewProject { slug, name } = body.into_inner();
    let name = name.unwrap_or_else(|| slug.clone());
    check_slug(&slug)?;
    check_length("name", &name, NAME_CHARACTERS)?;
    let project =
        Project { id: uuid::Uuid::now_v7().to_string(), org_id: org.id, slug, name, created_at: wire::now() };
    if !core.store.create_project(&project).await? {
        return Err(Refusal::Conflict(format!(
            "the org {:?} has a project {:?} already",
            org.slug, project.slug
        )));
    }
    Ok(HttpResponse::Created().json(json!({ "project": project })))
}

fn check_slug(slug: &str) -> Result<(), Refusal> {
    let fits = (1..=SLUG_CHARACTERS).contains(&slug.len())
        && slug.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !slug.starts_with('-');
    if fits {
        return Ok(());
    }
    Err(Refusal::bad(format!(
        "slug {slug:?} must be 1 to {SLUG_CHARACTERS} of a-z, 0-9 and -, and not begin with -"
    )))
}

/// Refuses an empty or overlong text.
pub(super) fn check_length(what: &str, text: &str, most: usize) -> Result<(), Refusal> {
    if (1..=most).contains(&text.chars().count()) {
        return Ok(());
    }
    Err(Refusal::bad(format!("{what} must have 1 to {most} characters")))
}
