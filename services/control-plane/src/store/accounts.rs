//! Accounts, their tokens, orgs and projects.

use serde::Serialize;

use super::Store;

/// Who a token belongs to. Every account has exactly one org, its own.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct Account {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) created_at: String,
    #[sqlx(flatten)]
    pub(crate) org: Org,
}

/// The org, as served.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub(crate) struct Org {
    #[sqlx(rename = "org_id")]
    pub(crate) id: String,
    #[sqlx(rename = "org_slug")]
    pub(crate) slug: String,
    #[sqlx(rename = "org_name")]
    pub(crate) name: String,
}

/// A project, as served.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Project {
    pub(crate) id: String,
    pub(crate) org_id: String,
    pub(crate) slug: String,
    pub(crate) name: String,
    pub(crate) created_at: String,
}

impl Store {
    /// Stores a new account with its org and the digest of its first token.
    pub(crate) async fn create_account(
        &self,
        account: &Account,
        token_digest: &str,
    ) -> Result<(), sqlx::Error> {
        let mut tx = self.write.begin().await?;
        sqlx::query("INSERT INTO accounts (id, kind, created_at) VALUES ($1, $2, $3)")
            .bind(&account.id)
            .bind(&account.kind)
            .bind(&account.created_at)
            .execute(&mut *tx)
            .await?;
        sqlx::query("INSERT INTO orgs (id, account_id, slug, name, created_at) VALUES ($1, $2, $3, $4, $5)")
            .bind(&account.org.id)
            .bind(&account.id)
            .bind(&account.org.slug)
            .bind(&account.org.name)
            .bind(&account.created_at)
            .execute(&mut *tx)
            .await?;
        sqlx::query("INSERT INTO tokens (digest, account_id, created_at) VALUES ($1, $2, $3)")
            .bind(token_digest)
            .bind(&account.id)
            .bind(&account.created_at)
            .execute(&mut *tx)
            .await?;
        tx.commit().await
    }

    /// The account whose token has this digest.
    pub(crate) async fn account(&self, token_digest: &str) -> Result<Option<Account>, sqlx::Error> {
        sqlx::query_as(
            "SELECT accounts.id, accounts.kind, accounts.created_at,
                    orgs.id AS org_id, orgs.slug AS org_slug, orgs.name AS org_name
             FROM tokens
             JOIN accounts ON accounts.id = tokens.account_id
             JOIN orgs ON orgs.account_id = accounts.id
             WHERE tokens.digest = $1",
        )
        .bind(token_digest)
        .fetch_optional(&self.read)
        .await
    }

    pub(crate) async fn projects(&self, org_id: &str) -> Result<Vec<Project>, sqlx::Error> {
        sqlx::query_as(
            "SELECT id, org_id, slug, name, created_at FROM projects WHERE org_id = $1 ORDER BY slug",
        )
        .bind(org_id)
        .fetch_all(&self.read)
        .await
    }

    pub(crate) async fn project(&self, org_id: &str, slug: &str) -> Result<Option<Project>, sqlx::Error> {
        sqlx::query_as(
            "SELECT id, org_id, slug, name, created_at FROM projects WHERE org_id = $1 AND slug = $2",
        )
        .bind(org_id)
        .bind(slug)
        .fetch_optional(&self.read)
        .await
    }

    /// Stores a project; `false` when the org already has one of that slug.
    pub(crate) async fn create_project(&self, project: &Project) -> Result<bool, sqlx::Error> {
        let done = sqlx::query(
            "INSERT INTO projects (id, org_id, slug, name, created_at) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (org_id, slug) DO NOTHING",
        )
        .bind(&project.id)
        .bind(&project.org_id)
        .bind(&project.slug)
        .bind(&project.name)
        .bind(&project.created_at)
        .execute(&self.write)
        .await?;
        Ok(done.rows_affected() == 1)
    }
}
