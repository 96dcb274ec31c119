"""`recall-evals bench prefill`: kernels over prompts, and whole models reading them, beside their peers."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from ...kernels.packing import Packing
from ...kernels.taylor_linear_attention.reference import n_features
from ...models.sequence_model import SequenceModel
from .kernels import FLOAT, HALF, Case, measure
from .peers import failure, fla
from .shapes import BASED_1B, LLAMA_1B, MAMBA_1B, random_model
from .timing import microseconds

Row = dict[str, Any]
HEADS, FEATURE_DIM = 16, 16
# B, L, dv: prompts of equal length; the last has the heads of the released 1.3 B model.
TAYLOR_SHAPES = (
    (16, 2048, 64), (1, 2048, 64), (64, 2048, 64), (16, 8192, 64), (1, 65_536, 64), (16, 2048, 112),
)  # fmt: skip
BATCH, LENGTH = 8, 4096  # of the whole models' prompts


def rand(*shape: int, dtype: torch.dtype = HALF) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=dtype)


def our_taylor(batch: int, length: int, dv: int) -> Callable[[], object]:
    """Our kernel: the normaliser within, the state after the prompts out."""
    from ...kernels.taylor_linear_attention.triton_prefill import prefill

    q, k = (rand(batch * length, HEADS, FEATURE_DIM) for _ in range(2))
    v = rand(batch * length, HEADS, dv)
    packing, position = Packing([length] * batch, "cuda"), torch.zeros(batch, dtype=torch.int64, device="cuda")
    return lambda: prefill(q, k, v, FEATURE_DIM**-0.5, packing, position)


def fla_taylor(name: str, batch: int, length: int, dv: int) -> Callable[[], object]:
    """flash-linear-attention's `parallel_based` or `fused_chunk_based`: normalised, no state out.

    Raises:
        MissingPeerError: the package is not installed.
    """
    attend = getattr(fla("ops.based"), name)
    q, k = (rand(batch, length, HEADS, FEATURE_DIM) for _ in range(2))  # sequence first, then heads
    v = rand(batch, length, HEADS, dv)
    return lambda: attend(q, k, v, scale=FEATURE_DIM**-0.5, use_norm=True)


def fla_wkv(batch: int, length: int, heads: int, n: int) -> Callable[[], object]:
    """flash-linear-attention's `chunk_rwkv6`, whose decays may change with every token: RWKV-5's, repeated.

    Raises:
        MissingPeerError: the package is not installed.
    """
    chunk_rwkv6 = fla("ops.rwkv6").chunk_rwkv6
    (r, k, v), u = rand(3, batch, length, heads, n), rand(heads, n)
    log_w = -rand(heads, n).exp().expand(batch, length, heads, n).contiguous()
    return lambda: chunk_rwkv6(r, k, v, log_w, u, scale=1.0, output_final_state=True)


def softmax_attention(backend: SDPBackend, batch: int, length: int, head_dim: int) -> Callable[[], object]:
    """PyTorch's causal attention with heads as wide as the values, by the named kernel alone."""
    q, k, v = (rand(batch, HEADS, length, head_dim) for _ in range(3))

    def call() -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    return call


def taylor_cases() -> Iterator[Case]:
    """Our kernel and what stands in its place elsewhere. At dv 112 flash-linear-attention gets 128, its next size.

    One sequence is timed inside a CUDA graph: launching the kernels takes the host longer than they run.
    """
    for batch, length, dv in TAYLOR_SHAPES:
        shape = f"B {batch}, L {length:,}, H {HEADS}, d {FEATURE_DIM}, dv {dv}"
        tokens, features = batch * length, n_features(FEATURE_DIM)
        nbytes = tokens * HEADS * 2 * (2 * FEATURE_DIM + 2 * dv) + batch * HEADS * features * (dv + 1) * 4
        sizes = batch, length, dv
        yield Case("Taylor prefill, state out", shape, nbytes, lambda sizes=sizes: our_taylor(*sizes), batch == 1)  # type: ignore[misc]
        wide = batch, length, 128 if dv > 64 else dv
        for name in ("parallel_based", "fused_chunk_based"):
            yield Case(
                f"peer: flash-linear-attention, {name}", shape, nbytes,
                lambda name=name, wide=wide: fla_taylor(name, *wide), batch == 1,  # type: ignore[misc]
            )  # fmt: skip
        for name, backend in (
            ("FlashAttention-2", SDPBackend.FLASH_ATTENTION), ("cuDNN attention", SDPBackend.CUDNN_ATTENTION),
        ):  # fmt: skip
            yield Case(
                f"peer: {name}", shape, tokens * HEADS * dv * 2 * 4,
                lambda backend=backend, sizes=sizes: softmax_attention(backend, *sizes), batch == 1,  # type: ignore[misc]
            )  # fmt: skip


def other_cases(batch: int = BATCH, length: int = LENGTH) -> Iterator[Case]:
    """The other operations of BASED, Mamba and RWKV-5 1.3 B over prompts, bf16, from nothing."""
    from ...kernels.rotary.triton_prefill import rotate
    from ...kernels.selective_scan.reference import GatedInputs
    from ...kernels.selective_scan.triton_prefill import gated_prefill
    from ...kernels.short_convolution.triton_prefill import prefill as convolution
    from ...kernels.sliding_window_attention.triton_prefill import prefill as sliding
    from ...kernels.wkv5.triton_prefill import prefill as wkv5

    packing, position = Packing([length] * batch, "cuda"), torch.zeros(batch, dtype=torch.int64, device="cuda")
    n = packing.total

    def short() -> Callable[[], object]:
        (x, gate), weight = rand(n, 7168).chunk(2, dim=-1), rand(3584, 3)
        return lambda: convolution(x, weight, None, gate, packing)

    def rotation() -> Callable[[], object]:
        (q, k, _), cos, sin = rand(n, 3, 16, 112).unbind(1), rand(n, 56), rand(n, 56)
        return lambda: rotate(q, k, cos, sin)

    def window() -> Callable[[], object]:
        q, k, v = rand(n, 3, 16, 112).unbind(1)
        return lambda: sliding(q, k, v, 112**-0.5, 129, packing, position)

    def flash_window() -> Callable[[], object]:
        q, k, v = rand(n, 3, 16, 112).unbind(1)
        offsets = packing.offsets.int()
        return lambda: torch.ops.aten._flash_attention_forward(
            q, k, v, offsets, offsets, length, length, 0.0, True, False,
            scale=112**-0.5, window_size_left=128, window_size_right=0,
        )  # fmt: skip

    def scan() -> Callable[[], object]:
        u, dt, z, bc = rand(n, 4096), rand(n, 4096), rand(n, 4096), rand(n, 160)
        bias, a, skip = rand(4096), rand(4096, 16, dtype=FLOAT), rand(4096)
        inputs = GatedInputs(u, dt, z, bc[:, 128:144], bc[:, 144:], bias, a, skip)
        return lambda: gated_prefill(inputs, packing)

    def wkv() -> Callable[[], object]:
        (r, k, v), log_w, u = rand(3, n, 32, 64), -rand(32, 64, dtype=FLOAT).exp(), rand(32, 64, dtype=FLOAT)
        return lambda: wkv5(r, k, v, log_w, u, packing)

    where = f"{batch} x {length:,}"
    yield Case("short convolution, SiLU, gate", f"{where}, D 3584, K 3", n * 3584 * 2 * 3, short)
    yield Case("rotation of q and k", f"{where}, H 16, head 112", n * 1792 * 2 * 4, rotation)
    yield Case("sliding window, ring out", f"{where}, H 16, head 112, W 129", n * 1792 * 2 * 4, window)
    yield Case("peer: FlashAttention-2 in a window", f"{where}, H 16, head 112, W 129", n * 1792 * 2 * 4, flash_window)
    yield Case("selective scan, softplus, gate", f"{where}, D 4096, N 16", n * 4096 * 2 * 4, scan)
    heads = f"{where}, H 32, N 64"
    yield Case("WKV-5, state out", heads, n * 2048 * 2 * 4, wkv)
    yield Case(
        "peer: flash-linear-attention, chunk_rwkv6", heads, n * 2048 * 2 * 4, lambda: fla_wkv(batch, length, 32, 64)
    )


class Products(TorchDispatchMode):
    """Within the block, counts the matrix products `[M, K] x [K, N]` by (M, K, N) in `shapes`."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: Counter[tuple[int, int, int]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kind = func.overloadpacket
        if kind in (torch.ops.aten.mm, torch.ops.aten.addmm):
            a, b = args[-2:]
            self.shapes[a.shape[0], a.shape[1], b.shape[1]] += 1
        elif kind is torch.ops.aten.linear:  # where nothing has taken it apart
            x, weight = args[:2]
            self.shapes[x.numel() // x.shape[-1], weight.shape[1], weight.shape[0]] += 1
        return func(*args, **(kwargs or {}))


def products_of(call: Callable[[], object]) -> Counter[tuple[int, int, int]]:
    """The matrix products of a call, by shape (M, K, N)."""
    with torch.no_grad(), Products() as products:
        call()
    return products.shapes


def product_microseconds(shapes: Counter[tuple[int, int, int]]) -> float:
    """The summed times of products of these shapes, each timed alone in bf16."""
    total = 0.0
    for (m, k, n), count in shapes.items():
        x, weight = rand(m, k), rand(n, k)
        total += count * microseconds([lambda x=x, weight=weight: F.linear(x, weight)], 0.05)  # type: ignore[misc]
    return total


def llama_prompts(config: dict[str, Any], batch: int, length: int, device: str = "cuda") -> Callable[[], object]:
    """Transformers' forward of a Llama-style Transformer, flash attention: the cache and the last scores."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device(device):
        model = LlamaForCausalLM._from_config(LlamaConfig(**config), dtype=HALF, attn_implementation="sdpa").eval()
        tokens = torch.randint(config["vocab_size"], (batch, length))

    @torch.inference_mode()
    def call() -> object:
        return model(tokens, use_cache=True, logits_to_keep=1).logits

    return call


def our_prompts(model: SequenceModel, batch: int, length: int) -> Callable[[], object]:
    tokens = torch.randint(model.embedding.num_embeddings, (batch * length,), device=model.device)
    return lambda: model.prefill(tokens, [length] * batch)


def model_row(name: str, call: Callable[[], object], batch: int = BATCH, length: int = LENGTH) -> Row:
    """Tokens a millisecond, and how much of the time the model's matrix products take, each alone."""
    time = microseconds([call], 1.0)
    return {
        "what": name,
        "shape": f"{batch} x {length:,}",
        "microseconds": time,
        "tokens_per_ms": 1000 * batch * length / time,
        "percent_in_products": 100 * product_microseconds(products_of(call)) / time,
    }


def rows(copy_rate: float, parts: set[str]) -> Iterator[Row]:
    """All that `parts` names: taylor, others, llama, based, mamba. BASED is set against llama where both are named."""
    if "taylor" in parts:
        yield from measure(taylor_cases(), copy_rate)
    if "others" in parts:
        yield from measure(other_cases(), copy_rate)
    peer: float | None = None
    if "llama" in parts:
        name = "peer: Transformers, Llama 1.42 B"
        try:
            row = model_row(name, llama_prompts(LLAMA_1B, BATCH, LENGTH))
            peer = row["microseconds"]
            yield row
        except Exception as error:  # a peer that breaks is a finding, and must not end the run
            yield {"what": name, "skipped": failure(error)}
    for part, name, config in (("based", "BASED 1.35 B", BASED_1B), ("mamba", "Mamba 1.3 B", MAMBA_1B)):
        if part in parts:
            torch.cuda.empty_cache()
            model = random_model(config, "cuda")
            row = model_row(name, our_prompts(model, BATCH, LENGTH))
            yield row if peer is None else row | {"times_llama": peer / row["microseconds"]}
            del model
