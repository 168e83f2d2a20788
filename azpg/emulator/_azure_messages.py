"""The words in which Azure's servers refuse."""

from ._errors import RefusalError


def expired() -> RefusalError:
    return RefusalError("The access token has expired. Please acquire a new token and retry.")


def malformed() -> RefusalError:
    return RefusalError(
        "The access token has invalid format. "
        "Please ensure the token is passed exactly as returned by the token provider."
    )


def unverifiable() -> RefusalError:
    return RefusalError(
        "An error occurred while validating the access token. Please acquire a new token and retry."
    )


def wrong_audience(resource: str) -> RefusalError:
    return RefusalError(
        "The access token does not have a valid audience claim. "
        f"Please acquire a new token for the resource {resource}"
    )


def no_object_id() -> RefusalError:
    return RefusalError(
        "The access token doesn't have a valid oid claim. Please acquire a new token and retry."
    )


def wrong_role(role: str, *, of_an_app: bool) -> RefusalError:
    if of_an_app:
        return RefusalError(
            "Service Principals cannot generate AAD_AUTH_TOKENTYPE_APP_USER tokens "
            f"for role[{role}]"
        )
    return RefusalError(
        f"Azure AD user token for role[{role}] is neither an AAD_AUTH_TOKENTYPE_APP_USER "
        "or an AAD_AUTH_TOKENTYPE_APP_OBO token."
    )


def wrong_password(role: str) -> RefusalError:
    return RefusalError(f'password authentication failed for user "{role}"', "28P01")


def no_console() -> RefusalError:
    # PgBouncer's own message for a user who may not use its console.
    return RefusalError("not allowed", "08P01")


def no_encryption(address: str, role: str, database: str) -> RefusalError:
    return RefusalError(
        f'no pg_hba.conf entry for host "{address}", user "{role}", '
        f'database "{database}", no encryption'
    )
