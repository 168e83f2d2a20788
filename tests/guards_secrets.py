"""Guards of the promise that no secret is shown, for `guards.py`: what each is, and its tests."""

from __future__ import annotations

# Promise, module, source, what is left without the guard, and the tests that must notice
SECRETS = (
    (
        "a short secret is masked where it is a whole word",
        "_redact",
        "shown = _mask_word(shown, secret)",
        "pass",
        ("test_redact::test_a_short_secret_is_masked_as_a_whole_word",),
    ),
)
