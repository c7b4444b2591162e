//! The output of several ranks as one stream of lines: `[rank] ` before each line when there is more than one rank.

use std::collections::BTreeMap;

use crate::output::add;

/// Cuts pieces of output into whole lines, so that ranks never mix within a line.
#[derive(Debug)]
pub(crate) struct Interleaver {
    prefixed: bool,
    open_lines: BTreeMap<u32, String>,
}

/// A line that grows beyond this is shown in parts.
const LONGEST_OPEN_LINE_BYTES: usize = 64 * 1024;

impl Interleaver {
    /// For so many ranks.
    pub(crate) fn new(ranks: usize) -> Self {
        Self {
            prefixed: ranks > 1,
            open_lines: BTreeMap::new(),
        }
    }

    /// Takes a piece of a rank's output and gives what can be shown now. Of one rank alone that is the piece itself.
    pub(crate) fn push(&mut self, rank: u32, content: &str) -> String {
        if !self.prefixed {
            return content.to_owned();
        }
        let open = self.open_lines.entry(rank).or_default();
        let mut shown = String::new();
        for part in content.split_inclusive('\n') {
            open.push_str(part);
            if open.ends_with('\n') {
                add(&mut shown, format_args!("[{rank}] {open}"));
                open.clear();
            } else if open.len() > LONGEST_OPEN_LINE_BYTES {
                add(&mut shown, format_args!("[{rank}] {open}\n"));
                open.clear();
            }
        }
        shown
    }

    /// What is left of a rank that will write no more, or writes from the beginning again.
    pub(crate) fn close(&mut self, rank: u32) -> String {
        match self.open_lines.remove(&rank) {
            Some(open) if !open.is_empty() => format!("[{rank}] {open}\n"),
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_ranks_do_not_mix() {
        let mut output = Interleaver::new(2);
        assert_eq!(output.push(0, "a\nhal"), "[0] a\n");
        assert_eq!(output.push(1, "b\n\n"), "[1] b\n[1] \n");
        assert_eq!(output.push(0, "f\nend"), "[0] half\n");
        assert_eq!(output.close(0), "[0] end\n");
        assert_eq!(
            (output.close(0), output.close(1)),
            (String::new(), String::new())
        );
        let long = output.push(1, &"x".repeat(70_000));
        assert_eq!(long.len(), 70_000 + "[1] \n".len());
    }

    #[test]
    fn a_single_rank_is_shown_as_it_writes() {
        let mut output = Interleaver::new(1);
        assert_eq!(output.push(0, "50 %\r"), "50 %\r");
        assert_eq!(output.close(0), "");
    }
}
