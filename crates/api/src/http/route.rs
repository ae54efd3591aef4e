//! The table of routes, and how a request finds its row.

use axum::response::Response;
use futures::future::BoxFuture;

use super::Call;

pub(crate) type Handler = fn(Call) -> BoxFuture<'static, Response>;

pub(crate) struct Route {
    pub method: &'static str,
    /// `:name` stands for one segment.
    pub path: &'static str,
    pub handler: Handler,
}

/// The order in which a 405 names what would be allowed.
const METHODS: [&str; 7] = ["HEAD", "GET", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"];

pub(crate) enum Found {
    Route {
        handler: Handler,
        param: String,
    },
    /// The same path with (or without) a slash at its end is a route.
    Moved {
        location: String,
    },
    WrongMethod {
        allow: String,
    },
    Unknown,
}

pub(crate) fn find<'a>(
    routes: impl Iterator<Item = &'a Route> + Clone,
    method: &str,
    raw_path: &str,
) -> Found {
    let path = percent_decoded(raw_path);
    let of_method = || routes.clone().filter(|route| route.method == method);
    if let Some((handler, param)) =
        of_method().find_map(|route| Some((route.handler, matched(route.path, &path)?)))
    {
        return Found::Route { handler, param };
    }
    let other = other_slash(&path);
    if path != "/" && of_method().any(|route| matched(route.path, &other).is_some()) {
        return Found::Moved { location: other };
    }
    let here = |method: &&&str| {
        routes.clone().any(|route| route.method == **method && matched(route.path, &path).is_some())
    };
    let allow: Vec<&str> = METHODS.iter().filter(here).copied().collect();
    match allow.is_empty() {
        true => Found::Unknown,
        false => Found::WrongMethod { allow: allow.join(", ") },
    }
}

/// What stood for the parameter (empty without one), if the path is this route's.
fn matched(pattern: &str, path: &str) -> Option<String> {
    let Some((prefix, _)) = pattern.split_once(':') else {
        return (pattern == path).then(String::new);
    };
    let rest = path.strip_prefix(prefix)?;
    (!rest.is_empty() && !rest.contains('/')).then(|| rest.to_owned())
}

fn other_slash(path: &str) -> String {
    match path.strip_suffix('/') {
        Some(shorter) => shorter.to_owned(),
        None => format!("{path}/"),
    }
}

fn percent_decoded(path: &str) -> String {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let code = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| byte == b'%') {
            Some(decoded) => {
                out.push(decoded);
                rest = &tail[2..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, path: &str, expected: &str) {
        let handler: Handler = |_| Box::pin(async { Response::default() });
        let row = |method, path| Route { method, path, handler };
        let routes = [
            row("GET", "/"),
            row("HEAD", "/"),
            row("POST", "/api/blobs/:digest"),
            row("HEAD", "/api/blobs/:digest"),
            row("POST", "/api/chat"),
            row("GET", "/v1/models"),
            row("GET", "/v1/models/:model"),
        ];
        let got = match find(routes.iter(), method, path) {
            Found::Route { param, .. } => format!("route {param}"),
            Found::Moved { location } => format!("moved {location}"),
            Found::WrongMethod { allow } => format!("allow {allow}"),
            Found::Unknown => "unknown".to_owned(),
        };
        assert_eq!(got, expected, "{method} {path}");
    }

    #[test]
    fn a_request_finds_its_row() {
        check("GET", "/", "route ");
        check("POST", "/", "allow HEAD, GET");
        check("POST", "/api/blobs/sha256:ab", "route sha256:ab");
        check("POST", "/api/blobs/sha256%3Aab", "route sha256:ab");
        check("GET", "/api/blobs/x", "allow HEAD, POST");
        check("POST", "/api/blobs/", "unknown");
        check("POST", "/api/chat/", "moved /api/chat");
        check("GET", "/api/chat/", "unknown");
        check("GET", "/v1/models/", "moved /v1/models");
        check("GET", "/v1/models/a/b", "unknown");
        check("GET", "/v1/models/a%2Fb", "unknown");
        check("GET", "/v1/models/a%", "route a%");
    }
}
