"""The error messages with which Azure's servers reject a connection.

Azure documents none of them (2026-11-27): they are from public issues and questions.
"""

from ._errors import RejectionError


def token_expired() -> RejectionError:
    return RejectionError("The access token has expired. Please acquire a new token and retry.")


def token_malformed() -> RejectionError:
    return RejectionError(
        "The access token has invalid format. "
        "Please ensure the token is passed exactly as returned by the token provider."
    )


def token_invalid() -> RejectionError:
    return RejectionError(
        "An error occurred while validating the access token. Please acquire a new token and retry."
    )


def wrong_audience(resource: str) -> RejectionError:
    return RejectionError(
        "The access token does not have a valid audience claim. "
        f"Please acquire a new token for the resource {resource}"
    )


def no_object_id() -> RejectionError:
    return RejectionError(
        "The access token doesn't have a valid oid claim. Please acquire a new token and retry."
    )


def wrong_role(role: str, *, is_app: bool) -> RejectionError:
    """Return the error for a token that belongs to another role.

    Args:
        role: The role that the client wants to use.
        is_app: Whether the token was issued to an application and not to a user.
    """
    if is_app:
        return RejectionError(
            "Service Principals cannot generate AAD_AUTH_TOKENTYPE_APP_USER tokens "
            f"for role[{role}]"
        )
    return RejectionError(
        f"Azure AD user token for role[{role}] is neither an AAD_AUTH_TOKENTYPE_APP_USER "
        "or an AAD_AUTH_TOKENTYPE_APP_OBO token."
    )


def wrong_password(role: str) -> RejectionError:
    return RejectionError(f'password authentication failed for user "{role}"', "28P01")


def console_not_allowed() -> RejectionError:
    # This is PgBouncer's message for a user who is not allowed to use its console.
    return RejectionError("not allowed", "08P01")


def no_encryption(address: str, role: str, database: str) -> RejectionError:
    return RejectionError(
        f'no pg_hba.conf entry for host "{address}", user "{role}", '
        f'database "{database}", no encryption'
    )
