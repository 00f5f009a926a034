"""The examples of the installed package, where there is PyTorch and nothing else: `make package` runs this."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import sys
from pathlib import Path

import offline_losses


def main() -> None:
    """Every module but the adapters, which need packages of their own, shows what its docstrings say."""
    folder = Path(offline_losses.__file__).parent
    if folder.parent == Path(__file__).parents[1]:
        sys.exit("the checkout was imported, not the installed package: expected an environment that has the wheel")
    modules = pkgutil.walk_packages([str(folder)], "offline_losses.")
    names = [module.name for module in modules if not module.name.startswith("offline_losses.adapters")]
    results = [doctest.testmod(importlib.import_module(name)) for name in ["offline_losses", *names]]
    failed, attempted = (sum(counts) for counts in zip(*results, strict=True))
    print(f"{attempted - failed} of {attempted} examples are as they say, in {len(results)} modules of {folder}")
    if attempted < len(offline_losses.__all__):
        sys.exit("expected an example of each function at least")
    sys.exit(min(failed, 1))


if __name__ == "__main__":
    main()
