//! As much of HTTP/1.1 (RFC 9112) as the server needs: one request per connection, short, with a length.

use super::api::{CONSOLE_PROTOCOL, MAX_STOP_MS, StopRequest};

/// Longest head of a request in octets.
pub const MAX_HEAD: usize = 8 << 10;
/// Longest body of a request in octets.
pub const MAX_BODY: usize = 1 << 10;
/// Header fields of a request.
const MAX_FIELDS: usize = 32;

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// What the machine is, costs and does.
    Info,
    /// The state of its devices.
    State,
    /// How it ended, once it has.
    Wait,
    /// Its console.
    Console,
    /// Hold it still.
    Pause,
    /// Let it go on.
    Resume,
    /// Press its power button.
    PowerButton,
    /// End it.
    Stop(StopRequest),
}

/// Why a request is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// One line.
    pub message: String,
}

/// Takes a request apart. `None`: there has to come more, which stays within [`MAX_HEAD`] and [`MAX_BODY`] together.
pub fn parse(octets: &[u8]) -> Result<Option<Action>, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let head = match request.parse(octets) {
        Ok(httparse::Status::Complete(head)) if head <= MAX_HEAD => head,
        Ok(httparse::Status::Partial) if octets.len() < MAX_HEAD => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => {
            return refuse(
                431,
                format!("a request's head has {MAX_HEAD} octets and {MAX_FIELDS} fields at most"),
            );
        }
        Err(error) => return refuse(400, format!("this is no HTTP request: {error}")),
    };
    let length = body_length(request.headers)?;
    let rest = octets.get(head..).unwrap_or_default();
    let Some(body) = rest.get(..length) else {
        return Ok(None);
    };
    let (method, path) = (
        request.method.unwrap_or_default(),
        request.path.unwrap_or_default(),
    );
    let action = route(method, path, body)?;
    if action == Action::Console {
        check_upgrade(request.headers, rest)?;
    }
    Ok(Some(action))
}

fn refuse<T>(status: u16, message: impl Into<String>) -> Result<T, Refusal> {
    // A message may quote the request.
    let message = message.into().replace(char::is_control, " ");
    Err(Refusal { status, message })
}

fn body_length(fields: &[httparse::Header<'_>]) -> Result<usize, Refusal> {
    let mut length = None;
    for field in fields {
        if field.name.eq_ignore_ascii_case("transfer-encoding") {
            return refuse(
                411,
                "a request's body needs a Content-Length, not a transfer coding",
            );
        }
        if !field.name.eq_ignore_ascii_case("content-length") {
            continue;
        }
        if length.is_some() {
            return refuse(400, "a request has one Content-Length");
        }
        // `parse` would take a sign.
        if field.value.is_empty() || !field.value.iter().all(u8::is_ascii_digit) {
            return refuse(400, "the Content-Length is no number");
        }
        let number = std::str::from_utf8(field.value)
            .ok()
            .and_then(|text| text.parse().ok());
        length = number.filter(|octets| *octets <= MAX_BODY);
        if length.is_none() {
            return refuse(413, format!("a request's body has {MAX_BODY} octets at most"));
        }
    }
    Ok(length.unwrap_or(0))
}

fn route(method: &str, path: &str, body: &[u8]) -> Result<Action, Refusal> {
    let (wanted, action) = match path {
        "/v1/info" => ("GET", Action::Info),
        "/v1/state" => ("GET", Action::State),
        "/v1/wait" => ("GET", Action::Wait),
        "/v1/console" => ("GET", Action::Console),
        "/v1/pause" => ("POST", Action::Pause),
        "/v1/resume" => ("POST", Action::Resume),
        "/v1/power-button" => ("POST", Action::PowerButton),
        "/v1/stop" if method == "POST" => ("POST", Action::Stop(stop(body)?)),
        "/v1/stop" => ("POST", Action::Stop(StopRequest::default())),
        _ => {
            return refuse(
                404,
                "there are /v1/info, state, wait, console, pause, resume, power-button and stop",
            );
        }
    };
    if method != wanted {
        return refuse(405, format!("{path} takes {wanted}"));
    }
    Ok(action)
}

fn stop(body: &[u8]) -> Result<StopRequest, Refusal> {
    if body.is_empty() {
        return Ok(StopRequest::default());
    }
    let request: StopRequest = serde_json::from_slice(body)
        .or_else(|error| refuse(400, format!("the body is not what it should be: {error}")))?;
    if request.timeout_ms.is_some_and(|ms| ms > MAX_STOP_MS) {
        return refuse(422, format!("timeout_ms is {MAX_STOP_MS} at most"));
    }
    Ok(request)
}

/// A connection becomes a console only when asked to, and from a known octet on.
fn check_upgrade(fields: &[httparse::Header<'_>], rest: &[u8]) -> Result<(), Refusal> {
    let names = |name: &str, value: &str| {
        fields
            .iter()
            .filter(|field| field.name.eq_ignore_ascii_case(name))
            .flat_map(|field| field.value.split(|octet| *octet == b','))
            .any(|part| part.trim_ascii().eq_ignore_ascii_case(value.as_bytes()))
    };
    if !names("connection", "upgrade") || !names("upgrade", CONSOLE_PROTOCOL) {
        return refuse(
            426,
            format!("a console needs Connection: Upgrade and Upgrade: {CONSOLE_PROTOCOL}"),
        );
    }
    if !rest.is_empty() {
        return refuse(400, "a console's client waits for the answer before it types");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn status(text: &str) -> u16 {
        parse(text.as_bytes()).expect_err(text).status
    }

    #[test]
    fn requests_are_taken_apart() {
        for (text, action) in [
            ("GET /v1/info HTTP/1.1\r\nHost: x\r\n\r\n", Action::Info),
            ("GET /v1/wait HTTP/1.0\r\n\r\n", Action::Wait),
            ("GET /v1/state HTTP/1.1\r\n\r\nmore", Action::State),
            (
                "POST /v1/pause HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
                Action::Pause,
            ),
            ("POST /v1/resume HTTP/1.1\r\n\r\n", Action::Resume),
            ("POST /v1/power-button HTTP/1.1\r\n\r\n", Action::PowerButton),
            (
                "POST /v1/stop HTTP/1.1\r\n\r\n",
                Action::Stop(StopRequest::default()),
            ),
            (
                "GET /v1/console HTTP/1.1\r\nconnection: keep-alive, upgrade\r\nUpgrade: enlight-console\r\n\r\n",
                Action::Console,
            ),
        ] {
            assert_eq!(parse(text.as_bytes()), Ok(Some(action)), "{text}");
        }
        let text = "POST /v1/stop HTTP/1.1\r\ncontent-length: 32\r\n\r\n{\"timeout_ms\": 5, \"force\": true}";
        let stop = StopRequest {
            timeout_ms: Some(5),
            force: true,
            wait: false,
        };
        for end in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..end]), Ok(None), "{end}");
        }
        assert_eq!(parse(text.as_bytes()), Ok(Some(Action::Stop(stop))));
    }

    #[test]
    fn refusals_say_which_rule_was_broken() {
        for (code, text) in [
            (400, "\u{1}\r\n\r\n"),
            (400, "GET /v1/info HTTP/9.9\r\n\r\n"),
            (404, "GET /etc/passwd HTTP/1.1\r\n\r\n"),
            (404, "GET /v1/info/ HTTP/1.1\r\n\r\n"),
            (405, "POST /v1/info HTTP/1.1\r\n\r\n"),
            (405, "GET /v1/stop HTTP/1.1\r\nContent-Length: 1\r\n\r\n?"),
            (400, "POST /v1/stop HTTP/1.1\r\nContent-Length: 1\r\n\r\n?"),
            (
                400,
                "POST /v1/stop HTTP/1.1\r\nContent-Length: 9\r\n\r\n{\"now\":1}",
            ),
            (400, "POST /v1/stop HTTP/1.1\r\nContent-Length: -1\r\n\r\n"),
            (400, "POST /v1/stop HTTP/1.1\r\nContent-Length: +1\r\n\r\n"),
            (400, "POST /v1/stop HTTP/1.1\r\nContent-Length:\r\n\r\n"),
            (
                400,
                "POST /v1/stop HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
            ),
            (413, "POST /v1/stop HTTP/1.1\r\nContent-Length: 1025\r\n\r\n"),
            (
                413,
                "POST /v1/stop HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
            ),
            (
                411,
                "POST /v1/stop HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
            ),
            (
                422,
                "POST /v1/stop HTTP/1.1\r\nContent-Length: 29\r\n\r\n{\"timeout_ms\": 3600000000000}",
            ),
            (426, "GET /v1/console HTTP/1.1\r\n\r\n"),
            (
                426,
                "GET /v1/console HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            ),
            (
                400,
                "GET /v1/console HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: enlight-console\r\n\r\nx",
            ),
        ] {
            assert_eq!(status(text), code, "{text}");
        }
        assert_eq!(
            status(&format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(MAX_HEAD))),
            431
        );
        assert_eq!(
            status(&format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(40))),
            431
        );
    }

    proptest! {
        #[test]
        fn anything_is_an_action_a_refusal_or_too_short(octets in proptest::collection::vec(any::<u8>(), 0..600)) {
            check(&octets)?;
        }

        #[test]
        fn broken_requests_too(
            start in prop::sample::select(vec!["GET /v1/console", "POST /v1/stop", "GET /v1/info"]),
            fields in proptest::collection::vec("(Content-Length|Connection|Upgrade|X): [ -~]{0,20}\r\n", 0..5),
            body in "[ -~]{0,80}",
            cut in any::<prop::sample::Index>(),
        ) {
            let text = format!("{start} HTTP/1.1\r\n{}\r\n{body}", fields.concat());
            check(&text.as_bytes()[..=cut.index(text.len())])?;
        }
    }

    /// What is too short stays so until it is long enough, and a refusal is one line.
    fn check(octets: &[u8]) -> Result<(), TestCaseError> {
        match parse(octets) {
            Ok(None) => prop_assert!(octets.len() < MAX_HEAD + MAX_BODY),
            Ok(Some(_)) => {}
            Err(refusal) => {
                prop_assert!((400..500).contains(&refusal.status));
                prop_assert!(!refusal.message.is_empty() && !refusal.message.contains('\n'));
            }
        }
        Ok(())
    }
}
