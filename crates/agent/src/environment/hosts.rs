//! The managed block of `/etc/hosts`: the members of the super node, between two marker lines. Everything else in the file stays.

use std::fmt::Write;
use std::net::IpAddr;

use supernode_types::environment::Member;

const BEGIN: &str = "# BEGIN supernode ";
const END: &str = "# END supernode ";

/// The block for these members, markers included.
pub fn block(super_node: &str, members: &[Member]) -> Result<String, String> {
    if !is_host_name(super_node) {
        return Err(format!("`{super_node}` is no name for a super node"));
    }
    let mut text = format!("{BEGIN}{super_node}\n");
    for member in members {
        if !is_host_name(&member.name) {
            return Err(format!("member `{}`: not a host name", member.name));
        }
        let address: IpAddr = member.address.parse().map_err(|_| {
            format!(
                "member {}: `{}` is not an IP address",
                member.name, member.address
            )
        })?;
        writeln!(text, "{address}\t{}", member.name).expect("writing to a string succeeds");
    }
    writeln!(text, "{END}{super_node}").expect("writing to a string succeeds");
    Ok(text)
}

/// Whether the text holds exactly this block, and no other of ours.
pub fn has_block(text: &str, block: &str) -> bool {
    let markers = text
        .lines()
        .filter(|line| line.starts_with(BEGIN) || line.starts_with(END))
        .count();
    let position = text.find(block);
    markers == 2 && position.is_some_and(|at| at == 0 || text.as_bytes()[at - 1] == b'\n')
}

/// The text with this block in the place of any block of ours, or at its end.
pub fn with_block(text: &str, block: &str) -> Result<String, String> {
    let (mut before, after) = around(text)?;
    if !before.is_empty() && !before.ends_with('\n') {
        before.push('\n');
    }
    Ok(before + block + &after)
}

/// The text without any block of ours.
pub fn without_block(text: &str) -> Result<String, String> {
    let (before, after) = around(text)?;
    Ok(before + &after)
}

/// What is before and after our blocks.
fn around(text: &str) -> Result<(String, String), String> {
    let (mut before, mut after) = (String::new(), String::new());
    let (mut inside, mut seen) = (false, false);
    for line in text.split_inclusive('\n') {
        match (line.starts_with(BEGIN), line.starts_with(END), inside) {
            (true, _, false) => (inside, seen) = (true, true),
            (_, true, true) => inside = false,
            (true, _, true) | (_, true, false) => {
                return Err("the markers of the supernode block in /etc/hosts do not pair up; repair it by hand".into());
            }
            (false, false, true) => {}
            (false, false, false) if seen => after.push_str(line),
            (false, false, false) => before.push_str(line),
        }
    }
    if inside {
        return Err(
            "the supernode block in /etc/hosts has no end marker; repair it by hand".into(),
        );
    }
    Ok((before, after))
}

fn is_host_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 253
        && name
            .split('.')
            .all(|label| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-'))
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(list: &[(&str, &str)]) -> Vec<Member> {
        list.iter()
            .map(|(name, address)| Member {
                name: (*name).into(),
                address: (*address).into(),
            })
            .collect()
    }

    #[test]
    fn a_block_is_put_replaced_and_taken_out() {
        let first = block("alpha", &members(&[("n1", "10.0.0.1"), ("n2", "fd00::2")]))
            .expect("it is valid");
        assert_eq!(
            first,
            "# BEGIN supernode alpha\n10.0.0.1\tn1\nfd00::2\tn2\n# END supernode alpha\n"
        );
        let original = "127.0.0.1 localhost";
        let once = with_block(original, &first).expect("no block yet");
        assert_eq!(once, format!("127.0.0.1 localhost\n{first}"));
        assert!(has_block(&once, &first));
        let edited = format!("{once}10.9.9.9 mine\n");
        let second = block("beta", &members(&[("n3", "10.0.0.3")])).expect("it is valid");
        let twice = with_block(&edited, &second).expect("the block is whole");
        assert_eq!(
            twice,
            format!("127.0.0.1 localhost\n{second}10.9.9.9 mine\n")
        );
        assert!(has_block(&twice, &second) && !has_block(&twice, &first));
        assert_eq!(
            without_block(&twice).expect("the block is whole"),
            "127.0.0.1 localhost\n10.9.9.9 mine\n"
        );
    }

    #[test]
    fn broken_markers_are_left_alone() {
        for text in [
            "# BEGIN supernode a\n1.1.1.1 x\n",
            "# END supernode a\n",
            "# BEGIN supernode a\n# BEGIN supernode a\n# END supernode a\n",
        ] {
            assert!(with_block(text, "").is_err(), "{text}");
            assert!(without_block(text).is_err(), "{text}");
        }
    }

    #[test]
    fn nothing_but_names_and_addresses_gets_in() {
        assert!(block("a\nb", &[]).is_err());
        assert!(block("a", &members(&[("n1\n6.6.6.6 bank", "10.0.0.1")])).is_err());
        assert!(block("a", &members(&[("n1", "10.0.0.1 bank")])).is_err());
    }
}
