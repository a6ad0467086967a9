//! Dispatchers on a real store and real sockets: what becomes of events until their receivers have them.

mod delivery;
mod endpoints;
pub(crate) mod entrance;
mod limits;
mod order;
mod outages;
mod sink;
pub(crate) mod world;
