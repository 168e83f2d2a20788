"""What goes wrong with the emulator itself."""


class EmulatorError(RuntimeError):
    """Say that the emulator could not be started or could not do what it was asked to."""


class RejectionError(Exception):
    """Carry a refused connection: what its client is told, and the SQLSTATE."""

    def __init__(self, message: str, sqlstate: str = "28000") -> None:
        super().__init__(message)
        self.message = message
        self.sqlstate = sqlstate


class ServerError(EmulatorError):
    """Carry what a real server behind the front door answers to the emulator itself."""

    def __init__(self, message: str, sqlstate: str) -> None:
        super().__init__(message)
        self.sqlstate = sqlstate
