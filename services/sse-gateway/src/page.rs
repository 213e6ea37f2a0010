//! The plain page: a few files inside the binary, the token in the first of them.
//!
//! What must hold: the page runs its own script and style and nothing else, and no other page can frame, read or
//! embed it. It is the way by which a browser gets the token, so it is served to allowed hosts only.

use actix_web::http::header;
use actix_web::web::{Bytes, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use wire::ContentHash;
use wire::profile::{LIVE_METAS, TOKEN_METAS};

use crate::admission;
use crate::edge::Edge;
use crate::failure::Failure;
use crate::settings::Settings;

const INDEX: &str = include_str!("../assets/index.html");
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
/// Name, kind and content of everything else.
const FILES: [(&str, &str, &str); 5] = [
    ("app.js", JAVASCRIPT, include_str!("../assets/app.js")),
    ("stream.js", JAVASCRIPT, include_str!("../assets/stream.js")),
    ("chart.js", JAVASCRIPT, include_str!("../assets/chart.js")),
    ("log.js", JAVASCRIPT, include_str!("../assets/log.js")),
    ("style.css", "text/css; charset=utf-8", include_str!("../assets/style.css")),
];

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// What is served below `/`, ready to send.
pub(crate) struct Page {
    index: Bytes,
    /// The tag of each of [`FILES`].
    tags: [String; FILES.len()],
}

impl Page {
    pub(crate) fn new(settings: &Settings) -> Self {
        let meta =
            |name: &str, content: &str| format!("<meta name=\"{name}\" content=\"{}\">\n", escape(content));
        let token = TOKEN_METAS.iter().map(|name| meta(name, settings.token.expose()));
        let live = LIVE_METAS.iter().map(|name| meta(name, "true"));
        let metas: String = token.chain(live).collect();
        let index = INDEX
            .replace("{{title}}", &escape(&settings.title))
            .replace("{{version}}", &escape(&settings.version))
            .replace("{{metas}}", metas.trim_end());
        Self {
            index: index.into(),
            tags: FILES
                .map(|(_, _, text)| format!("\"{}\"", &ContentHash::of(text.as_bytes()).as_str()[..16])),
        }
    }
}

/// `text` as it may stand in an attribute or between tags.
fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

/// `GET /`.
pub(crate) async fn index(edge: Data<Edge>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .insert_header(("cross-origin-opener-policy", "same-origin"))
        .insert_header(("x-frame-options", "DENY"))
        .body(edge.page.index.clone())
}

/// `GET /NAME`.
pub(crate) async fn file(
    edge: Data<Edge>,
    name: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Failure> {
    let Some(place) = FILES.iter().position(|(known, _, _)| *known == name.as_str()) else {
        return admission::nowhere().await;
    };
    let ((_, kind, text), tag) = (FILES[place], edge.page.tags[place].as_str());
    let known =
        request.headers().get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let mut response = if known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response.insert_header((header::CACHE_CONTROL, "no-cache")).insert_header((header::ETAG, tag));
    Ok(if known { response.finish() } else { response.content_type(kind).body(text) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::Secret;

    #[test]
    fn the_page_carries_the_token_under_every_name_and_nothing_unescaped() {
        let mut settings = Settings::new(Secret::new("tok&en\"0123456789"));
        settings.title = "<script>alert(1)</script>".to_owned();
        let page = Page::new(&settings);
        let text = std::str::from_utf8(&page.index).unwrap();
        for name in TOKEN_METAS {
            let meta = format!("<meta name=\"{name}\" content=\"tok&amp;en&quot;0123456789\">");
            assert!(text.contains(&meta), "{name}");
        }
        for name in LIVE_METAS {
            assert!(text.contains(&format!("<meta name=\"{name}\" content=\"true\">")), "{name}");
        }
        assert!(!text.contains("<script>") && !text.contains("{{"), "{text}");
    }

    /// The policy forbids all of these; better to find them here than in a browser.
    #[test]
    fn the_page_keeps_its_own_policy() {
        for forbidden in ["style=\"", " onclick", " onload", "<style", "src=\"http", "href=\"http"] {
            assert!(!INDEX.contains(forbidden), "{forbidden}");
        }
        for (name, _, text) in FILES {
            for forbidden in ["innerHTML", "eval(", "document.write", "@import", "url(http"] {
                assert!(!text.contains(forbidden), "{name}: {forbidden}");
            }
        }
    }

    #[test]
    fn whatever_the_page_asks_for_is_there() {
        for (name, _, text) in [("index", "", INDEX)].into_iter().chain(FILES) {
            for part in text.split(['"', '\'']).filter(|part| part.ends_with(".js") || part.ends_with(".css"))
            {
                let asked = part.trim_start_matches("./").trim_start_matches('/');
                assert!(FILES.iter().any(|(known, _, _)| *known == asked), "{name} asks for {part}");
            }
        }
    }
}
