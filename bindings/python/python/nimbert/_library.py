"""Finds the library of the ``onnxruntime`` package, without importing it and the numpy that it needs."""

from __future__ import annotations

import os


def find() -> str | None:
    """The path of ONNX Runtime's library; None if the package is not installed."""
    from importlib.util import find_spec

    spec = find_spec("onnxruntime")
    for folder in (spec and spec.submodule_search_locations) or ():
        capi = os.path.join(folder, "capi")
        names = sorted(os.listdir(capi)) if os.path.isdir(capi) else []
        for name in names:
            # libonnxruntime.so.1.31.1, libonnxruntime.1.31.1.dylib; beside them lie libonnxruntime_providers_*.
            if name.startswith("libonnxruntime.") or name == "onnxruntime.dll":
                return os.path.join(capi, name)
    return None
