//! Server-sent events as bytes arrive: lines into messages. Knows nothing of connections.

/// One message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// The data lines, joined.
    pub(crate) data: String,
    /// The kind, empty for an ordinary message.
    pub(crate) event: String,
}

/// The most bytes that one message may have before its end.
const MAXIMUM_MESSAGE_BYTES: usize = 1024 * 1024;

/// Cuts a byte stream into messages. Lines end in `\n` or `\r\n`.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    message: Message,
    has_data: bool,
}

/// A message without end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Overflow;

impl Parser {
    /// Takes the next bytes and gives the messages that they complete.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Message>, Overflow> {
        let mut messages = Vec::new();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if self.line.len() + self.message.data.len() > MAXIMUM_MESSAGE_BYTES {
                return Err(Overflow);
            }
            if self.line.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                messages.extend(
                    self.take_line(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r'])),
                );
            }
        }
        Ok(messages)
    }

    fn take_line(&mut self, line: &str) -> Option<Message> {
        if line.is_empty() {
            let message = std::mem::take(&mut self.message);
            return std::mem::take(&mut self.has_data).then_some(message);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if self.has_data {
                    self.message.data.push('\n');
                }
                self.message.data.push_str(value);
                self.has_data = true;
            }
            "event" => value.clone_into(&mut self.message.event),
            // Comments keep the connection alive; the sequence stands in the data too.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(data: &str) -> Message {
        Message {
            data: data.into(),
            event: String::new(),
        }
    }

    #[test]
    fn any_cut_of_the_bytes_gives_the_same_messages() {
        let text = b": hello\n\nid: 7\ndata: {\"a\":\r\ndata: 1}\r\n\r\nevent: end\ndata\n\n";
        let expected = vec![
            message("{\"a\":\n1}"),
            Message {
                data: String::new(),
                event: "end".into(),
            },
        ];
        for size in 1..text.len() {
            let mut parser = Parser::default();
            let found: Vec<Message> = text
                .chunks(size)
                .flat_map(|chunk| parser.feed(chunk).expect("small"))
                .collect();
            assert_eq!(found, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn a_message_without_end_is_refused() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; 64 * 1024];
        let refused = (0..32).find_map(|_| parser.feed(&piece).err());
        assert_eq!(refused, Some(Overflow));
    }
}
