"""Classify the error messages of servers and drivers, and write hints for them."""
