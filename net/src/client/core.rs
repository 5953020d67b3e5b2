//! stub
/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To the shard of its key (of its first mutation's key).
    Key,
    /// To this shard.
    Shard(u32),
    /// To any node.
    AnyNode,
    /// To the node at this `host:port`, which need not be in the map.
    Endpoint(std::rc::Rc<str>),
}
