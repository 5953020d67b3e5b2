//! The parsers of the HTTP adapter. They stand in the server's crate, whose store would have to be built with the fuzzer's
//! flags; they need none of it, so they are compiled here from their files.

#[path = "../../engine/src/http/body.rs"]
pub mod body;
#[path = "../../engine/src/http/query.rs"]
pub mod query;
#[path = "../../engine/src/http/reply.rs"]
pub mod reply;
#[path = "../../engine/src/http/route.rs"]
pub mod route;
#[path = "../../engine/src/http/scan.rs"]
pub mod scan;
