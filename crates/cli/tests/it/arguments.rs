//! Which command lines are accepted.

use clap::CommandFactory;
use supernode_cli::Format;

use crate::{Binary, parse};

#[test]
fn the_definition_is_sound() {
    Binary::command().debug_assert();
}

#[test]
fn every_documented_command_line_is_accepted() {
    for line in [
        "supernode super-node create train --nodes 2 --wait",
        "supernode sn create train --node n1 --node n2 --spec cpu --label a=b --deadline 30m --idempotency-key k",
        "supernode sn create train --node n1,n2 --plan",
        "supernode super-node scale-up train --count 1 --wait",
        "supernode super-node scale-up train --to 5 --plan",
        "supernode super-node scale-up train --node n3 --node n4",
        "supernode super-node scale-down train --count 1 --wait",
        "supernode super-node scale-down train --node n3 --mode evict --grace 30s --deadline 30m",
        "supernode super-node scale-down train --count 1 --mode wait --deadline 30m --plan",
        "supernode super-node replace train --node n1 --wait",
        "supernode super-node replace train --node n1 --with n3 --mode evict --grace 30s --skip-admission --plan",
        "supernode super-node replacement train automatic",
        "supernode super-node rename train prod",
        "supernode super-node label train a=b c-",
        "supernode super-node delete train --wait --if-generation 7",
        "supernode run --super-node train --nodes 2 -- python3 examples/ring_allreduce.py",
        "supernode run --super-node train --nodes 2 --devices 4 --priority -5 --time-limit 1h --requeue 2 --env A=B --workdir /x --name n --grace 5s --as-root -- python3 -c x --flag",
        "supernode run --super-node train hostname -f",
        "supernode run --super-node train --workdir - hostname",
        "supernode job submit --super-node train --nodes 2 -- sleep 5",
        "supernode job list --state active --super-node train",
        "supernode job show job-1",
        "supernode job cancel job-1",
        "supernode job logs job-1 --rank 3 --follow",
        "supernode job wait job-1 --timeout 5m",
        "supernode node list --output json",
        "supernode node list --super-node - --policy cordoned --condition lost --label a=b",
        "supernode node show n1",
        "supernode node cordon n1 --reason fan",
        "supernode node uncordon n1",
        "supernode node label n1 a=b c-",
        "supernode node move n1 --rack r2 --leaf l1 --hyperplane h",
        "supernode node remove n1 --wait",
        "supernode spec list",
        "supernode spec show cpu",
        "supernode spec declare cpu --from-node n1 --maximum-nodes 8",
        "supernode spec declare cpu --file spec.toml",
        "supernode spec delete cpu",
        "supernode environment show train --revision 2",
        "supernode environment set train --file env.toml --wait",
        "supernode environment set train --variable A=1 --variable B=2 --sysctl a.b=1 --file-entry /etc/x=local --required-version kernel=6",
        "supernode environment history train",
        "supernode operation list --output json",
        "supernode operation show op-1",
        "supernode operation cancel op-1 --wait",
        "supernode operation wait op-1",
        "supernode event list --output json",
        "supernode event watch --severity warning --after 7",
        "supernode audit list --actor ada --limit 0",
        "supernode token list",
        "supernode token create ada --role operator --lifetime 720h",
        "supernode token revoke token-1",
        "supernode join-token create --uses 4 --lifetime 1h --label a=b --rack r1",
        "supernode join-token list",
        "supernode join-token revoke join-1",
        "supernode context list",
        "supernode context use dev",
        "supernode context show",
        "supernode --context prod doctor -o json",
        "supernode completion bash",
        "supernode man",
        "supernode man super-node create",
        "supernode man --directory out",
        "supernode server",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}\n{error}");
        }
    }
}

#[test]
fn what_cannot_be_meant_is_refused() {
    for line in [
        "supernode super-node create train",
        "supernode super-node create train --nodes 0",
        "supernode super-node create train --nodes 2 --node n1",
        "supernode super-node create train --nodes 2 --plan --wait",
        "supernode super-node scale-up train",
        "supernode super-node scale-up train --count 1 --to 3",
        "supernode super-node scale-down train --to 1",
        "supernode super-node scale-down train --count 1 --mode maybe",
        "supernode super-node scale-down train --count 1 --deadline soon",
        "supernode run --super-node train --nodes 2",
        "supernode run --nodes 2 -- true",
        "supernode run --super-node train --nods 2 -- true",
        "supernode node label n1",
        "supernode node label n1 word",
        "supernode spec declare cpu",
        "supernode spec declare CPU --from-node n1",
        "supernode spec declare cpu --from-node n1 --file x",
        "supernode environment set train --file x --variable A=1",
        "supernode token create ada --role root",
        "supernode event list --limit 0",
        "supernode completion tcsh",
        "supernode man --directory out node",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn the_output_format_is_accepted_everywhere() {
    for line in [
        "supernode -o json node list",
        "supernode node -o json list",
        "supernode node list -o json",
    ] {
        assert_eq!(
            parse(line).expect("valid").options.output,
            Format::Json,
            "{line}"
        );
    }
    let swallowed = parse("supernode run --super-node train -- python3 -o json").expect("valid");
    assert_eq!(
        swallowed.options.output,
        Format::Table,
        "what follows the program belongs to it"
    );
}

#[test]
fn help_names_the_exit_codes() {
    let help = Binary::command().render_long_help().to_string();
    assert!(
        help.contains("130  interrupted") && help.contains("super-node"),
        "{help}"
    );
}
