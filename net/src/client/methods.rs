//! The methods every transport's client has, written once: as `async fn`s, or as plain ones that wait.
//!
//! A client expands [`typed_methods`] inside its `impl`; it brings a method `run` that sends a
//! [`Call`](super::calls::Call) and reads its answer.

/// `typed_methods!([async] [.await])`, or `typed_methods!([] [])` for a client that waits.
macro_rules! typed_methods {
    ([$($async:tt)*] [$($await:tt)*]) => {
        /// The value of a key, linearizable.
        ///
        /// # Errors
        /// [`ClientError`]
        pub $($async)* fn get(&self, key: impl Into<Bytes>) -> Result<Option<Value>, ClientError> {
            self.run(calls::get(key.into(), ReadConsistency::Linearizable))$($await)*
        }

        /// The value of a key, as fresh as asked.
        ///
        /// # Errors
        /// [`ClientError`]
        pub $($async)* fn get_with(
            &self,
            key: impl Into<Bytes>,
            consistency: ReadConsistency,
        ) -> Result<Option<Value>, ClientError> {
            self.run(calls::get(key.into(), consistency))$($await)*
        }

        /// The value of a key on any replica, and how fresh it is as far as the replica says.
        ///
        /// # Errors
        /// [`ClientError`]
        pub $($async)* fn get_stale(
            &self,
            key: impl Into<Bytes>,
        ) -> Result<(Option<Value>, Option<Freshness>), ClientError> {
            self.run(calls::get_stale(key.into()))$($await)*
        }

        /// Whether a key exists, linearizable.
        ///
        /// # Errors
        /// [`ClientError`]
        pub $($async)* fn exists(&self, key: impl Into<Bytes>) -> Result<bool, ClientError> {
            self.run(calls::exists(key.into()))$($await)*
        }

        /// Stores a value durably on a majority; returns its version.
        ///
        /// # Errors
        /// [`ClientError`]
        pub $($async)* fn put(
            &self,
            key: impl Into<Bytes>,
            value: impl Into<Bytes>,
        ) -> Result<u64, ClientError> {
            self.run(calls::put(key.into(), value.into(), PutOptions::default()))$($await)*
        }

        /// Stores a value; returns its version.
        ///
        /// # Errors
        /// [`ClientError`]
        pub $($async)* fn put_with(
            &self,
            key: impl Into<Bytes>,
            value: impl Into<Bytes>,
            options: PutOptions,
        ) -> Result<u64, ClientError> {
            self.run(calls::put(key.into(), value.into(), options))$($await)*
        }

        /// Removes a key, durably on a majority; returns whether it existed.
        ///
        /// # Errors
        /// [`ClientError`]
        pub $($async)* fn delete(&self, key: impl Into<Bytes>) -> Result<bool, ClientError> {
            self.run(calls::delete(key.into()))$($await)*
        }

        /// Removes a key; returns whether it existed, if that is known yet (a strong delete always knows).
        ///
        /// # Errors
        /// [`ClientError`]
        pub $($async)* fn delete_with(
            &self,
            key: impl Into<Bytes>,
            consistency: WriteConsistency,
        ) -> Result<Option<bool>, ClientError> {
            self.run(calls::delete_with(key.into(), consistency))$($await)*
        }

        /// Stores `new` (`None`: removes the key) if the key is as `expected`.
        ///
        /// # Errors
        /// [`ClientError`]
        pub $($async)* fn compare_and_swap(
            &self,
            key: impl Into<Bytes>,
            expected: Expected,
            new: Option<Bytes>,
        ) -> Result<Swap, ClientError> {
            self.run(calls::compare_and_swap(key.into(), expected, new))$($await)*
        }

        /// Executes mutations of one shard atomically; one outcome for each.
        ///
        /// # Errors
        /// [`ClientError`]
        pub $($async)* fn batch(
            &self,
            mutations: Vec<Mutation>,
            consistency: WriteConsistency,
        ) -> Result<Vec<MutationOutcome>, ClientError> {
            self.run(calls::batch(mutations, consistency))$($await)*
        }

        /// A page of one shard's keys from `start` (empty: from its beginning) to before `end`.
        ///
        /// # Errors
        /// [`ClientError`]
        pub $($async)* fn scan(
            &self,
            shard: u32,
            start: impl Into<Bytes>,
            end: Option<Bytes>,
            limit: u32,
            consistency: ReadConsistency,
        ) -> Result<ScanPage, ClientError> {
            self.run(calls::scan(shard, start.into(), end, limit, consistency, false))$($await)*
        }

        /// As [`Client::scan`], but the values come back empty.
        ///
        /// # Errors
        /// [`ClientError`]
        pub $($async)* fn scan_keys(
            &self,
            shard: u32,
            start: impl Into<Bytes>,
            end: Option<Bytes>,
            limit: u32,
            consistency: ReadConsistency,
        ) -> Result<ScanPage, ClientError> {
            self.run(calls::scan(shard, start.into(), end, limit, consistency, true))$($await)*
        }

        /// Executes Redis commands over keys of one shard as one step, wherever its leader is now (a read: wherever
        /// the consistency lets it). Returns the commands' replies as RESP3 values, one after the other; `None`: a
        /// watched key has changed, and nothing was done.
        ///
        /// A write is sent again only while no attempt can have been executed.
        ///
        /// # Errors
        /// [`ClientError`]
        pub $($async)* fn execute(
            &self,
            program: Program,
            consistency: Access,
        ) -> Result<Option<Bytes>, ClientError> {
            self.run(calls::execute(program, consistency))$($await)*
        }

        /// How many keys the shard holds in this namespace, in the slots from `first_slot` to `last_slot`. Keys that
        /// have expired and are not removed yet count.
        ///
        /// # Errors
        /// [`ClientError`]
        pub $($async)* fn count(
            &self,
            shard: u32,
            slots: (u16, u16),
            consistency: ReadConsistency,
        ) -> Result<u64, ClientError> {
            self.run(calls::count(shard, slots, consistency))$($await)*
        }

        /// Asks a node for the cluster map.
        ///
        /// # Errors
        /// [`ClientError`]
        pub $($async)* fn fetch_cluster_map(&self) -> Result<ClusterMap, ClientError> {
            self.run(calls::fetch_cluster_map())$($await)*
        }

        /// The status of the node at `endpoint`, a JSON document.
        ///
        /// # Errors
        /// [`ClientError`]
        pub $($async)* fn status(&self, endpoint: &str) -> Result<Bytes, ClientError> {
            self.run(calls::status(endpoint))$($await)*
        }

        /// An operation on the cluster as a whole: its nodes, and where its shards are.
        ///
        /// # Errors
        /// [`ClientError`]; a change whose outcome is unknown is never sent again by itself.
        pub $($async)* fn cluster(&self, op: ClusterOp) -> Result<ClusterAccount, ClientError> {
            self.run(calls::cluster(op))$($await)*
        }

        /// Has `node` make a replica of the shard and the group take it in. Returns once that has begun: watch
        /// [`Client::describe_shard`].
        ///
        /// # Errors
        /// [`ClientError`]; a change whose outcome is unknown is never sent again by itself.
        pub $($async)* fn add_replica(&self, shard: u32, node: u64) -> Result<AdminAccepted, ClientError> {
            self.run(calls::change(shard, AdminOp::AddReplica { node }))$($await)*
        }

        /// Removes the replica of `node` from the shard's group. Returns once that has begun.
        ///
        /// # Errors
        /// [`ClientError`]; a change whose outcome is unknown is never sent again by itself.
        pub $($async)* fn remove_replica(&self, shard: u32, node: u64) -> Result<AdminAccepted, ClientError> {
            self.run(calls::change(shard, AdminOp::RemoveReplica { node }))$($await)*
        }

        /// Hands the leadership of the shard to `node`, or to whichever voter is best placed. Returns once that has
        /// begun, naming the node.
        ///
        /// # Errors
        /// [`ClientError`]; a change whose outcome is unknown is never sent again by itself.
        pub $($async)* fn transfer_leader(
            &self,
            shard: u32,
            node: Option<u64>,
        ) -> Result<AdminAccepted, ClientError> {
            self.run(calls::change(shard, AdminOp::TransferLeader { node }))$($await)*
        }

        /// Has the leader take a snapshot. Returns once that has begun, with the index it will contain at least.
        ///
        /// # Errors
        /// [`ClientError`]; a request whose outcome is unknown is never sent again by itself.
        pub $($async)* fn take_snapshot(&self, shard: u32) -> Result<AdminAccepted, ClientError> {
            self.run(calls::change(shard, AdminOp::TakeSnapshot))$($await)*
        }

        /// Lets the replicas drop what they need no more of their logs. Returns once that has begun, with the index
        /// up to which they may.
        ///
        /// # Errors
        /// [`ClientError`]; a request whose outcome is unknown is never sent again by itself.
        pub $($async)* fn compact(&self, shard: u32) -> Result<AdminAccepted, ClientError> {
            self.run(calls::change(shard, AdminOp::Compact))$($await)*
        }

        /// The shard's group as its leader sees it.
        ///
        /// # Errors
        /// [`ClientError`]
        pub $($async)* fn describe_shard(&self, shard: u32) -> Result<ShardDescription, ClientError> {
            self.run(calls::describe_shard(shard))$($await)*
        }

        /// A client of another key space over the same connections.
        #[must_use]
        pub fn with_namespace(&self, namespace: u8) -> Client {
            Client { namespace, ..self.clone() }
        }

        /// The key space of this client.
        #[must_use]
        pub fn namespace(&self) -> u8 {
            self.namespace
        }

        $($async)* fn run<T>(&self, call: calls::Call<impl calls::Read<T>>) -> Result<T, ClientError> {
            let calls::Call { target, op, read } = call;
            read(self.call(target, op)$($await)*?)
        }
    };
}
pub(crate) use typed_methods;
