//! Everything `/v1` can refuse, and the one mapping of it to HTTP.

use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, ResponseError};

/// Why a request was not done. The text says what the caller can do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    Unauthorized(&'static str),
    #[error("{0}")]
    NotFound(String),
    #[error("{method} is not one of this address's methods")]
    MethodNotAllowed { method: String },
    #[error("{0}")]
    Conflict(String),
    #[error("the body is larger than {limit} bytes; a large dataset belongs in a file that the config names")]
    TooLarge { limit: usize },
    /// The executor understood, and says why it cannot: the prompt or the checkpoint does not suit it.
    #[error("this cannot be sampled: {0}")]
    Unsamplable(String),
    /// The executor was asked and failed.
    #[error("{0}")]
    Executor(String),
    /// Nothing was done; the same request may be sent again.
    #[error("{0}")]
    Busy(&'static str),
    #[error("the control plane failed; its log has the details")]
    Internal,
}

impl Refusal {
    pub(crate) fn bad(text: impl Into<String>) -> Self {
        Self::BadRequest(text.into())
    }

    /// The job is absent, or another project's: the answer does not tell which.
    pub(crate) fn no_job(id: &str) -> Self {
        Self::NotFound(format!("this project has no job {id:?}"))
    }
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        tracing::error!(%error, "the database failed");
        Self::Internal
    }
}

impl ResponseError for Refusal {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unsamplable(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Executor(_) => StatusCode::BAD_GATEWAY,
            Self::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        match self {
            Self::Unauthorized(_) => {
                response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
            }
            Self::Busy(_) => {
                response.insert_header((header::RETRY_AFTER, "1"));
            }
            _ => {}
        }
        response.json(serde_json::json!({ "error": self.to_string() }))
    }
}
