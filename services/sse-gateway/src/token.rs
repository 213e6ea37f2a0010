//! Whether a request carries the token, which is compared in constant time.

use actix_web::http::header::HeaderMap;
use subtle::{Choice, ConstantTimeEq as _};
use wire::profile::{TOKEN_HEADERS, TOKEN_QUERIES};

/// Whether one of the token headers carries `secret`.
pub(crate) fn header_carries(secret: &str, headers: &HeaderMap) -> bool {
    any_equal(
        secret,
        TOKEN_HEADERS.iter().flat_map(|name| headers.get_all(*name)).map(|value| value.as_bytes()),
    )
}

/// Whether one of the token parameters of `query` carries `secret`.
pub(crate) fn query_carries(secret: &str, query: &[(String, String)]) -> bool {
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

    #[test]
    fn only_the_whole_token_is_the_token() {
        let secret = "0123456789abcdef";
        for name in TOKEN_HEADERS {
            assert!(header_carries(secret, &headers(&[(name, secret)])), "{name}");
            for near in ["", "0", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeF"] {
                assert!(!header_carries(secret, &headers(&[(name, near)])), "{near}");
            }
        }
        assert!(header_carries(
            secret,
            &headers(&[("x-midrun-token", "no"), ("x-arkor-studio-token", secret)])
        ));
        assert!(!header_carries(secret, &headers(&[("authorization", secret)])));
        for name in TOKEN_QUERIES {
            assert!(query_carries(secret, &[(name.to_owned(), secret.to_owned())]), "{name}");
        }
        assert!(!query_carries(secret, &[("key".to_owned(), secret.to_owned())]));
    }
}
