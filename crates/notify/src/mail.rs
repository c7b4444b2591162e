//! One mail by SMTP, always over TLS.

use std::time::{Duration, SystemTime};

use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MessageBuilder};
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message as Mail, Tokio1Executor};
use supernode_types::Timestamp;
use supernode_types::channel::{
    ChannelTerms, Delivered, Delivery, MailTarget, MailTls, PrivateAddresses,
};
use supernode_types::message::Message;

use crate::address::{is_public, literal, refusal, resolve};
use crate::{ca_pem, chain, later, short, text};

/// For one step of the conversation; an attempt as a whole has a limit of its own.
const STEP_LIMIT: Duration = Duration::from_secs(10);
const MOST_RECIPIENTS: usize = 50;
const MOST_BYTES: usize = 64 * 1024;

/// Whether a target could be used, and what may be shown of it.
pub(crate) fn check(target: &MailTarget, terms: &ChannelTerms) -> Result<String, String> {
    let host = &target.host;
    let clean = |byte: u8| byte.is_ascii_alphanumeric() || b".-:".contains(&byte);
    if host.is_empty() || host.len() > 253 || !host.bytes().all(clean) {
        return Err("the mail server is not given as a host name".into());
    }
    if let Some(address) = literal(host).filter(|address| !is_public(*address))
        && terms.private_addresses == PrivateAddresses::Refused
    {
        return Err(refusal(host, address));
    }
    if target.to.is_empty() || target.to.len() > MOST_RECIPIENTS {
        return Err(format!(
            "a channel writes to 1 to {MOST_RECIPIENTS} recipients"
        ));
    }
    envelope(target)?;
    parameters(host, terms.ca_pem.as_deref())?;
    Ok(format!(
        "{host}:{} to {}",
        port(target),
        target.to.join(", ")
    ))
}

pub(crate) async fn deliver(delivery: &Delivery, target: &MailTarget) -> Delivered {
    match attempt(delivery, target).await {
        Ok(delivered) => delivered,
        Err(why) => later(why),
    }
}

async fn attempt(delivery: &Delivery, target: &MailTarget) -> Result<Delivered, String> {
    let mail = compose(target, &delivery.message)?;
    let private = delivery.channel.terms.private_addresses;
    let addresses = resolve(&target.host, port(target), private).await?;
    let mut last = String::new();
    for address in addresses {
        // The certificate has to be that of the name, the connection goes to the address that was looked at.
        let tls = parameters(&target.host, ca_pem(&delivery.channel))?;
        let tls = match target.tls {
            MailTls::Starttls => Tls::Required(tls),
            MailTls::Implicit => Tls::Wrapper(tls),
        };
        let mut transport =
            AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(address.ip().to_string())
                .port(address.port())
                .tls(tls)
                .timeout(Some(STEP_LIMIT))
                .hello_name(ClientId::Domain(domain(target).to_owned()));
        if let Some(login) = &target.login {
            transport = transport
                .credentials(Credentials::new(
                    login.user.clone(),
                    login.password.0.clone(),
                ))
                .authentication(vec![Mechanism::Plain, Mechanism::Login]);
        }
        let transport: AsyncSmtpTransport<Tokio1Executor> = transport.build();
        match transport.send(mail.clone()).await {
            Ok(_) => return Ok(Delivered::Accepted),
            Err(error) => match error.status() {
                Some(code) => {
                    return Ok(refused(
                        &code.to_string(),
                        error.is_permanent(),
                        &chain(&error),
                    ));
                }
                // Nobody is there, or it is not the one that it should be: another address may be.
                None => last = chain(&error),
            },
        }
    }
    Err(last)
}

/// What an answer of the server means. A login that it does not take (53x) is repaired by people, so the mail waits.
fn refused(code: &str, permanent: bool, why: &str) -> Delivered {
    let why = short(why);
    if permanent && !code.starts_with("53") {
        Delivered::Refused { why }
    } else {
        Delivered::Later { why, after: None }
    }
}

fn port(target: &MailTarget) -> u16 {
    target.port.unwrap_or(match target.tls {
        MailTls::Starttls => 587,
        MailTls::Implicit => 465,
    })
}

/// Trust in the authorities of the channel only, or in those of the host.
fn parameters(host: &str, ca_pem: Option<&str>) -> Result<TlsParameters, String> {
    let mut builder = TlsParameters::builder(host.to_owned());
    if let Some(pem) = ca_pem {
        let authorities = Certificate::from_pem(pem.as_bytes()).map_err(|error| {
            format!("the certificates of the authorities cannot be read: {error}")
        })?;
        builder = builder
            .certificate_store(CertificateStore::None)
            .add_root_certificate(authorities);
    }
    builder
        .build_rustls()
        .map_err(|error| format!("TLS cannot be set up: {}", chain(&error)))
}

fn mailbox(text: &str) -> Result<Mailbox, String> {
    text.parse()
        .map_err(|error| format!("`{}` is no mail address: {error}", short(text)))
}

/// What is the same for all mails to a target.
fn envelope(target: &MailTarget) -> Result<MessageBuilder, String> {
    let mut builder = Mail::builder().from(mailbox(&target.from)?);
    for recipient in &target.to {
        builder = builder.to(mailbox(recipient)?);
    }
    Ok(builder)
}

fn domain(target: &MailTarget) -> &str {
    let domain = target
        .from
        .rsplit_once('@')
        .map_or("", |(_, domain)| domain);
    domain.trim_end_matches('>')
}

/// The mail: the same bytes in the head that matter (id, date) for every attempt.
fn compose(target: &MailTarget, message: &Message) -> Result<Mail, String> {
    let mut mail = envelope(target)?
        .subject(text::title(message))
        .message_id(Some(format!("<{}@{}>", message.id(), domain(target))))
        .date(moment(message.created_at))
        .header(ContentType::TEXT_PLAIN)
        .body(text::lines(message, MOST_BYTES))
        .map_err(|error| format!("the mail cannot be composed: {error}"))?;
    // Nobody's holiday answers it (RFC 3834).
    let name = HeaderName::new_from_ascii_str("Auto-Submitted");
    mail.headers_mut()
        .insert_raw(HeaderValue::new(name, "auto-generated".into()));
    Ok(mail)
}

fn moment(at: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(at.0).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use supernode_types::channel::Target;

    use super::*;
    use crate::body::sample;

    fn target(more: &serde_json::Value) -> MailTarget {
        let mut value = json!({
            "kind": "email", "host": "mail.example", "tls": "starttls", "from": "Supernode <ops@example.org>",
            "to": ["Ada <ada@example.org>", "bob@example.org"]
        });
        for (name, field) in more.as_object().expect("an object") {
            value[name] = field.clone();
        }
        match serde_json::from_value(value).expect("a target") {
            Target::Email(mail) => mail,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_mail_has_the_id_of_its_message_and_no_line_of_its_own() {
        let mut message = sample::message();
        message.notices[1].message = "n1 é\r\nBcc: eve@example.org".into();
        let mail = compose(&target(&json!({})), &message).expect("a mail");
        let text = String::from_utf8(mail.formatted()).expect("ASCII");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
        for line in [
            "Message-ID: <channel-01kb000000000000000000000a.7@example.org>",
            "Date: Sun, 23 Nov 2025 12:13:20 +0000",
            "Auto-Submitted: auto-generated",
            "From: Supernode <ops@example.org>",
            "To: Ada <ada@example.org>, bob@example.org",
        ] {
            assert!(head.contains(line), "{line} in\n{head}");
        }
        assert!(!head.lines().any(|line| line.starts_with("Bcc")), "{head}");
        // Long lines are broken on the wire and joined by whoever reads them.
        let body = body.replace("=\r\n", "");
        assert!(
            body.contains("[over] train: the system disk of n1"),
            "{body}"
        );
        assert_eq!(
            mail.formatted(),
            compose(&target(&json!({})), &message)
                .expect("a mail")
                .formatted()
        );
    }

    #[test]
    fn what_cannot_be_written_to_is_refused_before_it_is_stored() {
        let terms = sample::channel("email").terms;
        let shown = check(&target(&json!({})), &terms);
        assert_eq!(
            shown,
            Ok("mail.example:587 to Ada <ada@example.org>, bob@example.org".into())
        );
        let refused = ChannelTerms {
            private_addresses: PrivateAddresses::Refused,
            ..terms.clone()
        };
        assert!(check(&target(&json!({"host": "10.0.0.1"})), &refused).is_err());
        for more in [
            json!({"host": ""}),
            json!({"host": "a b"}),
            json!({"to": []}),
            json!({"to": ["ada"]}),
            json!({"from": "a@b\r\nBcc: c@d"}),
        ] {
            assert!(check(&target(&more), &terms).is_err(), "{more}");
        }
        let bad = ChannelTerms {
            ca_pem: Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into()),
            ..terms
        };
        assert!(check(&target(&json!({})), &bad).is_err());
    }

    #[test]
    fn a_login_that_is_not_taken_may_be_repaired_and_a_recipient_may_not() {
        assert!(matches!(
            refused("535", true, "no"),
            Delivered::Later { .. }
        ));
        assert!(matches!(
            refused("451", false, "no"),
            Delivered::Later { .. }
        ));
        assert!(matches!(
            refused("550", true, "no"),
            Delivered::Refused { .. }
        ));
    }
}
