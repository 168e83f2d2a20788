"""Where the views are found."""

from django.urls import path
from visits import views

urlpatterns = [
    path("", views.count),
    path("async/", views.count_async),
]
