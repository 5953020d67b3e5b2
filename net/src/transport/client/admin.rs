//! Administrative calls: each goes to the leader of the shard, wherever that is now.

use super::{Client, Target};
use crate::client::ClientError;
use crate::protocol::{AdminAccepted, AdminOp, Answer, Op, ShardDescription};

impl Client {
    /// Has `node` make a replica of the shard and the group take it in. Returns once that has begun: watch
    /// [`Client::describe_shard`].
    ///
    /// # Errors
    /// [`ClientError`]; a change whose outcome is unknown is never sent again by itself.
    pub async fn add_replica(&self, shard: u32, node: u64) -> Result<AdminAccepted, ClientError> {
        self.change(shard, AdminOp::AddReplica { node }).await
    }

    /// Removes the replica of `node` from the shard's group. Returns once that has begun.
    ///
    /// # Errors
    /// [`ClientError`]; a change whose outcome is unknown is never sent again by itself.
    pub async fn remove_replica(&self, shard: u32, node: u64) -> Result<AdminAccepted, ClientError> {
        self.change(shard, AdminOp::RemoveReplica { node }).await
    }

    /// Hands the leadership of the shard to `node`, or to whichever voter is best placed. Returns once that has begun,
    /// naming the node.
    ///
    /// # Errors
    /// [`ClientError`]; a change whose outcome is unknown is never sent again by itself.
    pub async fn transfer_leader(&self, shard: u32, node: Option<u64>) -> Result<AdminAccepted, ClientError> {
        self.change(shard, AdminOp::TransferLeader { node }).await
    }

    /// Has the leader take a snapshot. Returns once that has begun, with the index it will contain at least.
    ///
    /// # Errors
    /// [`ClientError`]; a request whose outcome is unknown is never sent again by itself.
    pub async fn take_snapshot(&self, shard: u32) -> Result<AdminAccepted, ClientError> {
        self.change(shard, AdminOp::TakeSnapshot).await
    }

    /// Lets the replicas drop what they need no more of their logs. Returns once that has begun, with the index up to
    /// which they may.
    ///
    /// # Errors
    /// [`ClientError`]; a request whose outcome is unknown is never sent again by itself.
    pub async fn compact(&self, shard: u32) -> Result<AdminAccepted, ClientError> {
        self.change(shard, AdminOp::Compact).await
    }

    /// The shard's group as its leader sees it.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn describe_shard(&self, shard: u32) -> Result<ShardDescription, ClientError> {
        match self.call(Target::Shard(shard), Op::Admin(AdminOp::Describe)).await? {
            Answer::Shard(described) => Ok(described),
            _ => Err(ClientError::UnexpectedAnswer),
        }
    }

    async fn change(&self, shard: u32, op: AdminOp) -> Result<AdminAccepted, ClientError> {
        match self.call(Target::Shard(shard), Op::Admin(op)).await? {
            Answer::AdminAccepted(accepted) => Ok(accepted),
            // What was answered with something else was probably executed.
            _ => Err(super::unexpected_write()),
        }
    }
}
