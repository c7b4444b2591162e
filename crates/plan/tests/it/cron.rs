//! Cron in time zones: the days on which the clock changes, and slots that are run once or missed once.

use std::time::Duration;

use proptest::prelude::*;
use supernode_plan::cron::{Due, Schedule, ScheduleError, Terms, due};
use supernode_types::Timestamp;

fn at(text: &str) -> Timestamp {
    serde_json::from_value(text.into()).expect(text)
}

fn schedule(expression: &str, zone: &str) -> Schedule {
    Schedule::new(expression, zone).expect("valid")
}

/// The next slots after a moment are these, in UTC.
fn check(expression: &str, zone: &str, after: &str, expected: &[&str]) {
    let slots: Vec<Timestamp> = schedule(expression, zone)
        .upcoming(at(after))
        .take(expected.len())
        .collect();
    let expected: Vec<Timestamp> = expected.iter().map(|text| at(text)).collect();
    assert_eq!(slots, expected, "{expression} in {zone}");
}

#[test]
fn the_example_of_the_guide() {
    check(
        "0 2 * * 0",
        "Asia/Shanghai",
        "2026-11-28T00:00:00Z",
        &["2026-11-28T18:00:00Z", "2026-12-05T18:00:00Z"],
    );
}

#[test]
fn a_slot_in_the_missing_hour_is_due_once_at_its_end() {
    // On 8 March 2026 New York goes from 02:00 to 03:00 (07:00 UTC).
    check(
        "30 2 * * *",
        "America/New_York",
        "2026-03-07T12:00:00Z",
        &["2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"],
    );
    check(
        "*/20 2 * * *",
        "America/New_York",
        "2026-03-08T00:00:00Z",
        &["2026-03-08T07:00:00Z", "2026-03-09T06:00:00Z"],
    );
    check(
        "*/30 * * * *",
        "America/New_York",
        "2026-03-08T06:00:00Z",
        &[
            "2026-03-08T06:30:00Z",
            "2026-03-08T07:00:00Z",
            "2026-03-08T07:30:00Z",
        ],
    );
    // Santiago has no midnight on 6 September 2026.
    check(
        "0 0 * * *",
        "America/Santiago",
        "2026-09-05T12:00:00Z",
        &["2026-09-06T04:00:00Z", "2026-09-07T03:00:00Z"],
    );
}

#[test]
fn a_slot_in_the_repeated_hour_is_due_the_first_time_unless_the_hour_is_open() {
    // On 1 November 2026 New York goes from 02:00 back to 01:00 (06:00 UTC).
    check(
        "30 1 * * *",
        "America/New_York",
        "2026-10-31T12:00:00Z",
        &["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"],
    );
    check(
        "30 * * * *",
        "America/New_York",
        "2026-11-01T05:00:00Z",
        &[
            "2026-11-01T05:30:00Z",
            "2026-11-01T06:30:00Z",
            "2026-11-01T07:30:00Z",
        ],
    );
}

#[test]
fn a_day_that_never_was() {
    // Samoa went from 29 to 31 December 2011.
    check(
        "0 12 30 12 *",
        "Pacific/Apia",
        "2011-12-29T00:00:00Z",
        &["2011-12-30T10:00:00Z", "2012-12-29T22:00:00Z"],
    );
}

#[test]
fn leap_days_come_and_impossible_days_are_refused() {
    check(
        "0 0 29 2 *",
        "UTC",
        "2096-03-01T00:00:00Z",
        &["2104-02-29T00:00:00Z"],
    );
    let never = Schedule::new("0 0 31 2 *", "UTC");
    assert_eq!(never, Err(ScheduleError::Never("0 0 31 2 *".into())));
    let nowhere = Schedule::new("@daily", "Mars/Olympus");
    assert_eq!(nowhere, Err(ScheduleError::Zone("Mars/Olympus".into())));
}

fn hourly() -> Schedule {
    schedule("0 * * * *", "UTC")
}

const TERMS: Terms = Terms {
    window: Duration::from_mins(30),
    jitter: Duration::ZERO,
    seed: 1,
};

#[test]
fn a_slot_runs_once_in_its_window() {
    let settled = at("2026-11-28T09:30:00Z");
    let before = due(&hourly(), &TERMS, settled, at("2026-11-28T09:59:59Z"));
    assert_eq!((before.run, before.missed), (None, None));
    assert_eq!(before.next, Some(at("2026-11-28T10:00:00Z")));
    let now = at("2026-11-28T10:10:00Z");
    let found = due(&hourly(), &TERMS, settled, now);
    assert_eq!(found.run, Some(at("2026-11-28T10:00:00Z")));
    assert_eq!(found.missed, None);
    let again = due(&hourly(), &TERMS, found.settled, now);
    assert_eq!((again.run, again.missed), (None, None), "never doubled");
}

#[test]
fn what_was_missed_is_said_once_and_not_made_up_for() {
    let settled = at("2026-11-28T05:30:00Z");
    let now = at("2026-11-28T10:45:00Z");
    let Due {
        run,
        missed,
        settled,
        ..
    } = due(&hourly(), &TERMS, settled, now);
    let missed = missed.expect("five slots");
    assert_eq!((run, missed.count), (None, 5));
    assert_eq!(missed.first, at("2026-11-28T06:00:00Z"));
    assert_eq!(missed.last, at("2026-11-28T10:00:00Z"));
    let again = due(&hourly(), &TERMS, settled, now);
    assert_eq!((again.run, again.missed), (None, None));
}

#[test]
fn years_away_are_not_counted_one_by_one_and_the_present_slot_still_runs() {
    let minutely = schedule("* * * * *", "UTC");
    let found = due(
        &minutely,
        &TERMS,
        at("2020-01-01T00:00:00Z"),
        at("2026-11-28T10:00:10Z"),
    );
    assert_eq!(found.run, Some(at("2026-11-28T10:00:00Z")));
    assert!(found.missed.is_some_and(|missed| missed.count >= 10_000));
    assert_eq!(found.settled, at("2026-11-28T10:00:00Z"));
}

fn expressions() -> impl Strategy<Value = (&'static str, &'static str)> {
    (
        prop::sample::select(vec![
            "*/20 * * * *",
            "30 1 * * *",
            "30 2 * * *",
            "0 0 * * *",
            "15 */6 1,15 * mon",
        ]),
        prop::sample::select(vec![
            "UTC",
            "America/New_York",
            "America/Santiago",
            "Asia/Shanghai",
            "Australia/Lord_Howe",
        ]),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn slots_only_go_forward_and_do_not_depend_on_where_one_begins(
        (expression, zone) in expressions(),
        day in 0_i64..1500,
        offset in 0_i64..86_400,
    ) {
        let schedule = schedule(expression, zone);
        let start = Timestamp(at("2024-01-01T00:00:00Z").0 + (day * 86_400 + offset) * 1_000_000);
        let slots: Vec<Timestamp> = schedule.upcoming(start).take(6).collect();
        prop_assert_eq!(slots.len(), 6);
        prop_assert!(slots[0] > start);
        for pair in slots.windows(2) {
            prop_assert!(pair[0] < pair[1]);
            let between = Timestamp(i64::midpoint(pair[0].0, pair[1].0));
            prop_assert_eq!(schedule.next_after(between), Some(pair[1]));
        }
    }

    /// However often and whenever somebody asks, each slot is run once or missed once, and runs begin within their window.
    #[test]
    fn every_slot_is_settled_exactly_once(
        (expression, zone) in expressions(),
        steps in prop::collection::vec(1_i64..200_000, 1..30),
        jitter in 0_u64..7200,
        seed in any::<u64>(),
    ) {
        let schedule = schedule(expression, zone);
        let terms = Terms { window: Duration::from_hours(1), jitter: Duration::from_secs(jitter), seed };
        let begin = at("2026-03-06T00:00:00Z");
        let (mut settled, mut now) = (begin, begin);
        let (mut run, mut missed) = (0, 0);
        for step in steps {
            now = Timestamp(now.0 + step * 1_000_000);
            let found = due(&schedule, &terms, settled, now);
            prop_assert_eq!(found, due(&schedule, &terms, settled, now));
            if let Some(slot) = found.run {
                run += 1;
                prop_assert!(slot <= now && now < slot.plus(terms.window));
            }
            missed += found.missed.map_or(0, |missed| missed.count);
            prop_assert!(found.settled >= settled);
            prop_assert!(found.next.is_none_or(|next| next > now));
            settled = found.settled;
        }
        let all = schedule.upcoming(begin).take_while(|slot| *slot <= settled).count();
        prop_assert_eq!(u32::try_from(all).expect("few"), run + missed);
    }
}
