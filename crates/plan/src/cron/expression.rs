//! Reading a cron expression: five fields (minute, hour, day of the month, month, day of the week) of numbers, names, ranges,
//! steps and lists, or one of `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
//!
//! As in every cron: where both kinds of day are limited, either of them is enough. Seven is Sunday, like zero.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, Weekday};

/// Why text is not an expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// Not five fields.
    #[error(
        "`{0}` does not have the five fields minute, hour, day, month, weekday; for example `0 2 * * 0` is each Sunday at two"
    )]
    Fields(String),
    /// One field.
    #[error("`{text}` is not a {field} of a cron expression: {why}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What was written.
        text: String,
        /// What is wrong.
        why: &'static str,
    },
}

/// A cron expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    text: String,
    /// Bit n: the number n is in.
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    open_hour: bool,
    open_day: bool,
    open_weekday: bool,
}

/// One of the five fields.
struct Field {
    name: &'static str,
    least: u32,
    most: u32,
    names: &'static [&'static str],
}

const MINUTE: Field = Field {
    name: "minute",
    least: 0,
    most: 59,
    names: &[],
};
const HOUR: Field = Field {
    name: "hour",
    least: 0,
    most: 23,
    names: &[],
};
const DAY: Field = Field {
    name: "day of the month",
    least: 1,
    most: 31,
    names: &[],
};
const MONTH: Field = Field {
    name: "month",
    least: 1,
    most: 12,
    names: &[
        "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
    ],
};
const WEEKDAY: Field = Field {
    name: "day of the week",
    least: 0,
    most: 7,
    names: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
};

impl FromStr for Cron {
    type Err = CronError;

    fn from_str(text: &str) -> Result<Self, CronError> {
        let text = text.trim();
        let expanded = match text.to_ascii_lowercase().as_str() {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            "@yearly" | "@annually" => "0 0 1 1 *",
            _ => text,
        };
        let fields: Vec<&str> = expanded.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(CronError::Fields(text.to_owned()));
        };
        let weekdays = WEEKDAY.set(weekday)?;
        Ok(Self {
            text: fields.join(" "),
            minutes: MINUTE.set(minute)?,
            hours: HOUR.set(hour)?,
            days: DAY.set(day)?,
            months: MONTH.set(month)?,
            weekdays: (weekdays | weekdays >> 7) & 0x7f,
            open_hour: hour.starts_with('*'),
            open_day: day.starts_with('*'),
            open_weekday: weekday.starts_with('*'),
        })
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl Cron {
    /// Whether something is due on a date.
    pub(super) fn has_day(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, weekday_number(date.weekday()));
        let wanted = match (self.open_day, self.open_weekday) {
            (false, false) => day || weekday,
            _ => day && weekday,
        };
        wanted && has(self.months, date.month())
    }

    /// The hours and minutes of a day, ascending.
    pub(super) fn times(&self) -> impl Iterator<Item = (i8, i8)> {
        (0..24)
            .filter(|hour| has(self.hours, *hour))
            .flat_map(|hour| {
                (0..60)
                    .filter(|minute| has(self.minutes, *minute))
                    .map(move |minute| (hour, minute))
            })
    }

    /// Whether every hour is meant, so that a repeated one is meant twice.
    pub(super) fn leaves_hour_open(&self) -> bool {
        self.open_hour
    }
}

fn has(set: u64, number: i8) -> bool {
    set >> number & 1 == 1
}

fn weekday_number(weekday: Weekday) -> i8 {
    weekday.to_sunday_zero_offset()
}

impl Field {
    /// The numbers of a list.
    fn set(&self, text: &str) -> Result<u64, CronError> {
        text.split(',')
            .try_fold(0, |set, piece| Ok(set | self.piece(piece)?))
    }

    /// `*`, `5`, `mon`, `1-5`, and each with `/step`.
    fn piece(&self, text: &str) -> Result<u64, CronError> {
        let wrong = |why| CronError::Field {
            field: self.name,
            text: text.to_owned(),
            why,
        };
        let (range, step) = match text.split_once('/') {
            None => (text, None),
            Some((range, step)) => {
                let step: u32 = step.parse().map_err(|_| wrong("the step is no number"))?;
                if step == 0 {
                    return Err(wrong("the step is zero"));
                }
                (range, Some(step))
            }
        };
        let (first, last) = if range == "*" {
            (
                self.least,
                self.most.min(if self.most == 7 { 6 } else { self.most }),
            )
        } else if let Some((first, last)) = range.split_once('-') {
            (
                self.number(first).ok_or_else(|| wrong("out of range"))?,
                self.number(last).ok_or_else(|| wrong("out of range"))?,
            )
        } else {
            let number = self.number(range).ok_or_else(|| wrong("out of range"))?;
            // `5/15` means from five on.
            (number, if step.is_some() { self.most } else { number })
        };
        if first > last {
            return Err(wrong("the range ends before it begins"));
        }
        let step = usize::try_from(step.unwrap_or(1)).unwrap_or(usize::MAX);
        Ok((first..=last)
            .step_by(step)
            .fold(0, |set, number| set | 1 << number))
    }

    fn number(&self, text: &str) -> Option<u32> {
        let named = self
            .names
            .iter()
            .position(|name| name.eq_ignore_ascii_case(text));
        let number = match named {
            Some(position) => u32::try_from(position).ok()? + self.least,
            None => text.parse().ok()?,
        };
        (self.least..=self.most).contains(&number).then_some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Cron {
        text.parse().expect(text)
    }

    #[test]
    fn fields() {
        let cron = read("*/15 9-17/4 1,15 jan-mar MON");
        let times: Vec<(i8, i8)> = cron.times().collect();
        assert_eq!(times.len(), 12);
        assert_eq!(times[0], (9, 0));
        assert_eq!(times[11], (17, 45));
        assert_eq!(cron.months, 0b1110);
        assert_eq!(
            read("0 0 * * 7"),
            Cron {
                text: "0 0 * * 7".into(),
                ..read("0 0 * * sun")
            }
        );
        assert_eq!(read("@weekly").to_string(), "0 0 * * 0");
        assert_eq!(read("50/5 * * * *").minutes.count_ones(), 2);
    }

    #[test]
    fn either_day_is_enough_when_both_are_limited() {
        let date = |day| Date::new(2026, 11, day).expect("a date");
        // The 13th of November 2026 is a Friday.
        let either = read("0 0 13 * mon");
        assert!(either.has_day(date(13)) && either.has_day(date(16)) && !either.has_day(date(17)));
        let weekday = read("0 0 * * mon");
        assert!(!weekday.has_day(date(13)) && weekday.has_day(date(16)));
    }

    #[test]
    fn what_is_no_expression_is_refused_with_its_field() {
        for (text, part) in [
            ("0 2 * *", "five fields"),
            ("60 * * * *", "minute"),
            ("* 24 * * *", "hour"),
            ("* * 0 * *", "day of the month"),
            ("* * * 13 *", "month"),
            ("* * * * 8", "day of the week"),
            ("*/0 * * * *", "step is zero"),
            ("5-1 * * * *", "ends before"),
            ("a * * * *", "minute"),
            ("-1 * * * *", "minute"),
            ("", "five fields"),
        ] {
            let error = text.parse::<Cron>().expect_err(text);
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
