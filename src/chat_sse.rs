//! Server-sent events, read from bytes that arrive in pieces of any size. Pure: bytes in, data of events out.
//!
//! Follows the WHATWG HTML standard, section 9.2.6: lines end with LF, CR or CRLF, comments begin with a colon, several
//! `data` lines are joined by LF, an event without data is none. What is cut off at the end of the stream is dropped.

/// Reads the `data` of each event. A piece may end anywhere, within a character too.
#[derive(Debug, Default)]
pub struct SseParser {
    line: Vec<u8>,
    data: Option<String>,
    /// The last byte was a CR, whose LF, if it follows, belongs to it.
    after_cr: bool,
}

impl SseParser {
    /// Takes the next bytes; returns the data of the events that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut events = Vec::new();
        for &byte in bytes {
            let follows_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if follows_cr => {}
                b'\n' | b'\r' => events.extend(self.end_line()),
                _ => self.line.push(byte),
            }
        }
        events
    }

    fn end_line(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return self.data.take();
        }
        // Only whole lines are decoded, so a character cut by the border of two pieces is whole again.
        let line = String::from_utf8_lossy(&line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        if field.trim_start_matches('\u{feff}') == "data" {
            let value = value.strip_prefix(' ').unwrap_or(value);
            match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.into()),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(pieces: &[&[u8]]) -> Vec<String> {
        let mut parser = SseParser::default();
        pieces.iter().flat_map(|piece| parser.push(piece)).collect()
    }

    #[test]
    fn comments_other_fields_and_empty_events_are_passed_over() {
        let stream = b": keep-alive\n\nevent: x\nid: 1\ndata: {\"a\":1}\n\n:\n\nretry: 5\n\ndata:[DONE]\n\n";
        assert_eq!(events(&[stream]), ["{\"a\":1}", "[DONE]"]);
    }

    #[test]
    fn data_lines_are_joined_and_one_space_is_dropped() {
        assert_eq!(events(&[b"data: a\ndata:  b\ndata\n\n"]), ["a\n b\n"]);
    }

    #[test]
    fn an_event_that_was_cut_off_is_none() {
        assert_eq!(events(&[b"data: a\n\ndata: b"]), ["a"]);
        assert_eq!(events(&[b"data: a\n\ndata: b\n"]), ["a"]);
    }

    #[test]
    fn every_line_ending_will_do() {
        for stream in
            [&b"data: a\r\n\r\ndata: b\r\n\r\n"[..], b"data: a\r\rdata: b\r\r", b"data: a\n\ndata: b\n\n"]
        {
            assert_eq!(events(&[stream]), ["a", "b"]);
        }
    }

    proptest! {
        #[test]
        fn the_borders_of_pieces_do_not_matter(cuts in proptest::collection::vec(0usize..64, 0..8), crlf: bool) {
            let text = ": c\n\ndata: grüße 👋\n\ndata: x\ndata: y\n\n".replace('\n', if crlf { "\r\n" } else { "\n" });
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
            prop_assert_eq!(events(&pieces), ["grüße 👋", "x\ny"]);
        }
    }
}
