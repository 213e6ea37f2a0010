//! `POST /v1/inference/chat`, in the manner of OpenAI.
//!
//! The builtin model continues text and knows no roles: the prompt is the messages' text, in order, a newline
//! between two. One message is its own text, unchanged.

use std::convert::Infallible;

use actix_web::{HttpRequest, HttpResponse, Responder, web};
use actix_web_lab::sse::{Data, Event, Sse};
use futures_util::stream::{self, Stream};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::caller::Scope;
use super::{Shared, jobs};
use crate::core::Core;
use crate::job::JobStatus;
use crate::refusal::Refusal;
use crate::sampling::{self, SampleRequest, Sampled};

const MAX_TOKENS: u32 = 256;
const MOST_TOKENS: u32 = 8192;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Chat {
    messages: Vec<Message>,
    #[serde(default)]
    adapter: Option<Adapter>,
    #[serde(default)]
    temperature: Option<f64>,
    #[serde(default)]
    top_p: Option<f64>,
    #[serde(default)]
    max_tokens: Option<u32>,
    #[serde(default)]
    stream: Option<bool>,
}

#[derive(Deserialize)]
struct Message {
    content: Content,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    text: String,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Adapter {
    #[serde(rename_all = "camelCase")]
    Final { job_id: String },
    #[serde(rename_all = "camelCase")]
    Checkpoint {
        job_id: String,
        #[serde(default)]
        step: Option<i64>,
    },
}

/// `POST /v1/inference/chat`.
pub(super) async fn chat(
    core: Shared,
    Scope(project): Scope,
    body: web::Json<Chat>,
    http: HttpRequest,
) -> Result<HttpResponse, Refusal> {
    let chat = body.into_inner();
    let adapter = chat.adapter.as_ref().ok_or_else(|| {
        Refusal::bad("name an adapter: {\"kind\":\"final\"|\"checkpoint\",\"jobId\":…}; only trained jobs can be sampled here")
    })?;
    let (checkpoint_dir, model) = resolve(&core, &project.id, adapter).await?;
    let request = sample_request(&chat, checkpoint_dir)?;
    let max_tokens = request.max_tokens;
    let reply =
        Reply { id: format!("chatcmpl-{}", uuid::Uuid::now_v7().simple()), created: created(), model };
    let mut sampled = sampling::start(core.get_ref(), request);
    if !chat.stream.unwrap_or(false) {
        return whole(reply, sampled, max_tokens).await;
    }
    // Waited for here, so that what fails at once fails with a status.
    let first = next(&mut sampled).await?;
    let chunks = Chunks { reply, sampled, first: Some(first), state: State::Role, tokens: 0, max_tokens };
    Ok(Sse::from_stream(chunks.into_stream()).respond_to(&http))
}

/// The folder of the adapter's checkpoint, and a name for it.
async fn resolve(core: &Core, project: &str, adapter: &Adapter) -> Result<(String, String), Refusal> {
    let (job_id, step) = match adapter {
        Adapter::Final { job_id } => (job_id, None),
        Adapter::Checkpoint { job_id, step } => (job_id, *step),
    };
    let job = jobs::find(core, project, job_id).await?;
    if matches!(adapter, Adapter::Final { .. }) && job.status != JobStatus::Completed {
        return Err(Refusal::Conflict(format!(
            "job {job_id} is {}: it has a final adapter once it is completed; \"checkpoint\" takes one of its checkpoints",
            job.status.as_str()
        )));
    }
    let point = jobs::checkpoint(core, &job, step).await?;
    Ok((point.dir, format!("{job_id}@{}", point.step)))
}

fn sample_request(chat: &Chat, checkpoint_dir: String) -> Result<SampleRequest, Refusal> {
    let temperature = chat.temperature.unwrap_or(1.0);
    let top_p = chat.top_p.unwrap_or(1.0);
    let max_tokens = chat.max_tokens.unwrap_or(MAX_TOKENS);
    if chat.messages.is_empty() {
        return Err(Refusal::bad("messages must not be empty"));
    }
    if !(0.0..=10.0).contains(&temperature) {
        return Err(Refusal::bad("temperature must be 0 to 10; 0 takes the likeliest token"));
    }
    if !(top_p > 0.0 && top_p <= 1.0) {
        return Err(Refusal::bad("topP must be above 0 and at most 1"));
    }
    if !(1..=MOST_TOKENS).contains(&max_tokens) {
        return Err(Refusal::bad(format!("maxTokens must be 1 to {MOST_TOKENS}")));
    }
    let texts: Vec<String> = chat.messages.iter().map(|message| message.content.text()).collect();
    Ok(SampleRequest { checkpoint_dir, prompt: texts.join("\n"), temperature, top_p, max_tokens })
}

impl Content {
    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Parts(parts) => parts.iter().map(|part| part.text.as_str()).collect(),
        }
    }
}

fn created() -> u64 {
    std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

async fn next(sampled: &mut mpsc::Receiver<Result<Sampled, Refusal>>) -> Result<Sampled, Refusal> {
    sampled.recv().await.unwrap_or(Err(Refusal::Internal))
}

/// What the executor said, or what the number of tokens says.
fn finish_reason(said: Option<String>, tokens: u32, max_tokens: u32) -> String {
    said.unwrap_or_else(|| if tokens >= max_tokens { "length" } else { "stop" }.to_owned())
}

/// What all parts of one answer have in common.
struct Reply {
    id: String,
    created: u64,
    model: String,
}

impl Reply {
    fn object(&self, object: &str, choice: Value) -> Value {
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": [choice],
        })
    }

    fn chunk(&self, delta: Value, finish_reason: Option<&str>) -> Event {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish_reason });
        Data::new(self.object("chat.completion.chunk", choice).to_string()).into()
    }
}

async fn whole(
    reply: Reply,
    mut sampled: mpsc::Receiver<Result<Sampled, Refusal>>,
    max_tokens: u32,
) -> Result<HttpResponse, Refusal> {
    let (mut content, mut tokens) = (String::new(), 0);
    let said = loop {
        match next(&mut sampled).await? {
            Sampled::Token(token) => content.push_str(&token),
            Sampled::Done(said) => break said,
        }
        tokens += 1;
    };
    let choice = json!({
        "index": 0,
        "message": { "role": "assistant", "content": content },
        "finish_reason": finish_reason(said, tokens, max_tokens),
    });
    Ok(HttpResponse::Ok().json(reply.object("chat.completion", choice)))
}

/// An answer on its way.
struct Chunks {
    reply: Reply,
    sampled: mpsc::Receiver<Result<Sampled, Refusal>>,
    /// Taken before the answer began.
    first: Option<Sampled>,
    state: State,
    tokens: u32,
    max_tokens: u32,
}

/// What comes next.
enum State {
    Role,
    Tokens,
    Sentinel,
    Closed,
}

impl Chunks {
    fn into_stream(self) -> impl Stream<Item = Result<Event, Infallible>> {
        stream::unfold(self, |mut this| async move { Some((Ok(this.next().await?), this)) })
    }

    async fn next(&mut self) -> Option<Event> {
        match self.state {
            State::Role => {
                self.state = State::Tokens;
                Some(self.reply.chunk(json!({ "role": "assistant", "content": "" }), None))
            }
            State::Tokens => {
                let sampled = match self.first.take() {
                    Some(first) => Ok(first),
                    None => next(&mut self.sampled).await,
                };
                Some(self.relay(sampled))
            }
            State::Sentinel => {
                self.state = State::Closed;
                Some(Data::new("[DONE]").into())
            }
            State::Closed => None,
        }
    }

    fn relay(&mut self, sampled: Result<Sampled, Refusal>) -> Event {
        match sampled {
            Ok(Sampled::Token(token)) => {
                self.tokens += 1;
                self.reply.chunk(json!({ "content": token }), None)
            }
            Ok(Sampled::Done(said)) => {
                self.state = State::Sentinel;
                self.reply.chunk(json!({}), Some(&finish_reason(said, self.tokens, self.max_tokens)))
            }
            // The status is sent already. Without the sentinel no client takes this for a whole answer.
            Err(refusal) => {
                self.state = State::Closed;
                Data::new(json!({ "error": { "message": refusal.to_string() } }).to_string()).into()
            }
        }
    }
}
