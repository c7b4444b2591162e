//! The kernels of two nodes that test the network between them, for a caller that knows both.

use std::net::{IpAddr, SocketAddr};

use supernode_types::stress::Item;

use super::{Ask, Key, Listen};
use crate::stress::kernel::{Kernel, Order};
use crate::stress::suite::Step;

/// Streams at a time: one alone does not fill a fast link.
const STREAMS: u32 = 4;
/// Datagrams a second: few enough to be no load, enough to see one loss in a hundred within seconds.
const DATAGRAMS_PER_SECOND: u32 = 200;
/// Beyond its partner's kernels a listener waits for so many seconds.
const LISTENER_SLACK_SECONDS: u32 = 45;

/// Waits for a partner whose three kernels run for `seconds` each, on any free port.
pub fn listen(address: IpAddr, key: Key, seconds: u32) -> Order {
    let seconds = seconds
        .saturating_mul(3)
        .saturating_add(LISTENER_SLACK_SECONDS);
    Order {
        kernel: Kernel::Listen(Listen {
            address: SocketAddr::new(address, 0),
            key,
            seconds,
        }),
        limit_seconds: seconds.saturating_add(1),
    }
}

/// Measures datagrams and both directions to a partner, each for `seconds`.
pub fn ask(address: SocketAddr, peer: &str, key: Key, seconds: u32) -> Step {
    Step {
        item: Item::Network,
        name: format!("network to {peer}"),
        kernel: Kernel::Ask(Ask {
            address,
            peer: peer.to_owned(),
            key,
            streams: STREAMS,
            stream_seconds: seconds,
            datagram_seconds: seconds,
            datagrams_per_second: DATAGRAMS_PER_SECOND,
        }),
    }
}
