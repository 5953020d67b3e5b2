//! stub
use super::Target;
use crate::client::{ClientConfig, ClientError, ConnectError};
use crate::map::ClusterMap;
use crate::protocol::{Answer, Op};
use std::rc::Rc;
#[derive(Debug)]
pub(super) struct Driver;
#[derive(Debug)]
pub(super) struct Shutdown;
impl Shutdown { pub(super) fn new(_: Rc<Driver>) -> Shutdown { Shutdown } }
impl Driver {
    pub(super) fn start(_: ClientConfig) -> Result<Rc<Driver>, ConnectError> { todo!() }
    pub(super) async fn bootstrapped(&self) -> Result<(), ConnectError> { todo!() }
    pub(super) fn cluster_map(&self) -> ClusterMap { todo!() }
    pub(super) async fn call(&self, _: Target, _: u8, _: Op) -> Result<Answer, ClientError> { todo!() }
}
