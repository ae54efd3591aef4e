//! Which web pages may talk to us (CORS): a list of origins with `*` in them, the user's first.

/// Pages on this machine and desktop programs that load their pages from themselves.
const ALWAYS: [&str; 5] =
    ["app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*"];
const LOCAL_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "0.0.0.0"];

pub(crate) const ALLOW_METHODS: &str = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS";
pub(crate) const ALLOW_HEADERS: &str = "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,\
X-Stainless-Arch,X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,\
X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,X-Stainless-Runtime,\
X-Stainless-Runtime-Version,X-Stainless-Timeout";
pub(crate) const MAX_AGE_SECS: &str = "43200";

#[derive(Clone, Debug)]
pub(crate) struct Origins {
    patterns: Vec<String>,
    /// A lone `*` in the user's list.
    pub any: bool,
}

impl Origins {
    /// `extra` is the user's list (`OLLAMA_ORIGINS`).
    pub(crate) fn new(extra: &[String]) -> Origins {
        let local = LOCAL_HOSTS.iter().flat_map(|host| {
            ["http", "https"].into_iter().flat_map(move |scheme| {
                [format!("{scheme}://{host}"), format!("{scheme}://{host}:*")]
            })
        });
        let patterns =
            extra.iter().cloned().chain(local).chain(ALWAYS.map(str::to_owned)).collect();
        Origins { patterns, any: extra.iter().any(|origin| origin == "*") }
    }

    pub(crate) fn allow(&self, origin: &str) -> bool {
        self.any || self.patterns.iter().any(|pattern| matches(pattern, origin))
    }
}

/// A `*` stands for any text, once or more in a pattern.
fn matches(pattern: &str, origin: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == origin };
    let Some(mut rest) = origin.strip_prefix(head) else { return false };
    let mut tail = tail;
    while let Some((middle, after)) = tail.split_once('*') {
        let Some(at) = rest.find(middle) else { return false };
        rest = &rest[at + middle.len()..];
        tail = after;
    }
    rest.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(extra: &[&str], origin: &str, expected: bool) {
        let extra: Vec<String> = extra.iter().map(|text| (*text).to_owned()).collect();
        assert_eq!(Origins::new(&extra).allow(origin), expected, "{origin}");
    }

    #[test]
    fn pages_of_this_machine_and_the_users_list() {
        check(&[], "http://localhost:3000", true);
        check(&[], "http://localhost", true);
        check(&[], "https://127.0.0.1:5173", true);
        check(&[], "http://localhost.evil.example", false);
        check(&[], "http://evil.example", false);
        check(&[], "vscode-webview://abc", true);
        check(&[], "chrome-extension://abc", false);
        check(&["chrome-extension://*"], "chrome-extension://abc", true);
        check(&["https://*.example.com"], "https://a.example.com", true);
        check(&["https://*.example.com"], "https://example.com", false);
        check(&["http://*.lan:*"], "http://box.lan:80", true);
        check(&["*"], "http://evil.example", true);
    }
}
