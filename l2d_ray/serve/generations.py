"""Which generations of the index a process can answer from, and which one answers requests that name no memory version. Knows no Ray.

A generation is what jobs.build_index (or the service's updater) makes: the index of one memory version. All that are whole and fit the
application may be asked for; the current one is the pinned one, or else the newest. What is found here is not yet served: first every
shard must have loaded it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from l2d_ray.errors import ArtefactError, RequestError, UnavailableError
from l2d_ray.index.layout import generations, open_index, pin_generation, pinned_generation
from l2d_ray.serve.artefacts import ServedArtefacts
from l2d_ray.serve.backend import ServedVersions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Generations:
    """What may be asked for.

    Attributes:
        artefacts: by name of the generation; the current one is among them.
        unfit: names of generations that this application cannot serve.
    """

    artefacts: Mapping[str, ServedArtefacts]
    current: str
    is_pinned: bool = False
    unfit: frozenset[str] = frozenset()

    @classmethod
    def of(cls, deployed: ServedArtefacts) -> Generations:
        """The one that the application was deployed with."""
        name = deployed.manifest.generation
        return cls({name: deployed}, name)

    @property
    def versions(self) -> ServedVersions:
        known = sorted({artefacts.manifest.memory_version for artefacts in self.artefacts.values()})
        return ServedVersions(tuple(known), self.artefacts[self.current].manifest.memory_version, self.is_pinned)

    def of_version(self, version: int) -> ServedArtefacts:
        """The artefacts of a memory version; UnavailableError where its index has been removed."""
        current = self.artefacts[self.current]
        if current.manifest.memory_version == version:
            return current
        found = [artefacts for artefacts in self.artefacts.values() if artefacts.manifest.memory_version == version]
        if not found:
            raise UnavailableError(f"The index of memory version {version} is no longer there; ask again for the current version.", 0)
        return found[-1]

    def pin(self, version: int | None) -> None:
        """Let every process that serves this index stay at a version, or with None follow the newest; RequestError for an unknown one."""
        if version is not None and version not in self.versions.versions:
            known = ", ".join(map(str, self.versions.versions))
            raise RequestError("version", f"Version {version} is not served; the versions that can be are {known}.")
        generation = None if version is None else self.of_version(version).manifest.generation
        pin_generation(self.artefacts[self.current].index.index_dir, generation)

    def seen(self) -> Generations:
        """What the index's folder holds now: generations that have come or gone, and which one should be current."""
        deployed = self.artefacts[self.current]
        index_dir = deployed.index.index_dir
        artefacts, unfit = {self.current: deployed}, set(self.unfit)
        for name in generations(index_dir):
            found = None if name in unfit else self.artefacts.get(name) or _fitting(deployed, name)
            if found is None:
                unfit.add(name)
            else:
                artefacts[name] = found
        pinned, newest = pinned_generation(index_dir), open_index(index_dir).manifest.generation
        is_pinned = pinned in artefacts
        wanted = next(name for name in (pinned, newest, self.current) if name in artefacts)
        assert wanted is not None
        return replace(self, artefacts=artefacts, current=wanted, is_pinned=is_pinned, unfit=frozenset(unfit))

    def staying_at(self, current: str, *, is_pinned: bool) -> Generations:
        """The same, with the current one as before, since the wanted one is not loaded everywhere."""
        return replace(self, current=current, is_pinned=is_pinned)


def _fitting(deployed: ServedArtefacts, name: str) -> ServedArtefacts | None:
    """A generation's artefacts, or None and a warning that says why it cannot be served; the old one goes on being served."""
    try:
        return deployed.of_generation(name)
    except ArtefactError as error:
        logger.warning("A newer index is not served: %s", error)
        return None
