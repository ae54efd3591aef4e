//! The dialects: each a folder with one table of routes, one file per route, and its own words for what goes wrong.

#[cfg(test)]
mod golden;
pub(crate) mod ollama;
mod openai;
#[cfg(test)]
mod playback;

use crate::http::Route;

/// All rows of all tables.
pub(crate) fn routes() -> impl Iterator<Item = &'static Route> + Clone {
    ollama::ROUTES.iter().chain(openai::ROUTES)
}

/// A table: method, path, handler. A handler is `async fn(Call) -> Result<Response, Rejection>`.
macro_rules! table {
    ($($method:literal $path:literal => $handler:path,)*) => {
        &[$($crate::http::Route {
            method: $method,
            path: $path,
            handler: |call| Box::pin(async move {
                use axum::response::IntoResponse;
                $handler(call).await.into_response()
            }),
        }),*]
    };
}
pub(crate) use table;
