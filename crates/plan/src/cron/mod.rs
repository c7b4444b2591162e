//! When something is due: cron expressions in a time zone, with daylight saving, missed slots and jitter. Pure arithmetic.
//!
//! A *slot* is a moment at which the expression says "now". On a day on which the clock is put forward, a slot in the hour that does not
//! exist is due once, at the end of the gap. On a day on which it is put back, a slot in the hour that comes twice is due the first time;
//! only expressions that leave the hour open (`*/30 * * * *`) go on by the real clock. So a nightly run happens once each night, and
//! a half-hourly one each half hour.
//!
//! A slot has a window in which it may still begin. A slot that did not begin in its window was *missed*: that is recorded once, and
//! never made up for by two runs at a time.

mod expression;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::ToSpan as _;
use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, TimeZone};
use supernode_types::Timestamp;

pub use self::expression::{Cron, CronError};

/// Dates that are looked at for the next slot: leap days on a given weekday come once in 28 years, or in 40 around 2100.
const MOST_DAYS: u32 = 366 * 41;
/// Missed slots that are counted one by one; more are "at least so many".
const MOST_COUNTED: u32 = 10_000;

/// A cron expression in a time zone.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    cron: Cron,
    zone: TimeZone,
    zone_name: String,
}

/// Why a schedule cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// The expression.
    #[error(transparent)]
    Cron(#[from] CronError),
    /// The zone.
    #[error(
        "`{0}` is not a time zone that this machine knows; write a name such as Asia/Shanghai or UTC, and see that tzdata is installed"
    )]
    Zone(String),
    /// It is never due.
    #[error("`{0}` is never due: no such day exists")]
    Never(String),
}

impl fmt::Display for Schedule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.cron, self.zone_name)
    }
}

impl Schedule {
    /// Reads an expression and the name of a zone of the IANA database.
    pub fn new(expression: &str, zone: &str) -> Result<Self, ScheduleError> {
        let cron = Cron::from_str(expression)?;
        let found = if zone == "UTC" {
            TimeZone::UTC
        } else {
            TimeZone::get(zone).map_err(|_| ScheduleError::Zone(zone.to_owned()))?
        };
        let schedule = Self {
            cron,
            zone: found,
            zone_name: zone.to_owned(),
        };
        // Looked for once from a fixed day, so that the answer does not depend on when it is asked.
        if schedule.next_after(Timestamp(0)).is_none() {
            return Err(ScheduleError::Never(expression.to_owned()));
        }
        Ok(schedule)
    }

    /// The first slot after a moment; nothing if there is none in forty years.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let moment = jiff::Timestamp::from_microsecond(after.0).ok()?;
        if let Some(slot) = self.next_in_calm(moment) {
            return Some(Timestamp(slot.as_microsecond()));
        }
        // A gap or a repeated hour around midnight may move a slot into a neighbouring date.
        let date = self.zone.to_datetime(moment).date();
        let mut date = date.checked_sub(2.days()).ok()?;
        for _ in 0..MOST_DAYS {
            if self.cron.has_day(date) && self.slots(date).any(|slot| slot > moment) {
                let mut dates = date.series(1.day()).take(3);
                let first = dates
                    .by_ref()
                    .filter(|date| self.cron.has_day(*date))
                    .flat_map(|date| self.slots(date).collect::<Vec<_>>())
                    .filter(|slot| *slot > moment)
                    .min();
                return first.map(|slot| Timestamp(slot.as_microsecond()));
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    /// The first slot after a moment, when it comes within a day in which the clock does not change: then it is the first local time
    /// after the present one.
    fn next_in_calm(&self, moment: jiff::Timestamp) -> Option<jiff::Timestamp> {
        let (before, after) = (
            moment.checked_sub(72.hours()).ok()?,
            moment.checked_add(72.hours()).ok()?,
        );
        let changes = self.zone.following(before).next();
        if changes.is_some_and(|change| change.timestamp() <= after) {
            return None;
        }
        let local = self.zone.to_datetime(moment);
        let dates = [local.date(), local.date().tomorrow().ok()?];
        let next = dates
            .into_iter()
            .filter(|date| self.cron.has_day(*date))
            .flat_map(|date| {
                self.cron
                    .times()
                    .map(move |(hour, minute)| date.at(hour, minute, 0, 0))
            })
            .find(|slot| *slot > local)?;
        self.zone.to_offset(moment).to_timestamp(next).ok()
    }

    /// The next few slots after a moment.
    pub fn upcoming(&self, after: Timestamp) -> impl Iterator<Item = Timestamp> {
        std::iter::successors(self.next_after(after), |slot| self.next_after(*slot))
    }

    /// The slots of a date, in no order, some perhaps twice.
    fn slots(&self, date: Date) -> impl Iterator<Item = jiff::Timestamp> {
        self.cron
            .times()
            .map(move |(hour, minute)| date.at(hour, minute, 0, 0))
            .flat_map(|local| self.moments(local))
    }

    /// When a local time is: once, at the end of the gap that swallows it, or twice.
    fn moments(&self, local: DateTime) -> impl Iterator<Item = jiff::Timestamp> + use<> {
        let at = |offset: jiff::tz::Offset| offset.to_timestamp(local).ok();
        let (first, second) = match self.zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Unambiguous { offset } => (at(offset), None),
            AmbiguousOffset::Gap { before, .. } => {
                (at(before).and_then(|at| self.gap_end(at)), None)
            }
            AmbiguousOffset::Fold { before, after } => {
                let second = self.cron.leaves_hour_open().then(|| at(after)).flatten();
                (at(before), second)
            }
        };
        first.into_iter().chain(second)
    }

    /// The moment of the change of the clock that is at or before a moment.
    fn gap_end(&self, moment: jiff::Timestamp) -> Option<jiff::Timestamp> {
        let after = moment.checked_add(1.nanosecond()).ok()?;
        Some(self.zone.preceding(after).next()?.timestamp())
    }
}

/// How a schedule is turned into runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// How long after its slot a run may still begin.
    pub window: Duration,
    /// By how much a slot may be put off, so that not everything begins at once. Always less than the time to the next slot.
    pub jitter: Duration,
    /// What the jitter follows from; the plan's own, so that two plans differ.
    pub seed: u64,
}

/// Slots that were missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missed {
    /// The first.
    pub first: Timestamp,
    /// The last.
    pub last: Timestamp,
    /// How many; ten thousand and more are at least so many.
    pub count: u32,
}

/// What is to be done at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The slot whose run begins now.
    pub run: Option<Timestamp>,
    /// Slots that are over and were never run.
    pub missed: Option<Missed>,
    /// Everything up to here is settled: what the plan has to remember, and passes as `settled` the next time.
    pub settled: Timestamp,
    /// When to ask again: nothing happens before.
    pub next: Option<Timestamp>,
}

/// What is due at `now`, when every slot up to `settled` has been run or recorded as missed.
///
/// Asking twice at one moment gives the same answer; asking with the new `settled` gives nothing more. So a slot is run once or missed
/// once, whenever the server is restarted in between.
pub fn due(schedule: &Schedule, terms: &Terms, settled: Timestamp, now: Timestamp) -> Due {
    let mut missed: Option<Missed> = None;
    let mut candidate = None;
    let mut done = settled;
    let mut next = None;
    let mut slots = schedule.upcoming(settled).peekable();
    while let Some(slot) = slots.next() {
        let begin = begins(terms, slot, slots.peek().copied());
        if begin > now {
            next = Some(begin);
            break;
        }
        // Only the newest begun slot can run; an older one was missed.
        if let Some(older) = candidate.replace(slot) {
            miss(&mut missed, older);
        }
        done = slot;
        if missed.is_some_and(|missed| missed.count >= MOST_COUNTED) {
            // Too long away to count on: go on with the last slots before now.
            let close = Timestamp(now.0.saturating_sub(two(terms.window, terms.jitter)));
            if close > slot {
                slots = schedule.upcoming(close).peekable();
            }
        }
    }
    let run = candidate.filter(|slot| now < slot.plus(terms.window.max(Duration::from_micros(1))));
    if let Some(late) = candidate.filter(|_| run.is_none()) {
        miss(&mut missed, late);
    }
    Due {
        run,
        missed,
        settled: done,
        next,
    }
}

fn miss(missed: &mut Option<Missed>, slot: Timestamp) {
    let found = missed.get_or_insert(Missed {
        first: slot,
        last: slot,
        count: 0,
    });
    found.last = slot;
    found.count += 1;
}

fn two(window: Duration, jitter: Duration) -> i64 {
    let micros = (window + jitter).as_micros();
    i64::try_from(micros).unwrap_or(i64::MAX)
}

/// When the run of a slot begins: put off by a chance that follows from the seed and the slot.
fn begins(terms: &Terms, slot: Timestamp, next: Option<Timestamp>) -> Timestamp {
    let room = next.map_or(terms.jitter, |next| next.since(slot).min(terms.jitter));
    let room = u64::try_from(room.min(terms.window).as_micros()).unwrap_or(u64::MAX);
    if room == 0 {
        return slot;
    }
    let mixed = mix(terms.seed ^ slot.0.cast_unsigned());
    slot.plus(Duration::from_micros(mixed % room))
}

/// Spreads the bits of a number (the end of `SplitMix64`).
fn mix(number: u64) -> u64 {
    let mut word = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
