//! The control socket's resources.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, RawQuery, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http_body_util::{BodyExt as _, Limited};
use introspection::stall::Stall;
use tokio::sync::Semaphore;
use vswitch::Switch;
use vswitch::control::{AttributionStats, FilterInfo, LearnedMac, PortFlows, PortInfo, SwitchStats};

use super::api::{self, ApiError, CaptureRequest, ErrorBody, MAX_BODY};
use super::{capture, metrics};
use crate::explain::Explanation;

/// How long a request's body may take.
const BODY_TIME: Duration = Duration::from_secs(10);
/// Captures at once.
const MAX_CAPTURES: usize = 16;

/// What answers are made of.
#[derive(Clone)]
pub(crate) struct Context {
    pub(super) switch: Arc<Switch>,
    /// Set when the daemon stops: captures are to end.
    pub(super) stopping: Arc<AtomicBool>,
    pub(super) captures: Arc<Semaphore>,
}

impl Context {
    pub(crate) fn new(switch: Arc<Switch>, stopping: Arc<AtomicBool>) -> Self {
        Self {
            switch,
            stopping,
            captures: Arc::new(Semaphore::new(MAX_CAPTURES)),
        }
    }
}

type Answer<T> = Result<T, ApiError>;

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { error: self.message })).into_response()
    }
}

/// All resources.
pub(crate) fn router(context: Context) -> Router {
    Router::new()
        .route("/v1/ports", get(ports).post(add_port))
        .route("/v1/ports/{name}", get(port).delete(remove_port))
        .route("/v1/ports/{name}/filter", get(filter).put(set_filter))
        .route("/v1/ports/{name}/filter/explanation", get(explanation))
        .route("/v1/ports/{name}/flows", get(flows))
        .route("/v1/ports/{name}/stalls", get(stalls))
        .route("/v1/ports/{name}/capture", get(captured))
        .route("/v1/filters", get(filters))
        .route("/v1/stats", get(stats))
        .route("/v1/attribution", get(attribution).put(set_attribution))
        .route("/v1/fdb", get(learned))
        .route("/metrics", get(prometheus))
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .with_state(context)
}

async fn nothing_here() -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "there is nothing under this path; see docs/architecture.md for what there is",
    )
}

async fn wrong_method() -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "this path does not take that method",
    )
}

async fn ports(State(context): State<Context>) -> Json<Vec<PortInfo>> {
    Json(context.switch.ports())
}

async fn port(State(context): State<Context>, Path(name): Path<String>) -> Answer<Json<PortInfo>> {
    context
        .switch
        .ports()
        .into_iter()
        .find(|port| port.name == name)
        .map(Json)
        .ok_or_else(|| no_such_port(name))
}

async fn add_port(State(context): State<Context>, request: Request) -> Answer<(StatusCode, Json<PortInfo>)> {
    let config = api::port(&body(request).await?)?;
    let info = blocking(move || context.switch.add_port(config)).await??;
    Ok((StatusCode::CREATED, Json(info)))
}

async fn remove_port(State(context): State<Context>, Path(name): Path<String>) -> Answer<StatusCode> {
    blocking(move || context.switch.remove_port(&name)).await??;
    Ok(StatusCode::NO_CONTENT)
}

async fn filters(State(context): State<Context>) -> Json<Vec<FilterInfo>> {
    Json(context.switch.filters())
}

async fn filter(State(context): State<Context>, Path(name): Path<String>) -> Answer<Json<FilterInfo>> {
    context
        .switch
        .filters()
        .into_iter()
        .find(|filter| filter.port == name)
        .map(Json)
        .ok_or_else(|| no_such_port(name))
}

async fn set_filter(
    State(context): State<Context>,
    Path(name): Path<String>,
    request: Request,
) -> Answer<Json<FilterInfo>> {
    let config = api::filter(&body(request).await?)?;
    Ok(Json(
        blocking(move || context.switch.set_filter(&name, &config)).await??,
    ))
}

async fn stalls(State(context): State<Context>, Path(name): Path<String>) -> Answer<Json<Vec<Stall>>> {
    Ok(Json(context.switch.stalls(&name)?))
}

async fn stats(State(context): State<Context>) -> Json<SwitchStats> {
    Json(context.switch.stats())
}

async fn flows(
    State(context): State<Context>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer<Json<PortFlows>> {
    let top = api::top(query.as_deref().unwrap_or_default())?;
    Ok(Json(context.switch.flows(&name, top)?))
}

async fn explanation(State(context): State<Context>, Path(name): Path<String>) -> Answer<Json<Explanation>> {
    let flows = context.switch.flows(&name, api::MAX_TOP as usize)?;
    let filter = context.switch.filters().into_iter().find(|one| one.port == name);
    let stats = context
        .switch
        .stats()
        .ports
        .into_iter()
        .find(|one| one.name == name);
    match (filter, stats) {
        (Some(filter), Some(stats)) => Ok(Json(Explanation::of(&filter, &stats, &flows))),
        _ => Err(no_such_port(name)),
    }
}

async fn attribution(State(context): State<Context>) -> Json<AttributionStats> {
    Json(context.switch.stats().attribution)
}

async fn set_attribution(State(context): State<Context>, request: Request) -> Answer<Json<AttributionStats>> {
    let mode = api::attribution(&body(request).await?)?;
    let done = blocking(move || {
        context.switch.set_attribution(mode);
        context.switch.stats().attribution
    });
    Ok(Json(done.await?))
}

async fn learned(State(context): State<Context>) -> Json<Vec<LearnedMac>> {
    Json(context.switch.learned())
}

async fn prometheus(State(context): State<Context>) -> Response {
    let text = metrics::render(
        &context.switch.stats(),
        &context.switch.ports(),
        &context.switch.filters(),
    );
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response()
}

async fn captured(
    State(context): State<Context>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
) -> Answer<Response> {
    let request = CaptureRequest::parse(query.as_deref().unwrap_or_default())?;
    let stream = capture::start(&context, name, request)?;
    Ok((
        [(header::CONTENT_TYPE, "application/x-pcapng")],
        Body::new(stream),
    )
        .into_response())
}

fn no_such_port(name: String) -> ApiError {
    vswitch::control::ControlError::NoSuchPort(name).into()
}

/// A request's body, if it is not too long and comes in time.
async fn body(request: Request) -> Answer<Vec<u8>> {
    let limited = Limited::new(request.into_body(), MAX_BODY).collect();
    match tokio::time::timeout(BODY_TIME, limited).await {
        Ok(Ok(body)) => Ok(body.to_bytes().to_vec()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request's body is longer than {} MiB", MAX_BODY >> 20),
        )),
        Ok(Err(error)) => Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            format!("the request's body: {error}"),
        )),
        Err(_) => {
            let message = format!("the request's body did not come within {} s", BODY_TIME.as_secs());
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message))
        }
    }
}

/// Does what may wait for the switch's workers where it holds up nobody else.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Answer<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the switch failed at this; see its log",
        )
    })
}
