"""What is installed is what constraints.txt pins: every package that ours need, directly or through another, at exactly that version.

So an audit of constraints.txt (``make audit``, which needs the network) is an audit of what runs. Read from the installed metadata,
without the network.
"""

import re
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
EXTRAS = {"dev", "cpu"}
NOT_OURS = {"pip", "setuptools", "wheel"}  # the installers themselves


def pins() -> dict[str, str]:
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    found = [re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line) for line in lines if line]
    assert all(found), "a line of constraints.txt pins no exact version"
    return {canonicalize_name(match[1]): match[2] for match in found if match}


def needed(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    """What a package, installed with these extras, requires on this machine."""
    for text in distribution(name).requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras | {""}):
            yield requirement


def everything_needed() -> dict[str, list[Requirement]]:
    """Requirements by the package they name, of l2d_ray and of all that it needs."""
    found: dict[str, list[Requirement]] = {}
    seen, waiting = set(), [("l2d_ray", frozenset(EXTRAS))]
    while waiting:
        package = waiting.pop()
        if package in seen:
            continue
        seen.add(package)
        for requirement in needed(*package):
            name = canonicalize_name(requirement.name)
            found.setdefault(name, []).append(requirement)
            waiting.append((name, frozenset(requirement.extras)))
    return found


def test_everything_needed_is_pinned_installed_in_that_version_and_wanted_in_it():
    requirements, pinned = everything_needed(), pins()
    assert len(requirements) > 100
    assert {"ray", "torch", "psycopg", "aiohttp"} <= requirements.keys()
    ours = {name: requirements[name] for name in requirements.keys() - NOT_OURS - {"l2d-ray"}}
    assert sorted(name for name in ours if name not in pinned) == []
    installed = {name: distribution(name).version.split("+")[0] for name in ours}
    assert {name: version for name, version in installed.items() if pinned[name].split("+")[0] != version} == {}
    unmet = [str(r) for name, wanted in ours.items() for r in wanted if not r.specifier.contains(installed[name], prereleases=True)]
    assert unmet == []
