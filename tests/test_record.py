"""Record: compared, hashed, copied and shown by what it says, and never changed."""

from __future__ import annotations

import copy
import pickle

import pytest

from azpg._record import Record


class Place(Record):
    """A record of the test's own, picklable by its name."""

    host: str
    port: int = 5432


def test_a_default_stands_where_nothing_is_given() -> None:
    """A field that was left out is the class's own value, and shown as any other."""
    assert repr(Place(host="a")) == "Place(host='a', port=5432)"
    assert Place(host="a") == Place(host="a", port=5432)


def test_a_field_that_it_does_not_have_is_refused() -> None:
    """By its name, when it is made and when it is replaced."""
    with pytest.raises(TypeError, match="Place has no hots"):
        Place(hots="a")  # type: ignore[call-arg]  # what is tested
    with pytest.raises(TypeError, match="Place has no hots"):
        Place(host="a").replace(hots="b")


def test_equal_by_what_it_says() -> None:
    """In whatever order it was said, and never equal to a record of another class."""

    class Other(Record):
        host: str
        port: int

    one, same = Place(host="a", port=1), Place(port=1, host="a")
    assert one == same
    assert hash(one) == hash(same)
    assert len({one, same, Place(host="a", port=2), Other(host="a", port=1)}) == 3


def test_replaced_not_changed() -> None:
    """A copy takes the changes; the record itself lets nothing be set or deleted."""
    place = Place(host="a")
    assert place.replace(port=6432) == Place(host="a", port=6432)
    with pytest.raises(AttributeError, match=r"replace\(port=...\)"):
        place.port = 6432  # type: ignore[misc]  # what is tested
    with pytest.raises(AttributeError, match="port stays"):
        del place.port
    assert place == Place(host="a")


def test_copied_and_pickled() -> None:
    """A copy is equal, whichever way it is made."""
    place = Place(host="a", port=1)
    assert copy.copy(place) == copy.deepcopy(place) == pickle.loads(pickle.dumps(place)) == place
