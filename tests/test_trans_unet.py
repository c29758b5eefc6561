"""TransUNet: counts, names, both mask modes against float64, large patches, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import naive
import resnet_rs as rr
from resnet_rs.models import ResNetBackbone, TransUNet

Array = NDArray[np.float64]

SMALL: dict[str, Any] = {
    "num_classes": 3,
    "encoder_depth": 3,
    "num_vit_layers": 2,
    "num_heads": 2,
    "num_queries": 5,
    "embed_dim": 16,
    "mlp_dim": 24,
    "decoder_filters": (12, 8, 4),
}


def backbone(shape: tuple[int, ...] = (32, 48, 3)) -> ResNetBackbone:
    return ResNetBackbone(
        input_shape=shape, block_type="basic_block", num_filters=[64, 72], num_blocks=[1, 1], num_strides=[1, 2]
    )


def noise(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def lively(model: TransUNet) -> TransUNet:
    """Weights large enough that masks have both signs and attention is far from uniform."""
    state = model.state_dict()
    for number, (name, value) in enumerate(state.items()):
        if name.startswith(("transformer", "decoder")) and not name.endswith("running_var"):
            scale = 1 / math.sqrt(max(1, math.prod(value.shape[1:]))) if value.ndim > 1 else 0.3
            state[name] = noise(*value.shape, seed=number) * np.float32(1.5 * scale) + np.float32(
                value.ndim == 1 and name.endswith("weight")
            )
    model.load_state_dict(state)
    return model


# -- the definition, in float64 ---------------------------------------------------------------------------------------


def layer_norm(x: Array, w: dict[str, Array], name: str) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-6)
    return centred / deviation * w[f"{name}.weight"] + w[f"{name}.bias"]


def dense(x: Array, w: dict[str, Array], name: str) -> Array:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def attend(q: Array, k: Array, v: Array, heads: int, seen: NDArray[np.bool_]) -> Array:
    """(n, t, c) each; `seen` is (n, queries, keys)."""
    depth = q.shape[-1] // heads
    parts = []
    for head in range(heads):
        part = slice(head * depth, (head + 1) * depth)
        scores = np.exp(q[..., part] @ k[..., part].transpose(0, 2, 1) / math.sqrt(depth)) * seen
        total = scores.sum(axis=-1, keepdims=True)
        parts.append(scores / np.where(total == 0, 1, total) @ v[..., part])
    return np.concatenate(parts, axis=-1)


def block(x: Array, memory: Array | None, w: dict[str, Array], name: str, seen: NDArray[np.bool_] | None) -> Array:
    normed = layer_norm(x, w, f"{name}.norm1")
    source = normed if memory is None else memory
    q, k, v = dense(normed, w, f"{name}.attn.query"), *(dense(source, w, f"{name}.attn.{p}") for p in ("key", "value"))
    every = np.ones((len(x), x.shape[1], source.shape[1]), bool)
    x = x + dense(attend(q, k, v, SMALL["num_heads"], every if seen is None else seen), w, f"{name}.attn.proj")
    hidden = naive.gelu(dense(layer_norm(x, w, f"{name}.norm2"), w, f"{name}.mlp.fc1"))
    return x + dense(hidden, w, f"{name}.mlp.fc2")


def tokens(x: Array) -> Array:
    return x.reshape(len(x), -1, x.shape[-1])


def visible(masks: Array, coarse: tuple[int, ...], fine: tuple[int, ...], mode: str) -> NDArray[np.bool_]:
    """What (n, queries, tokens) of the coarse map say about the tokens of the finer one."""
    if mode == "medicai":
        # Resized along the flattened positions; kept is what is not above the threshold.
        ratio = math.prod(fine) // math.prod(coarse)
        return np.repeat(masks, ratio, axis=-1) <= 0.5
    maps = masks.reshape(*masks.shape[:2], *coarse)
    for axis, (small, large) in enumerate(zip(coarse, fine, strict=True), 2):
        maps = np.repeat(maps, large // small, axis=axis)
    seen = maps.reshape(*masks.shape[:2], -1) > 0.5
    return seen | ~seen.any(axis=-1, keepdims=True)


def reference(model: TransUNet, x: NDArray[np.float32], mode: str) -> Array:
    """The output for weights of `SMALL`'s sizes."""
    w = {name: value.astype(np.float64) for name, value in model.state_dict().items()}
    rank = x.ndim - 2
    p1, p2, p3 = (value.astype(np.float64) for value in model.features(x).values())
    patch = w["transformer.patch_embedding.weight"].shape[2:]
    embedded = naive.conv(
        p3,
        w["transformer.patch_embedding.weight"],
        w["transformer.patch_embedding.bias"],
        patch,
        [(0, 0)] * rank,
        [1] * rank,
        1,
    )
    coarse = embedded.shape[1:-1]
    e = tokens(embedded) + w["transformer.position_embedding.weight"]
    for number in range(SMALL["num_vit_layers"]):
        e = block(e, None, w, f"transformer.blocks.{number}", None)
    queries = np.repeat(w["decoder.queries.weight"][None], len(x), axis=0)
    for number, level in enumerate((p2, p1)):
        name = f"decoder.levels.{number}"
        kernel = w[f"{name}.proj.0.weight"].reshape(SMALL["embed_dim"], -1)
        projected = tokens(level @ kernel.T + w[f"{name}.proj.0.bias"])
        groups = math.gcd(32, SMALL["embed_dim"])
        cells = projected.reshape(len(x), -1, groups, SMALL["embed_dim"] // groups)
        centred = cells - cells.mean(axis=(1, 3), keepdims=True)
        normed = (centred / np.sqrt((centred**2).mean(axis=(1, 3), keepdims=True) + 1e-3)).reshape(projected.shape)
        memory = normed * w[f"{name}.proj.1.weight"] + w[f"{name}.proj.1.bias"]
        masks = naive.sigmoid(queries @ e.transpose(0, 2, 1))
        queries = block(queries, memory, w, name, visible(masks, coarse, level.shape[1:-1], mode))
    masks = naive.sigmoid(queries @ e.transpose(0, 2, 1))
    if "decoder.mask_resize.weight" in w:
        masks = masks @ w["decoder.mask_resize.weight"].T + w["decoder.mask_resize_bias.weight"][:, 0]
    classes = naive.softmax(dense(queries, w, "decoder.class_prediction"))
    y = (masks.transpose(0, 2, 1) @ classes).reshape(*p3.shape[:-1], -1)

    def conv(y: Array, name: str, width: int) -> Array:
        pads = [(width // 2, width // 2)] * rank
        return naive.conv(y, w[f"{name}.weight"], w[f"{name}.bias"], [1] * rank, pads, [1] * rank, 1)

    y = conv(y, "decoder.proj", 3)
    for stage, skip in enumerate((p2, p1)):
        y = np.concatenate([naive.upsample(y, [2] * rank, "linear"), skip], axis=-1)
        y = conv(y, f"decoder.blocks.{stage}.conv", 3)
        y = np.where(y > 0, y, 0.3 * y)
    return conv(naive.upsample(y, [2] * rank, "linear"), "segmentation_head.0", 1)


@pytest.mark.parametrize("mode", ["medicai", "foreground"])
@pytest.mark.parametrize("shape", [(32, 48, 3), (16, 24, 16, 1), (128, 144, 3)])
def test_against_the_definition(shape: tuple[int, ...], mode: str) -> None:
    """The last shape has patches of 2 x 2, whose masks are resized by a dense layer."""
    model = lively(TransUNet(encoder=backbone(shape), **SMALL, mask_mode=mode))
    assert ("decoder.mask_resize.weight" in model.parameter_shapes()) == (shape[0] == 128)
    x = noise(2, *shape, seed=3)
    want = reference(model, x, mode)
    error = np.abs(model.predict(x) - want).max() / want.std()
    assert error < 1e-4
    # The two modes are no small difference.
    other = "foreground" if mode == "medicai" else "medicai"
    assert np.abs(reference(model, x, other) - want).max() > 1e-2 * want.std()


# -- the rest ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "count"), [((64, 64, 3), 46_211_814), ((64, 64, 64, 1), 69_787_110)])
def test_parameters(shape: tuple[int, ...], count: int) -> None:
    model = TransUNet(encoder_name="resnet18", input_shape=shape, num_classes=3)
    assert model.count_params() == count
    assert model.output_shape == (None, *shape[:-1], 3)
    assert model.name == f"TransUNet{len(shape) - 1}D"


def test_initial_weights_of_embeddings_are_small() -> None:
    state = TransUNet(encoder=backbone(), **{**SMALL, "num_queries": 64}).state_dict()
    assert state["decoder.queries.weight"].std() == pytest.approx(0.02, rel=0.2)
    assert state["transformer.position_embedding.weight"].shape == (4 * 6, 16)
    assert (state["transformer.blocks.1.norm2.weight"] == 1).all()


def test_dropout_in_training() -> None:
    def drops(model: TransUNet) -> int:
        return sum(node.op == "dropout" for node in model.graph.nodes)

    x = noise(2, 32, 48, 3)
    model, plain = (TransUNet(encoder=backbone(), **{**SMALL, "dropout_rate": rate}) for rate in (0.2, 0.0))
    # Three for each block of the transformer and for each level of the encoder that the queries see, all but the last.
    assert (drops(plain), drops(model)) == (0, 3 * (SMALL["num_vit_layers"] + SMALL["encoder_depth"] - 1))
    assert np.array_equal(model.predict(x), plain.predict(x))
    first, again, other = (model.forward(x, training=True, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_padding_and_layout() -> None:
    model = TransUNet(encoder=backbone((30, 41, 3)), **SMALL, pad="auto", classifier_activation="softmax")
    y = model.predict(noise(2, 30, 41, 3))
    assert y.shape == (2, 30, 41, 3) and np.allclose(y.sum(axis=-1), 1, atol=1e-5)
    again = rr.Model.from_config(model.get_config())
    assert again.get_config() == model.get_config() and again.parameter_shapes() == model.parameter_shapes()
    first = TransUNet(encoder_name="resnet18", input_shape=(3, 32, 32), data_format="channels_first", **SMALL)
    assert first.output_shape == (None, 3, 32, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "num_heads: expected a divisor of embed_dim=16"),
        ({"num_vit_layers": 0}, "num_vit_layers"),
        ({"dropout_rate": 1.5}, "dropout_rate"),
        ({"mask_mode": "background"}, "mask_mode"),
        ({"decoder_activation": "leaky"}, "decoder_activation"),
        ({"classifier_activation": "soft"}, "classifier_activation"),
        ({"decoder_filters": (8, 8)}, "decoder_filters"),
        ({"encoder_depth": 1}, "encoder_depth"),
        ({"num_classes": 0}, "num_classes"),
    ],
)
def test_arguments_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(rr.ArgumentError, match=message):
        TransUNet(encoder=backbone(), **{**SMALL, **options})


def test_sizes_must_be_fixed_and_fit() -> None:
    with pytest.raises(rr.ArgumentError, match="fixed sizes"):
        TransUNet(encoder_name="resnet18", input_shape=(None, 32, 3), **SMALL)
    with pytest.raises(rr.ShapeError, match="height 32 or 40"):
        TransUNet(encoder_name="resnet18", input_shape=(33, 32, 3), **SMALL)
    with pytest.raises(rr.UnknownArgumentError, match="did you mean 'num_queries'"):
        TransUNet(encoder=backbone(), num_query=3)


def test_threads_change_no_bit() -> None:
    model = lively(TransUNet(encoder=backbone(), **SMALL))
    x = noise(2, 32, 48, 3)
    outputs = []
    for threads in (1, 2, 3):
        with rr.num_threads(threads):
            outputs.append(model.predict(x))
    assert all(np.array_equal(outputs[0], other) for other in outputs[1:])
