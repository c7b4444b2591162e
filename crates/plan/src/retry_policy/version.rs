//! Versions of CANN and of the Ascend driver, as far as re-execution depends on them.

/// A CANN release, by its first two numbers: `8.3.RC2` and `8.3.RC1.alpha002` are the same here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cann(u32, u32);

impl Cann {
    /// The first release with re-execution.
    pub(super) const FIRST: Self = Self(8, 1);
    /// The first one without the level L0.
    const WITHOUT_L0: Self = Self(8, 3);

    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.trim().split('.');
        let first = numbers.next()?.parse().ok()?;
        Some(Self(first, numbers.next()?.parse().ok()?))
    }

    /// Whether it repeats operators inside one server, and so has to be told not to.
    pub(super) fn has_l0(self) -> bool {
        (Self::FIRST..Self::WITHOUT_L0).contains(&self)
    }
}

/// An Ascend driver (HDK) version such as `24.1.rc3.5` or `25.0.0`. A release candidate comes before its release.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Driver(Vec<Part>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Candidate(u32),
    Number(u32),
}

impl Driver {
    /// The first one with re-execution, as its maker writes it.
    pub(super) const FIRST: &'static str = "24.1.RC3.5";

    pub(super) fn parse(text: &str) -> Option<Self> {
        let part = |part: &str| {
            let lower = part.to_ascii_lowercase();
            Some(match lower.strip_prefix("rc") {
                Some(number) => Part::Candidate(number.parse().ok()?),
                None => Part::Number(lower.parse().ok()?),
            })
        };
        let parts: Option<Vec<Part>> = text.trim().split('.').map(part).collect();
        parts.filter(|parts| parts.len() >= 2).map(Self)
    }

    pub(super) fn suffices(&self) -> bool {
        Self::parse(Self::FIRST).is_some_and(|first| *self >= first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_ordered_as_their_maker_orders_them() {
        for (text, known, l0) in [
            ("8.0.RC3", true, false),
            ("8.1.RC1", true, true),
            ("8.2.RC1.alpha003", true, true),
            ("8.3.RC1", true, false),
            ("8.5.0", true, false),
            ("9.1.0-beta.1", true, false),
            ("latest", false, false),
            ("9", false, false),
        ] {
            let cann = Cann::parse(text);
            assert_eq!(cann.is_some(), known, "{text}");
            assert_eq!(cann.is_some_and(Cann::has_l0), l0, "{text}");
        }
        assert!(Cann::parse("8.0.1") < Some(Cann::FIRST));
        for (text, suffices) in [
            ("24.1.rc3.5", Some(true)),
            ("24.1.rc3.4", Some(false)),
            ("24.1.rc3", Some(false)),
            ("24.1.rc4", Some(true)),
            ("24.1.0", Some(true)),
            ("25.0.rc1", Some(true)),
            ("23.0.5", Some(false)),
            ("unknown", None),
        ] {
            assert_eq!(
                Driver::parse(text).map(|driver| driver.suffices()),
                suffices,
                "{text}"
            );
        }
    }
}
