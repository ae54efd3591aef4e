//! Who may come in. A page on the web can make a browser send requests to this machine; two checks keep it out:
//! its `Origin` must be on the list, and where we listen on this machine only, `Host` must name this machine
//! (or else a foreign name could be pointed at us by DNS).

use std::net::{IpAddr, SocketAddr, UdpSocket};

use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, HOST, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::origins::{ALLOW_HEADERS, ALLOW_METHODS, MAX_AGE_SECS, Origins};

pub(crate) struct Guard {
    origins: Origins,
    /// Only requests to a loopback address are asked for their `Host`.
    check_host: bool,
    /// Of this machine, lower case.
    hostname: String,
}

/// What the guard says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Go on, and add these to the answer.
    Pass(Vec<(HeaderName, String)>),
    /// The answer: nothing but this.
    Stop(StatusCode, Vec<(HeaderName, String)>),
}

impl Guard {
    pub(crate) fn new(origins: &[String], listening: Option<SocketAddr>) -> Guard {
        Guard {
            origins: Origins::new(origins),
            check_host: listening.is_some_and(|address| address.ip().is_loopback()),
            hostname: rustix::system::uname().nodename().to_string_lossy().to_lowercase(),
        }
    }

    pub(crate) fn judge(&self, method: &Method, headers: &HeaderMap) -> Verdict {
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let added = match self.judge_origin(method, headers, host) {
            Verdict::Pass(added) => added,
            stop => return stop,
        };
        match self.judge_host(method, host) {
            None => Verdict::Pass(added),
            Some(status) => Verdict::Stop(status, added),
        }
    }

    fn judge_origin(&self, method: &Method, headers: &HeaderMap, host: &str) -> Verdict {
        let Some(origin) = headers.get(ORIGIN).map(HeaderValue::as_bytes) else {
            return Verdict::Pass(Vec::new());
        };
        let origin = String::from_utf8_lossy(origin);
        let own = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        if origin.is_empty() || own == Some(host) {
            return Verdict::Pass(Vec::new());
        }
        if !self.origins.allow(&origin) {
            return Verdict::Stop(StatusCode::FORBIDDEN, Vec::new());
        }
        let mut added = self.allow_origin(&origin);
        if method != Method::OPTIONS {
            return Verdict::Pass(added);
        }
        added.splice(
            0..0,
            [
                (ACCESS_CONTROL_ALLOW_HEADERS, ALLOW_HEADERS.to_owned()),
                (ACCESS_CONTROL_ALLOW_METHODS, ALLOW_METHODS.to_owned()),
                (ACCESS_CONTROL_MAX_AGE, MAX_AGE_SECS.to_owned()),
            ],
        );
        if !self.origins.any {
            added.push((VARY, "Access-Control-Request-Method".to_owned()));
            added.push((VARY, "Access-Control-Request-Headers".to_owned()));
        }
        Verdict::Stop(StatusCode::NO_CONTENT, added)
    }

    fn allow_origin(&self, origin: &str) -> Vec<(HeaderName, String)> {
        match self.origins.any {
            true => vec![(ACCESS_CONTROL_ALLOW_ORIGIN, "*".to_owned())],
            false => {
                vec![(ACCESS_CONTROL_ALLOW_ORIGIN, origin.to_owned()), (VARY, "Origin".to_owned())]
            }
        }
    }

    fn judge_host(&self, method: &Method, host: &str) -> Option<StatusCode> {
        if !self.check_host {
            return None;
        }
        let name = without_port(host);
        if name.parse::<IpAddr>().is_ok_and(is_near) {
            return None;
        }
        match self.is_own_name(&name.to_lowercase()) {
            true if method == Method::OPTIONS => Some(StatusCode::NO_CONTENT),
            true => None,
            false => Some(StatusCode::FORBIDDEN),
        }
    }

    fn is_own_name(&self, name: &str) -> bool {
        name.is_empty()
            || name == "localhost"
            || name == self.hostname
            || [".localhost", ".local", ".internal"].iter().any(|end| name.ends_with(end))
    }
}

/// `[::1]:80` → `::1`, `name:80` → `name`, `::1` stays.
fn without_port(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split_once(']').map_or(host, |(name, _)| name);
    }
    match host.split_once(':') {
        Some((name, port)) if !port.contains(':') => name,
        _ => host,
    }
}

/// An address of this machine or of its own network.
fn is_near(ip: IpAddr) -> bool {
    let private = match ip {
        IpAddr::V4(ip) => ip.is_private(),
        IpAddr::V6(ip) => ip.is_unique_local(),
    };
    // Only an address of our own can be bound.
    private || ip.is_loopback() || ip.is_unspecified() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(listening: &str, method: Method, host: &str, expected: Option<u16>) {
        let guard = Guard::new(&[], listening.parse().ok());
        let got = guard.judge_host(&method, host).map(|status| status.as_u16());
        assert_eq!(got, expected, "{method} {host} at {listening}");
    }

    #[test]
    fn only_names_of_this_machine() {
        let local = "127.0.0.1:11434";
        for host in ["", "localhost", "LocalHost:80", "a.local", "a.b.internal:1", "x.localhost"] {
            check(local, Method::GET, host, None);
        }
        for host in
            ["127.0.0.1:11434", "[::1]:11434", "::1", "10.1.2.3", "0.0.0.0", "192.168.0.9:1"]
        {
            check(local, Method::GET, host, None);
        }
        for host in ["evil.example.com", "8.8.8.8", "localhost.evil.com", "local"] {
            check(local, Method::GET, host, Some(403));
            check("0.0.0.0:11434", Method::GET, host, None);
        }
        check(local, Method::OPTIONS, "localhost", Some(204));
        check(local, Method::OPTIONS, "127.0.0.1", None);
        let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
        check(local, Method::GET, &own, None);
    }
}
