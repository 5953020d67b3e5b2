//! Code the FlatBuffers compiler made from `schema/`; see `schema/README.md`. Never edited by hand.

pub mod client_generated;
pub mod frame_generated;
pub mod peer_generated;
