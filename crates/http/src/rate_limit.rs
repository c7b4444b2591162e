//! How often one address may try to enrol.
//!
//! A bucket per source address (per /64 for IPv6, as a host has that many). A success gives its token back, so that a whole cluster behind one
//! address may enrol at once while guessing is slow. The table is bounded; when it is full, the source that has waited longest is
//! forgotten.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use supernode_types::Clock;

const MAXIMUM_SOURCES: usize = 10_000;

/// Token buckets by source address.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    clock: Arc<dyn Clock>,
    burst: u32,
    refill: Duration,
    /// When each source's bucket will be full again.
    full_at: Mutex<HashMap<IpAddr, Duration>>,
}

impl RateLimiter {
    /// `burst` tokens for each source, one more after each `refill`.
    pub(crate) fn new(clock: Arc<dyn Clock>, burst: u32, refill: Duration) -> Self {
        Self {
            clock,
            burst,
            refill,
            full_at: Mutex::default(),
        }
    }

    /// Takes a token of `source`; if there is none, says how long to wait for one.
    pub(crate) fn take(&self, source: IpAddr) -> Result<(), Duration> {
        let now = self.clock.monotonic();
        let source = group(source);
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let before = full_at.get(&source).copied().unwrap_or(now).max(now);
        let after = before + self.refill;
        let allowed = now + self.refill * self.burst;
        if after > allowed {
            return Err(after.saturating_sub(allowed));
        }
        if full_at.len() >= MAXIMUM_SOURCES && !full_at.contains_key(&source) {
            make_room(&mut full_at, now);
        }
        full_at.insert(source, after);
        Ok(())
    }

    /// Gives the token back: the attempt was a good one.
    pub(crate) fn give_back(&self, source: IpAddr) {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(moment) = full_at.get_mut(&group(source)) {
            *moment = moment.saturating_sub(self.refill);
        }
    }
}

fn make_room(full_at: &mut HashMap<IpAddr, Duration>, now: Duration) {
    full_at.retain(|_, moment| *moment > now);
    if full_at.len() >= MAXIMUM_SOURCES
        && let Some(source) = full_at
            .iter()
            .min_by_key(|(_, moment)| **moment)
            .map(|(source, _)| *source)
    {
        full_at.remove(&source);
    }
}

fn group(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(
            address.to_bits() & !u128::from(u64::MAX),
        )),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use supernode_types::Timestamp;

    #[derive(Debug, Default)]
    struct StillClock(Mutex<Duration>);

    impl StillClock {
        fn advance(&self, duration: Duration) {
            *self.0.lock().expect("no holder panics") += duration;
        }
    }

    impl Clock for StillClock {
        fn now(&self) -> Timestamp {
            Timestamp(0)
        }
        fn monotonic(&self) -> Duration {
            *self.0.lock().expect("no holder panics")
        }
    }

    fn limiter(burst: u32) -> (Arc<StillClock>, RateLimiter) {
        let clock = Arc::new(StillClock::default());
        (
            Arc::clone(&clock),
            RateLimiter::new(clock, burst, Duration::from_secs(1)),
        )
    }

    fn address(text: &str) -> IpAddr {
        text.parse().expect("a valid address")
    }

    #[test]
    fn a_source_has_a_burst_and_then_a_rate() {
        let (clock, limiter) = limiter(2);
        let source = address("10.0.0.1");
        assert_eq!(
            [limiter.take(source), limiter.take(source)],
            [Ok(()), Ok(())]
        );
        assert_eq!(limiter.take(source), Err(Duration::from_secs(1)));
        assert_eq!(
            limiter.take(address("10.0.0.2")),
            Ok(()),
            "another source has its own"
        );
        clock.advance(Duration::from_millis(400));
        assert_eq!(limiter.take(source), Err(Duration::from_millis(600)));
        clock.advance(Duration::from_millis(600));
        assert_eq!(limiter.take(source), Ok(()));
        assert!(limiter.take(source).is_err());
        limiter.give_back(source);
        assert_eq!(
            limiter.take(source),
            Ok(()),
            "a token that was given back can be taken again"
        );
        clock.advance(Duration::from_hours(1));
        assert_eq!(
            [limiter.take(source), limiter.take(source)],
            [Ok(()), Ok(())],
            "never more than the burst"
        );
        assert!(limiter.take(source).is_err());
    }

    #[test]
    fn addresses_of_one_host_are_one_source() {
        let (_, limiter) = limiter(1);
        assert_eq!(limiter.take(address("2001:db8::1")), Ok(()));
        assert!(limiter.take(address("2001:db8::ffff:2")).is_err());
        assert_eq!(limiter.take(address("2001:db8:0:1::1")), Ok(()));
        assert_eq!(limiter.take(address("10.0.0.1")), Ok(()));
        assert!(limiter.take(address("::ffff:10.0.0.1")).is_err());
    }

    #[test]
    fn the_table_is_bounded() {
        let (_, limiter) = limiter(1);
        for number in 0..u32::try_from(MAXIMUM_SOURCES + 10).expect("fits") {
            assert_eq!(limiter.take(IpAddr::V4(number.into())), Ok(()));
        }
        assert_eq!(
            limiter.full_at.lock().expect("no holder panics").len(),
            MAXIMUM_SOURCES
        );
    }
}
