//! Which names an HTTP server may be reached under.
//!
//! What must hold: a page that reached the server under a foreign name (DNS rebinding), or that runs under a foreign
//! origin, gets nothing.

use std::net::SocketAddr;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::HeaderMap;
use actix_web::http::{Uri, header};
use actix_web::middleware::Next;
use actix_web::{Error, HttpResponse};
use serde_json::json;

const LOOPBACK: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];

/// The names under which a server may be reached: loopback names always.
#[derive(Debug, Clone)]
pub struct HostGuard {
    others: Vec<Name>,
    /// Under every name.
    any: bool,
}

/// What cannot be the name of a host, with a port or without.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host name, with or without a port")]
pub struct NotAHost(pub String);

#[derive(Debug, Clone)]
struct Name {
    host: String,
    port: Option<u16>,
}

/// Why a request is turned away before anyone looks at it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unwelcome {
    /// No `Host`, or several.
    #[error("the request names no host, or more than one")]
    NoHost,
    /// Another name than it may be reached under.
    #[error("host {0:?} is not allowed here")]
    Host(String),
    /// A page of another origin asks.
    #[error("requests from origin {0:?} are not allowed here")]
    Origin(String),
}

impl HostGuard {
    /// Lets loopback names and `allowed` pass.
    ///
    /// # Errors
    /// The first of `allowed` that is no host's name.
    pub fn new(allowed: &[String]) -> Result<Self, NotAHost> {
        let name = |text: &String| {
            let (host, port) = authority(text).ok_or_else(|| NotAHost(text.clone()))?;
            Ok(Name { host: host.to_owned(), port })
        };
        Ok(Self { others: allowed.iter().map(name).collect::<Result<_, _>>()?, any: false })
    }

    /// For a server that listens at `address` and has no pages of its own: one that only this machine reaches is reached
    /// under loopback names, its address and `allowed`; others under any name.
    ///
    /// # Errors
    /// The first of `allowed` that is no host's name.
    pub fn at(address: SocketAddr, allowed: &[String]) -> Result<Self, NotAHost> {
        let host = match address {
            SocketAddr::V4(v4) => v4.ip().to_string(),
            SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
        };
        let mut guard = Self::new(allowed)?;
        guard.others.push(Name { host, port: Some(address.port()) });
        guard.any = !address.ip().is_loopback();
        Ok(guard)
    }

    /// For a server that asks for a secret: it is reached under any name. Pages of another origin speak to it no more
    /// than to others.
    pub fn under_any_name() -> Self {
        Self { others: Vec::new(), any: true }
    }

    /// Whether a request with this target and these headers may be looked at.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(&self, target: &Uri, headers: &HeaderMap) -> Result<(), Unwelcome> {
        if !self.any {
            self.admit_host(target, headers)?;
        }
        for origin in headers.get_all(header::ORIGIN) {
            let origin = String::from_utf8_lossy(origin.as_bytes());
            let from = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            if !from.is_some_and(|from| self.knows(from)) {
                return Err(Unwelcome::Origin(origin.into_owned()));
            }
        }
        Ok(())
    }

    fn admit_host(&self, target: &Uri, headers: &HeaderMap) -> Result<(), Unwelcome> {
        let mut hosts = headers.get_all(header::HOST);
        let (Some(host), None) = (hosts.next(), hosts.next()) else { return Err(Unwelcome::NoHost) };
        let host = String::from_utf8_lossy(host.as_bytes());
        if !self.knows(&host) {
            return Err(Unwelcome::Host(host.into_owned()));
        }
        match target.authority().filter(|other| !self.knows(other.as_str())) {
            Some(other) => Err(Unwelcome::Host(other.to_string())),
            None => Ok(()),
        }
    }

    fn knows(&self, text: &str) -> bool {
        let Some((host, port)) = authority(text) else { return false };
        LOOPBACK.iter().any(|name| name.eq_ignore_ascii_case(host))
            || self.others.iter().any(|name| {
                name.host.eq_ignore_ascii_case(host) && name.port.is_none_or(|own| port == Some(own))
            })
    }
}

/// Around all of a server: answers 403, with the reason as `error`, to whoever `guard` does not let in.
///
/// # Errors
/// Those of `next`.
pub async fn admit(
    guard: HostGuard,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    match guard.admit(request.uri(), request.headers()) {
        Ok(()) => next.call(request).await.map(ServiceResponse::map_into_boxed_body),
        Err(unwelcome) => {
            let answer = HttpResponse::Forbidden().json(json!({ "error": unwelcome.to_string() }));
            Ok(request.into_response(answer))
        }
    }
}

/// `host`, `host:port` or `[v6]:port`, and nothing else.
fn authority(text: &str) -> Option<(&str, Option<u16>)> {
    let end = if text.starts_with('[') { text.find(']')? + 1 } else { text.find(':').unwrap_or(text.len()) };
    let (host, rest) = text.split_at(end);
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let well_formed = match host.strip_prefix('[') {
        Some(address) => address.trim_end_matches(']').parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(fits),
    };
    let port = match rest.strip_prefix(':') {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
        None if rest.is_empty() => None,
        Some(_) | None => return None,
    };
    well_formed.then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{HeaderName, HeaderValue};

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn guard() -> HostGuard {
        HostGuard::new(&["studio.lan".to_owned(), "box:8080".to_owned(), "[2001:db8::1]".to_owned()]).unwrap()
    }

    fn host(text: &str) -> Result<(), Unwelcome> {
        guard().admit(&Uri::from_static("/"), &headers(&[("host", text)]))
    }

    #[test]
    fn known_names_pass_with_any_port_or_their_own() {
        let known = [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1",
            "127.0.0.1:65535",
            "[::1]",
            "[::1]:4000",
            "studio.lan",
            "Studio.LAN:99",
            "box:8080",
            "[2001:db8::1]:1",
        ];
        for name in known {
            assert_eq!(host(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn everything_else_does_not() {
        let foreign = [
            "evil.com",
            "localhost.evil.com",
            "evil.com:4000",
            "localhost:",
            "localhost:99999",
            "localhost:x",
            "localhost:+1",
            "localhost.",
            "127.0.0.1.nip.io",
            "127.0.0.2",
            "0.0.0.0",
            "2130706433",
            "::1",
            "[::1",
            "[::1]x",
            "[::ffff:127.0.0.1]",
            "localhost@evil.com",
            "evil.com@localhost",
            "user:pw@localhost",
            "localhost/evil",
            "localhost,evil.com",
            "localhost evil.com",
            "",
            " ",
            "box",
            "box:80",
            "xlocalhost",
        ];
        for name in foreign {
            assert_eq!(host(name), Err(Unwelcome::Host(name.to_owned())), "{name}");
        }
    }

    #[test]
    fn only_one_that_others_reach_has_any_name() {
        let asked = |address: &str, pairs: &[(&str, &str)]| {
            let guard = HostGuard::at(address.parse().unwrap(), &["plane.lan".to_owned()]).unwrap();
            guard.admit(&Uri::from_static("/"), &headers(pairs))
        };
        for local in ["127.0.0.1:4200", "[::1]:4200", "127.0.1.1:4200"] {
            for known in ["localhost:4200", local, "plane.lan"] {
                assert_eq!(asked(local, &[("host", known)]), Ok(()), "{known}");
            }
            let foreign = asked(local, &[("host", "evil.com")]);
            assert_eq!(foreign, Err(Unwelcome::Host("evil.com".to_owned())));
        }
        for open in ["0.0.0.0:4200", "192.0.2.1:4200"] {
            assert_eq!(asked(open, &[("host", "control-plane:4200")]), Ok(()));
            assert_eq!(asked(open, &[]), Ok(()), "a probe of HTTP/1.0 names none");
            let page = asked(open, &[("host", "evil.com"), ("origin", "http://evil.com")]);
            assert_eq!(page, Err(Unwelcome::Origin("http://evil.com".to_owned())));
        }
        assert!(HostGuard::at("127.0.0.1:1".parse().unwrap(), &["a b".to_owned()]).is_err());
    }

    #[test]
    fn a_host_is_named_exactly_once() {
        let here = Uri::from_static("/");
        assert_eq!(guard().admit(&here, &headers(&[])), Err(Unwelcome::NoHost));
        let twice = headers(&[("host", "localhost"), ("host", "localhost")]);
        assert_eq!(guard().admit(&here, &twice), Err(Unwelcome::NoHost));
    }

    #[test]
    fn a_target_with_a_host_of_its_own_is_held_to_the_same() {
        let local = headers(&[("host", "localhost")]);
        assert_eq!(guard().admit(&Uri::from_static("http://127.0.0.1:4/"), &local), Ok(()));
        let foreign = guard().admit(&Uri::from_static("http://evil.com/"), &local);
        assert_eq!(foreign, Err(Unwelcome::Host("evil.com".to_owned())));
    }

    #[test]
    fn an_origin_must_be_known_too() {
        let from = |origin| {
            guard().admit(&Uri::from_static("/"), &headers(&[("host", "localhost"), ("origin", origin)]))
        };
        for known in ["http://localhost:4000", "https://studio.lan", "http://[::1]:4"] {
            assert_eq!(from(known), Ok(()), "{known}");
        }
        for foreign in ["null", "http://evil.com", "https://localhost.evil.com", "file://", "localhost", ""] {
            assert_eq!(from(foreign), Err(Unwelcome::Origin(foreign.to_owned())), "{foreign}");
        }
    }
}
