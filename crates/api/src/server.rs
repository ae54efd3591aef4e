//! The server: takes connections, lets requests through the guard and finds their route.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::header::{ALLOW, LOCATION};
use axum::http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use axum::response::Response;
use scheduler::Scheduler;
use store::Store;
use tokio::net::TcpListener;

use crate::Config;
use crate::dialects;
use crate::http::{self, Call, Found, Guard, Verdict};

/// After a shutdown, how long answers under way may take to end.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Cheap to clone; all clones are one server.
#[derive(Clone)]
pub struct Server(Arc<Shared>);

struct Shared {
    config: Config,
    store: Store,
    scheduler: Scheduler,
}

impl Server {
    pub fn new(config: Config, store: Store, scheduler: Scheduler) -> Server {
        Server(Arc::new(Shared { config, store, scheduler }))
    }

    /// Serves until `shutdown` is there, then ends the scheduler too (its runners are gone when this returns).
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let guard = Arc::new(Guard::new(&self.0.config.origins, listener.local_addr().ok()));
        let (server, at_guard) = (self.clone(), guard);
        let router = Router::new().fallback(move |request: Request<Body>| {
            let (server, guard) = (server.clone(), at_guard.clone());
            async move { answer(server, &guard, request).await }
        });
        let (ended, mut ending) = tokio::sync::watch::channel(false);
        let scheduler = self.0.scheduler.clone();
        let serving = axum::serve(listener, router).with_graceful_shutdown(async move {
            shutdown.await;
            // Requests under way end here, with a last event that says so.
            scheduler.shutdown().await;
            ended.send_replace(true);
        });
        let overdue = async move {
            // The sender lives as long as `serving` does.
            let _ = ending.wait_for(|ended| *ended).await;
            tokio::time::sleep(SHUTDOWN_GRACE).await;
        };
        tokio::select! {
            result = serving.into_future() => result,
            () = overdue => Ok(()),
        }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.0.config
    }

    pub(crate) fn scheduler(&self) -> &Scheduler {
        &self.0.scheduler
    }

    pub(crate) fn store(&self) -> &Store {
        &self.0.store
    }

    /// Does work on the store where it may wait for the disk.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> T + Send + 'static,
    ) -> T {
        let store = self.0.store.clone();
        match tokio::task::spawn_blocking(move || work(&store)).await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => panic!("work on the store was not done: {error}"),
            },
        }
    }
}

async fn answer(server: Server, guard: &Guard, request: Request<Body>) -> Response {
    let started = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let response = judged(server, guard, request, started).await;
    // A streamed answer begins here; how long it takes is the runner's to tell.
    let (status, elapsed) = (response.status().as_u16(), started.elapsed());
    tracing::info!(%method, path, status, ?elapsed, "request");
    response
}

async fn judged(
    server: Server,
    guard: &Guard,
    request: Request<Body>,
    started: Instant,
) -> Response {
    let (head, body) = request.into_parts();
    let found = http::find(dialects::routes(), head.method.as_str(), head.uri.path());
    if let Found::Moved { location } = &found {
        return moved(&head.method, location, head.uri.query());
    }
    let allow = match &found {
        Found::WrongMethod { allow } => Some((ALLOW, allow.clone())),
        _ => None,
    };
    let (mut response, added) = match guard.judge(&head.method, &head.headers) {
        Verdict::Stop(status, added) => (http::empty(status), added),
        Verdict::Pass(added) => {
            let call = Call { server, headers: head.headers, param: String::new(), body, started };
            (routed(found, call).await, added)
        }
    };
    add(&mut response, added.into_iter().chain(allow));
    response
}

async fn routed(found: Found, call: Call) -> Response {
    match found {
        Found::Route { handler, param } => handler(Call { param, ..call }).await,
        Found::WrongMethod { .. } => {
            http::text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "405 method not allowed")
        }
        Found::Unknown | Found::Moved { .. } => {
            http::text(StatusCode::NOT_FOUND, "text/plain", "404 page not found")
        }
    }
}

fn moved(method: &Method, path: &str, query: Option<&str>) -> Response {
    let location = query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let mut response = match method {
        &Method::GET | &Method::HEAD => {
            let page = format!("<a href=\"{}\">Moved Permanently</a>.\n\n", escaped(&location));
            http::text(StatusCode::MOVED_PERMANENTLY, "text/html; charset=utf-8", &page)
        }
        _ => http::empty(StatusCode::TEMPORARY_REDIRECT),
    };
    add(&mut response, [(LOCATION, location)]);
    response
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;")
}

fn add(response: &mut Response, headers: impl IntoIterator<Item = (HeaderName, String)>) {
    for (name, value) in headers {
        // What came in as a header can go out as one; anything else is left out.
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().append(name, value);
        }
    }
}
