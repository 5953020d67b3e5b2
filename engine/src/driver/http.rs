//! The HTTP door: hyper on glommio's sockets.
//!
//! ```text
//!   stream    a socket as hyper wants it, and who has been slow on it
//!   payload   bodies in and out, bounded by what a core may hold
//!   handle    a route → calls of the gateway → an answer
//!   redirect  a client that wants it is sent to the node that leads its key
//! ```
//!
//! hyper reads a connection's next request when the answer to the one before is on its way, so a connection holds one
//! body at a time. Whoever is slow (half a head, an answer not read, nothing at all) is found by one task that looks at
//! all connections of the core, and is cut off.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{CONNECTION, EXPECT, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};

mod handle;
mod payload;
mod redirect;
mod stream;

use super::gateway::Gateway;
use super::mesh::{ConnectionSlot, MeshMessage};
use crate::core::Engine;
use crate::http::reply::{Problem, Reply};
use crate::http::route::{Head, route};
use crate::store::StoreStats;
use payload::{Held, ReplyBody};
use redirect::Wish;
use stream::{Line, Stream};

/// Longest head of a request, and most that is read ahead on a connection.
const HEAD_BYTES_MAX: usize = 128 << 10;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;
/// Between two looks at the connections.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks at the storage engines.
const STORES_LOOK: Duration = Duration::from_secs(5);

/// What the HTTP connections of one core share.
pub(super) struct Door {
    open: RefCell<Vec<Weak<Line>>>,
    /// Whether the task that looks at them runs.
    is_watched: Cell<bool>,
    /// Bytes of bodies that are held for them.
    held_bytes: Rc<Cell<usize>>,
    /// The storage engines' figures, by shard, of all cores.
    stores: RefCell<BTreeMap<u32, StoreStats>>,
    started: Instant,
}

impl Door {
    pub fn new(started: Instant) -> Door {
        Door {
            open: RefCell::default(),
            is_watched: Cell::new(false),
            held_bytes: Rc::default(),
            stores: RefCell::default(),
            started,
        }
    }

    /// Takes the figures of the engines of one core.
    pub fn on_stores(&self, hosts: impl Fn(u32) -> bool, figures: Vec<(u32, StoreStats)>) {
        let mut stores = self.stores.borrow_mut();
        stores.retain(|shard, _| !hosts(*shard));
        stores.extend(figures);
    }

    /// Looks at the connections until there are none.
    async fn watch(self: Rc<Self>) {
        while !self.open.borrow().is_empty() {
            glommio::timer::sleep(LOOK).await;
            let now = Instant::now();
            self.open.borrow_mut().retain(|line| line.upgrade().is_some_and(|line| line.look(now)));
        }
        self.is_watched.set(false);
    }
}

/// Serves a connection until it ends. Answers leave one by one: gathered, those of a long pipeline would fill the memory
/// while the client reads none.
pub(super) async fn serve(gateway: Gateway, door: Rc<Door>, fd: OwnedFd, slot: ConnectionSlot) {
    let Ok(line) = Line::new(fd).map(Rc::new) else { return };
    door.open.borrow_mut().push(Rc::downgrade(&line));
    if !door.is_watched.replace(true) {
        glommio::spawn_local(door.clone().watch()).detach();
    }
    let service = service_fn(|request| {
        line.head_is_here();
        let (gateway, door, line) = (gateway.clone(), door.clone(), line.clone());
        async move {
            let response = answer(&gateway, &door, request).await;
            line.answered();
            Ok::<_, Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .half_close(true)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(Stream::new(line.clone()), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "an HTTP connection ended");
    }
    line.linger().await;
    // The connection counts until its memory is gone.
    drop(slot);
}

/// Answers one request.
async fn answer(gateway: &Gateway, door: &Rc<Door>, request: Request<Incoming>) -> Response<ReplyBody> {
    let begun = Instant::now();
    let (parts, body) = request.into_parts();
    let text = |name: HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let head = Head {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or_default(),
        if_match: text(hyper::header::IF_MATCH),
        if_none_match: text(hyper::header::IF_NONE_MATCH),
        origin: text(hyper::header::ORIGIN),
        host: text(hyper::header::HOST),
        ringkv_route: text(HeaderName::from_static("ringkv-route")),
    };
    let mut is_whole = true;
    let (result, open) = match route(&head) {
        Ok(routed) => {
            let wish = Wish::new(routed.redirect, &parts.uri);
            let result = match wish.redirect_early(gateway, &routed.route) {
                Ok(()) => handle::handle(gateway, door, routed.route, body, wish).await,
                Err(redirection) => {
                    let waits = parts.headers.contains_key(EXPECT);
                    is_whole = payload::pass_over(body, waits, gateway.config().limits.value_bytes_max).await;
                    Err(redirection)
                }
            };
            (result, routed.open)
        }
        Err(problem) => (Err(problem), false),
    };
    let reply = result.unwrap_or_else(Problem::into_reply);
    // The body was not read to its end: the next request is not looked for behind it.
    let is_over = !is_whole || matches!(reply.status, 408 | 413);
    let held = Held::all(&door.held_bytes, reply.body.len(), handle::held_max(gateway));
    let (reply, held) = match held {
        Some(held) => (reply, held),
        None => (Problem::busy().into_reply(), Held::nothing(&door.held_bytes)),
    };
    gateway.http_requests().record(head.path, reply.status, begun.elapsed());
    let mut response = response_of(reply, held);
    if open {
        response.headers_mut().insert("access-control-allow-origin", HeaderValue::from_static("*"));
    }
    if is_over {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn response_of(reply: Reply, held: Held) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::new(reply.body.clone(), held));
    *response.status_mut() =
        hyper::StatusCode::from_u16(reply.status).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    if !reply.body.is_empty() {
        headers.insert("content-type", HeaderValue::from_static(reply.content_type));
    }
    // Values change, and figures too.
    headers.insert("cache-control", HeaderValue::from_static("no-cache"));
    for (name, value) in reply.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    response
}

impl super::Driver {
    /// Looks at the storage engines of this core now and then, and tells the other cores: any may be asked for metrics.
    pub(super) async fn keep_store_figures(self: Rc<Self>) {
        loop {
            let engines: Vec<(u32, Engine)> = self.core.borrow().engines();
            // May wait for the engine's lock, so not on the executor.
            let figures = glommio::executor().spawn_blocking(move || {
                let figure = |(shard, engine): (u32, Engine)| Some((shard, engine.0.stats().ok()?));
                engines.into_iter().filter_map(figure).collect::<Vec<_>>()
            });
            let figures = figures.await;
            self.mesh.broadcast(|| MeshMessage::Stores(self.mesh.core, figures.clone()));
            self.on_store_figures(self.mesh.core, figures);
            glommio::timer::sleep(STORES_LOOK).await;
        }
    }

    /// Takes what a core tells of its engines.
    pub(super) fn on_store_figures(&self, core: u32, figures: Vec<(u32, StoreStats)>) {
        let cores = self.mesh.cores();
        self.http.on_stores(|shard| crate::placement::core_of(shard, cores) == core, figures);
    }
}
