"""The settings; neither a password nor a token is among them."""

import os

SECRET_KEY = os.environ.get("SECRET_KEY", "of this example alone")
ALLOWED_HOSTS = ["localhost"]
ROOT_URLCONF = "project.urls"
INSTALLED_APPS = ["visits"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

DATABASES = {
    "default": {
        "ENGINE": "azpg.django",
        "NAME": "mydb",
        "OPTIONS": {
            "server": "myserver",
            "pool": {"min_size": 1, "max_size": 4},
        },
    },
}
