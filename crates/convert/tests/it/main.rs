//! Whole imports, from files on disk to blobs in a store.

#![allow(clippy::unwrap_used)]

mod imported;
mod refused;
mod scene;
