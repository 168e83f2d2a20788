"""Run the emulator in a process of its own: the client's end and the process's main loop."""
