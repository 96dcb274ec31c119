"""recall-evals: how well language models use what stands in their context, and what that costs.

The interpreter imports this package at every start (`recall_evals.pth`), so it imports nothing but `sys`, and leaves
what lets lm-eval find us, `adapters/lm_eval_discovery.py`, until lm-eval is imported.
"""

import sys

__version__ = "0.1.0"


def _lazy_exports(folder: str, **modules: str) -> None:
    """Give the namespace package `recall_evals.<folder>` attributes that import their module when first read.

    The folders hold no `__init__.py` (at the repository's root one would shadow other people's packages of the
    same name), so what a folder offers at its top is declared here, as `attribute="module that defines it"`.
    """
    name = f"{__name__}.{folder}"
    # What `importlib` does for a namespace package, without importing `importlib.util` (3 ms).
    spec = type(__spec__)(name, None, is_package=True)
    spec.submodule_search_locations = [f"{directory}/{folder}" for directory in __path__]
    package = type(sys)(name)
    package.__spec__ = spec
    package.__package__ = name
    package.__path__ = spec.submodule_search_locations

    def load(attribute: str) -> object:
        if attribute not in modules:
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}")
        from importlib import import_module

        return getattr(import_module(f"{name}.{modules[attribute]}"), attribute)

    package.__getattr__ = load  # type: ignore[method-assign]
    package.__all__ = list(modules)  # type: ignore[attr-defined]
    sys.modules[name] = globals()[folder] = package


_lazy_exports("models", load_model="loading", SequenceModel="sequence_model", State="state")


class _Herald:
    """Waits at the head of `sys.meta_path` for lm-eval; then hands over to `lm_eval_discovery.FINDER`, and leaves.

    Nothing that fails here may break lm-eval's own import: of a half removed package no word is said.
    """

    awaited = ("lm_eval.models", "lm_eval.tasks.manager")

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        if name not in self.awaited or self not in sys.meta_path:
            return None
        sys.meta_path = [finder for finder in sys.meta_path if finder is not self]
        try:
            from .adapters import lm_eval_discovery
        except ImportError:
            return None
        lm_eval_discovery.install()
        return lm_eval_discovery.FINDER.find_spec(name, path, target)


_HERALD = _Herald()


def await_lm_eval() -> None:
    """Let lm-eval find our models and tasks, once it is imported, or now if it is. A second call does nothing."""
    if any(name in sys.modules for name in _HERALD.awaited):
        from .adapters import lm_eval_discovery

        lm_eval_discovery.install()
    elif _HERALD not in sys.meta_path:
        sys.meta_path.insert(0, _HERALD)  # type: ignore[arg-type]
