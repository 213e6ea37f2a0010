//! As whom the server acts on a control plane: a kept account, or a new anonymous one.
//!
//! Accounts are kept by control plane, in a file that its owner alone can read. The one that was used last stands at the
//! top of the file, where the SDK looks; those on other control planes stand in its `others`. The control plane in the
//! server keeps its accounts with the project, so its file is there too.
//!
//! What must hold: a kept account is never lost. Only the server's own control plane, which forgets its accounts when
//! its database goes, has a refused one replaced.

use std::fs::{File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reqwest::{Client, StatusCode, Url};
use serde_json::{Map, Value, json};
use wire::{ControlPlane, Secret};

use crate::client::innermost;

/// How long one answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// How long another server may be at the file: it changes it within milliseconds.
const LOCK_LIMIT: Duration = Duration::from_secs(1);
const LOCK_LOOK: Duration = Duration::from_millis(5);

/// Where a user's credentials are kept: `$XDG_CONFIG_HOME/midrun`.
pub(crate) fn user_config_dir() -> PathBuf {
    let config = std::env::var_os("XDG_CONFIG_HOME").filter(|dir| !dir.is_empty());
    config.map_or_else(|| home().join(".config"), PathBuf::from).join("midrun")
}

/// The user's home folder.
pub(crate) fn home() -> PathBuf {
    std::env::var_os("HOME").map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

/// Where the account is valid that the owner of a project with `src/arkor` has for it, and its file. One that is of another
/// form, or does not say where it is valid, is left alone.
pub(crate) fn arkor_account(home: &Path) -> Option<(String, PathBuf)> {
    let file = home.join(".arkor/credentials.json");
    let accounts = accounts_in(&std::fs::read(&file).ok()?).ok()?;
    let url = accounts.first()?.text("arkorCloudApiUrl").to_owned();
    (!url.is_empty()).then_some((url, file))
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
    let ring = Keyring { file, base, own };
    let account = match ring.find()? {
        None => ring.add(sign_up(&client, base).await?, None)?,
        Some(known) if still_valid(&client, base, &known).await? => {
            ring.bring_forward()?;
            known
        }
        Some(refused) if own => ring.add(sign_up(&client, base).await?, Some(&refused))?,
        Some(_) => return Err(ring.refusal()?),
    };
    let project_slug = slug(project);
    ensure_project(&client, base, &account, &project_slug, project).await?;
    Ok(ControlPlane {
        url: base.to_owned(),
        token: account.token(),
        org_slug: account.text("orgSlug").to_owned(),
        project_slug,
    })
}

/// A copy of an account for one runner, which reads it again and again while the file that it is kept in changes. Goes
/// when it is dropped.
pub(crate) struct Lent(PathBuf);

impl Lent {
    /// In `file`, for its owner alone.
    pub(crate) fn write(file: PathBuf, account: &ControlPlane) -> io::Result<Self> {
        let mut open = File::options().create_new(true).write(true).mode(0o600).open(&file)?;
        let lent = Self(file);
        let members =
            json!({ "token": account.token.expose(), "orgSlug": account.org_slug, "url": account.url });
        open.write_all(&serde_json::to_vec(&members)?)?;
        Ok(lent)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(file = %self.0.display(), %error, "a copy of an account is left");
        }
    }
}

/// An account as the file has it: `token`, `orgSlug`, mostly the address of its control plane, and whatever else its
/// owner wrote there.
#[derive(Clone, PartialEq, Eq)]
struct Account(Map<String, Value>);

/// What the address of an account's control plane may be called.
const URL_KEYS: [&str; 3] = ["url", "controlPlaneUrl", "arkorCloudApiUrl"];

impl Account {
    fn new(token: &str, org: &str, base: &str) -> Self {
        let members = [("token", token), ("orgSlug", org), ("url", base)];
        Self(members.into_iter().map(|(key, text)| (key.to_owned(), text.into())).collect())
    }

    /// # Errors
    /// What is missing, in words.
    fn read(value: Value) -> Result<Self, String> {
        let Value::Object(members) = value else { return Err("an account is no JSON object".to_owned()) };
        let account = Self(members);
        match ["token", "orgSlug"].into_iter().find(|key| account.text(key).is_empty()) {
            Some(key) => Err(format!("an account has no {key}")),
            None => Ok(account),
        }
    }

    /// A member's text; nothing when it has none.
    fn text(&self, key: &str) -> &str {
        self.0.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    fn token(&self) -> Secret {
        Secret::new(self.text("token"))
    }

    /// Where it is valid, if it says so.
    fn url(&self) -> Option<&str> {
        URL_KEYS.iter().map(|key| self.text(key)).find(|url| !url.is_empty())
    }
}

/// The accounts in one file, for one control plane.
struct Keyring<'a> {
    file: &'a Path,
    base: &'a str,
    own: bool,
}

impl Keyring<'_> {
    /// The account for this control plane.
    fn find(&self) -> Result<Option<Account>, String> {
        let mut accounts = self.read()?;
        Ok(self.position(&accounts).map(|at| accounts.swap_remove(at)))
    }

    /// An account that does not say where it is valid is for every control plane that has none of its own.
    fn position(&self, accounts: &[Account]) -> Option<usize> {
        if self.own {
            return (!accounts.is_empty()).then_some(0);
        }
        let named = |account: &Account| account.url().is_some_and(|url| is_same_place(url, self.base));
        let unnamed = |account: &Account| account.url().is_none();
        accounts.iter().position(named).or_else(|| accounts.iter().position(unnamed))
    }

    /// Puts the account for this control plane where the SDK finds it.
    fn bring_forward(&self) -> Result<(), String> {
        if self.position(&self.read()?).is_none_or(|at| at == 0) {
            return Ok(());
        }
        self.change(|accounts| {
            if let Some(at) = self.position(accounts) {
                accounts[..=at].rotate_right(1);
            }
        })
    }

    /// Keeps `fresh` in the place of `refused`, unless another server was faster: then it is that one's account.
    fn add(&self, fresh: Account, refused: Option<&Account>) -> Result<Account, String> {
        let mut kept = fresh.clone();
        self.change(|accounts| {
            if let Some(at) = self.position(accounts) {
                let there = accounts.remove(at);
                if refused != Some(&there) {
                    kept = there;
                }
            }
            accounts.insert(0, kept.clone());
        })?;
        Ok(kept)
    }

    /// What to do about a token that is not valid any more.
    fn refusal(&self) -> Result<String, String> {
        let remedy = match self.read()?.len() {
            0 | 1 => "remove the file",
            _ => "take that account out of the file",
        };
        let (file, base) = (self.file.display(), self.base);
        Ok(format!(
            "the token in {file} is refused by {base}; put a valid one there, or {remedy} to get a new account"
        ))
    }

    /// All accounts, the one at the top of the file first.
    fn read(&self) -> Result<Vec<Account>, String> {
        let file = self.file.display();
        let accounts = match std::fs::read(self.file) {
            Ok(text) => accounts_in(&text).map_err(|why| {
                format!(
                    "the credentials in {file} cannot be used: {why}; correct them, or remove the file to get a new \
                     account"
                )
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(format!("{file} cannot be read: {error}; make it a file that you can read")),
        };
        // Nobody wrote anything of worth there.
        if self.own { Ok(accounts.unwrap_or_default()) } else { accounts }
    }

    /// Changes the file as it is now, alone: servers of other projects may be at it too.
    fn change(&self, change: impl FnOnce(&mut Vec<Account>)) -> Result<(), String> {
        let unwritable = |error: io::Error| format!("{} cannot be written: {error}", self.file.display());
        let _alone = self.lock().map_err(unwritable)?;
        let mut accounts = self.read()?;
        change(&mut accounts);
        self.write(accounts).map_err(unwritable)
    }

    fn lock(&self) -> io::Result<File> {
        if let Some(folder) = self.file.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        let mut options = File::options();
        let path = self.file.with_extension("lock");
        let lock = options.create(true).truncate(false).write(true).mode(0o600).open(path)?;
        let until = Instant::now() + LOCK_LIMIT;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(LOCK_LOOK),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn write(&self, accounts: Vec<Account>) -> io::Result<()> {
        let mut accounts = accounts.into_iter().map(|Account(members)| members);
        let mut top = accounts.next().unwrap_or_default();
        let others: Vec<_> = accounts.map(Value::Object).collect();
        if !others.is_empty() {
            top.insert("others".to_owned(), others.into());
        }
        let fresh = self.file.with_extension("json.new");
        let mut options = File::options();
        let mut open = options.create(true).write(true).truncate(true).mode(0o600).open(&fresh)?;
        open.write_all(&serde_json::to_vec_pretty(&top)?)?;
        open.sync_all()?;
        std::fs::rename(fresh, self.file)
    }
}

/// The accounts in a file's text. One that holds none at its top may hold others all the same.
fn accounts_in(text: &[u8]) -> Result<Vec<Account>, String> {
    let mut top: Map<String, Value> = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let others = match top.remove("others") {
        None => Vec::new(),
        Some(Value::Array(others)) => others,
        Some(_) => return Err("`others` is no list of accounts".to_owned()),
    };
    let top = (!top.is_empty()).then_some(Value::Object(top));
    top.into_iter().chain(others).map(Account::read).collect()
}

/// Whether two addresses differ at most in how they are written.
fn is_same_place(one: &str, other: &str) -> bool {
    let [one, other] = [one, other].map(|url| url.trim_end_matches('/'));
    let parsed = Url::parse(one).ok().zip(Url::parse(other).ok());
    parsed.map_or(one == other, |(one, other)| one == other)
}

async fn still_valid(client: &Client, base: &str, known: &Account) -> Result<bool, String> {
    let answer = client.get(format!("{base}/v1/me")).bearer_auth(known.token().expose()).send().await;
    let status = answer.map_err(|error| unreachable(base, &error))?.status();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Ok(false),
        status if status.is_success() => Ok(true),
        status => Err(format!("{base} answered {status} to GET /v1/me")),
    }
}

async fn sign_up(client: &Client, base: &str) -> Result<Account, String> {
    let answer =
        client.post(format!("{base}/v1/auth/anonymous")).json(&json!({ "kind": "cli" })).send().await;
    let answer = answer.map_err(|error| unreachable(base, &error))?;
    let status = answer.status();
    let body = match answer.json().await {
        // Something else lives there.
        Err(error) if error.is_decode() => Value::Null,
        body => body.map_err(|error| unreachable(base, &error))?,
    };
    match (body["token"].as_str(), body["personalOrg"]["slug"].as_str()) {
        (Some(token), Some(org)) => Ok(Account::new(token, org, base)),
        _ => Err(format!("{base} gives no anonymous account ({status}); sign in to it first")),
    }
}

async fn ensure_project(
    client: &Client,
    base: &str,
    account: &Account,
    slug: &str,
    name: &str,
) -> Result<(), String> {
    let mut url = Url::parse(base).map_err(|error| format!("{base} is no address: {error}"))?;
    url.path_segments_mut()
        .map_err(|()| format!("{base} is no HTTP address"))?
        .pop_if_empty()
        .extend(["v1", "projects"]);
    url.query_pairs_mut().append_pair("orgSlug", account.text("orgSlug"));
    let request =
        client.post(url).bearer_auth(account.token().expose()).json(&json!({ "slug": slug, "name": name }));
    let status = request.send().await.map_err(|error| unreachable(base, &error))?.status();
    match status {
        // It exists already.
        StatusCode::CONFLICT => Ok(()),
        status if status.is_success() => Ok(()),
        status => Err(format!("{base} answered {status} when the project {slug:?} was to be made")),
    }
}

fn unreachable(base: &str, error: &reqwest::Error) -> String {
    format!("the control plane {base} cannot be used: {}", innermost(error))
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
    use crate::client::scripted::{Answer, Scripted};

    fn made(token: &str) -> [Answer; 2] {
        let account = json!({ "token": token, "personalOrg": { "slug": "org" } });
        [Answer::Json(200, account.to_string()), Answer::Json(201, "{}".to_owned())]
    }

    fn welcomed() -> [Answer; 2] {
        [Answer::Json(200, "{}".to_owned()), Answer::Json(409, "{}".to_owned())]
    }

    fn refused() -> [Answer; 1] {
        [Answer::Json(401, "{}".to_owned())]
    }

    fn kept(file: &Path) -> Value {
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    }

    #[test]
    fn an_arkor_account_is_used_where_it_is_valid() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(arkor_account(home.path()), None);
        let file = home.path().join(".arkor/credentials.json");
        std::fs::create_dir(home.path().join(".arkor")).unwrap();
        for (text, url) in [
            (r#"{"token":"t","orgSlug":"o","arkorCloudApiUrl":"https://a"}"#, Some("https://a")),
            (r#"{"token":"t","orgSlug":"o"}"#, None),
            (r#"{"accessToken":"t","arkorCloudApiUrl":"https://a"}"#, None),
            ("{", None),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(arkor_account(home.path()), url.map(|url| (url.to_owned(), file.clone())), "{text}");
        }
    }

    #[tokio::test]
    async fn each_control_plane_has_an_account_of_its_own_and_the_last_used_is_at_the_top() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new/credentials.json");
        let one = Scripted::serve(made("one").into_iter().chain(welcomed()).chain(welcomed())).await;
        let other = Scripted::serve(made("other")).await;
        for (at, token) in [(&one, "one"), (&other, "other"), (&one, "one"), (&one, "one")] {
            let signed_in = sign_in(&at.url, &file, "p", false).await.unwrap();
            assert_eq!(signed_in.token.expose(), token);
            assert_eq!((&*signed_in.org_slug, signed_in.url.as_str()), ("org", at.url.as_str()));
            assert_eq!(kept(&file)["token"], token, "the SDK reads the top");
        }
        assert_eq!(kept(&file)["others"], json!([{ "token": "other", "orgSlug": "org", "url": other.url }]));
        assert_eq!(one.asked().iter().filter(|asked| asked.line.contains("anonymous")).count(), 1);
    }

    #[tokio::test]
    async fn a_refused_token_is_replaced_on_the_servers_own_control_plane_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("credentials.json");
        let text = json!({ "token": "mine", "orgSlug": "o" }).to_string();
        std::fs::write(&file, &text).unwrap();
        let plane = Scripted::serve(refused().into_iter().chain(refused()).chain(made("fresh"))).await;
        let why = sign_in(&plane.url, &file, "p", false).await.unwrap_err();
        for part in [&*file.to_string_lossy(), &plane.url, "put a valid one there", "remove the file"] {
            assert!(why.contains(part), "{why}");
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        let signed_in = sign_in(&plane.url, &file, "p", true).await.unwrap();
        assert_eq!(signed_in.token.expose(), "fresh");
        assert_eq!(kept(&file), json!({ "token": "fresh", "orgSlug": "org", "url": plane.url }));
    }

    #[tokio::test]
    async fn a_file_that_somebody_wrote_keeps_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("credentials.json");
        let plane = Scripted::serve(made("fresh")).await;
        let own = json!({
            "token": "mine", "orgSlug": "o", "controlPlaneUrl": "https://elsewhere/", "projectSlug": "p", "n": 1.50,
        });
        std::fs::write(&file, own.to_string()).unwrap();
        sign_in(&plane.url, &file, "p", false).await.unwrap();
        assert_eq!((&kept(&file)["token"], &kept(&file)["others"][0]), (&json!("fresh"), &own));
        for odd in [
            "{",
            "[]",
            r#"{"token":"t"}"#,
            r#"{"accessToken":"t"}"#,
            r#"{"orgSlug":"o","others":[]}"#,
            r#"{"token":5,"orgSlug":"o"}"#,
            r#"{"others":{}}"#,
        ] {
            std::fs::write(&file, odd).unwrap();
            let why = sign_in(&plane.url, &file, "p", false).await.unwrap_err();
            assert!(why.contains("correct them, or remove the file"), "{why}");
            assert_eq!(std::fs::read_to_string(&file).unwrap(), odd);
        }
        assert_eq!(plane.asked().len(), 2, "no account is made");
    }

    #[test]
    fn of_two_servers_that_made_an_account_at_once_both_use_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("credentials.json");
        let ring = Keyring { file: &file, base: "http://plane", own: false };
        let [first, second] = ["first", "second"].map(|token| Account::new(token, "o", "HTTP://plane/"));
        assert!(ring.add(first.clone(), None).unwrap() == first);
        assert!(ring.add(second.clone(), None).unwrap() == first);
        assert!(ring.add(second.clone(), Some(&first)).unwrap() == second);
        assert!(ring.find().unwrap() == Some(second));
    }

    #[tokio::test]
    async fn why_a_control_plane_cannot_be_used_is_said() {
        let file = Path::new("/nonexistent/credentials.json");
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let why = sign_in(&format!("http://{port}"), file, "p", false).await.unwrap_err();
        assert!(why.contains("Connection refused"), "{why}");
        let page = Scripted::serve([Answer::Json(404, "<html>".to_owned())]).await;
        let why = sign_in(&page.url, file, "p", false).await.unwrap_err();
        assert!(why.contains("no anonymous account (404"), "{why}");
    }

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
