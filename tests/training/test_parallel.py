"""The parallel forms that training runs give the scores and gradients of the models themselves."""

import pytest
import torch
import torch.nn.functional as F

from recall_evals.kernels.precision import plain_sums, sums_are_exact
from recall_evals.models.loading import detect_architecture, model_class
from recall_evals.training.initialize import initialize
from recall_evals.training.parallel import mix, scores
from recall_evals.training.recipe import NAMES, published_config


def small(name: str) -> torch.nn.Module:
    config = published_config(name)
    config |= {"vocab_size": 96} | ({"d_model": 32, "n_layer": 2} if name == "mamba" else {"n_embd": 64})
    model = model_class(detect_architecture(config))(config)
    initialize(model, 3)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_scores_and_gradients_are_the_models_own(name):
    model = small(name).double()
    tokens = torch.randint(96, (3, 150), generator=torch.Generator().manual_seed(0))
    results = []
    for compute in (lambda: scores(model, tokens), lambda: model(tokens)):
        model.zero_grad()
        given = compute()
        F.cross_entropy(given[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
        results.append((given.detach(), {n: p.grad.clone() for n, p in model.named_parameters()}))
    (fast, fast_gradients), (exact, exact_gradients) = results
    assert exact.std() > 0.01
    torch.testing.assert_close(fast, exact, rtol=1e-10, atol=1e-12)
    for parameter, gradient in exact_gradients.items():
        assert gradient.abs().max() > 0, parameter
        torch.testing.assert_close(fast_gradients[parameter], gradient, rtol=1e-7, atol=1e-11, msg=parameter)


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_summed_in_float32_inside_plain_sums(name):
    model = small(name)
    tokens = torch.randint(96, (2, 40), generator=torch.Generator().manual_seed(0))
    kinds: set[torch.dtype] = set()

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                kinds.add(result.dtype)
            return result

    with Watch(), plain_sums():
        assert not sums_are_exact()
        scores(model, tokens)
    assert sums_are_exact()
    assert torch.float64 not in kinds


def test_what_has_no_parallel_form_is_refused():
    with pytest.raises(TypeError, match="Linear can't be trained here"):
        mix(torch.nn.Linear(2, 2), torch.zeros(1, 1, 2))


@pytest.mark.parametrize("name", NAMES)
def test_the_small_models_keep_to_their_size(name):
    config = published_config(name)
    sizes = {n: model_class(detect_architecture(c))(c).n_parameters for n in NAMES for c in [published_config(n)]}
    assert sizes[name] <= 6_000_000
    assert min(sizes.values()) / max(sizes.values()) > 0.95
    assert config["vocab_size"] <= 8192


def test_based_keeps_the_paper_s_shape():
    from recall_evals.models.based import BaseConv, LinearAttention, SlidingAttention

    config = published_config("based")
    model = model_class("based")(config)
    kinds = [type(layer.mixer) for layer in model.transformer.layers]
    assert [kinds.count(k) for k in (LinearAttention, SlidingAttention, BaseConv)] == [2, 2, 6]  # 1 : 1 : 3
    linear = kinds.index(LinearAttention)
    assert model.transformer.layers[linear].mixer.feature_dim == 16
    assert SlidingAttention in kinds[:linear]  # training/README.md: recall depends on it


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: fused forms against the laid-out ones there")
@pytest.mark.parametrize("name", NAMES)
def test_fused_forms_on_a_gpu(name):
    model = small(name)
    tokens = torch.randint(96, (2, 600), generator=torch.Generator().manual_seed(0))
    with plain_sums():
        expected = scores(model.double(), tokens)
        given = torch.compile(scores)(model.float().cuda(), tokens.cuda())
    torch.testing.assert_close(given.double().cpu(), expected, rtol=1e-3, atol=1e-3)
