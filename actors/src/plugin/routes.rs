//! Finds the handler for an HTTP request: a multiplexer by prefix, like v1's.
//!
//! A path matches exactly. A path with a `/` at its end is a *mount*: it also matches everything
//! below it, and a request without that last `/` is redirected to it. The longest match wins.

use std::collections::HashMap;
use std::sync::Arc;

use super::points::Handler;

/// The handlers' paths, laid out for lookups.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    /// The handlers of each path, one per method.
    by_path: HashMap<String, Vec<Arc<Handler>>>,
    /// The length of the longest mount: longer prefixes of a path need no lookup.
    longest_mount: usize,
}

/// What a path has for a method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// A handler.
    Handler(Arc<Handler>),
    /// The path has handlers, but none for this method.
    NoMethod,
    /// A mount, requested without the `/` at its end.
    Moved,
}

impl Routes {
    /// Adds a handler; if two have the same path and method, the later one counts.
    pub fn add(&mut self, handler: Handler) {
        if handler.path.ends_with('/') {
            self.longest_mount = self.longest_mount.max(handler.path.len());
        }
        let at_path = self.by_path.entry(handler.path.clone()).or_default();
        at_path.retain(|earlier| earlier.method != handler.method);
        at_path.push(Arc::new(handler));
    }

    /// Returns how many handlers there are.
    pub fn len(&self) -> usize {
        self.by_path.values().map(Vec::len).sum()
    }

    /// Returns whether there are no handlers.
    pub fn is_empty(&self) -> bool {
        self.by_path.is_empty()
    }

    /// Returns all handlers, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &Handler> {
        self.by_path.values().flatten().map(|handler| &**handler)
    }

    /// Looks up a path, which must be decoded and clean; `None` when no handler has it.
    pub fn find(&self, path: &str, method: &str) -> Option<Route> {
        if self.is_empty() {
            return None;
        }
        if let Some(at_path) = self.by_path.get(path) {
            return Some(pick(at_path, method));
        }
        if self.is_mount(path) {
            return Some(Route::Moved);
        }
        let slashes = path.match_indices('/').rev();
        let beginnings = slashes.filter_map(|(slash, _)| path.get(..=slash));
        let mut beginnings = beginnings.filter(|beginning| beginning.len() <= self.longest_mount);
        let mount = beginnings.find_map(|beginning| self.by_path.get(beginning))?;
        Some(pick(mount, method))
    }

    fn is_mount(&self, path: &str) -> bool {
        path.len() < self.longest_mount && self.by_path.contains_key(&format!("{path}/"))
    }
}

fn pick(at_path: &[Arc<Handler>], method: &str) -> Route {
    let found = at_path.iter().find(|handler| handler.method == method);
    found.map_or(Route::NoMethod, |handler| {
        Route::Handler(Arc::clone(handler))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn handler(path: &str, method: &str, name: &str) -> Handler {
        Handler {
            plugin: "P".into(),
            name: name.to_owned(),
            path: path.to_owned(),
            method: method.to_owned(),
            key_required: false,
            user_required: false,
            timeout: None,
        }
    }

    fn routes(paths: &[(&str, &str)]) -> Routes {
        let mut routes = Routes::default();
        for (path, method) in paths {
            routes.add(handler(path, method, path));
        }
        routes
    }

    fn found(routes: &Routes, path: &str, method: &str) -> Option<String> {
        Some(match routes.find(path, method)? {
            Route::Handler(handler) => handler.path.clone(),
            Route::NoMethod => "no method".to_owned(),
            Route::Moved => "moved".to_owned(),
        })
    }

    #[test]
    fn the_longest_match_wins() {
        let routes = routes(&[
            ("/a", "GET"),
            ("/a/", "GET"),
            ("/a/b/", "POST"),
            ("/a/b/c", "GET"),
            ("/m/", "GET"),
        ]);
        let cases = [
            ("/a", "GET", Some("/a")),
            ("/a/", "GET", Some("/a/")),
            ("/a/x/y", "GET", Some("/a/")),
            ("/a/b/x", "POST", Some("/a/b/")),
            // The path alone decides which match is the longest.
            ("/a/b/x", "GET", Some("no method")),
            ("/a/b/c", "GET", Some("/a/b/c")),
            ("/a/b/c/d", "POST", Some("/a/b/")),
            ("/m", "GET", Some("moved")),
            ("/m", "PATCH", Some("moved")),
            ("/mm", "GET", None),
            ("/", "GET", None),
            ("/b", "GET", None),
        ];
        for (path, method, expected) in cases {
            assert_eq!(
                found(&routes, path, method).as_deref(),
                expected,
                "{method} {path}"
            );
        }
    }

    #[test]
    fn of_two_for_one_method_the_later_counts() {
        let mut routes = routes(&[("/a", "GET")]);
        routes.add(handler("/a", "GET", "second"));
        routes.add(handler("/a", "POST", "third"));
        assert_eq!(routes.len(), 2);
        let Some(Route::Handler(found)) = routes.find("/a", "GET") else {
            panic!("nothing at /a");
        };
        assert_eq!(found.name, "second");
    }

    fn path() -> impl Strategy<Value = String> {
        let part = prop::sample::select(vec!["a", "b", "ab", "ä"]);
        let parts = prop::collection::vec(part, 0..4);
        (parts, any::<bool>()).prop_map(|(parts, is_mount)| {
            let end = if is_mount && !parts.is_empty() {
                "/"
            } else {
                ""
            };
            format!("/{}{end}", parts.join("/"))
        })
    }

    /// The rules of the specification, applied one after the other to all paths.
    fn model(paths: &[(String, &str)], path: &str, method: &str) -> Option<String> {
        let is_known = |path: &str| paths.iter().any(|(known, _)| known == path);
        let at = |known: &str| {
            let has_method = paths.contains(&(known.to_owned(), method));
            Some(if has_method { known } else { "no method" }.to_owned())
        };
        if is_known(path) {
            return at(path);
        }
        if is_known(&format!("{path}/")) {
            return Some("moved".to_owned());
        }
        let mounts = paths.iter().map(|(known, _)| known.as_str());
        let mounts = mounts.filter(|known| known.ends_with('/') && path.starts_with(known));
        at(mounts.max_by_key(|known| known.len())?)
    }

    proptest! {
        #[test]
        fn routes_are_found_as_by_trying_all(
            paths in prop::collection::vec(
                (path(), prop::sample::select(vec!["GET", "POST"])), 0..8),
            requested in prop::collection::vec(path(), 1..8),
            method in prop::sample::select(vec!["GET", "POST", "PUT"]),
        ) {
            // The root belongs to the server.
            let paths: Vec<_> = paths.into_iter().filter(|(path, _)| path != "/").collect();
            let mut routes = Routes::default();
            for (path, method) in &paths {
                routes.add(handler(path, method, path));
            }
            for path in requested {
                prop_assert_eq!(found(&routes, &path, method), model(&paths, &path, method));
            }
        }
    }
}
