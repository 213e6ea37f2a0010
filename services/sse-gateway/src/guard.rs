//! Who may ask at all: allowed host names, and the token.
//!
//! What must hold: a page that reached this server under a foreign name (DNS rebinding), or that runs under a
//! foreign origin, gets nothing, the page with the token included. The token is compared in constant time.

use actix_web::http::header::HeaderMap;
use actix_web::http::{Uri, header};
use subtle::{Choice, ConstantTimeEq as _};
use wire::profile::{TOKEN_HEADERS, TOKEN_QUERIES};

use crate::settings::SettingsError;

const LOOPBACK: [&str; 3] = ["127.0.0.1", "localhost", "[::1]"];

/// The names under which this server may be reached.
#[derive(Debug, Clone)]
pub(crate) struct HostGuard {
    others: Vec<Name>,
}

#[derive(Debug, Clone)]
struct Name {
    host: String,
    port: Option<u16>,
}

/// Why a request is turned away before anyone looks at it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unwelcome {
    #[error("the request names no host, or more than one")]
    NoHost,
    #[error("host {0:?} is not allowed here; add it to the gateway's allowed hosts if it should be")]
    Host(String),
    #[error("requests from origin {0:?} are not allowed here")]
    Origin(String),
}

impl HostGuard {
    /// A guard that lets loopback names and `allowed` pass.
    pub(crate) fn new(allowed: &[String]) -> Result<Self, SettingsError> {
        let name = |text: &String| {
            let (host, port) = authority(text).ok_or_else(|| SettingsError::Host { host: text.clone() })?;
            Ok(Name { host: host.to_owned(), port })
        };
        Ok(Self { others: allowed.iter().map(name).collect::<Result<_, _>>()? })
    }

    /// Whether a request with this target and these headers may be looked at.
    pub(crate) fn admit(&self, target: &Uri, headers: &HeaderMap) -> Result<(), Unwelcome> {
        let mut hosts = headers.get_all(header::HOST);
        let (Some(host), None) = (hosts.next(), hosts.next()) else { return Err(Unwelcome::NoHost) };
        let host = String::from_utf8_lossy(host.as_bytes());
        if !self.knows(&host) {
            return Err(Unwelcome::Host(host.into_owned()));
        }
        if let Some(other) = target.authority().filter(|other| !self.knows(other.as_str())) {
            return Err(Unwelcome::Host(other.to_string()));
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

    fn knows(&self, text: &str) -> bool {
        let Some((host, port)) = authority(text) else { return false };
        LOOPBACK.iter().any(|name| name.eq_ignore_ascii_case(host))
            || self.others.iter().any(|name| {
                name.host.eq_ignore_ascii_case(host) && name.port.is_none_or(|own| port == Some(own))
            })
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

/// Whether one of the token headers carries `secret`.
pub(crate) fn header_token(secret: &str, headers: &HeaderMap) -> bool {
    any_equal(
        secret,
        TOKEN_HEADERS.iter().flat_map(|name| headers.get_all(*name)).map(|value| value.as_bytes()),
    )
}

/// Whether one of the token parameters of `query` carries `secret`.
pub(crate) fn query_token(secret: &str, query: &[(String, String)]) -> bool {
    let given = query.iter().filter(|(name, _)| TOKEN_QUERIES.contains(&name.as_str()));
    any_equal(secret, given.map(|(_, value)| value.as_bytes()))
}

/// Looks at every candidate to its end, whatever the earlier ones were.
fn any_equal<'a>(secret: &str, given: impl Iterator<Item = &'a [u8]>) -> bool {
    given.fold(Choice::from(0), |found, token| found | secret.as_bytes().ct_eq(token)).into()
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

    #[test]
    fn only_the_whole_token_is_the_token() {
        let secret = "0123456789abcdef";
        for name in TOKEN_HEADERS {
            assert!(header_token(secret, &headers(&[(name, secret)])), "{name}");
            for near in ["", "0", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeF"] {
                assert!(!header_token(secret, &headers(&[(name, near)])), "{near}");
            }
        }
        assert!(header_token(
            secret,
            &headers(&[("x-midrun-token", "no"), ("x-arkor-studio-token", secret)])
        ));
        assert!(!header_token(secret, &headers(&[("authorization", secret)])));
        for name in TOKEN_QUERIES {
            assert!(query_token(secret, &[(name.to_owned(), secret.to_owned())]), "{name}");
        }
        assert!(!query_token(secret, &[("key".to_owned(), secret.to_owned())]));
    }
}
