//! What requests on the control socket mean, apart from carrying them out.

use axum::http::StatusCode;
use introspection::Profile;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use vswitch::capture::CapturePoints;
use vswitch::control::{Attribution, ControlError, FilterConfig, PortConfig};

use crate::capture::SNAP_LEN;
use crate::spec::{FilterSpec, PortSpec};

/// Largest body of a request in octets.
pub const MAX_BODY: usize = 4 << 20;
/// Longest capture that can be asked for, in seconds.
const MAX_SECONDS: u64 = 7 * 24 * 3600;
/// Flows listed unless told otherwise.
pub const DEFAULT_TOP: u64 = 10;
/// Flows listed at most: as many as are known.
pub const MAX_TOP: u64 = 512;
/// Shortest snap length: an Ethernet header.
const MIN_SNAP: u32 = 14;

/// A refusal: a status and a line that says why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// Reason and remedy.
    pub message: String,
}

impl ApiError {
    /// A refusal.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }
}

/// A refusal's body.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorBody {
    /// Reason and remedy.
    pub error: String,
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> Self {
        let status = match &error {
            ControlError::NoSuchPort(_) => StatusCode::NOT_FOUND,
            ControlError::DuplicatePort(_) | ControlError::Backend { .. } => StatusCode::CONFLICT,
            ControlError::TooManyPorts(_) | ControlError::OpenFiles { .. } => {
                StatusCode::INSUFFICIENT_STORAGE
            }
            ControlError::BadName(_)
            | ControlError::BadVlan { .. }
            | ControlError::OutOfRange { .. }
            | ControlError::Chain { .. }
            | ControlError::Mirror { .. }
            | ControlError::Rules { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            ControlError::Worker { .. } | ControlError::Upkeep(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

/// Reads the body of `POST /v1/ports`.
pub fn port(body: &[u8]) -> Result<PortConfig, ApiError> {
    let spec: PortSpec = json(body)?;
    spec.check()
        .map_err(|error| ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))
}

/// Reads the body of `PUT /v1/ports/NAME/filter`.
pub fn filter(body: &[u8]) -> Result<FilterConfig, ApiError> {
    let spec: FilterSpec = json(body)?;
    spec.check()
        .map_err(|error| ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string()))
}

/// The body of `PUT /v1/attribution`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttributionBody {
    /// Which frames are to be stamped.
    pub attribution: Attribution,
}

/// Reads the body of `PUT /v1/attribution`.
pub fn attribution(body: &[u8]) -> Result<Attribution, ApiError> {
    json(body).map(|body: AttributionBody| body.attribution)
}

/// Reads the query of `GET /v1/ports/NAME/flows`, such as `top=20`: how many flows are wanted.
pub fn top(query: &str) -> Result<usize, ApiError> {
    match query.split_once('=') {
        None if query.is_empty() => Ok(DEFAULT_TOP as usize),
        Some(("top", value)) => number("top", value, 1, MAX_TOP).map(|top| top as usize),
        _ => Err(bad_query("a list of flows takes top, nothing else".to_owned())),
    }
}

fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::new(StatusCode::BAD_REQUEST, format!("the request's body: {error}")))
}

/// What `GET /v1/ports/NAME/capture` is to bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptureRequest {
    /// `sides=near|far|both`: on which sides of the filter; near is the guest's and the default.
    pub points: CapturePoints,
    /// `snap=N`: octets kept of each frame.
    pub snap_len: u32,
    /// `count=N`: frames after which it ends.
    pub count: Option<u64>,
    /// `seconds=N`: seconds after which it ends.
    pub seconds: Option<u64>,
}

impl Default for CaptureRequest {
    fn default() -> Self {
        Self {
            points: CapturePoints::Near,
            snap_len: SNAP_LEN,
            count: None,
            seconds: None,
        }
    }
}

impl CaptureRequest {
    /// Reads a query such as `sides=both&count=100`.
    pub fn parse(query: &str) -> Result<Self, ApiError> {
        let mut request = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "sides" => request.points = sides(value)?,
                "snap" => request.snap_len = number(key, value, MIN_SNAP.into(), SNAP_LEN.into())? as u32,
                "count" => request.count = Some(number(key, value, 1, u64::MAX)?),
                "seconds" => request.seconds = Some(number(key, value, 1, MAX_SECONDS)?),
                _ => {
                    return Err(bad_query(
                        "a capture takes sides, snap, count and seconds, nothing else".to_owned(),
                    ));
                }
            }
        }
        Ok(request)
    }

    /// The query that [`CaptureRequest::parse`] reads.
    pub fn query(&self) -> String {
        let sides = match self.points {
            CapturePoints::Near => "near",
            CapturePoints::Far => "far",
            CapturePoints::Both => "both",
        };
        let mut query = format!("sides={sides}&snap={}", self.snap_len);
        for (key, value) in [("count", self.count), ("seconds", self.seconds)] {
            if let Some(value) = value {
                query.push_str(&format!("&{key}={value}"));
            }
        }
        query
    }
}

fn sides(value: &str) -> Result<CapturePoints, ApiError> {
    match value {
        "near" => Ok(CapturePoints::Near),
        "far" => Ok(CapturePoints::Far),
        "both" => Ok(CapturePoints::Both),
        _ => Err(bad_query(
            "sides is near (the guest's), far (the switch's) or both".to_owned(),
        )),
    }
}

fn number(key: &str, value: &str, low: u64, high: u64) -> Result<u64, ApiError> {
    value
        .parse()
        .ok()
        .filter(|number| (low..=high).contains(number))
        .ok_or_else(|| bad_query(format!("{key} must be a number from {low} to {high}")))
}

fn bad_query(message: String) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, message)
}

/// The body that sets a filter to `profile` and nothing more.
pub fn filter_body(profile: Profile) -> FilterSpec {
    FilterSpec {
        profile: profile.into(),
        ..FilterSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_as_they_are_written() {
        let request = CaptureRequest {
            points: CapturePoints::Both,
            snap_len: 96,
            count: Some(5),
            seconds: Some(9),
        };
        assert_eq!(CaptureRequest::parse(&request.query()), Ok(request));
        assert_eq!(CaptureRequest::parse(""), Ok(CaptureRequest::default()));
    }

    #[test]
    fn bad_queries_are_refused() {
        for query in [
            "sides=left",
            "snap=13",
            "snap=262145",
            "count=0",
            "count=x",
            "seconds=-1",
            "x=1",
            "count",
        ] {
            assert_eq!(
                CaptureRequest::parse(query).expect_err(query).status,
                StatusCode::BAD_REQUEST
            );
        }
    }

    #[test]
    fn lists_of_flows_are_as_long_as_asked_for() {
        assert_eq!(top(""), Ok(10));
        assert_eq!(top("top=512"), Ok(512));
        for query in ["top", "top=0", "top=513", "top=1&top=2", "x=1"] {
            assert_eq!(top(query).expect_err(query).status, StatusCode::BAD_REQUEST);
        }
    }

    #[test]
    fn attribution_is_a_word_or_a_number() {
        let read = |body: &str| attribution(body.as_bytes()).map(|mode| mode.to_string());
        assert_eq!(read(r#"{"attribution": "full"}"#).as_deref(), Ok("full"));
        assert_eq!(read(r#"{"attribution": 100}"#).as_deref(), Ok("100"));
        for body in [
            "{}",
            r#"{"attribution": 0}"#,
            r#"{"attribution": "some"}"#,
            r#"{"attribution": -1}"#,
        ] {
            let error = read(body).expect_err(body);
            assert_eq!(error.status, StatusCode::BAD_REQUEST, "{body}");
        }
        let error = read(r#"{"attribution": "some"}"#).expect_err("no such word");
        assert!(error.message.contains("off, auto, full"), "{}", error.message);
    }

    #[test]
    fn bodies_are_told_apart_by_what_is_wrong_with_them() {
        let status = |body: &str| port(body.as_bytes()).map_err(|error| error.status.as_u16());
        assert!(status(r#"{"name": "a", "endpoint": "192.0.2.1/24"}"#).is_ok());
        assert_eq!(status("{"), Err(400));
        assert_eq!(status(r#"{"name": "a", "speed": 10}"#), Err(400));
        assert_eq!(status(r#"{"name": "a"}"#), Err(422));
        assert_eq!(status(r#"{"name": "a", "tap": "t0", "vlan": 5000}"#), Err(422));
        assert_eq!(
            filter(br#"{"profile": "no"}"#).map_err(|error| error.status.as_u16()),
            Err(422)
        );
        assert_eq!(
            filter(br#"{"profile": "hold", "deadline-ms": 5}"#)
                .unwrap()
                .profile,
            Profile::Hold
        );
    }
}
