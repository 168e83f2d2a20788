"""The Django backend: `"ENGINE": "azpg.django"` in place of `"django.db.backends.postgresql"`."""

try:
    import django  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "django":
        raise
    raise ModuleNotFoundError(
        "azpg.django needs a package: pip install 'django>=5.2.19'", name="django"
    ) from error
