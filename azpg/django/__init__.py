"""The Django backend: `"ENGINE": "azpg.django"` in place of `"django.db.backends.postgresql"`."""
