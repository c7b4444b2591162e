//! What HCCL and NCCL write about broken paths and repeated operators, as counted sightings.
//!
//! Pure: lines in, sightings out. The words are those of HCCL 8.5 to 9.x (`[OpRetry]` in its run and debug logs, which a rank's output has
//! with `ASCEND_SLOG_PRINT_TO_STDOUT=1`) and of NCCL's InfiniBand transport (`NCCL_DEBUG=WARN`, or `INFO` for ports that were taken over).
//!
//! A line that is not understood is no sighting. What one rank can make us remember is bounded: [`MAXIMUM_LINKS`] links, short lines.

use std::collections::BTreeMap;

use supernode_types::retry_policy::{RetryLibrary, RetryOutcome, RetrySighting};

/// The most different links of one rank; further ones are counted without a name.
pub const MAXIMUM_LINKS: usize = 16;
/// The most characters of a line and of a link that are kept.
const MAXIMUM_CHARACTERS: usize = 200;

/// What a line says: what happened, and between whom, where that is said.
pub fn parse(library: RetryLibrary, written: &str) -> Option<(RetryOutcome, String)> {
    let (outcome, link) = match library {
        RetryLibrary::Hccl => hccl(written)?,
        RetryLibrary::Nccl => nccl(written)?,
        RetryLibrary::Collectives => return None,
    };
    Some((outcome, shortened(&link)))
}

fn hccl(line: &str) -> Option<(RetryOutcome, String)> {
    if line.contains("disable OpRetry") {
        return Some((RetryOutcome::SwitchedOff, String::new()));
    }
    if line.contains("can not find same port") {
        return Some((RetryOutcome::Refused, ranks(line)));
    }
    let said = &line[line.find("[OpRetry]")?..];
    let outcome = if said.contains("begin to exec retry of tag[") {
        RetryOutcome::Started
    } else if said.contains("retry exec success") {
        RetryOutcome::Succeeded
    } else if said.contains("can not retry") {
        RetryOutcome::Refused
    } else if said.contains("isUseDefaultPort[0]") {
        RetryOutcome::LaneSwitched
    } else if said.contains("defaultPort is down") || said.contains("is not 12") {
        RetryOutcome::PathFailed
    } else {
        return None;
    };
    Some((outcome, ranks(said)))
}

/// The ranks that a line of HCCL names, in its order: `rank 3 - rank 7`.
fn ranks(line: &str) -> String {
    let mut found: Vec<&str> = Vec::new();
    for (at, _) in line.match_indices("ank[") {
        let rest = &line[at + 4..];
        let number = rest.split(']').next().unwrap_or_default();
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        if is_number && !found.contains(&number) && found.len() < 2 {
            found.push(number);
        }
    }
    let named: Vec<String> = found.iter().map(|rank| format!("rank {rank}")).collect();
    named.join(" - ")
}

fn nccl(line: &str) -> Option<(RetryOutcome, String)> {
    let said = &line[line.find("NET/IB")?..];
    if said.contains("Got completion from peer") {
        return Some((RetryOutcome::PathFailed, addresses(said)));
    }
    let outcome = if said.contains("The error is not fatal. Trying to continue") {
        RetryOutcome::Started
    } else if said.contains("Replacing QP:") {
        RetryOutcome::LaneSwitched
    } else if said.contains("Done handling failed send request") {
        RetryOutcome::Succeeded
    } else if said.contains("The error is fatal")
        || said.contains("Could not find a replacement QP")
    {
        RetryOutcome::Refused
    } else {
        return None;
    };
    Some((outcome, String::new()))
}

/// Both ends of a path of NCCL: by the addresses of the cards where it says them, otherwise the peer's.
fn addresses(said: &str) -> String {
    let after = |mark: &str| {
        let rest = &said[said.find(mark)? + mark.len()..];
        // It leaves out the blank behind `remoteGids`.
        let word = rest.trim_start().split([' ', '<', ',']).next()?;
        (!word.is_empty()).then(|| word.to_owned())
    };
    match (after("localGid "), after("remoteGids")) {
        (Some(local), Some(remote)) => format!("{local} - {remote}"),
        _ => after("from peer ").unwrap_or_default(),
    }
}

fn shortened(text: &str) -> String {
    let clean = text.chars().filter(|letter| !letter.is_control());
    clean.take(MAXIMUM_CHARACTERS).collect()
}

/// What the output of one rank came to so far.
#[derive(Debug, Clone)]
pub struct RetryTally {
    library: RetryLibrary,
    /// The beginning of a line whose end has not come.
    rest: Vec<u8>,
    seen: BTreeMap<(RetryOutcome, String), (u64, String)>,
}

/// A longer line is read in pieces of this size.
const MAXIMUM_LINE_BYTES: usize = 8192;

impl RetryTally {
    /// Nothing was read yet.
    pub fn new(library: RetryLibrary) -> Self {
        Self {
            library,
            rest: Vec::new(),
            seen: BTreeMap::new(),
        }
    }

    /// Reads on; answers whether there was something new.
    pub fn read(&mut self, bytes: &[u8]) -> bool {
        let mut news = false;
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(piece);
            if self.rest.ends_with(b"\n") || self.rest.len() >= MAXIMUM_LINE_BYTES {
                let line = std::mem::take(&mut self.rest);
                news |= self.line(&String::from_utf8_lossy(&line));
            }
        }
        news
    }

    fn line(&mut self, written: &str) -> bool {
        let Some((outcome, link)) = parse(self.library, written) else {
            return false;
        };
        let links = self.seen.keys().filter(|(_, link)| !link.is_empty());
        let known = self.seen.contains_key(&(outcome, link.clone()));
        let link = if known || links.count() < MAXIMUM_LINKS {
            link
        } else {
            String::new()
        };
        let (count, last) = self.seen.entry((outcome, link)).or_default();
        *count += 1;
        *last = shortened(written);
        true
    }

    /// All of it, by outcome and link.
    pub fn sightings(&self) -> Vec<RetrySighting> {
        self.seen
            .iter()
            .map(|((outcome, link), (count, line))| RetrySighting {
                outcome: *outcome,
                link: link.clone(),
                count: *count,
                line: line.clone(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use RetryLibrary::{Collectives, Hccl, Nccl};
    use RetryOutcome::{LaneSwitched, PathFailed, Refused, Started, Succeeded, SwitchedOff};

    /// Lines as the libraries put them together; prefix and format are theirs, values are made up.
    const HCCL_PREFIX: &str =
        "[INFO] HCCL(686,python):2025-10-23-07:52:59.191.363 [opretry_server.cc:274] [8970]";
    const NCCL_PREFIX: &str = "worker-0:3468:3905 [4] ib_plugin.c:1615 NCCL WARN ";

    fn check(library: RetryLibrary, line: &str, expected: Option<(RetryOutcome, &str)>) {
        let found = parse(library, line);
        let found = found
            .as_ref()
            .map(|(outcome, link)| (*outcome, link.as_str()));
        assert_eq!(found, expected, "{line}");
    }

    #[test]
    fn lines_of_hccl() {
        for (said, expected) in [
            (
                "[OpRetry][Server]begin to exec retry of tag[AllReduce_10.0.0.1%eth0_0] from rank[3] and rank[7]",
                Some((Started, "rank 3 - rank 7")),
            ),
            (
                "[OpRetry][Server]begin to exec retry of tag[AllReduce_g] from rank[3]",
                Some((Started, "rank 3")),
            ),
            (
                "[OpRetry][AICPU]retry exec success, retryCnt [1], tag [AllReduce_g], take time [6]s",
                Some((Succeeded, "")),
            ),
            (
                "[OpRetry][CheckOpName]hccl aicpu can not retry, opName is inconsistent: rank[0] with IpInfo[10.0.0.1/0] tag[a] index[4]; rank[1] with IpInfo[10.0.0.2/1] tag[a] index[5]",
                Some((Refused, "rank 0 - rank 1")),
            ),
            (
                "[OpRetry][CheckMaxRetryCnt]hccl aicpu can not retry, the retryCnt[3] of rank[2] with IpInfo[10.0.0.2/1] is not less than 3",
                Some((Refused, "rank 2")),
            ),
            (
                "[OpRetry][AICPU]hccl aicpu record complete task is complete, can not retry. params: sqHead 1",
                Some((Refused, "")),
            ),
            (
                "[OpRetry][Server]OpRetryServerCheckAllLink, can not find same port, rank[1]:default[0], backup[1]; rank[9]:default[1], backup[0]",
                Some((Refused, "rank 1 - rank 9")),
            ),
            (
                "[OpRetry][Agent]insert remoteRank[9] to isUseDefaultPort[0]",
                Some((LaneSwitched, "rank 9")),
            ),
            (
                "[OpRetry][Agent]insert remoteRank[9] to isUseDefaultPort[1]",
                None,
            ),
            (
                "[OpRetry][Agent]defaultPort is down, set isUseDefaultPort_ to false",
                Some((PathFailed, "")),
            ),
            (
                "[OpRetry][Agent] remoteRank[5] status[13] is not 12",
                Some((PathFailed, "rank 5")),
            ),
            (
                "[Config][SetRetryEnable] AivMode[1] and OpRetry configuration conflict. Enable Aiv, disable OpRetry",
                Some((SwitchedOff, "")),
            ),
            (
                "[Config][SetRetryEnable] serverIp [0.0.0.0] or localIp [10.0.0.1] is invalid, disable OpRetry",
                Some((SwitchedOff, "")),
            ),
            ("[OpRetry][Agent]ClearStream streamId:7", None),
            ("[Init]retryEnable[1]", None),
        ] {
            check(Hccl, &format!("{HCCL_PREFIX}{said}"), expected);
        }
        check(
            Nccl,
            &format!("{HCCL_PREFIX}[OpRetry][AICPU]retry exec success"),
            None,
        );
        check(Collectives, "[OpRetry][AICPU]retry exec success", None);
    }

    #[test]
    fn lines_of_nccl() {
        for (said, expected) in [
            (
                "NET/IB : Got completion from peer 10.216.210.236<54862> with status=12 opcode=0 len=0 vendor err 129 (Recv) localGid fd00:1148::22 remoteGidsfd00:1148::1f",
                Some((PathFailed, "fd00:1148::22 - fd00:1148::1f")),
            ),
            (
                "NET/IBP:Got completion from peer 7.6.13.83<36315> with status=12 opcode=32698 len=32696 vendor err 129 (Send)",
                Some((PathFailed, "7.6.13.83")),
            ),
            (
                "NET/IB: ncclIbResiliencyCheckErrorNotFatal: The error is not fatal. Trying to continue...",
                Some((Started, "")),
            ),
            (
                "NET/IB: ncclIbResiliencyReplaceQps: Replacing QP: qpIndex=0 (qp_num=1, devIndex=0) to qpIndex=1 (qp_num=2, devIndex=1) on send communicator (comm=0x1)",
                Some((LaneSwitched, "")),
            ),
            (
                "NET/IB: ncclIbResiliencySendRequestFree: Done handling failed send request (req=0x1, comm=0x2, id=3, slot=3).",
                Some((Succeeded, "")),
            ),
            (
                "NET/IB: The error is fatal (No functional devices left). Cannot continue.",
                Some((Refused, "")),
            ),
            (
                "NET/IB : Using [0]mlx5_0:1/RoCE [RO]; OOB eth0:10.0.0.1<0>",
                None,
            ),
            ("NET/Socket : Using [0]eth0:10.0.0.1<0>", None),
        ] {
            check(Nccl, &format!("{NCCL_PREFIX}{said}"), expected);
        }
    }

    #[test]
    fn output_is_counted_however_it_is_cut() {
        let line = "[OpRetry][Server]begin to exec retry of tag[a] from rank[3]\n";
        let text = format!("training\n{line}\u{1b}[31mstep 2\n{line}");
        let whole = {
            let mut tally = RetryTally::new(Hccl);
            assert!(tally.read(text.as_bytes()));
            tally.sightings()
        };
        assert_eq!(whole.len(), 1);
        assert_eq!((whole[0].count, whole[0].link.as_str()), (2, "rank 3"));
        for cut in 0..text.len() {
            let mut tally = RetryTally::new(Hccl);
            tally.read(&text.as_bytes()[..cut]);
            tally.read(&text.as_bytes()[cut..]);
            assert_eq!(tally.sightings(), whole, "cut at {cut}");
        }
    }

    #[test]
    fn a_rank_that_writes_without_end_is_not_remembered_without_end() {
        let mut tally = RetryTally::new(Hccl);
        for rank in 0..1000 {
            let long = "x".repeat(300);
            let line =
                format!("[OpRetry][Server]begin to exec retry of tag[{long}] from rank[{rank}]\n");
            assert!(tally.read(line.as_bytes()));
        }
        let sightings = tally.sightings();
        assert_eq!(sightings.len(), MAXIMUM_LINKS + 1);
        assert_eq!(sightings.iter().map(|one| one.count).sum::<u64>(), 1000);
        assert!(sightings.iter().all(|one| one.line.chars().count() <= 200));
        assert!(!tally.read(&vec![b'y'; 1 << 20]));
        assert!(tally.rest.len() < MAXIMUM_LINE_BYTES);
    }
}
