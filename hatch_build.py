"""Puts the compiled kernels into the wheel; without a compiler the wheel is pure Python."""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags

NATIVE = "initium/stream/native"


class KernelBuildHook(BuildHookInterface[Any]):
    """Compiles with ``CXX`` or the compiler found, and names the platform in the wheel's tag."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        sources = Path(self.root) / "src" / NATIVE
        native = _load(sources / "build.py")
        self.scratch = tempfile.TemporaryDirectory()
        try:
            library = native.build(sources if version == "editable" else Path(self.scratch.name))
        except native.BuildError as error:
            self.app.display_warning(f"initium without its compiled kernels: {error}")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform()}"
        if version != "editable":
            build_data["force_include"][str(library)] = f"{NATIVE}/{library.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        self.scratch.cleanup()


def _platform() -> str:
    """The tag of this very machine: a wheel for others is repaired by auditwheel or the like."""
    many = ("manylinux", "musllinux")
    return next(tag for tag in platform_tags() if not tag.startswith(many))


def _load(path: Path) -> ModuleType:
    """One file of the package, without the package and what it imports."""
    found = importlib.util.spec_from_file_location("initium_native_build", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module
