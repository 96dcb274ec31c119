"""Lets lm-eval 0.4.13 find the models and tasks of this package: a back-port of entry-point discovery.

`recall_evals.pth` asks the package at interpreter start to await lm-eval (`recall_evals.await_lm_eval`), unless
RECALL_EVALS_NO_DISCOVERY is set. That must cost less than 1 ms: this module is loaded, and `install` called, only when
lm-eval is imported. One finder waits for two modules, calls their hook once they are loaded, and leaves.
"""

import sys

# As in the entry-point group `lm_eval.models` of pyproject.toml: modules and classes in recall_evals.adapters.
MODELS = {"based": "lm:BasedLM", "attention": "lm:AttentionLM", "mamba": "lm:MambaLM"}
MODELS |= {"h3": "lm:H3LM", "hyena": "lm:HyenaLM", "rwkv": "lm:RWKVLM", "recall": "causal_lm:RecallLM"}


def register_models(models):
    """Register our names as lazy placeholders, but for those that lm-eval or another package has taken."""
    from lm_eval.api.registry import model_registry

    for name in MODELS.keys() - model_registry.keys():
        model_registry.register(name, target=f"recall_evals.adapters.{MODELS[name]}")


def scan_tasks(manager):
    """Make `TaskManager` scan our folder after lm-eval's own tasks and before the user's: later paths win."""
    from functools import wraps
    from inspect import signature
    from pathlib import Path

    original = manager.TaskManager.__init__
    parameters = signature(original)
    parameters.bind(None, include_path=None, include_defaults=True)  # fails here rather than in every TaskManager

    @wraps(original)
    def init(self, *args, **kwargs):
        call = parameters.bind(self, *args, **kwargs)
        given = call.arguments.get("include_path")
        if call.arguments.get("include_defaults", True):
            users = given if isinstance(given, list | tuple) else [given] if given else []
            call.arguments["include_path"] = [Path(__file__).parents[1] / "task_configs", *users]
        original(*call.args, **call.kwargs)
        self.include_path = given

    manager.TaskManager.__init__ = init


class Finder:
    """Wraps the loader of the modules in `waiting`, so that it calls their hook."""

    waiting = {"lm_eval.models": register_models, "lm_eval.tasks.manager": scan_tasks}

    def find_spec(self, name, path=None, target=None):
        if name not in self.waiting or self not in sys.meta_path:
            return None
        behind = [f for f in sys.meta_path[sys.meta_path.index(self) + 1 :] if hasattr(f, "find_spec")]
        spec = next(filter(None, (f.find_spec(name, path, target) for f in behind)), None)
        if spec and hasattr(spec.loader, "exec_module"):
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: (execute(module), self.loaded(module))
        return spec

    def loaded(self, module):
        try:
            self.waiting.pop(module.__name__, lambda module: None)(module)
        except Exception as error:
            import logging

            logging.getLogger(__name__).warning("recall-evals is not part of %s: %r", module.__name__, error)
        if not self.waiting:  # a new list, for another thread may be walking the old one
            sys.meta_path = [f for f in sys.meta_path if f is not self]


FINDER = Finder()


def install():
    """Wait for lm-eval's modules, or call the hooks of those that are loaded. A second call does nothing."""
    if FINDER.waiting and FINDER not in sys.meta_path:
        sys.meta_path.insert(0, FINDER)
        for module in [sys.modules[name] for name in FINDER.waiting if name in sys.modules]:
            FINDER.loaded(module)
