"""`azpg doctor`: check a connection step by step, and report the result of each step."""
