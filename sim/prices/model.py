"""A model's sizes: from ``conf/model``, or from a trace's manifest where that is all there is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

from traces.kit.errors import UserError, one_of
from traces.kit.readers import Count, Params, Text, by_name, each, nullable, record, refusal, text, truth, whole


@dataclass(frozen=True)
class LeadingDense:
    """The layers before the first MoE layer: `params_per_layer` holds attention, norms and MLP."""

    count: Params
    params_per_layer: Params


@dataclass(frozen=True)
class ModelProfile:
    """Sizes of one model. Parameters count biases and norms; every MoE layer has the same shapes."""

    name: Text
    source: Text
    moe_layers: Count
    experts: Count  # per layer
    top_k: Count
    hidden: Params  # width of the residual stream
    expert_width: Params
    expert_params: Params  # of one expert
    dtype: Text  # of the expert weights, unless another is asked for
    compute_dtype: Annotated[str, text("bfloat16", "float16", "float32")]
    expert_bytes: Annotated[dict[str, int], by_name(whole(1))]  # dtype -> bytes of one expert
    expert_bytes_per_layer: Annotated[
        dict[str, tuple[int, ...]] | None, nullable(by_name(each(whole(1))))
    ]  # dtype -> bytes of one expert in each layer, for mixed quantisation
    attention_params: Params  # per layer, norms included
    attention_width: Params  # multiply-adds per query-key pair of one layer: heads x (key dim + value dim)
    kv_bytes_per_token: Params  # per layer
    router_params: Params  # per MoE layer
    shared_expert_params: Params  # per MoE layer
    leading_dense_layers: Annotated[LeadingDense, record(LeadingDense)]
    vocab: Params
    head_params: Params  # LM head and final norm
    dense_bytes_per_param: Count
    tied_embeddings: Annotated[bool, truth] = False  # the head's matrix is the embeddings', in memory once
    shapes_known: bool = True  # False: built by from_manifest, the dense part costs nothing, or its bytes where known
    dense_bytes: tuple[int, ...] | None = None  # per MoE layer, for from_manifest alone: all that is not experts
    title: Text = ""  # what people call it; no figure, so that no cell's key and no stored profile has it

    @classmethod
    def from_dict(cls, mapping: Mapping[str, Any], where: str = "model") -> Self:
        """Read the keys above but `shapes_known` and `dense_bytes`; those with a default may be left out.

        UserError: which is wrong.
        """
        profile = record(cls)(mapping, where)
        if profile.top_k > profile.experts:
            raise refusal(profile.top_k, f"{where}.top_k", f"at most experts={profile.experts}")
        for dtype, sizes in (profile.expert_bytes_per_layer or {}).items():
            if dtype in profile.expert_bytes:
                raise refusal(sizes, f"{where}.expert_bytes_per_layer.{dtype}", "a dtype not in expert_bytes")
            if len(sizes) != profile.moe_layers:
                allowed = f"{profile.moe_layers} sizes, one per MoE layer"
                raise refusal(sizes, f"{where}.expert_bytes_per_layer.{dtype}", allowed)
        profile.priced(profile.dtype, f"{where}.dtype")
        return profile

    @classmethod
    def from_manifest(cls, section: Mapping[str, Any]) -> Self:
        """Price a trace as its own model, from the ``model`` section of its ``trace.json`` (already checked).

        What a manifest does not know costs nothing: no attention, shared experts or LM head. Where it has
        `dense_bytes`, a layer's dense part costs their mean over the layers / HBM bandwidth, so that the sum of a pass
        is right. An expert costs its bytes / HBM bandwidth, or its flops at 16 bit if ``shapes`` gives hidden and
        expert_width.
        UserError if the bytes of an expert are unknown.
        """
        name, sizes = section["name"], section["expert_bytes"]
        if sizes is None:
            why = f"the trace does not know the bytes of one expert of {name!r}"
            raise UserError(f"model=as_traced: {why}; name one of the same routing shape with model=")
        shapes = section["shapes"] or {}
        hidden, width = shapes.get("hidden", 0), shapes.get("expert_width", 0)
        dtype = section["dtype"] or "recorded"
        return cls(
            name=name,
            source="the trace's manifest",
            moe_layers=section["n_layers"],
            experts=section["n_experts"],
            top_k=section["top_k"],
            hidden=hidden,
            expert_width=width,
            expert_params=3 * hidden * width,
            dtype=dtype,
            compute_dtype="bfloat16",
            expert_bytes={},
            expert_bytes_per_layer={dtype: tuple(sizes)},
            attention_params=0,
            attention_width=0,
            kv_bytes_per_token=0,
            router_params=0,
            shared_expert_params=0,
            leading_dense_layers=LeadingDense(count=0, params_per_layer=0),
            vocab=0,
            head_params=0,
            dense_bytes_per_param=2,
            shapes_known=False,
            dense_bytes=None if section.get("dense_bytes") is None else tuple(section["dense_bytes"]),
        )

    def others(self, dtype: str) -> dict[str, tuple[int, ...]]:
        """Bytes of one expert, per MoE layer, in each dtype that it has a size in, but this one."""
        sized = [*self.expert_bytes, *(self.expert_bytes_per_layer or {})]
        return {other: self.priced(other) for other in sized if other != dtype}

    def priced(self, dtype: str | None = None, where: str = "dtype") -> tuple[int, ...]:
        """Bytes of one expert, per MoE layer, at `dtype` (None: the model's own); UserError if not sized."""
        dtype = self.dtype if dtype is None else dtype
        layers = self.expert_bytes_per_layer or {}
        if dtype in layers:
            return layers[dtype]
        if dtype not in self.expert_bytes:
            raise refusal(dtype, where, one_of([*self.expert_bytes, *layers]))
        return (self.expert_bytes[dtype],) * self.moe_layers
