//! The simulated operator: asks for things, loses answers, repeats requests, and remembers all of it.

use std::time::Duration;

use serde_json::Value;
use supernode_control::Refusal;

use crate::event::{ClientEvent, Event};
use crate::options::Defect;
use crate::request::{Makes, Request};
use crate::world::World;

/// After how long without an answer a request is repeated.
const PATIENCE: Duration = Duration::from_millis(2500);

/// What a server says: what was made or changed, or why it was refused.
pub(crate) type Answer = Result<Value, String>;

/// A request in the operator's history.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) request: Request,
    actor: &'static str,
    pub(crate) key: String,
    /// What the operator was told.
    pub(crate) answer: Option<Answer>,
    /// What the server did about it, whether or not anybody was told.
    pub(crate) effect: Option<Value>,
}

impl World {
    /// The operator asks for something.
    pub(crate) fn ask(&mut self, request: Request) -> usize {
        let number = self.client.len();
        self.note(|_| format!("request {number}: {request:?}"));
        let actor = if number.is_multiple_of(2) {
            "ada"
        } else {
            "bob"
        };
        let key = format!("key-{number}");
        self.client.push(Asked {
            request,
            actor,
            key: key.clone(),
            answer: None,
            effect: None,
        });
        self.send_request(number, key);
        number
    }

    fn send_request(&mut self, number: usize, key: String) {
        let loss = self.options.faults.request_loss_percent;
        if !self.chance.percent(loss) {
            let at = self.now + self.travel();
            self.queue.push(
                at,
                Event::Client(ClientEvent::Arrive {
                    number,
                    key: key.clone(),
                }),
            );
        }
        if self.chance.percent(loss) {
            let at = self.now + self.chance.milliseconds(1, 10_000);
            self.queue
                .push(at, Event::Client(ClientEvent::Arrive { number, key }));
        }
        self.queue.push(
            self.now + PATIENCE,
            Event::Client(ClientEvent::Timeout { number }),
        );
    }

    pub(crate) fn client_step(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Ask => self.operate(),
            ClientEvent::Arrive { number, key } => self.serve(number, key),
            ClientEvent::Answer {
                number,
                key,
                answer,
            } => self.answered(number, &key, answer),
            ClientEvent::Timeout { number } => {
                if self.client[number].answer.is_none() {
                    let mut key = self.client[number].key.clone();
                    if self.options.defect == Some(Defect::NewKeyForRepeatedRequest) {
                        key = format!("{key}-again");
                    }
                    self.send_request(number, key);
                }
            }
        }
    }

    /// The server does what a request asks for, or refuses, and answers.
    fn serve(&mut self, number: usize, key: String) {
        let Some(server) = &self.server else { return };
        let asked = &self.client[number];
        let result = asked.request.ask(&server.control, asked.actor, &key);
        let answer = match result {
            Err(Refusal::Store(error)) => {
                let request = &self.client[number].request;
                return self.violated(format!(
                    "request {number} failed in the database: {error}: {request:?}"
                ));
            }
            Err(refusal) => Err(refusal.to_string()),
            Ok(value) => {
                self.effect(number, &value);
                self.wake_loop();
                Ok(value)
            }
        };
        // The server can be killed before the answer has left.
        if !self
            .chance
            .percent(self.options.faults.request_loss_percent)
        {
            let at = self.now + self.travel();
            self.queue.push(
                at,
                Event::Client(ClientEvent::Answer {
                    number,
                    key,
                    answer,
                }),
            );
        }
    }

    /// A request has one effect, however often it arrives.
    fn effect(&mut self, number: usize, value: &Value) {
        let asked = &mut self.client[number];
        match &asked.effect {
            None => {
                self.check.store_changed = true;
                asked.effect = Some(value.clone());
                let id = value["id"].as_str().unwrap_or_default();
                let accepted = &mut self.check.accepted;
                match asked.request.makes() {
                    Makes::Job => accepted.jobs.extend(id.parse()),
                    Makes::Operation => accepted.operations.extend(id.parse()),
                    Makes::Nothing => {}
                }
                self.check.promises.take(&asked.request, value);
            }
            Some(before) if before != value => {
                let text = format!("request {number} was accepted twice: {before} and {value}");
                self.violated(text);
            }
            Some(_) => {}
        }
    }

    fn answered(&mut self, number: usize, key: &str, answer: Answer) {
        let asked = &mut self.client[number];
        if let (Some(Ok(before)), Ok(now)) = (&asked.answer, &answer)
            && before != now
        {
            let text = format!(
                "request {number} was answered in two ways under {key}: {before} and {now}"
            );
            return self.violated(text);
        }
        if matches!(asked.answer, None | Some(Err(_))) {
            asked.answer = Some(answer);
            self.note(|world| match &world.client[number].answer {
                Some(Ok(value)) => format!("request {number} accepted: {}", value["id"]),
                Some(Err(refusal)) => format!("request {number} refused: {refusal}"),
                None => String::new(),
            });
        }
    }
}
