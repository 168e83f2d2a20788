"""What is kept of a visit."""

from django.db import models


class Visit(models.Model):
    """One visit."""

    page = models.CharField(max_length=200)
    at = models.DateTimeField(auto_now_add=True)

    def __str__(self):
        """Return the page and the time."""
        return f"{self.page} at {self.at:%F %T}"
