"""Run the property tests again and again, each time with other words: `--minutes 5`.

They hold what azpg reads against what libpq reads, and what it judges against what is sent.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).parent.parent
# In the words of hypothesis's statistics
COUNTED = re.compile(r"- (\d+) passing")


def main() -> int:
    """Run until the time is up or one fails; print how many examples passed."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    end = time.monotonic() + 60 * parser.parse_args().minutes
    files = [TESTS / "conninfo", TESTS / "tokens/test_token.py"]
    files.append(TESTS / "integrations" / "test_sqlalchemy_url.py")
    options = ("-q", "-m", "hypothesis", "-p", "no:cacheprovider", "--hypothesis-show-statistics")
    rounds = passed = 0
    while time.monotonic() < end:
        command = [sys.executable, "-m", "pytest", *options, *map(str, files)]
        ran = subprocess.run(command, check=False, capture_output=True, text=True)
        if ran.returncode:
            print(ran.stdout, ran.stderr)  # noqa: T201
            return ran.returncode
        rounds += 1
        passed += sum(map(int, COUNTED.findall(ran.stdout)))
        print(f"round {rounds}: {passed} examples, none failed", flush=True)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
