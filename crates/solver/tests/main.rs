//! The solver against a real BuildKit's graphs and caches.

mod vectors;
