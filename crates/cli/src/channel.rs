//! `supernode channel …`: where people are told.
//!
//! Nothing secret is taken from the command line, where every user of the host could read it: it comes from files or standard input.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use supernode_api::Nothing;
use supernode_api::channel::{
    ChannelCreate, ChannelCreateRequest, ChannelDelete, ChannelList, ChannelShow, ChannelTest,
    ChannelView, MessageView,
};
use supernode_client::{CallOptions, Client};
use supernode_types::Name;
use supernode_types::channel::{
    ChannelTerms, MailLogin, MailTarget, MailTls, PrivateAddresses, Secret, Target,
};
use supernode_types::event::Severity;
use supernode_types::message::MessageState;
use supernode_types::time::parse_duration;

use crate::change::{KeyOption, whole_seconds};
use crate::failure::Failure;
use crate::output::{Look, Table, cell, fields, or_dash, seconds, section, state};
use crate::session::Session;

/// How long the answer to a trial is waited for; the server gives an attempt 30 seconds.
const TRIAL_PATIENCE: Duration = Duration::from_secs(40);
const TRIAL_POLL: Duration = Duration::from_millis(200);

/// Where people are told.
#[derive(Debug, clap::Subcommand)]
pub enum ChannelCommand {
    /// Make a channel
    Create(Box<CreateArguments>),
    /// List channels, without their secrets
    #[command(visible_alias = "ls")]
    List,
    /// Show a channel and what it was told, without its secrets
    Show {
        /// Its name or id
        channel: String,
    },
    /// Send a message that says only that somebody tries the channel, and wait until it has arrived
    Test {
        /// Its name or id
        channel: String,
        #[command(flatten)]
        key: KeyOption,
    },
    /// Delete a channel and what was on its way
    Delete {
        /// Its name or id
        channel: String,
        #[command(flatten)]
        key: KeyOption,
    },
}

/// What a channel is.
#[derive(Debug, clap::Args)]
pub struct CreateArguments {
    /// Its name
    name: Name,
    /// How it is told
    #[arg(long, value_enum)]
    kind: KindName,
    /// Address of a webhook or an Alertmanager, if there is no secret in it
    #[arg(long, value_name = "URL", conflicts_with = "url_file")]
    url: Option<String>,
    /// File with the address; `-` is standard input. Addresses of chats hold a token
    #[arg(long, value_name = "FILE")]
    url_file: Option<PathBuf>,
    /// File with the key that signs: of a webhook `whsec_` and 24 to 64 bytes in base 64; of `DingTalk` and Feishu as the robot shows it
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Host name of the mail server
    #[arg(long, value_name = "NAME")]
    mail_host: Option<String>,
    /// Its port [default: 587 for starttls, 465 for implicit]
    #[arg(long, value_name = "PORT")]
    mail_port: Option<u16>,
    /// How the connection to it is protected [default: starttls]
    #[arg(long, value_enum)]
    mail_tls: Option<TlsName>,
    /// The user that it knows; needs --mail-password-file
    #[arg(long, value_name = "USER", requires = "mail_password_file")]
    mail_user: Option<String>,
    /// File with the password; `-` is standard input
    #[arg(long, value_name = "FILE", requires = "mail_user")]
    mail_password_file: Option<PathBuf>,
    /// Sender of the mails
    #[arg(long, value_name = "ADDRESS")]
    mail_from: Option<String>,
    /// Recipient of the mails; may be given several times
    #[arg(long, value_name = "ADDRESS")]
    mail_to: Vec<String>,
    /// Tell this and worse
    #[arg(long, value_enum, default_value_t = SeverityName::Warning)]
    severity: SeverityName,
    /// Kinds of events that it is told although no plan names it, for example node.lost,node.disk_*
    #[arg(long, value_name = "KIND,…", value_delimiter = ',')]
    events: Vec<String>,
    /// How long the findings of one run are collected at most
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration)]
    digest: Duration,
    /// How long the same finding on the same part is not told again
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
    repeat: Duration,
    /// File with the certificates of the only authorities to trust, PEM [default: those of the server's host]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Let it lead to the server's own host and to private networks; needs an admin
    #[arg(long)]
    allow_private_addresses: bool,
    #[command(flatten)]
    key: KeyOption,
}

/// How a channel is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum KindName {
    /// A program of yours, called by POST and signed
    Webhook,
    /// E-mail over SMTP with TLS
    Email,
    /// Prometheus Alertmanager, API v2
    Alertmanager,
    /// An incoming webhook of Slack
    Slack,
    /// A robot in a `DingTalk` group
    Dingtalk,
    /// A bot in a Feishu group
    Feishu,
    /// A robot in a `WeCom` group
    Wecom,
}

/// How a connection to a mail server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum TlsName {
    /// It begins in the clear and goes no further without TLS
    Starttls,
    /// TLS from the first byte
    Implicit,
}

/// How much something matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SeverityName {
    Info,
    Warning,
    Error,
}

impl From<SeverityName> for Severity {
    fn from(name: SeverityName) -> Self {
        match name {
            SeverityName::Info => Self::Info,
            SeverityName::Warning => Self::Warning,
            SeverityName::Error => Self::Error,
        }
    }
}

pub(crate) async fn run(session: &Session<'_>, command: ChannelCommand) -> Result<(), Failure> {
    let client = session.client()?;
    match command {
        ChannelCommand::Create(arguments) => {
            let call = arguments.key.call();
            let request = request(*arguments)?;
            let view = client
                .call::<ChannelCreate>(&[], &Nothing {}, &request, &call)
                .await?;
            session.print(&view, |look| show(&view, look))
        }
        ChannelCommand::List => {
            let items = client.list::<ChannelList, _>(&[], &Nothing {}).await?;
            session.print_list(&items, "no channels", list)
        }
        ChannelCommand::Show { channel } => {
            let view = client.get::<ChannelShow>(&[&channel], &Nothing {}).await?;
            session.print(&view, |look| show(&view, look))
        }
        ChannelCommand::Test { channel, key } => {
            let view = test(&client, &channel, &key.call()).await?;
            match &view.message.state {
                MessageState::Delivered { .. } => {
                    session.print(&view, |_| format!("channel {channel} has {}\n", view.id))
                }
                other => Err(Failure::Failed(format!(
                    "channel {channel} was not told {}: {}",
                    view.id,
                    reason(other).unwrap_or("it did not answer in time")
                ))),
            }
        }
        ChannelCommand::Delete { channel, key } => {
            let nothing = client
                .call::<ChannelDelete>(&[&channel], &Nothing {}, &Nothing {}, &key.call())
                .await?;
            session.print(&nothing, |_| format!("{channel} is deleted\n"))
        }
    }
}

/// Tries a channel; answers the message when it has arrived, was given up, or nothing was heard of it for too long.
async fn test(
    client: &Client,
    channel: &str,
    options: &CallOptions,
) -> Result<MessageView, Failure> {
    let mut sent = client
        .call::<ChannelTest>(&[channel], &Nothing {}, &Nothing {}, options)
        .await?;
    let waited = async {
        while matches!(sent.message.state, MessageState::Pending { .. }) {
            tokio::time::sleep(TRIAL_POLL).await;
            let view = client.get::<ChannelShow>(&[channel], &Nothing {}).await?;
            let found = view
                .messages
                .into_iter()
                .find(|message| message.id == sent.id);
            match found {
                Some(found) => sent = found,
                None => break,
            }
        }
        Ok::<_, Failure>(())
    };
    match tokio::time::timeout(TRIAL_PATIENCE, waited).await {
        Ok(Err(failure)) => Err(failure),
        Ok(Ok(())) | Err(_) => Ok(sent),
    }
}

fn request(arguments: CreateArguments) -> Result<ChannelCreateRequest, Failure> {
    let terms = ChannelTerms {
        severity: arguments.severity.into(),
        events: arguments.events.clone(),
        private_addresses: if arguments.allow_private_addresses {
            PrivateAddresses::Allowed
        } else {
            PrivateAddresses::Refused
        },
        ca_pem: arguments.ca_file.as_deref().map(read).transpose()?,
        digest_seconds: whole_seconds(arguments.digest),
        repeat_seconds: whole_seconds(arguments.repeat),
    };
    Ok(ChannelCreateRequest {
        name: arguments.name.clone(),
        target: target(arguments)?,
        terms,
    })
}

fn target(arguments: CreateArguments) -> Result<Target, Failure> {
    let kind = arguments.kind;
    let mail = kind == KindName::Email;
    let addressed = arguments.url.is_some() || arguments.url_file.is_some();
    if mail && (addressed || arguments.key_file.is_some()) {
        return Err(usage(
            "e-mail takes --mail-host, --mail-from and --mail-to, and no --url, --url-file or --key-file",
        ));
    }
    if mail {
        return mail_target(arguments).map(Target::Email);
    }
    if arguments.mail_host.is_some()
        || arguments.mail_from.is_some()
        || !arguments.mail_to.is_empty()
    {
        return Err(usage("--mail-… belongs to --kind email"));
    }
    let signs = matches!(
        kind,
        KindName::Webhook | KindName::Dingtalk | KindName::Feishu
    );
    if !signs && arguments.key_file.is_some() {
        return Err(usage(
            "--key-file belongs to the kinds webhook, dingtalk and feishu",
        ));
    }
    let chat = !matches!(kind, KindName::Webhook | KindName::Alertmanager);
    let url = match (arguments.url, &arguments.url_file) {
        (Some(_), _) if chat => {
            return Err(usage(
                "the address of a chat holds a token that others on this host could read: put it into a file and give --url-file",
            ));
        }
        (Some(url), _) => Secret(url),
        (None, Some(file)) => secret(file)?,
        (None, None) => return Err(usage("give the address, with --url-file")),
    };
    let key = arguments.key_file.as_deref().map(secret).transpose()?;
    Ok(match kind {
        KindName::Webhook => Target::Webhook {
            url,
            key: key.ok_or_else(|| usage("a webhook needs the key that signs its messages, with --key-file; make one with `(printf whsec_; openssl rand -base64 32) > FILE`"))?,
        },
        KindName::Alertmanager => Target::Alertmanager { url },
        KindName::Slack => Target::Slack { url },
        KindName::Dingtalk => Target::Dingtalk { url, key },
        KindName::Feishu => Target::Feishu { url, key },
        KindName::Wecom | KindName::Email => Target::Wecom { url },
    })
}

fn mail_target(arguments: CreateArguments) -> Result<MailTarget, Failure> {
    let missing = |option: &str| usage(&format!("e-mail needs {option}"));
    let login = match (arguments.mail_user, &arguments.mail_password_file) {
        (Some(user), Some(file)) => Some(MailLogin {
            user,
            password: secret(file)?,
        }),
        _ => None,
    };
    if arguments.mail_to.is_empty() {
        return Err(missing("--mail-to"));
    }
    Ok(MailTarget {
        host: arguments.mail_host.ok_or_else(|| missing("--mail-host"))?,
        port: arguments.mail_port,
        tls: match arguments.mail_tls {
            Some(TlsName::Implicit) => MailTls::Implicit,
            Some(TlsName::Starttls) | None => MailTls::Starttls,
        },
        login,
        from: arguments.mail_from.ok_or_else(|| missing("--mail-from"))?,
        to: arguments.mail_to,
    })
}

fn usage(why: &str) -> Failure {
    Failure::Usage(why.to_owned())
}

/// The content of a file; `-` is standard input.
fn read(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text))
    };
    match read {
        Ok(_) => Ok(text),
        Err(error) => Err(Failure::File {
            path: path.to_owned(),
            why: error.to_string(),
        }),
    }
}

/// The one line of a file that holds a secret.
fn secret(path: &Path) -> Result<Secret, Failure> {
    let text = read(path)?;
    let line = text.trim();
    if line.is_empty() || line.contains(char::is_control) {
        return Err(Failure::File {
            path: path.to_owned(),
            why: "it does not hold one line".into(),
        });
    }
    Ok(Secret(line.to_owned()))
}

fn list(items: &[ChannelView], look: &Look) -> String {
    let mut table = Table::new(&[
        "NAME",
        "KIND",
        "STATE",
        "LEADS TO",
        "SEVERITY",
        "EVENTS",
        "WAITING",
        "LAST TOLD",
    ]);
    for view in items {
        let channel = &view.channel;
        table.row([
            cell(&channel.name),
            cell(channel.kind.name()),
            state(standing(view)),
            cell(&channel.address),
            cell(channel.terms.severity.word()),
            cell(events(view)),
            cell(view.pending),
            cell(or_dash(view.state.delivered_at.map(|at| look.moment(at)))),
        ]);
    }
    table.render(look)
}

fn standing(view: &ChannelView) -> &'static str {
    if view.state.failures > 0 {
        "failing"
    } else {
        "ready"
    }
}

fn events(view: &ChannelView) -> String {
    match view.channel.terms.events.as_slice() {
        [] => "of plans that name it".into(),
        kinds => kinds.join(","),
    }
}

fn reason(state: &MessageState) -> Option<&str> {
    match state {
        MessageState::Pending { last_error } => last_error.as_deref(),
        MessageState::Failed { reason, .. } => Some(reason),
        MessageState::Delivered { .. } => None,
    }
}

fn show(view: &ChannelView, look: &Look) -> String {
    let (channel, terms) = (&view.channel, &view.channel.terms);
    let text = fields(&[
        ("name", channel.name.to_string()),
        ("id", channel.id.to_string()),
        ("kind", channel.kind.name().to_owned()),
        ("leads to", channel.address.clone()),
        (
            "private addresses",
            match terms.private_addresses {
                PrivateAddresses::Allowed => "allowed",
                PrivateAddresses::Refused => "refused",
            }
            .into(),
        ),
        (
            "trusts",
            match terms.ca_pem {
                Some(_) => "its own authorities",
                None => "the authorities of the server's host",
            }
            .into(),
        ),
        ("severity", format!("{} and worse", terms.severity.word())),
        ("events", events(view)),
        ("digest", seconds(terms.digest_seconds)),
        ("repeat", seconds(terms.repeat_seconds)),
        ("state", standing(view).to_owned()),
        ("last error", or_dash(view.state.last_error.as_ref())),
        (
            "last told",
            or_dash(view.state.delivered_at.map(|at| look.moment(at))),
        ),
        ("waiting", view.pending.to_string()),
        ("made by", channel.actor.clone()),
        ("made", look.moment(channel.created_at)),
    ]);
    if view.messages.is_empty() {
        return text;
    }
    let mut table = Table::new(&[
        "MESSAGE", "STATE", "BEGUN", "ATTEMPTS", "NOTICES", "FIRST", "REASON",
    ]);
    for MessageView { id, message } in &view.messages {
        let first = message.notices.first();
        table.row([
            cell(id),
            state(message.state.word()),
            cell(look.moment(message.created_at)),
            cell(message.attempts),
            cell(u64::from(message.omitted) + message.notices.len() as u64),
            cell(or_dash(first.map(|notice| &notice.message))),
            cell(or_dash(reason(&message.state))),
        ]);
    }
    format!("{text}\n{}", section("Messages", &table.render(look)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: CreateArguments,
    }

    fn made(words: &str) -> Result<ChannelCreateRequest, String> {
        let words = ["create"].into_iter().chain(words.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        request(line.arguments).map_err(|failure| failure.to_string())
    }

    #[test]
    fn each_kind_says_what_it_lacks() {
        for (words, missing) in [
            (
                "ops --kind slack --url https://hooks.slack.com/x",
                "--url-file",
            ),
            ("ops --kind slack", "--url-file"),
            ("ops --kind slack --url-file /dev/null", "one line"),
            ("ops --kind webhook --url https://a.example", "--key-file"),
            (
                "ops --kind alertmanager --url https://a.example --key-file f",
                "--key-file belongs",
            ),
            (
                "ops --kind alertmanager --url https://a.example --mail-to a@b",
                "--mail-…",
            ),
            (
                "ops --kind email --mail-host m --mail-from a@b",
                "--mail-to",
            ),
            (
                "ops --kind email --mail-host m --mail-to a@b",
                "--mail-from",
            ),
            (
                "ops --kind email --mail-to a@b --url https://a.example",
                "no --url",
            ),
            ("ops --kind email --mail-user ada", "--mail-password-file"),
        ] {
            let error = made(words).expect_err(words);
            assert!(error.contains(missing), "{words}: {error}");
        }
    }

    #[test]
    fn what_is_not_said_is_as_the_help_says() {
        let request = made("ops --kind alertmanager --url https://a.example").expect("a request");
        assert_eq!(request.target.kind().name(), "alertmanager");
        assert_eq!(
            request.terms,
            ChannelTerms {
                severity: Severity::Warning,
                events: Vec::new(),
                private_addresses: PrivateAddresses::Refused,
                ca_pem: None,
                digest_seconds: 300,
                repeat_seconds: 86400,
            }
        );
        let request = made(
            "ops --kind email --mail-host m --mail-from a@b --mail-to c@d --events node.lost,job.*",
        )
        .expect("a request");
        assert_eq!(request.terms.events, ["node.lost", "job.*"]);
        assert!(
            matches!(request.target, Target::Email(mail) if mail.tls == MailTls::Starttls && mail.port.is_none())
        );
    }
}
