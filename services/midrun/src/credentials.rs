//! As whom the server acts on a control plane: kept credentials, or a new anonymous account.
//!
//! Credentials are kept by control plane, in a file that its owner alone can read. The control plane in the server
//! keeps its accounts with the project, so its credentials are there too.

use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::{Client, StatusCode, Url};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wire::{ControlPlane, Secret};

/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Who the server is on one control plane.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Credentials {
    token: Secret,
    org_slug: String,
    /// The control plane they are for.
    #[serde(default, alias = "arkorCloudApiUrl", skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

/// Where a user's credentials are kept: `$XDG_CONFIG_HOME/midrun`.
pub(crate) fn user_config_dir() -> PathBuf {
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from);
    let config = std::env::var_os("XDG_CONFIG_HOME").filter(|dir| !dir.is_empty());
    config.map_or_else(|| home.join(".config"), PathBuf::from).join("midrun")
}

/// Signs in on the control plane at `url` with what is kept in `file`, or as somebody new, and makes sure that the
/// project exists.
/// `own`: the file belongs to this one control plane, wherever it listens now.
pub(crate) async fn sign_in(
    url: &str,
    file: &Path,
    project: &str,
    own: bool,
) -> Result<ControlPlane, String> {
    let client = Client::builder().timeout(ANSWER_LIMIT).build().map_err(|error| error.to_string())?;
    let base = url.trim_end_matches('/');
    let known = read(file)
        .filter(|known| own || known.url.as_deref().is_none_or(|at| at.trim_end_matches('/') == base));
    let credentials = match known {
        Some(known) if still_valid(&client, base, &known).await? => known,
        _ => {
            let fresh = sign_up(&client, base).await?;
            write(file, &fresh).map_err(|error| format!("{} cannot be written: {error}", file.display()))?;
            fresh
        }
    };
    let project_slug = slug(project);
    ensure_project(&client, base, &credentials, &project_slug, project).await?;
    Ok(ControlPlane {
        url: base.to_owned(),
        token: credentials.token,
        org_slug: credentials.org_slug,
        project_slug,
    })
}

fn read(file: &Path) -> Option<Credentials> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

fn write(file: &Path, credentials: &Credentials) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let fresh = file.with_extension("json.new");
    let mut options = std::fs::OpenOptions::new();
    let mut open = options.create(true).write(true).truncate(true).mode(0o600).open(&fresh)?;
    open.write_all(&serde_json::to_vec_pretty(credentials)?)?;
    std::fs::rename(fresh, file)
}

async fn still_valid(client: &Client, base: &str, known: &Credentials) -> Result<bool, String> {
    let answer = client.get(format!("{base}/v1/me")).bearer_auth(known.token.expose()).send().await;
    let status = answer.map_err(|error| unreachable(base, &error))?.status();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Ok(false),
        status if status.is_success() => Ok(true),
        status => Err(format!("{base} answered {status} to GET /v1/me")),
    }
}

async fn sign_up(client: &Client, base: &str) -> Result<Credentials, String> {
    let answer =
        client.post(format!("{base}/v1/auth/anonymous")).json(&json!({ "kind": "cli" })).send().await;
    let answer = answer.map_err(|error| unreachable(base, &error))?;
    let status = answer.status();
    let body: Value = answer.json().await.map_err(|error| unreachable(base, &error))?;
    match (body["token"].as_str(), body["personalOrg"]["slug"].as_str()) {
        (Some(token), Some(org)) => Ok(Credentials {
            token: Secret::new(token),
            org_slug: org.to_owned(),
            url: Some(base.to_owned()),
        }),
        _ => Err(format!("{base} gives no anonymous account ({status}); sign in to it first")),
    }
}

async fn ensure_project(
    client: &Client,
    base: &str,
    credentials: &Credentials,
    slug: &str,
    name: &str,
) -> Result<(), String> {
    let mut url = Url::parse(base).map_err(|error| format!("{base} is no address: {error}"))?;
    url.path_segments_mut()
        .map_err(|()| format!("{base} is no HTTP address"))?
        .pop_if_empty()
        .extend(["v1", "projects"]);
    url.query_pairs_mut().append_pair("orgSlug", &credentials.org_slug);
    let request =
        client.post(url).bearer_auth(credentials.token.expose()).json(&json!({ "slug": slug, "name": name }));
    let status = request.send().await.map_err(|error| unreachable(base, &error))?.status();
    match status {
        // It exists already.
        StatusCode::CONFLICT => Ok(()),
        status if status.is_success() => Ok(()),
        status => Err(format!("{base} answered {status} when the project {slug:?} was to be made")),
    }
}

fn unreachable(base: &str, error: &reqwest::Error) -> String {
    format!("the control plane {base} cannot be used: {error}")
}

/// A project's folder name as the control plane wants it: a-z, 0-9 and `-`.
fn slug(name: &str) -> String {
    let mut slug = String::new();
    for letter in name.chars().map(|letter| letter.to_ascii_lowercase()) {
        if letter.is_ascii_alphanumeric() {
            slug.push(letter);
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.truncate(40);
    let slug = slug.trim_end_matches('-');
    if slug.is_empty() { "project".to_owned() } else { slug.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_folder_name_makes_a_slug() {
        for (name, want) in
            [("adder", "adder"), ("My Project_2", "my-project-2"), ("--", "project"), ("日本", "project")]
        {
            assert_eq!(slug(name), want);
        }
        assert!(slug(&"a-".repeat(60)).len() <= 40);
    }
}
