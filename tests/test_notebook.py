"""The example notebook, executed by a real kernel."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from nbclient import NotebookClient

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fix_authority import Authority, Browser

    from azpg.emulator import Emulator

PATH = Path(__file__).parent.parent / "examples" / "notebook.ipynb"
SHOWN = (
    "(host=myserver.postgres.database.azure.com user=myapp database=postgres sslmode=verify-full)"
)
RENEW = "azpg.EntraPassword().invalidate()"


def execute(*added: str, again: Sequence[str] = ()) -> dict[str, str]:
    """Run the notebook, and in the same kernel some more code and some cells again.

    Return what each cell has shown.
    """
    notebook: Any = nbformat.read(PATH, as_version=4)  # type: ignore[no-untyped-call]
    cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}
    for number, source in enumerate(added):
        cell: Any = nbformat.v4.new_code_cell(source)  # type: ignore[no-untyped-call]
        cells[f"added-{number}"] = cell
    client = NotebookClient(notebook, timeout=60)
    order = [*cells, *again]
    notebook.cells = [cells[name] for name in order]
    # IPython's own history and settings are of no interest
    with client.setup_kernel(env=os.environ | {"IPYTHONDIR": os.environ["HOME"]}):
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
    return {name: shown(cell) for name, cell in cells.items()}


def shown(cell: Any) -> str:
    """Return what a cell has printed and shown, without its warnings."""
    said = [
        output.text if output.output_type == "stream" else output.data["text/plain"]
        for output in cell.outputs
        if output.get("name") != "stderr"
    ]
    return "".join(said)


def test_the_notebook_runs(azure: Emulator) -> None:
    """Each cell does what it says, with `await` at the top too, and shows where it is connected."""
    seen = execute()
    assert f"azpg.Connection [IDLE] {SHOWN}" in seen["connect"]
    assert seen["query"] == "[('myapp', 1), ('myapp', 2), ('myapp', 3)]"
    assert seen["async"] == "[(42,)]"
    assert f"azpg.AsyncConnectionPool 'pool-1' {SHOWN}" in seen["pool"]
    assert seen["pool"].endswith("[0.0, 1.0, 4.0, 9.0]")


def test_a_cell_that_is_run_again_does_not_sign_in_again(
    browser: Browser, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The browser opens once for a kernel, also when azpg asks the credential for a new token."""
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "InteractiveBrowserCredential")
    seen = execute(RENEW, again=["connect", "async", "close"])
    assert SHOWN in seen["connect"]
    assert seen["async"] == "[(42,)]"
    assert len(browser.sign_ins) == 1
    assert "ossrdbms-aad.database.windows.net" in browser.sign_ins[0]
    assert len(authority.forms) == 1
