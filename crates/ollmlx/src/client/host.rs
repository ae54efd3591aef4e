//! OLLAMA_HOST: where the server listens, and how a client reaches it. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const PORT_DEFAULT: u16 = 11434;
const HOST_DEFAULT: &str = "127.0.0.1";

/// `scheme://host:port/path`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub scheme: String,
    /// Without the brackets of an IPv6 address.
    pub host: String,
    pub port: u16,
    /// Without slashes at either end; usually empty.
    pub path: String,
    /// What was wrong with the port and what is used instead, for one warning.
    pub warning: Option<String>,
}

impl Host {
    pub fn from_env() -> Host {
        Host::parse(&variable("OLLAMA_HOST").unwrap_or_default())
    }

    pub fn parse(text: &str) -> Host {
        let text = text.trim();
        let (scheme, rest, port_default) = match text.split_once("://") {
            Some(("http", rest)) => ("http", rest, 80),
            Some(("https", rest)) => ("https", rest, 443),
            Some((scheme, rest)) => (scheme, rest, PORT_DEFAULT),
            None if text == "ollama.com" => ("https", text, 443),
            None => ("http", text, PORT_DEFAULT),
        };
        let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port_text) = split_port(address);
        let (port, warning) = match port_text.map(str::parse::<u16>) {
            None => (port_default, None),
            Some(Ok(port)) => (port, None),
            Some(Err(_)) => {
                let port = port_text.unwrap_or_default();
                let warning =
                    format!("invalid port, using default port={port} default={port_default}");
                (port_default, Some(warning))
            }
        };
        let host = if host.is_empty() { HOST_DEFAULT } else { host };
        Host {
            scheme: scheme.to_owned(),
            host: host.to_owned(),
            port,
            path: path.trim_matches('/').to_owned(),
            warning,
        }
    }

    /// The address a server binds.
    pub fn address(&self) -> String {
        join(&self.host, self.port)
    }

    /// Where a client connects: an address that means "all" when bound is reached through loopback.
    pub fn url(&self) -> String {
        let host = match self.ip() {
            Some(IpAddr::V4(ip)) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.to_string(),
            Some(IpAddr::V6(ip)) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.to_string(),
            _ => self.host.clone(),
        };
        let path = if self.path.is_empty() { String::new() } else { format!("/{}", self.path) };
        format!("{}://{}{path}", self.scheme, join(&host, self.port))
    }

    /// Whether the address is on this machine (loopback, or all interfaces).
    pub fn is_local(&self) -> bool {
        self.is_loopback() || self.ip().is_some_and(|ip| ip.is_unspecified())
    }

    /// Whether only this machine reaches the address.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.ip().is_some_and(|ip| ip.is_loopback())
    }

    /// Whether this is the address used when nobody says anything.
    pub fn is_default(&self) -> bool {
        self.scheme == "http" && self.is_local() && self.port == PORT_DEFAULT
    }

    fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address())
    }
}

/// A setting from the environment, trimmed of blanks and one pair of quotes; empty counts as unset.
pub fn variable(name: &str) -> Option<String> {
    let value = std::env::var(name).ok()?;
    let value = value.trim().trim_matches(['"', '\'']).trim();
    (!value.is_empty()).then(|| value.to_owned())
}

/// A switch from the environment: what reads as "no" is no, anything else that is set is yes.
pub fn switch(name: &str) -> bool {
    variable(name).is_some_and(|value| {
        !matches!(value.as_str(), "0" | "f" | "F" | "false" | "FALSE" | "False")
    })
}

/// Host and port text; an IPv6 address needs brackets before a port.
fn split_port(address: &str) -> (&str, Option<&str>) {
    if let Some(bracketed) = address.strip_prefix('[')
        && let Some((host, rest)) = bracketed.split_once(']')
    {
        return (host, rest.strip_prefix(':'));
    }
    match address.split_once(':') {
        Some((_, rest)) if rest.contains(':') => (address, None),
        Some((host, port)) => (host, Some(port)),
        None => (address, None),
    }
}

fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, address: &str, url: &str) {
        let host = Host::parse(text);
        assert_eq!((host.address().as_str(), host.url().as_str()), (address, url), "{text:?}");
        assert_eq!(host.warning, None, "{text:?}");
    }

    #[test]
    fn addresses() {
        check("", "127.0.0.1:11434", "http://127.0.0.1:11434");
        check("  ", "127.0.0.1:11434", "http://127.0.0.1:11434");
        check("1.2.3.4", "1.2.3.4:11434", "http://1.2.3.4:11434");
        check("1.2.3.4:5000", "1.2.3.4:5000", "http://1.2.3.4:5000");
        check(":1234", "127.0.0.1:1234", "http://127.0.0.1:1234");
        check("example.com", "example.com:11434", "http://example.com:11434");
        check("http://example.com", "example.com:80", "http://example.com:80");
        check("https://example.com", "example.com:443", "https://example.com:443");
        check("https://example.com:8443/a/b/", "example.com:8443", "https://example.com:8443/a/b");
        check("example.com:56789/", "example.com:56789", "http://example.com:56789");
        check("ollama.com", "ollama.com:443", "https://ollama.com:443");
        check("0.0.0.0", "0.0.0.0:11434", "http://127.0.0.1:11434");
        check("0.0.0.0:80", "0.0.0.0:80", "http://127.0.0.1:80");
        check("[::1]", "[::1]:11434", "http://[::1]:11434");
        check("::1", "[::1]:11434", "http://[::1]:11434");
        check("[::]:1337", "[::]:1337", "http://[::1]:1337");
        check("http://[2001:db8::1]:9", "[2001:db8::1]:9", "http://[2001:db8::1]:9");
    }

    #[test]
    fn a_bad_port_is_the_default_one_with_a_warning() {
        for (text, port, default) in [
            ("127.0.0.1:notaport", "notaport", 11434),
            ("127.0.0.1:66000", "66000", 11434),
            ("127.0.0.1:-1", "-1", 11434),
            ("http://example.com:x", "x", 80),
        ] {
            let host = Host::parse(text);
            assert_eq!(host.port, default, "{text}");
            let warning = format!("invalid port, using default port={port} default={default}");
            assert_eq!(host.warning, Some(warning), "{text}");
        }
    }

    #[test]
    fn who_reaches_an_address() {
        for (text, local, loopback, default) in [
            ("", true, true, true),
            ("localhost", true, true, true),
            ("0.0.0.0", true, false, true),
            ("[::1]:11434", true, true, true),
            ("127.0.0.1:9", true, true, false),
            ("[::]:9", true, false, false),
            ("10.0.0.1", false, false, false),
            ("https://localhost:11434", true, true, false),
        ] {
            let host = Host::parse(text);
            let got = (host.is_local(), host.is_loopback(), host.is_default());
            assert_eq!(got, (local, loopback, default), "{text}");
        }
    }
}
