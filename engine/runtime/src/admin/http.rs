//! As much of HTTP/1.1 as a probe needs: one request without a body, one answer, end of connection.

use std::io;

use futures_lite::{AsyncRead, AsyncReadExt as _};
use thiserror::Error;

use super::PLAIN;

/// Longest head of a request, in bytes.
pub(super) const HEAD_BYTES_MAX: usize = 8 << 10;

/// Most header fields of a request.
const FIELDS_MAX: usize = 64;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Without the query.
    pub(super) path: String,
    /// Whether only the head of the answer is wanted.
    pub(super) is_head: bool,
}

/// Why there is nothing to answer, or only this.
#[derive(Debug, Error)]
pub(super) enum HttpError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("closed before the request was complete")]
    Closed,
    #[error("not done within {:?}", super::EXCHANGE_DEADLINE)]
    Late,
    #[error("the head of the request has more than {HEAD_BYTES_MAX} bytes")]
    TooLong,
    #[error("no HTTP request: {0}")]
    Syntax(#[from] httparse::Error),
    #[error("only GET and HEAD are served here")]
    Method,
}

impl HttpError {
    /// What the other side is told, if it makes sense to tell it.
    pub(super) fn answer(&self) -> Option<Answer> {
        let status = match self {
            HttpError::Io(_) | HttpError::Closed | HttpError::Late => return None,
            HttpError::TooLong => 431,
            HttpError::Syntax(_) => 400,
            HttpError::Method => 405,
        };
        Some(Answer::new(status, PLAIN, format!("{self}\n")))
    }
}

/// Reads a request's head; the little that is read beyond it is ignored.
pub(super) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Result<Request, HttpError> {
    let mut head = Vec::new();
    loop {
        let filled = head.len();
        if filled >= HEAD_BYTES_MAX {
            return Err(HttpError::TooLong);
        }
        // A kilobyte at a time: most requests are shorter, and a connection that says nothing costs no more.
        head.resize((filled + 1024).min(HEAD_BYTES_MAX), 0);
        let read = stream.read(&mut head[filled..]).await?;
        head.truncate(filled + read);
        if read == 0 {
            return Err(HttpError::Closed);
        }
        if let Some(request) = parse(&head)? {
            return Ok(request);
        }
    }
}

/// The request, once its head is complete.
fn parse(head: &[u8]) -> Result<Option<Request>, HttpError> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    if request.parse(head)?.is_partial() {
        return Ok(None);
    }
    let is_head = match request.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Err(HttpError::Method),
    };
    let path = request.path.unwrap_or_default();
    let path = path.split_once('?').map_or(path, |(path, _)| path).to_owned();
    Ok(Some(Request { path, is_head }))
}

/// What is answered.
#[derive(Debug)]
pub(super) struct Answer {
    status: u16,
    kind: &'static str,
    body: String,
    has_body: bool,
}

impl Answer {
    pub(super) fn new(status: u16, kind: &'static str, body: String) -> Answer {
        Answer { status, kind, body, has_body: true }
    }

    pub(super) fn without_body_if(self, is_head: bool) -> Answer {
        Answer { has_body: !is_head, ..self }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let reason = match self.status {
            200 => "OK",
            400 => "Bad Request",
            403 => "Forbidden",
            404 => "Not Found",
            405 => "Method Not Allowed",
            431 => "Request Header Fields Too Large",
            _ => "Service Unavailable",
        };
        let mut answer = format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\n\
             Connection: close\r\n\r\n",
            self.status,
            self.kind,
            self.body.len(),
        );
        if self.has_body {
            answer.push_str(&self.body);
        }
        answer.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_once_its_head_is_complete() {
        assert_eq!(parse(b"GET /metrics HTTP/1.1\r\nHost: x\r\n").unwrap(), None);
        let metrics = Request { path: "/metrics".to_owned(), is_head: false };
        assert_eq!(parse(b"GET /metrics?a=b HTTP/1.1\r\nHost: x\r\n\r\n").unwrap(), Some(metrics));
        let health = Request { path: "/health".to_owned(), is_head: true };
        assert_eq!(parse(b"HEAD /health HTTP/1.0\r\n\r\n").unwrap(), Some(health));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert!(matches!(parse(b"POST / HTTP/1.1\r\n\r\n"), Err(HttpError::Method)));
        assert!(matches!(parse(b"\x16\x03\x01\x02\x00\x01"), Err(HttpError::Syntax(_))));
        let fields = "a: b\r\n".repeat(FIELDS_MAX + 1);
        assert!(matches!(parse(format!("GET / HTTP/1.1\r\n{fields}\r\n").as_bytes()), Err(HttpError::Syntax(_))));
    }
}
