"""Run the emulator in a process of its own: both ends of the pipe between it and its owner."""
