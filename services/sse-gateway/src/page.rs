//! Studio: its built files inside the binary, the token in the first of them. Without them the page says how to build
//! them.
//!
//! What must hold: the page runs its own script and style and nothing else, and no other page can frame, read or
//! embed it. It is the way by which a browser gets the token, so it is served to allowed hosts only. Files whose names
//! carry the hash of their content are kept by browsers; the page itself never is.

use actix_web::http::header;
use actix_web::web::{Bytes, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use wire::ContentHash;
use wire::profile::{LIVE_METAS, TOKEN_METAS};

use crate::admission;
use crate::edge::Edge;
use crate::failure::Failure;
use crate::settings::Settings;

/// Name and content of a built file.
type File = (&'static str, &'static [u8]);

/// None when Studio was not built.
const BUILT_IN: &[File] = include!(concat!(env!("OUT_DIR"), "/studio_files.rs"));
const UNBUILT: &str = include_str!("../assets/unbuilt.html");
const INDEX: &str = "index.html";

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; font-src 'self'; \
                      img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// The files of which the page is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assets(&'static [File]);

impl Assets {
    /// Studio, if it was there when this binary was built; else the same as [`Assets::none`].
    pub fn built_in() -> Self {
        Self(BUILT_IN)
    }

    /// No Studio: the page says how to build it.
    pub fn none() -> Self {
        Self(&[])
    }

    fn named(self, name: &str) -> Option<&'static [u8]> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, content)| *content)
    }

    /// The page itself, with places to fill.
    fn index(self) -> std::borrow::Cow<'static, str> {
        self.named(INDEX).map_or(UNBUILT.into(), String::from_utf8_lossy)
    }
}

/// What is served below `/`, ready to send.
pub(crate) struct Page {
    index: Bytes,
    files: &'static [File],
    /// The tag of each of the files.
    tags: Vec<String>,
}

impl Page {
    pub(crate) fn new(settings: &Settings) -> Self {
        let meta =
            |name: &str, content: &str| format!("<meta name=\"{name}\" content=\"{}\">\n", escape(content));
        let token = TOKEN_METAS.iter().map(|name| meta(name, settings.token.expose()));
        let live = LIVE_METAS.iter().map(|name| meta(name, "true"));
        let version = meta("midrun-version", &settings.version);
        let trace_ui = settings.trace_ui.iter().map(|url| meta("midrun-trace-ui", url));
        let metas: String = token.chain(live).chain([version]).chain(trace_ui).collect();
        let index = settings
            .assets
            .index()
            .replace("{{title}}", &escape(&settings.title))
            .replace("{{version}}", &escape(&settings.version))
            .replace("{{metas}}", metas.trim_end());
        let tag = |(_, content): &File| format!("\"{}\"", &ContentHash::of(content).as_str()[..16]);
        let files = settings.assets.0;
        Self { index: index.into(), files, tags: files.iter().map(tag).collect() }
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

fn kind_of(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("woff2") => "font/woff2",
        _ => "application/octet-stream",
    }
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
    // The page's own file holds places to fill, and is served filled only.
    let wanted = |(known, _): &File| *known == name.as_str() && *known != INDEX;
    let Some(place) = edge.page.files.iter().position(wanted) else {
        return admission::nowhere().await;
    };
    let ((name, content), tag) = (edge.page.files[place], edge.page.tags[place].as_str());
    let known =
        request.headers().get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let mut response = if known { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    response
        .insert_header((header::CACHE_CONTROL, "public, max-age=31536000, immutable"))
        .insert_header((header::ETAG, tag));
    Ok(if known { response.finish() } else { response.content_type(kind_of(name)).body(content) })
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
        for page in [Assets::none().index(), Assets::built_in().index()] {
            for forbidden in
                ["style=\"", " onclick", " onload", "<style", "src=\"http", "href=\"http", "<script>"]
            {
                assert!(!page.contains(forbidden), "{forbidden}");
            }
            assert!(page.contains("{{metas}}") && page.contains("{{title}}"));
        }
    }

    #[test]
    fn whatever_the_page_asks_for_is_there() {
        let assets = Assets::built_in();
        if assets == Assets::none() {
            return;
        }
        let index = assets.index();
        let asked: Vec<&str> =
            index.split('"').filter(|part| part.ends_with(".js") || part.ends_with(".css")).collect();
        assert!(asked.len() >= 2, "{asked:?}");
        for part in asked {
            let name = part.trim_start_matches("./").trim_start_matches('/');
            assert!(assets.named(name).is_some(), "the page asks for {part}");
        }
    }
}
