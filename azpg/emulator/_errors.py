"""Errors: of the emulator itself, of a rejected client, of a real server."""


class EmulatorError(RuntimeError):
    """Raised if the emulator cannot start or cannot do what it was asked to do."""


class RejectionError(Exception):
    """Reject a client's connection.

    Args:
        message: The error message that the client receives.
        sqlstate: The SQLSTATE that the client receives.
    """

    def __init__(self, message: str, sqlstate: str = "28000") -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate


class ServerError(EmulatorError):
    """Report an error that PostgreSQL or PgBouncer returned to the emulator's own session."""

    def __init__(self, message: str, sqlstate: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
