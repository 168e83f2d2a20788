"""What goes wrong with the emulator itself."""


class EmulatorError(RuntimeError):
    """Say that the emulator could not be started or could not do what it was asked to."""
