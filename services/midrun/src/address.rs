//! Where a server listens, and the token that its clients need.

use std::net::{IpAddr, TcpListener};

/// How many ports after the wanted one are tried.
const PORTS_TRIED: u16 = 100;

/// Listens on `host`, on `port` or the next free one. Says which port was taken instead of which.
pub(crate) fn listen(host: &str, port: u16) -> Result<(TcpListener, Option<u16>), String> {
    let failed = |port: u16, error: std::io::Error| format!("cannot listen on {host}:{port}: {error}");
    for candidate in port..=port.saturating_add(PORTS_TRIED) {
        match TcpListener::bind((host, candidate)) {
            Ok(listener) => return Ok((listener, (candidate != port).then_some(port))),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(failed(candidate, error)),
        }
    }
    Err(format!("ports {port} to {} on {host} are all taken; choose one with --port", port + PORTS_TRIED))
}

/// The address as a browser on this machine uses it.
pub(crate) fn url_of(listener: &TcpListener) -> Result<String, String> {
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    let host = match address.ip() {
        ip if ip.is_unspecified() => "127.0.0.1".to_owned(),
        IpAddr::V6(ip) => format!("[{ip}]"),
        ip => ip.to_string(),
    };
    Ok(format!("http://{host}:{}", address.port()))
}

/// 32 random bytes, in hex.
pub(crate) fn fresh_token() -> String {
    use std::fmt::Write as _;
    rand::random::<[u8; 32]>().iter().fold(String::with_capacity(64), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}
