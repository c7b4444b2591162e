//! The wire to people: how a message looks to each kind of receiver, and how it gets there.
//!
//! Bodies ([`body`]) and signatures ([`signature`]) are pure functions: a message and a moment in, a request out. [`http`] and [`mail`]
//! only carry them. Both connect to an address that was looked at after it was resolved ([`address`]), verify TLS, follow no redirect,
//! ask no proxy, and stop at a bound in time and size.
//!
//! What it refuses: to decide whether or when something is told, to try twice, and to say a secret in an error.

mod address;
mod body;
mod http;
mod mail;
mod signature;
mod text;

use supernode_types::channel::{
    Attempt, Channel, ChannelTerms, Courier, Delivered, Delivery, Target,
};

/// Takes messages over the network.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wire;

impl Courier for Wire {
    fn check(&self, target: &Target, terms: &ChannelTerms) -> Result<String, String> {
        match target {
            Target::Email(mail) => mail::check(mail, terms),
            _ => http::check(target, terms),
        }
    }

    fn deliver<'a>(&'a self, delivery: &'a Delivery) -> Attempt<'a> {
        Box::pin(async move {
            match &delivery.target {
                Target::Email(target) => mail::deliver(delivery, target).await,
                _ => http::deliver(delivery).await,
            }
        })
    }
}

/// Another attempt may help.
fn later(why: impl Into<String>) -> Delivered {
    Delivered::Later {
        why: short(&why.into()),
        after: None,
    }
}

/// A reason is one line that fits on a screen; it comes from elsewhere.
fn short(why: &str) -> String {
    text::clean(why).chars().take(300).collect()
}

/// An error with its causes. Addresses are in none of them: they may hold tokens.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}

fn ca_pem(channel: &Channel) -> Option<&str> {
    channel.terms.ca_pem.as_deref()
}
