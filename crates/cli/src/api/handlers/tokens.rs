//! Tokens.

use super::{Answer, Begun, Change, Refused, Repeatable, Wait, invalid};
use crate::api::Api;
use crate::api::access::Caller;
use crate::api::operations::{On, Outcome};
use crate::api::request::{NewToken, RotateKeys};
use crate::remote::path as resource;
use crate::report::token::{RotatedReport, TokenReport};
use crate::work;
use axum::Json;
use axum::extract::{Extension, Path, Query, State};
use axum::http::HeaderMap;
use axum::response::Response;

/// The tokens that were made. Needs `admin` on all branches, as the other calls on tokens.
#[utoipa::path(
    get, path = "/v1/tokens", tag = "tokens", operation_id = "listTokens",
    responses(
        (status = 200, description = "As `xylem token ls`", body = Vec<TokenReport>),
        Refused,
    )
)]
pub async fn tokens(State(api): State<Api>) -> Answer<Json<Vec<TokenReport>>> {
    Ok(Json(work::token::known(&api.app)?))
}

/// A token that was made, by its id or its name. The token itself is shown only when it is
/// made.
#[utoipa::path(
    get, path = "/v1/tokens/{id}", tag = "tokens", operation_id = "getToken",
    params(("id" = String, Path, description = "Its id, or its name")),
    responses(
        (status = 200, description = "As an element of `xylem token ls`", body = TokenReport),
        Refused,
    )
)]
pub async fn token(State(api): State<Api>, Path(id): Path<String>) -> Answer<Json<TokenReport>> {
    Ok(Json(work::token::find(&api.app, &id)?))
}

/// Make a token.
#[utoipa::path(
    post, path = "/v1/tokens", tag = "tokens", operation_id = "createToken",
    params(Wait, Repeatable),
    request_body = NewToken,
    responses(
        (status = 201, description = "As `xylem token create`, with the token", body = TokenReport),
        Begun,
    )
)]
pub async fn create_token(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Query(wait): Query<Wait>,
    headers: HeaderMap,
    Json(body): Json<NewToken>,
) -> Answer<Response> {
    if body.rights.is_empty() {
        return Err(invalid("rights: a token needs one at least"));
    }
    for right in &body.rights {
        let found = work::token::scope(&right.on.to_string());
        found.map_err(|why| invalid(format!("rights: {why}")))?;
    }
    let expires = body.expires.as_deref().unwrap_or("30d");
    let expires = work::token::Lifetime::parse(expires);
    let new = work::token::New {
        name: body.name.clone(),
        rights: body.rights.clone(),
        expires: expires.map_err(|why| invalid(format!("expires: {why}")))?,
    };
    let on = (On::Project(body.name.clone()), &body);
    let change = Change::new((api, caller), &headers, &wait, "POST /v1/tokens", on)?;
    change
        .by(move |app, _| {
            Box::pin(async move {
                let made = work::token::create(&app, &new).await?;
                let place = resource(&["tokens", &made.id]);
                Outcome::created(&made, place)
            })
        })
        .await
}

/// Sign with a new key from now on.
#[utoipa::path(
    post, path = "/v1/tokens/rotate", tag = "tokens", operation_id = "rotateKeys",
    params(Wait, Repeatable),
    request_body(content = Option<RotateKeys>),
    responses(
        (status = 200, description = "As `xylem token rotate`", body = RotatedReport),
        Begun,
    )
)]
pub async fn rotate_keys(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Query(wait): Query<Wait>,
    headers: HeaderMap,
    body: Option<Json<RotateKeys>>,
) -> Answer<Response> {
    let body = body.map(|Json(body)| body).unwrap_or_default();
    let on = (On::Project("keys".to_owned()), &body);
    let call = "POST /v1/tokens/rotate";
    let change = Change::new((api, caller), &headers, &wait, call, on)?;
    change
        .by(move |app, _| {
            Box::pin(async move { Outcome::ok(&work::token::rotate(&app, body.drop_old).await?) })
        })
        .await
}

/// Revoke a token: it is refused from the next second on.
#[utoipa::path(
    delete, path = "/v1/tokens/{id}", tag = "tokens", operation_id = "revokeToken",
    params(("id" = String, Path, description = "Its id, or its name"), Wait),
    responses(
        (status = 200, description = "As `xylem token revoke`", body = TokenReport),
        Begun,
    )
)]
pub async fn revoke_token(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(wait): Query<Wait>,
    headers: HeaderMap,
) -> Answer<Response> {
    let on = (On::Project(id.clone()), &());
    let call = "DELETE /v1/tokens/{id}";
    let change = Change::new((api, caller), &headers, &wait, call, on)?;
    change
        .by(move |app, _| {
            Box::pin(async move { Outcome::ok(&work::token::revoke(&app, &id).await?) })
        })
        .await
}
