"""The views and what they keep, on a test database of their own."""

from django.test import TestCase

from .models import Visit


class Views(TestCase):
    """Both views count."""

    def test_plain(self):
        """The plain view counts each visit."""
        assert self.client.get("/").content == b"visit 1"
        assert self.client.get("/").content == b"visit 2"

    async def test_async(self):
        """The async view counts too."""
        response = await self.async_client.get("/async/")
        assert response.content == b"visit 1"


class Visits(TestCase):
    """Visits are kept."""

    def test_page(self):
        """A visit names its page."""
        self.client.get("/")
        assert [visit.page for visit in Visit.objects.iterator()] == ["/"]
